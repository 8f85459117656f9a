"""Who belongs to a deployment, and how nothing of it is left behind.

Also runs as a program of its own (``python -I -S warden.py``), which outlives the supervisor. Its standard
input is a pipe whose other end the supervisor alone holds; the first line names the deployment, the second the
folder of its sockets. When the pipe closes, the supervisor has ended. After an orderly stop nothing is left to do
then; after ``kill -9`` every process of the deployment is killed, and its shared memory and its sockets are removed.
The kernel has killed tritonserver itself by then, but a Python stub that hangs notices nothing. So this module uses
the standard library alone.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

PROC = Path("/proc")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - POSIX shared memory lies there on Linux
# Set in every process of a deployment, and inherited by whatever they start.
MARK = "TRITONKIT_DEPLOYMENT"
# How long an exec may take, in seconds: until its end the kernel shows no environment of the process.
_EXEC_SECONDS = 1.0
# Fields of /proc/PID/stat, counted from behind the name: where the environment lies in memory, and how much that is.
_ENVIRONMENT_BEGIN, _ENVIRONMENT_END, _MEMORY = 47, 48, 20


def mark(deployment: str, process: str = "") -> str:
    """The value of ``MARK`` in a process of the deployment; without ``process``, what all of them begin with."""
    return f"{deployment}.{process}." if process else f"{deployment}."


def shared_memory_prefix(marked: str) -> str:
    """How the names of the shared memory regions of the processes with this mark begin."""
    return f"tritonkit-{marked}"


def members(marked: str) -> list[int]:
    """Every living process whose mark begins with ``marked``, our own excepted."""
    wanted = f"{MARK}={marked}".encode()
    end = time.monotonic() + _EXEC_SECONDS
    found = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = _environment(entry, end)
        except OSError:
            # It ended meanwhile, or it is another user's.
            continue
        if any(variable.startswith(wanted) for variable in environment.split(b"\0")):
            found.append(int(entry.name))
    return found


def _environment(process: Path, end: float) -> bytes:
    """Its variables, a NUL behind each; waits until ``end`` for a process that is in the middle of an exec.

    A stub that tritonserver has just begun must not be overlooked.
    """
    while not (found := (process / "environ").read_bytes()) and time.monotonic() < end:
        fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
        begin, behind, memory = (int(fields[at]) for at in (_ENVIRONMENT_BEGIN, _ENVIRONMENT_END, _MEMORY))
        # Kernel threads and the dead have no memory; begun without any variable, a process has an empty place for them.
        if not memory or begin == behind != 0:
            break
        time.sleep(0.0005)
    return found


def clean(marked: str, *, wait: float = 10.0) -> int:
    """SIGKILL what is left with this mark, then remove its shared memory; how many processes there were.

    ``wait`` bounds the time, in seconds, that the kernel may take to let them go.
    """
    killed: set[int] = set()
    end = time.monotonic() + wait
    while (found := members(marked)) and time.monotonic() < end:
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.add(pid)
        time.sleep(0.005)
    for region in list(SHARED_MEMORY.iterdir()):
        if region.name.startswith(shared_memory_prefix(marked)):
            region.unlink(missing_ok=True)
    return len(killed)


def main() -> None:
    """Wait for the end of the supervisor, then clean up after it."""
    # Only the end of the pipe ends this process: a signal to the whole session must not.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    deployment, runtime = (sys.stdin.readline().removesuffix("\n") for _ in range(2))
    sys.stdin.read()
    if deployment and runtime:
        clean(mark(deployment))
        # Imported where something is to be removed: until then this process is to cost next to nothing.
        import shutil

        shutil.rmtree(runtime, ignore_errors=True)


if __name__ == "__main__":
    main()
