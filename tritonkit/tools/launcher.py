"""Runs as a program of its own: become another program that ends with its parent.

``python -I -S launcher.py PARENT_PID SIGNAL PROGRAM [ARGUMENT...]``: asks the kernel to send SIGNAL (a number)
to this process when the thread that started it ends, however it ends, then becomes PROGRAM. A child can only
ask that for itself, and doing it between fork and exec is not safe in a program with threads.

Every server waits for this program, so it imports next to nothing.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
SIGKILL = 9


def tied(argv: Sequence[str], number: int = SIGKILL) -> list[str]:
    """The command line that runs ``argv`` (an absolute path first) and sends it ``number`` when we end."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(number)), *argv]


def main(parent: int, number: int, argv: list[str]) -> None:
    """Tie this process to ``parent`` and become ``argv``."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        # It died before the kernel was asked.
        raise SystemExit(1)
    os.execv(argv[0], argv)  # noqa: S606


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
