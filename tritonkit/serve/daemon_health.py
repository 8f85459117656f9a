"""What an MPS control daemon is asked."""

from __future__ import annotations

from tritonkit.serve import mps
from tritonkit.serve.processes import DaemonCheck


class DaemonHealth:
    """The health of one running MPS control daemon."""

    def __init__(self, check: DaemonCheck) -> None:
        """Nothing is asked yet."""
        self._check = check

    def ready(self) -> bool:
        """Whether it answers on its pipe."""
        return self.answers()

    def answers(self) -> bool:
        """Whether it answers on its pipe."""
        return mps.answers(self._check.program, self._check.pipe_directory)

    def fault(self) -> str | None:
        """Nothing: one that answers is well."""
        return None

    def close(self) -> None:
        """There is nothing to end."""
