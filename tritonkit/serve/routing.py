"""Telling the gateway which servers to send requests to."""

from __future__ import annotations

from collections.abc import Mapping

from tritonkit.errors import TritonkitError
from tritonkit.serve.haproxy import HaproxySocket
from tritonkit.serve.phases import Phase, State
from tritonkit.serve.processes import GatewayCheck, ProcessSpec

_TIMEOUT = 5.0


def gateway(state: State, specs: Mapping[str, ProcessSpec]) -> HaproxySocket | None:
    """The socket of the gateway; None where there is none that is ready."""
    for process in state.processes:
        check = specs[process.name].check
        if isinstance(check, GatewayCheck) and process.phase is Phase.READY:
            return HaproxySocket(check.control, timeout=_TIMEOUT)
    return None


def route(name: str, state: State, specs: Mapping[str, ProcessSpec]) -> None:
    """Have the gateway treat a server as the supervisor's rules do."""
    found = gateway(state, specs) if specs[name].kind == "server" else None
    process = state.found(name)
    if found is None or process is None or process.aside:
        return
    if not process.avoided:
        tell(found, specs[name].shown, "ready")
    elif has_replicas(name, state, specs):
        tell(found, specs[name].shown, "drain")


def has_replicas(name: str, state: State, specs: Mapping[str, ProcessSpec]) -> bool:
    """Whether each model of a server has another one that takes requests for it."""
    others = [process for process in state.processes if process.name != name and not process.avoided]
    taking = [process for process in others if process.phase is Phase.READY and not process.aside]
    return {model for process in taking for model in specs[process.name].models}.issuperset(specs[name].models)


def tell(found: HaproxySocket, server: str, word: str) -> bool:
    """Set a server to ``drain`` or ``ready``; whether the gateway took it.

    One that does not answer, or does not know the server, stops nobody from what he is about to do with the server.
    """
    try:
        if word == "drain":
            found.drain(server)
        else:
            found.ready(server)
    except TritonkitError:
        return False
    return True
