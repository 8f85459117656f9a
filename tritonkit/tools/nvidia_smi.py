"""The NVIDIA GPUs of this machine, as the driver's own program names them."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from functools import lru_cache

from tritonkit.errors import CommandFailed
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


@lru_cache(maxsize=1)
def compute_capabilities() -> tuple[str, ...]:
    """The compute capabilities of the GPUs here, each once, as in ``8.9``; none where there is no GPU or no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        text = run([program, "--query-gpu=compute_cap", "--format=csv,noheader"], timeout=30)
    except CommandFailed:
        return ()
    found = (line.strip() for line in text.splitlines())
    return tuple(dict.fromkeys(line for line in found if re.fullmatch(r"\d+\.\d+", line)))
