"""Telling the gateway which servers to send requests to."""

from __future__ import annotations

from collections.abc import Mapping

from tritonkit.errors import TritonkitError
from tritonkit.serve import events
from tritonkit.serve.haproxy import HaproxySocket
from tritonkit.serve.phases import Phase, State
from tritonkit.serve.processes import GatewayCheck, ProcessSpec

_TIMEOUT = 1.0


def gateway(state: State, specs: Mapping[str, ProcessSpec], *, timeout: float = 5.0) -> HaproxySocket | None:
    """The socket of the gateway; None where there is none that is ready."""
    for process in state.processes:
        check = specs[process.name].check
        if isinstance(check, GatewayCheck) and process.phase is Phase.READY:
            return HaproxySocket(check.control, timeout=timeout)
    return None


def route(action: events.Avoid | events.Use, state: State, specs: Mapping[str, ProcessSpec]) -> None:
    """Do what the supervisor's rules say; what the gateway answers is not waited for long."""
    found = gateway(state, specs, timeout=_TIMEOUT) if specs[action.name].kind == "server" else None
    if found is None:
        return
    if isinstance(action, events.Avoid):
        others = [process for process in state.processes if process.name != action.name and not process.avoided]
        held = {model for process in others if process.phase is Phase.READY for model in specs[process.name].models}
        if held.issuperset(specs[action.name].models):
            tell(found, action.name, "drain")
    else:
        tell(found, action.name, "ready")


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
