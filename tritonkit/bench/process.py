"""Running one perf_analyzer: in a process group of its own, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tritonkit.tools.launcher import tied

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - POSIX shared memory lies there on Linux
# perf_analyzer talks to the server directly; a proxy would be measured along, or refuse.
_PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
# Asked to stop, it waits for the requests in flight, then removes its shared memory.
_GRACE = 5.0
_LOOK = 0.01


@dataclass(frozen=True)
class Job:
    """One perf_analyzer to run.

    Attributes:
        argv: its command line, with an absolute path first.
        env: variables on top of our own.
        log: where everything that it writes is appended.
        deadline: seconds after which it is stopped.
        regions: the shared memory that it makes, by name; empty when it makes none. What it leaves is removed.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    deadline: float
    regions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ended:
    """How a job ended. Its exit code is not told: it says nothing.

    Attributes:
        itself: whether it ended by itself, before its deadline.
        began: when it was started, on the clock of ``time.monotonic``.
        seconds: how long it ran.
    """

    itself: bool
    began: float
    seconds: float


def run(jobs: Sequence[Job], watch: Callable[[Sequence[int]], object] = tuple) -> list[Ended]:
    """Run perf_analyzers at the same time, all to their ends, however those come about.

    Interrupted (KeyboardInterrupt or any other exception), they are stopped before the exception goes on.

    Args:
        jobs: what to run.
        watch: called once, with the process of each job, when all are started.
    """
    inherited = {name: value for name, value in os.environ.items() if name.lower() not in _PROXIES}
    places = (_place(region) for job in jobs for region in job.regions)
    made = [place for place in places if place is not None and not place.exists()]
    # SIGINT lets it remove its shared memory also when we are killed; without any, nothing is to be waited for.
    end_with_us = signal.SIGINT if made else signal.SIGKILL
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with _interrupts_held_back():
            for job in jobs:
                with job.log.open("ab") as sink:
                    process = subprocess.Popen(
                        tied(job.argv, end_with_us),
                        env=inherited | dict(job.env),
                        stdin=subprocess.DEVNULL,
                        stdout=sink,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                processes.append(process)
        began = time.monotonic()
        watch([process.pid for process in processes])
        return _wait(jobs, processes, began)
    finally:
        for process in processes:
            _stop(process)
        for place in made:
            place.unlink(missing_ok=True)


def _wait(jobs: Sequence[Job], processes: Sequence[subprocess.Popen[bytes]], began: float) -> list[Ended]:
    seconds: dict[int, float] = {}
    while len(seconds) < len(jobs):
        for index, (job, process) in enumerate(zip(jobs, processes, strict=True)):
            if index in seconds:
                continue
            spent = time.monotonic() - began
            try:
                # One alone is waited for; of several, each is looked at often enough to know when it ended.
                process.wait(job.deadline - spent if len(jobs) == 1 else _LOOK)
            except subprocess.TimeoutExpired:
                if spent < job.deadline and len(jobs) > 1:
                    continue
                seconds[index] = -1.0
                continue
            seconds[index] = time.monotonic() - began
    return [Ended(seconds[index] >= 0, began, max(seconds[index], 0.0)) for index in range(len(jobs))]


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait for the end of the block: a process must not start without our knowing of it."""
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # Signals are for the main thread; those that are ignored must stay so for the process, too.
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {number: handler for number, handler in before.items() if in_main and callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, _frame: held.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for waiting in held:
            signal.raise_signal(waiting)


def _place(region: str) -> Path | None:
    """Where a region lies; None for a name that it cannot have, and that might lead elsewhere."""
    # As POSIX has it: slashes in front are passed over.
    name = region.lstrip("/")
    return None if "/" in name else _SHARED_MEMORY / name


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        # Its end is up to the kernel alone; before that it still holds its shared memory.
        process.wait()
