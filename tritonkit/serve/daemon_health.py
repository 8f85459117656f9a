"""What an MPS control daemon is asked."""

from __future__ import annotations

import time

from tritonkit.errors import TritonkitError
from tritonkit.serve.mps import Daemon
from tritonkit.serve.processes import DaemonCheck
from tritonkit.serve.procfs import is_running, start_ticks

# Every question starts a program.
ASK_PERIOD = 2.0
_FAULT = "FAULT"


class DaemonHealth:
    """The health of one running MPS control daemon, and of the MPS server that it has started for its clients."""

    def __init__(self, check: DaemonCheck) -> None:
        """Nothing is asked yet."""
        self._daemon = Daemon(check.program, check.pipe_directory)
        self._servers: dict[int, int] = {}
        self._failed: list[int] = []
        self._asked = float("-inf")
        self._answered = False

    def ready(self) -> bool:
        """Whether it answers on its pipe."""
        return self._daemon.answers()

    def answers(self) -> bool:
        """Whether it answered on its pipe when it was last asked."""
        if time.monotonic() - self._asked >= ASK_PERIOD:
            try:
                servers = self._daemon.servers()
                self._failed = [pid for pid in servers if self._daemon.ask(f"get_server_status {pid}") == _FAULT]
                self._servers.update({pid: start_ticks(pid) or 0 for pid in servers if pid not in self._servers})
                self._answered = True
            except TritonkitError:
                self._answered = False
            self._asked = time.monotonic()
        return self._answered

    def fault(self) -> str | None:
        """That its MPS server has ended, or has failed: every client of it has lost its GPU."""
        for pid in self._failed:
            return f"has an MPS server {pid} whose state is {_FAULT}: a client's error on the GPU ended them all"
        for pid, began in self._servers.items():
            if not is_running(pid, began):
                return f"lost its MPS server {pid}"
        return None

    def close(self) -> None:
        """There is nothing to end."""
