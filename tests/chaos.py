"""What the chaos tests share: clients that never rest, and somebody who strikes at the processes of a deployment."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import select
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tritonkit.serve import Deployment, warden
from tritonkit.serve.procfs import descendants

# A client that was refused waits so long before it asks again, as clients do.
PAUSE = 0.05
# A client that was answered: what is tested is not how much the machine can do.
REST = 0.01
TIMEOUT = 60.0


@dataclass(frozen=True)
class Request:
    """One request, from the moment that a connection took it to its answer; times of ``time.monotonic``."""

    client: int
    start: float
    end: float
    fault: str


@dataclass
class Load:
    """Clients in threads of their own, each with one request at a time, and what became of their requests."""

    http: str
    grpc: str
    clients: int
    protocols: Sequence[str] = ("http", "grpc")
    model: str = "echo"
    requests: list[Request] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        kinds = itertools.cycle({"http": self._http, "grpc": self._grpc}[protocol] for protocol in self.protocols)
        threads = [threading.Thread(target=next(kinds), args=(number,)) for number in range(self.clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.ended.set()
            for thread in threads:
                thread.join()

    def failed(self, since: float) -> list[Request]:
        return [request for request in list(self.requests) if request.fault and request.end >= since]

    def answered(self, since: float) -> int:
        return sum(1 for request in list(self.requests) if not request.fault and request.start >= since)

    def _http(self, number: int) -> None:
        host, port = self.http.split(":")
        for turn in itertools.count():
            if self.ended.is_set():
                return
            connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)
            try:
                connection.connect()
            except OSError:
                # Nobody listens: nothing was sent.
                time.sleep(PAUSE)
                continue
            asked = [number, turn]
            body = {"inputs": [{"name": "IN", "datatype": "FP32", "shape": [1, 2], "data": asked}]}
            start, fault = time.monotonic(), ""
            try:
                connection.request("POST", f"/v2/models/{self.model}/infer", body=json.dumps(body))
                answer = connection.getresponse()
                words = answer.read()
                if answer.status != http.client.OK:
                    fault = f"{answer.status} {words.decode(errors='replace')}"
                elif json.loads(words)["outputs"][0]["data"] != asked:
                    self.wrong.append(f"asked {asked}, answered {words!r}")
            except (OSError, http.client.HTTPException) as error:
                fault = repr(error)
            finally:
                connection.close()
            self._note(Request(number, start, time.monotonic(), fault))

    def _grpc(self, number: int) -> None:
        client = tritonclient.grpc.InferenceServerClient(self.grpc)
        for turn in itertools.count():
            if self.ended.is_set():
                break
            asked = np.array([[number, turn]], np.float32)
            tensor = tritonclient.grpc.InferInput("input", [1, 2], "FP32")
            tensor.set_data_from_numpy(asked)
            start, fault = time.monotonic(), ""
            try:
                answer = client.infer("identity", [tensor], client_timeout=TIMEOUT).as_numpy("output")
                if not np.array_equal(answer, asked):
                    self.wrong.append(f"asked {asked}, answered {answer}")
            except InferenceServerException as error:
                if "failed to connect" in str(error):
                    # Nothing was sent.
                    time.sleep(PAUSE)
                    continue
                fault = str(error)
            self._note(Request(number, start, time.monotonic(), fault))
        client.close()

    def _note(self, request: Request) -> None:
        self.requests.append(request)
        time.sleep(PAUSE if request.fault else REST)


class Ends:
    """When each of some processes ends, for the time of a ``with`` block; times of ``time.monotonic``."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.times: list[float] = []
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(pids,))

    def __enter__(self) -> Ends:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _watch(self, pids: Sequence[int]) -> None:
        ends = select.poll()
        for pid in pids:
            with suppress(ProcessLookupError):
                ends.register(os.pidfd_open(pid), select.POLLIN)
        while not self._left.is_set():
            for descriptor, _ in ends.poll(50):
                self.times.append(time.monotonic())
                ends.unregister(descriptor)
                os.close(descriptor)


KINDS = ("server", "stub", "gateway", "gateway worker", "daemon", "daemon's server", "warden")
SIGNALS = (signal.SIGKILL, signal.SIGSTOP)


def victim(kind: str, deployment: Deployment, supervisor: int, chance: random.Random) -> int:
    """One process of a kind."""

    def pids(wanted: str) -> list[int]:
        return [server.pid for server in deployment.servers if server.kind == wanted and server.pid is not None]

    if kind == "warden":
        return next(iter(wardens(supervisor)))
    if kind in {"server", "gateway", "daemon"}:
        return chance.choice(pids({"daemon": "mps"}.get(kind, kind)))
    parents = {"stub": "server", "gateway worker": "gateway", "daemon's server": "mps"}
    return chance.choice([child for pid in pids(parents[kind]) for child in descendants(pid)])


def wardens(supervisor: int) -> set[int]:
    """The processes that clean up after a supervisor."""
    found = set()
    for child in descendants(supervisor):
        # A dead one has no command line any more.
        with suppress(OSError):
            if os.fsencode(warden.__file__) in Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(child)
    return found
