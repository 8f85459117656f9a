"""What a tritonserver is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonkit.client.endpoint import Endpoint
from tritonkit.errors import LaunchFailed, RequestFailed
from tritonkit.serve.diagnosis import tail, unusable_models
from tritonkit.serve.processes import ProcessSpec, ServerCheck

if TYPE_CHECKING:
    from tritonkit.serve.probes import Prober

START_TIMEOUT = 5.0
ANSWER_TIMEOUT = 2.0


class ServerHealth:
    """The health of one running tritonserver."""

    def __init__(self, spec: ProcessSpec, check: ServerCheck, pid: int) -> None:
        """Nothing is asked yet."""
        self._spec = spec
        self._check = check
        self._pid = pid
        self._prober: Prober | None = None

    def ready(self) -> bool:
        """Whether it answers under its own id, every model is READY, and it holds the share of its GPU."""
        endpoint = Endpoint(self._check.http, timeout=START_TIMEOUT)
        # It listens only when all loading has ended.
        try:
            if endpoint.server_metadata().get("name") != self._check.server_id:
                return False
            bad = unusable_models(endpoint.index(), self._check.models, tail(self._spec.log))
        except RequestFailed:
            return False
        if bad:
            words = "\n".join(f"model {name}: {reason}" for name, reason in bad)
            raise LaunchFailed(f"cannot serve every model:\n{words}")
        if self._check.share is not None and self._check.share.pipe_directory is not None:
            from tritonkit.serve import mps

            # A client with a wrong pipe directory runs without MPS and without limits, and says nothing.
            fault = mps.attachment(self._spec, self._pid)
            if fault is not None:
                raise LaunchFailed(fault)
        if self._check.probe is not None:
            from tritonkit.serve.probes import Prober

            self._prober = Prober(self._check.http, self._check.models, self._check.probe)
        return True

    def answers(self) -> bool:
        """Whether it answers health requests."""
        return Endpoint(self._check.http, timeout=ANSWER_TIMEOUT).live()

    def fault(self) -> str | None:
        """Which model does not answer requests."""
        return self._prober.fault() if self._prober is not None else None

    def close(self) -> None:
        """Send no more requests."""
        if self._prober is not None:
            self._prober.close()
