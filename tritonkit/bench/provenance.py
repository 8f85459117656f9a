"""What a benchmark ran on: figures mean nothing without it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tritonkit import __version__
from tritonkit.client.endpoint import Addresses
from tritonkit.errors import CommandFailed, ToolMissing
from tritonkit.tools import nvidia_smi
from tritonkit.tools.perf_analyzer import PerfAnalyzer


@dataclass(frozen=True)
class Machine:
    """The machine that perf_analyzer ran on.

    Attributes:
        cpu: the processor's name.
        cores: the logical cores that this process may use.
        memory_bytes: the main memory.
        system: kernel and C library.
        python: the Python version.
        gpus: each GPU's name and driver version; empty without one.
    """

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    gpus: tuple[str, ...]


@dataclass(frozen=True)
class Provenance:
    """Where figures come from, whatever is measured.

    Attributes:
        tritonkit: tritonkit's version.
        perf_analyzer: perf_analyzer's version.
        machine: what perf_analyzer ran on.
    """

    tritonkit: str
    perf_analyzer: str
    machine: Machine

    def as_json(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return asdict(self)


def gather(analyzer: PerfAnalyzer) -> Provenance:
    """Where figures that are measured now come from."""
    return Provenance(__version__, analyzer.version, this_machine())


def of_server(server: Addresses, models: Iterable[str]) -> dict[str, Any]:
    """What a server says of itself and of its models: name, version, addresses, and each model's configuration.

    Raises:
        RequestFailed: it cannot be reached, or has no such model.
    """
    endpoint = server.endpoint()
    told = endpoint.server_metadata()
    return {
        "server": {
            "name": str(told["name"]),
            "version": str(told["version"]),
            "http": server.http,
            "grpc": server.grpc,
        },
        "models": {model: endpoint.config(model) for model in models},
    }


def this_machine() -> Machine:
    """The machine that we run on."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}",
        python=platform.python_version(),
        gpus=_gpus(),
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _gpus() -> tuple[str, ...]:
    try:
        return tuple(f"{gpu.name}, {gpu.driver}" for gpu in nvidia_smi.gpus())
    except (CommandFailed, ToolMissing):
        # No program, or one without a driver: as good as no GPU.
        return ()
