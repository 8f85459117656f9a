"""Whether a server serves what was asked for: each model's configuration as it says it, against the repository's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tritonkit.client.endpoint import Addresses
from tritonkit.errors import LaunchFailed

# Filled in for the place where a model runs: not what a study asks for.
_PLACED = frozenset({"gpus", "name", "kind", "secondary_devices"})


def verify(server: Addresses, repository: Path) -> None:
    """Make sure that every model of the repository is READY, with all that its config.pbtxt says.

    Args:
        server: where it answers; behind a gateway a model may be served by some of the servers.
        repository: what it serves.

    Raises:
        LaunchFailed: one is not, or differs; every difference is named.
        RequestFailed: a server does not answer.
    """
    endpoints = server.behind()
    ready = {endpoint: {state.name for state in endpoint.index() if state.state == "READY"} for endpoint in endpoints}
    faults = []
    for file in sorted(repository.glob("*/config.pbtxt")):
        name = file.parent.name
        holders = [endpoint for endpoint in endpoints if name in ready[endpoint]]
        faults += [] if holders else [f"{name}: not READY"]
        for endpoint in holders:
            faults += [f"{name}: {difference}" for difference in differences(wanted(file), endpoint.config(name))]
    if faults:
        raise LaunchFailed("the server serves something else than was asked for: " + "; ".join(faults))


def wanted(file: Path) -> dict[str, Any]:
    """What a config.pbtxt says, in the form in which a server says it."""
    from google.protobuf.json_format import MessageToDict

    from tritonkit.modelconfig.text import parse

    said: dict[str, Any] = MessageToDict(parse(file.read_text()), preserving_proto_field_name=True)
    return said


def differences(asked: Any, served: Any, path: str = "") -> list[str]:
    """Where what is served is not what was asked for; what was not asked for may be anything."""
    return list(_differences(asked, served, path))


def _differences(asked: Any, served: Any, path: str) -> Iterator[str]:
    if isinstance(asked, dict) and isinstance(served, dict):
        for key, value in asked.items():
            where = f"{path}.{key}" if path else str(key)
            if path.startswith("instance_group") and key in _PLACED:
                continue
            if key not in served:
                yield f"{where} is left out, and {value!r} was asked for"
            else:
                yield from _differences(value, served[key], where)
    elif isinstance(asked, list) and isinstance(served, list) and len(asked) == len(served):
        for index, (one, other) in enumerate(zip(asked, served, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif not _same(asked, served):
        yield f"{path} is {served!r}, and {asked!r} was asked for"


def _same(asked: Any, served: Any) -> bool:
    # Numbers of 64 bits are texts on one side and numbers on the other.
    if asked == served or str(asked) == str(served):
        return True
    try:
        return float(asked) == float(served)
    except (TypeError, ValueError):
        return False
