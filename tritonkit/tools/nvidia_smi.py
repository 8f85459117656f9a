"""What the NVIDIA driver says of this machine's GPUs."""

from __future__ import annotations

import re
import shutil
from functools import lru_cache

from tritonkit.errors import CommandFailed
from tritonkit.tools.commands import run


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
