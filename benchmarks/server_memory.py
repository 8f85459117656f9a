"""The memory of a server: what its processes hold, and what tritonserver itself has allocated.

The kernel counts what a process has touched, with all that was freed and is kept for later. That moves until every
pool has seen its worst moment. What a C library has handed out and not got back is the same again whenever no request
is under way, unless something leaks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tritonkit import serve
from tritonkit.serve.procfs import descendants
from tritonkit.tools import c_compiler

# What the fitted line may add over the time, of what there was: beyond, it grows.
GROWTH = 0.02
# What was asked is let go by then, and the figure of that time is written.
REST_SECONDS = 3.0


@contextmanager
def counted(folder: Path) -> Iterator[Callable[[], float]]:
    """Within the block tritonservers that start count; ``folder`` is there. The function waits, then tells MiB."""
    library, told = folder / "allocated.so", folder / "allocated"
    told.unlink(missing_ok=True)
    c_compiler.shared_library([Path(__file__).with_name("allocated.c")], library)
    mine = {"LD_PRELOAD": str(library.absolute()), "ALLOCATED": str(told.absolute())}
    before = {name: os.environ.get(name) for name in mine}
    os.environ.update(mine)

    def at_rest() -> float:
        time.sleep(REST_SECONDS)
        return int(told.read_text()) / 2**20

    try:
        yield at_rest
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def memory(deployment: serve.Deployment) -> dict[str, float]:
    """MiB: what the server and its stubs hold of their own, what lies in shared memory, what they have of the GPU."""
    found = {"server": 0.0, "stubs": 0.0}
    pids = []
    for process in deployment.servers:
        pid = process.pid or 0
        stubs = descendants(pid)
        found["server"] += anonymous(pid)
        found["stubs"] += sum(map(anonymous, stubs))
        pids += [str(one) for one in (pid, *stubs)]
    shared = sum(file.stat().st_blocks * 512 for file in Path("/dev/shm").glob("triton*"))  # noqa: S108
    found["shared memory"] = shared / 2**20
    if shutil.which("nvidia-smi"):
        used = dict(line.split(", ") for line in nvidia_smi("--query-compute-apps=pid,used_memory"))
        ours = [float(used[pid]) for pid in pids if used.get(pid, "").isdecimal()]
        # Of all processes where the driver does not tell them apart.
        found["GPU"] = sum(ours) if ours else float(nvidia_smi("--query-gpu=memory.used")[0])
    return found


def nvidia_smi(query: str) -> list[str]:
    argv = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def anonymous(pid: int) -> float:
    """MiB of a process's own; pages of files and of shared memory are not."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def memory_lines(samples: list[dict[str, float]]) -> tuple[bool, list[str]]:
    """Whether memory was flat, but for the server's own; a line for each sort, with the fitted slope."""
    seconds = np.array([sample["seconds"] for sample in samples])
    flat, lines = True, []
    for name in samples[0].keys() - {"seconds"}:
        values = np.array([sample[name] for sample in samples])
        slope = float(np.polyfit(seconds, values, 1)[0])
        grows = slope * (seconds[-1] - seconds[0]) > GROWTH * max(float(values[0]), 100.0)
        judged = name != "server"
        flat = flat and not (judged and grows)
        found = ("GROWS" if grows else "flat") if judged else "with what is kept for later"
        lines.append(
            f"memory, {name}: {values[0]:.0f} MiB at first, {np.median(values):.0f} half of the time, "
            f"{values[-1]:.0f} at the end; fitted over {seconds[-1] - seconds[0]:.0f} s: {slope * 60:+.2f} MiB a "
            f"minute, {found}"
        )
    return flat, sorted(lines)
