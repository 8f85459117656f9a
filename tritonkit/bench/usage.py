"""What processes and GPUs used while something was measured: sampled along, from /proc and NVML."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tritonkit.bench.records import Extent, Usage

PERIOD = 0.2
_PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK")
_MIB = 2**20


@dataclass
class Sampler:
    """Samples in a thread of its own, for the time of a ``with`` block; ``usage`` tells what it saw.

    Attributes:
        servers: the server's processes at any moment.
        gpus: the UUIDs of the server's GPUs; empty when it has none.
        clients: perf_analyzer's processes; set when they are started.
    """

    servers: Callable[[], Iterable[int]]
    gpus: Sequence[str] = ()
    clients: Sequence[int] = ()
    _server_cpu: list[float] = field(default_factory=list)
    _client_cpu: list[float] = field(default_factory=list)
    _gpu_share: list[float] = field(default_factory=list)
    _gpu_memory: list[float] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Sampler:
        self._thread = threading.Thread(target=self._run, name="tritonkit-usage", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def usage(self) -> Usage:
        """Mean and largest of every sample so far; None of what could not be sampled."""
        return Usage(
            _extent(self._server_cpu), _extent(self._client_cpu), _extent(self._gpu_share), _extent(self._gpu_memory)
        )

    def _run(self) -> None:
        library, handles = _nvml(self.gpus)
        before: dict[int, int] = {}
        last = time.monotonic()
        while not self._end.wait(PERIOD):
            servers, clients = set(self.servers()), set(self.clients)
            ticks = {pid: spent for pid in servers | clients if (spent := _ticks(pid)) is not None}
            now = time.monotonic()
            for pids, samples in ((servers, self._server_cpu), (clients, self._client_cpu)):
                seen = [pid for pid in pids if pid in ticks and pid in before]
                if seen:
                    spent = sum(ticks[pid] - before[pid] for pid in seen)
                    samples.append(100 * spent / _TICK / (now - last))
            before, last = ticks, now
            if handles:
                shares = [library.nvmlDeviceGetUtilizationRates(handle).gpu for handle in handles]
                self._gpu_share.append(statistics.fmean(shares))
                taken = sum(library.nvmlDeviceGetMemoryInfo(handle).used for handle in handles)
                self._gpu_memory.append(taken / _MIB)


def _ticks(pid: int) -> int | None:
    """The processor time that a process has used, in clock ticks; None when it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name stands in parentheses and may itself hold spaces and parentheses.
    values = text.rpartition(")")[2].split()
    return int(values[11]) + int(values[12])


def _nvml(gpus: Sequence[str]) -> tuple[Any, list[Any]]:
    """NVML and its handles of these GPUs; none where there is no GPU to ask for, or no NVML."""
    if not gpus:
        return None, []
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml, [pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in gpus]
    except Exception:  # without NVML, or without its leave, GPUs are not sampled: the figures stay as they are
        return None, []


def _extent(samples: Sequence[float]) -> Extent | None:
    return Extent(statistics.fmean(samples), max(samples)) if samples else None
