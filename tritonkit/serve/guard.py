"""Keeping the warden: the process that cleans up when the supervisor is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tritonkit.serve import warden
from tritonkit.serve.procfs import is_stopped

_PATIENCE = 15.0


class Guard:
    """The warden of one deployment, started anew when somebody kills or stops it."""

    def __init__(self, deployment: str, runtime: Path) -> None:
        """Start it.

        Args:
            deployment: the deployment's id.
            runtime: the folder of its sockets.
        """
        self._words = f"{deployment}\n{runtime}\n"
        self._process = self._start()

    def keep(self) -> None:
        """See to it that it runs."""
        if self._process.poll() is not None or is_stopped(self._process.pid):
            self._process.kill()
            self._process.communicate()
            self._process = self._start()

    def close(self) -> None:
        """Let it clean up what is left, and wait for its end."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)
        try:
            self._process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", warden.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert process.stdin is not None  # noqa: S101 - for the type checker
        with suppress(BrokenPipeError):
            process.stdin.write(self._words.encode())
            process.stdin.flush()
        return process
