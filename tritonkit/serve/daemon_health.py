"""What an MPS control daemon is asked."""

from __future__ import annotations

import time
from contextlib import suppress

from tritonkit.errors import TritonkitError
from tritonkit.serve.mps import Daemon
from tritonkit.serve.processes import DaemonCheck
from tritonkit.serve.procfs import is_running, start_ticks

# Every question starts a program.
ASK_PERIOD = 2.0
# Clients that it has do without it; to start it again ends them all. So a busy machine may keep it from answering.
PATIENCE = 60.0
_FAULT = "FAULT"


class DaemonHealth:
    """The health of one running MPS control daemon, and of the MPS server that it has started for its clients."""

    def __init__(self, check: DaemonCheck) -> None:
        """Nothing is asked yet."""
        self._daemon = Daemon(check.program, check.pipe_directory)
        # The clients of each MPS server that was seen. A number alone may come to stand for another process, an MPS
        # server's for the next one: so each is known by its number and the time of its begin.
        self._clients: dict[tuple[int, int], dict[int, int]] = {}
        self._failed: list[int] = []
        self._asked = self._answered = float("-inf")

    def ready(self) -> bool:
        """Whether it answers on its pipe."""
        self._answered = time.monotonic()
        return self._daemon.answers()

    def answers(self) -> bool:
        """Whether it answered on its pipe within ``PATIENCE`` seconds."""
        if time.monotonic() - self._asked >= ASK_PERIOD:
            with suppress(TritonkitError):
                self._ask()
                self._answered = time.monotonic()
            self._asked = time.monotonic()
        return time.monotonic() - self._answered < PATIENCE

    def fault(self) -> str | None:
        """That its MPS server has ended, or has failed: every client of it has lost its GPU."""
        for pid in self._failed:
            return f"has an MPS server {pid} whose state is {_FAULT}: a client's error on the GPU ended them all"
        for (pid, began), clients in self._clients.items():
            # One that ends after its clients is missed by nobody.
            left = any(is_running(client, since) for client, since in clients.items())
            if left and not is_running(pid, began):
                return f"lost its MPS server {pid}"
        return None

    def _ask(self) -> None:
        servers = self._daemon.servers()
        self._failed = [pid for pid in servers if self._daemon.ask(f"get_server_status {pid}") == _FAULT]
        for pid in servers:
            began = start_ticks(pid)
            clients = self._daemon.ask(f"get_client_list {pid}").split()
            if began is not None:
                self._clients[pid, began] = {int(one): start_ticks(int(one)) or 0 for one in clients if one.isdigit()}

    def close(self) -> None:
        """There is nothing to end."""
