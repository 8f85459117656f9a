"""Server processes and the GPUs that they share, as values; ``shares`` gives the ones to the others.

Every start reads this module, so it imports next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from tritonkit.serve.gpus import Gpu
    from tritonkit.serve.stored_models import StoredModel
    from tritonkit.spec.servers import Server

Mps: TypeAlias = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Machine:
    """What the seats depend on.

    Attributes:
        gpus: the GPUs to serve on; none serves on the CPU.
        present: all GPUs of this machine, those that cannot be used included.
        models: the models of the repository, by name.
        python_backends: the backends whose instances are processes of their own.
        mps_program: ``nvidia-cuda-mps-control``, or None where it is not installed.
    """

    gpus: tuple[Gpu, ...] = ()
    present: tuple[Gpu, ...] = ()
    models: Mapping[str, StoredModel] = field(default_factory=dict)
    python_backends: frozenset[str] = frozenset()
    mps_program: Path | None = None


@dataclass(frozen=True)
class Seat:
    """One server process.

    Attributes:
        name: of the process.
        entry: the spec's entry that asks for it.
        gpu: its GPU; None on the CPU.
        models: its models, the members of ensembles included.
        mps: whether it is a client of its GPU's MPS daemon.
        neighbours: how many servers its GPU has, itself included; 1 on the CPU.
        first: whether it is the first one of its GPU.
        thread_percentage: the most of its GPU's SMs that each of its processes may use; None sets no limit.
    """

    name: str
    entry: Server
    gpu: Gpu | None
    models: tuple[str, ...]
    mps: bool = False
    neighbours: int = 1
    first: bool = True
    thread_percentage: float | None = None
