"""How a deployment is at this moment, seen from outside: its state file says how it was at the last change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tritonkit.client.endpoint import Endpoint
from tritonkit.serve.procfs import descendants, is_stopped
from tritonkit.serve.record import fingerprint
from tritonkit.serve.state import Deployment, ServerState

ANSWER_TIMEOUT = 5.0


def faults(deployment: Deployment) -> dict[str, str]:
    """What is wrong with each process that is not ready, or is called so and does not answer; empty when all is well.

    The words follow the process's name; that of the supervisor is ``supervisor``.
    """
    found = {}
    if is_stopped(deployment.pid):
        found["supervisor"] = (
            f"(process {deployment.pid}) was stopped by a signal: nothing is restarted until it goes on"
        )
    with ThreadPoolExecutor(max(1, len(deployment.servers))) as threads:
        for server, fault in zip(deployment.servers, threads.map(_fault, deployment.servers), strict=True):
            if fault is not None:
                found[server.name] = fault
    return found


def outdated(deployment: Deployment) -> tuple[str, ...]:
    """The servers that serve another repository than lies there now."""
    now = fingerprint(deployment.repository)
    return tuple(
        server.name for server in deployment.servers if server.kind == "server" and server.repository not in {"", now}
    )


def _fault(server: ServerState) -> str | None:
    if server.phase != "ready" or server.pid is None:
        return {
            "starting": "is starting",
            "waiting": "waits for others",
            "stopping": "is stopping",
            "backoff": "waits to be started again",
            "failed": "was given up",
        }.get(server.phase, f"is {server.phase}")
    if is_stopped(server.pid):
        return "was stopped by a signal"
    if any(is_stopped(child) for child in descendants(server.pid)):
        return "has a child process that was stopped by a signal"
    return None if _answers(server) else "does not answer"


def _answers(server: ServerState) -> bool:
    if server.kind == "server":
        return Endpoint(server.http, timeout=ANSWER_TIMEOUT).live()
    if server.kind == "gateway" and server.control is not None:
        from tritonkit.serve import haproxy
        from tritonkit.serve.processes import GatewayCheck

        return haproxy.answers(GatewayCheck(server.http, server.control), timeout=ANSWER_TIMEOUT)
    return True
