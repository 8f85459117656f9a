"""Runs as a program of its own: become another program that dies with its parent.

``python -I -S launcher.py PARENT_PID PROGRAM [ARGUMENT...]``: asks the kernel to send SIGKILL to this process
when the thread that started it ends, however it ends, then becomes PROGRAM. A child can only ask that for
itself, and doing it between fork and exec is not safe in a program with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, argv: list[str]) -> None:
    """Tie this process to ``parent`` and become ``argv``."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        # It died before the kernel was asked.
        raise SystemExit(1)
    os.execv(argv[0], argv)  # noqa: S606


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
