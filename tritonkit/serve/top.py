"""What a deployment does at this moment: its GPUs, its servers and its models, from one sample to the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tritonkit.client import activity
from tritonkit.client.access import OPEN, Access
from tritonkit.client.endpoint import Endpoint
from tritonkit.errors import RequestFailed
from tritonkit.serve import procfs
from tritonkit.serve.gpu_load import GpuLoad, GpuMeter
from tritonkit.serve.state import ServerState

ANSWER_TIMEOUT = 2.0
"""Seconds that one server may take to answer; they are asked at the same time."""


@dataclass(frozen=True)
class Target:
    """A process to look at.

    Attributes:
        name: as in the plan, or the address of a server that tritonkit did not start.
        kind: ``server``, ``mps`` or ``gateway``; only servers have models.
        http: where a server answers.
        state: its phase; empty where nobody keeps one.
        restarts: how often it was started again; None where nobody counts.
        pid: of its process, or None.
        gpu: index of the GPU that it has a part of, or None.
        thread_percentage: its part of that GPU's SMs, or None.
        access: what it asks of its clients.
    """

    name: str
    kind: str
    http: str
    state: str = ""
    restarts: int | None = None
    pid: int | None = None
    gpu: int | None = None
    thread_percentage: float | None = None
    access: Access = OPEN


@dataclass(frozen=True)
class ServerLoad:
    """One process of a deployment.

    Attributes:
        name: as in the plan.
        kind: ``server``, ``mps`` or ``gateway``.
        state: its phase, by name.
        restarts: how often it was started again.
        pid: of the running process.
        gpu: index of its GPU.
        thread_percentage: its part of that GPU's SMs.
        cpu: percent of one CPU that it and its child processes use; None before the second sample.
        resident: bytes of memory that they hold.
        fault: why a server cannot be asked; empty where it answers.
    """

    name: str
    kind: str
    state: str
    restarts: int | None
    pid: int | None
    gpu: int | None
    thread_percentage: float | None
    cpu: float | None
    resident: int | None
    fault: str


@dataclass(frozen=True)
class ModelLoad:
    """One model between two samples; times in milliseconds, None where nothing was computed.

    Attributes:
        model: its name.
        server: the one server that the figures are of; None for all of them together.
        requests: requests that succeeded, per second.
        failures: requests that failed, per second.
        inferences: items computed, per second.
        queue: mean time a request waited for an instance.
        compute: mean time that its instance took for a request.
        average_batch: items in one execution, on average.
    """

    model: str
    server: str | None
    requests: float
    failures: float
    inferences: float
    queue: float | None
    compute: float | None
    average_batch: float | None


@dataclass(frozen=True)
class Sample:
    """What was seen at one moment.

    Attributes:
        time: seconds since the epoch.
        seconds: the time since the sample before, which rates refer to; 0 for the first.
        gpus: every GPU that the deployment has a part of, or every GPU where it names none.
        no_gpus: why there is no GPU to show; empty where there is one.
        servers: every process, in the plan's order.
        models: by name; each model in sum, and below that by server where several have it. Empty in the first sample.
    """

    time: float
    seconds: float
    gpus: tuple[GpuLoad, ...]
    no_gpus: str
    servers: tuple[ServerLoad, ...]
    models: tuple[ModelLoad, ...]


def target(server: ServerState) -> Target:
    """What to look at for one process of a deployment."""
    return Target(
        name=server.name,
        kind=server.kind,
        http=server.http,
        state=server.phase,
        restarts=server.restarts,
        pid=server.pid,
        gpu=server.gpu,
        thread_percentage=server.thread_percentage,
    )


@dataclass(frozen=True)
class _Seen:
    """What one process said, and when: the base of the next difference."""

    pid: int | None
    statistics: activity.Snapshot | None
    fault: str
    used: Mapping[int, procfs.Usage]


class Sampler:
    """Looks at the processes of ``targets``, asked anew for each sample, and at the GPUs of ``meter``.

    It holds no connection between two samples.
    """

    def __init__(self, targets: Callable[[], Sequence[Target]], meter: GpuMeter) -> None:
        self._targets = targets
        self._meter = meter
        self._before: dict[str, _Seen] = {}
        self._looked: float | None = None

    def sample(self) -> Sample:
        """What is to be seen now; rates since the sample before.

        Raises:
            TritonkitError: whatever ``targets`` raises.
        """
        targets = self._targets()
        now = time.monotonic()
        seconds = 0.0 if self._looked is None else now - self._looked
        seen = _look(targets)
        used = {one.gpu for one in targets if one.gpu is not None}
        sample = Sample(
            time=time.time(),
            seconds=seconds,
            gpus=tuple(gpu for gpu in self._meter.read() if not used or gpu.index in used),
            no_gpus=self._meter.reason,
            servers=tuple(_server(one, self._before.get(one.name), seen[one.name], seconds) for one in targets),
            models=_models(self._before, seen, seconds) if seconds else (),
        )
        self._before, self._looked = seen, now
        return sample


def _look(targets: Sequence[Target]) -> dict[str, _Seen]:
    seen: dict[str, _Seen] = {}

    def look(one: Target) -> None:
        seen[one.name] = _ask(one)

    # A server that hangs must not hold up the others, nor the end of the program.
    threads = [threading.Thread(target=look, args=(one,), daemon=True) for one in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def _ask(one: Target) -> _Seen:
    used = procfs.usage(one.pid) if one.pid is not None else {}
    if one.kind != "server":
        return _Seen(one.pid, None, "", used)
    try:
        statistics = activity.everything(Endpoint(one.http, access=one.access, timeout=ANSWER_TIMEOUT))
    except RequestFailed as error:
        return _Seen(one.pid, None, str(error.args[0]), used)
    return _Seen(one.pid, statistics, "", used)


def _server(one: Target, before: _Seen | None, now: _Seen, seconds: float) -> ServerLoad:
    return ServerLoad(
        name=one.name,
        kind=one.kind,
        state=one.state,
        restarts=one.restarts,
        pid=one.pid,
        gpu=one.gpu,
        thread_percentage=one.thread_percentage,
        cpu=_cpu(before.used, now.used) / seconds * 100 if before and now.used and seconds else None,
        resident=sum(process.resident for process in now.used.values()) if now.used else None,
        fault=now.fault,
    )


def _cpu(before: Mapping[int, procfs.Usage], now: Mapping[int, procfs.Usage]) -> float:
    """Seconds of CPU time between two looks; all that it has had, for a process that began meanwhile."""
    total = 0.0
    for pid, process in now.items():
        known = before.get(pid)
        total += process.cpu - (known.cpu if known is not None and known.began == process.began else 0.0)
    return total


def _models(before: Mapping[str, _Seen], now: Mapping[str, _Seen], seconds: float) -> tuple[ModelLoad, ...]:
    pairs: dict[str, dict[str, tuple[Mapping[str, object], Mapping[str, object]]]] = {}
    for server, seen in now.items():
        earlier = before.get(server)
        # What a server did before it was first seen to answer did not happen in this interval, unless it began in it.
        if seen.statistics is None or earlier is None or (earlier.statistics is None and earlier.pid == seen.pid):
            continue
        fresh = earlier.pid != seen.pid
        for model, statistics in seen.statistics.items():
            first = {} if fresh or earlier.statistics is None else earlier.statistics.get(model, {})
            pairs.setdefault(model, {})[server] = (first, statistics)
    rows: list[ModelLoad] = []
    for model, servers in sorted(pairs.items()):
        rows.append(_model(activity.together(model, servers.values()), None, seconds))
        if len(servers) > 1:
            rows += [
                _model(activity.together(model, [pair]), server, seconds) for server, pair in sorted(servers.items())
            ]
    return tuple(rows)


def _model(did: activity.Activity, server: str | None, seconds: float) -> ModelLoad:
    return ModelLoad(
        model=did.model,
        server=server,
        requests=did.requests / seconds,
        failures=did.failures / seconds,
        inferences=did.inferences / seconds,
        queue=did.queue / 1000 if did.requests else None,
        compute=did.compute / 1000 if did.requests else None,
        average_batch=did.average_batch,
    )
