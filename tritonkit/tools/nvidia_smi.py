"""The NVIDIA GPUs of this machine, as the driver's own program names them."""

from __future__ import annotations

from dataclasses import dataclass

from tritonkit.tools.commands import run

_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: the product's name.
        memory: all of its memory, with the unit: ``81559 MiB``.
        driver: the driver's version.
    """

    name: str
    memory: str
    driver: str


def gpus() -> tuple[Gpu, ...]:
    """Every GPU, in the driver's order; empty where the driver sees none.

    Raises:
        ToolMissing: there is no nvidia-smi.
        CommandFailed: it failed, most often because no driver runs; its words are in the error.
    """
    lines = (line.rsplit(", ", 2) for line in run(_QUERY, timeout=30).splitlines())
    return tuple(Gpu(*(part.strip() for part in parts)) for parts in lines if len(parts) == len(Gpu.__annotations__))
