"""Single keys from the terminal, while something else is drawn on it."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """A function that waits up to so many seconds for a key, and gives it; empty when none was pressed.

    The terminal is as before when the block ends, whatever ended it. Ctrl-C raises KeyboardInterrupt as ever. Without a
    terminal there are no keys, and the function only waits.
    """
    if not sys.stdin.isatty():
        yield _no_keys
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def wait(seconds: float) -> str:
        ready, _, _ = select.select([terminal], [], [], max(0.0, seconds))
        return os.read(terminal, 1).decode(errors="replace") if ready else ""

    try:
        tty.setcbreak(terminal)
        yield wait
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _no_keys(seconds: float) -> str:
    threading.Event().wait(max(0.0, seconds))
    return ""
