"""Services that are no Triton, as a yardstick: started, asked over HTTP by as many clients as wanted, and stopped.

The clients are threads that send one request after the other over connections that stay open. That costs more than
perf_analyzer does, and is enough for services of some thousand requests a second.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from tritonkit.bench.command import WINDOWS, Measurement
from tritonkit.bench.plan import Service
from tritonkit.bench.records import Repeat
from tritonkit.bench.usage import Sampler
from tritonkit.errors import LaunchFailed, RequestFailed, ToolMissing
from tritonkit.tools.launcher import tied

_HOST = "127.0.0.1"
_START_TIMEOUT = 120.0
_STOP_TIMEOUT = 10.0
_ANSWER_TIMEOUT = 60.0
_QUANTILES = (5, 10, 25, 50, 75, 90, 95, 99)


@dataclass(frozen=True)
class Answer:
    """One request: when it was sent and answered, on the clock of ``time.perf_counter``."""

    sent: float
    answered: float

    @property
    def latency(self) -> float:
        """In microseconds."""
        return (self.answered - self.sent) * 1e6


def defining(service: Service) -> list[str]:
    """What two runs of a service must have in common to be the same, the files that its command names included."""
    variables = sorted(service.environment.items())
    values = [repr((service.name, service.command, service.path, service.content_type, variables))]
    values.append(hashlib.sha256(service.body).hexdigest())
    for word in service.command:
        for name in (word, f"{word.partition(':')[0]}.py"):
            file = service.folder / name
            if file.is_file():
                values.append(hashlib.sha256(file.read_bytes()).hexdigest())
    return values


@contextmanager
def started(service: Service, log: Path) -> Iterator[tuple[int, int]]:
    """Run a service for the time of a block, which begins when it is ready; its port and its process.

    Raises:
        ToolMissing: its program is not there.
        LaunchFailed: it ended, or did not become ready.
    """
    first = service.command[0].replace("{python}", sys.executable)
    program = shutil.which(first)
    if program is None:
        raise ToolMissing(f"{service.name}: there is no program {first}")
    with socket.socket() as free:
        free.bind((_HOST, 0))
        port = int(free.getsockname()[1])
    words = [word.replace("{port}", str(port)) for word in service.command[1:]]
    with log.open("ab") as sink:
        process = subprocess.Popen(
            tied([program, *words]),
            cwd=service.folder,
            env={**os.environ, **service.environment},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_ready(service, process, port, log)
        yield port, process.pid
    finally:
        for number, patience in ((signal.SIGTERM, _STOP_TIMEOUT), (signal.SIGKILL, _STOP_TIMEOUT)):
            try:
                os.killpg(process.pid, number)
                process.wait(patience)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        process.wait()


def group(leader: int) -> list[int]:
    """The processes of a process group: a service's workers are its children."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == leader:
                found.append(int(entry.name))
    return found


def measure(service: Service, port: int, leader: int, clients: int, measurement: Measurement, warmup: float) -> Repeat:
    """Ask a service with so many requests in flight, for as long as perf_analyzer's three windows take.

    Raises:
        RequestFailed: an answer is none, or is no success.
    """
    if warmup:
        _ask(service, port, clients, warmup)
    began = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    seconds = WINDOWS * measurement.interval_ms / 1000
    with Sampler(lambda: group(leader)) as sampler:
        start = time.perf_counter()
        answers = _ask(service, port, clients, seconds)
    whole = [answer for answer in answers if answer.answered <= start + seconds]
    if not whole:
        raise RequestFailed(f"{service.name}: no answer within {seconds:g} s")
    times = sorted(answer.latency for answer in whole)
    length = seconds / WINDOWS
    windows = [
        sum(start + index * length <= answer.answered < start + (index + 1) * length for answer in whole) / length
        for index in range(WINDOWS)
    ]
    spread = 100 * (max(windows) - min(windows)) / max(statistics.fmean(windows), 1e-9)
    return Repeat(
        throughput=len(whole) / seconds,
        latency_avg=statistics.fmean(times),
        latency_p50=_quantile(times, 50),
        latency_p90=_quantile(times, 90),
        latency_p95=_quantile(times, 95),
        latency_p99=_quantile(times, 99),
        requests=len(whole),
        stable=spread <= measurement.stability_percentage,
        usage=sampler.usage,
        quantiles={float(share): _quantile(times, share) for share in _QUANTILES},
        started=began,
        seconds=seconds,
        argv=(service.command,),
    )


def _ask(service: Service, port: int, clients: int, seconds: float) -> list[Answer]:
    answers: list[list[Answer]] = [[] for _ in range(clients)]
    faults: list[str] = []
    end = time.perf_counter() + seconds

    def client(mine: list[Answer]) -> None:
        connection = http.client.HTTPConnection(_HOST, port, timeout=_ANSWER_TIMEOUT)
        try:
            while time.perf_counter() < end and not faults:
                sent = time.perf_counter()
                connection.request("POST", service.path, service.body, {"Content-Type": service.content_type})
                _acknowledge_at_once(connection)
                response = connection.getresponse()
                _acknowledge_at_once(connection)
                said = response.read()
                mine.append(Answer(sent, time.perf_counter()))
                if response.status != http.client.OK:
                    faults.append(f"HTTP {response.status}: {said.decode(errors='replace')[:300]}")
        except (OSError, http.client.HTTPException) as error:
            faults.append(f"{type(error).__name__}: {error}")
        finally:
            connection.close()

    threads = [threading.Thread(target=client, args=(mine,), daemon=True) for mine in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise RequestFailed(f"{service.name}: {faults[0]}")
    return [answer for mine in answers for answer in mine]


def _acknowledge_at_once(connection: http.client.HTTPConnection) -> None:
    """Many servers send an answer in two parts, the second only when the first is acknowledged: 40 ms of nothing."""
    if connection.sock is not None:
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _wait_until_ready(service: Service, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < end:
        if process.poll() is not None:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise LaunchFailed(f"{service.name} ended with {process.returncode}: {tail}", log=log)
        connection = http.client.HTTPConnection(_HOST, port, timeout=1.0)
        try:
            if not service.ready:
                connection.connect()
                return
            connection.request("GET", service.ready)
            if connection.getresponse().status == http.client.OK:
                return
        except (OSError, http.client.HTTPException):
            # Not yet.
            time.sleep(0.05)
        finally:
            connection.close()
    raise LaunchFailed(f"{service.name} was not ready within {_START_TIMEOUT:g} s", log=log)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share / 100), len(ordered) - 1)]
