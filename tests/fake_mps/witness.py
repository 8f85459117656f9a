"""Stands for ``tritonkit/serve/witness.py`` on a machine without a GPU: what its environment's limits would give.

As a process without MPS it sees the whole GPU when its pipe directory has no daemon in it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

MULTIPROCESSORS = 132
TOTAL = 150109880320
# MPS gives whole pairs of SMs, and keeps some memory for itself.
PAIR = 2
OWN = 375 * 2**20


def main() -> None:
    attached = (Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control").exists()  # noqa: S108
    percentage = float(os.environ.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "100")) if attached else 100.0
    seen = max(PAIR, int(MULTIPROCESSORS * percentage / 100) // PAIR * PAIR)
    limit = os.environ.get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "") if attached else ""
    free = int(limit.removeprefix("0=").removesuffix("M")) * 2**20 if limit else TOTAL
    print(json.dumps({"multiprocessors": seen, "memory_total": TOTAL, "memory_free": free - OWN}))


if __name__ == "__main__":
    main()
