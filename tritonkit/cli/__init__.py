"""The command line: parse, call the library, print. Nothing below this package prints or exits."""

from __future__ import annotations

import signal

__all__ = ["main"]


def main() -> None:
    """Entry point of the ``tritonkit`` program."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C while the program is still being read just ends it: nothing is to be undone yet.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from tritonkit.cli.app import app

    app()
