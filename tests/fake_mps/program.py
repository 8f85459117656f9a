"""``tritonkit`` on a machine that is made to seem to have GPUs: ``python program.py COMMAND ...``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tritonkit.cli import main
from tritonkit.serve import mps, procfs

HERE = Path(__file__).parent

# `pynvml` is found beside this file; the witness is the one part that asks the driver by itself.
mps.WITNESS = (sys.executable, "-I", "-S", str(HERE / "witness.py"))
# The driver that is made to seem to be here counts processes as we do, in a container as well.
procfs.FIRST_NAMESPACE = os.stat("/proc/self/ns/pid").st_ino

if __name__ == "__main__":
    main()
