"""What the gateway is asked."""

from __future__ import annotations

from tritonkit.serve import haproxy
from tritonkit.serve.processes import GatewayCheck

ANSWER_TIMEOUT = 2.0


class GatewayHealth:
    """The health of one running gateway: its own, not that of the servers behind it."""

    def __init__(self, check: GatewayCheck) -> None:
        """Nothing is asked yet."""
        self._check = check

    def ready(self) -> bool:
        """Whether it answers."""
        return self.answers()

    def answers(self) -> bool:
        """Whether it answers."""
        return haproxy.answers(self._check, timeout=ANSWER_TIMEOUT)

    def fault(self) -> str | None:
        """Nothing: one that answers is well."""
        return None

    def close(self) -> None:
        """There is nothing to end."""
