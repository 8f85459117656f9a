"""How a spec spreads its models over servers, as plain values: what a build records, and what serving plans from.

Reading them back from the record of a build needs neither the spec nor its schema, so that a start does not wait.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tritonkit.errors import Fault
from tritonkit.spec.faults import Origin

if TYPE_CHECKING:
    from tritonkit.spec.loading import LoadedSpec

# What the name of an entry's process has after the entry's own.
_PLACE = re.compile(r"(?:-gpu[0-9]+)?(?:-r[0-9]+)?")


@dataclass(frozen=True)
class Server:
    """One entry of ``servers``.

    Attributes:
        name: unique in the spec.
        index: its place in the list, from 0.
        models: what it serves, without the members of its ensembles; None is every model.
        gpus: indices or UUIDs; None is every GPU that is served on.
        thread_percentage: the most of a GPU's SMs that each of its processes may use; None sets no limit.
        memory_limit: the most bytes of a GPU's memory that each of its processes may take; None sets no limit.
        replicas: how many equal servers there are on each of its GPUs.
        origins: where the entry (``""``) and its keys were written.
    """

    name: str
    index: int = 0
    models: tuple[str, ...] | None = None
    gpus: tuple[int | str, ...] | None = None
    thread_percentage: float | None = None
    memory_limit: int | None = None
    replicas: int = 1
    origins: Mapping[str, Origin] = field(default_factory=dict)

    def fault(self, key: str, message: str) -> Fault:
        """A fault of this entry's value at ``key``, or of the entry where that was not written."""
        origin = self.origins.get(key) or self.origins.get("") or Origin("servers", 0)
        return Fault(
            origin.file, origin.line, f"servers[{self.index}].{key}" if key else f"servers[{self.index}]", message
        )

    def written_in(self, file: str) -> Server:
        """The same, with ``file`` for the file that it was written in."""
        return replace(self, origins={key: Origin(file, origin.line) for key, origin in self.origins.items()})


_KEYS = ("name", "models", "gpus", "thread_percentage", "memory_limit", "replicas")


def servers_of(loaded: LoadedSpec) -> tuple[Server, ...]:
    """The servers of a spec; none where it leaves them out."""
    return tuple(
        Server(
            index=index,
            **{key: getattr(entry, key) for key in _KEYS},
            origins={key: loaded.faults.origin(("servers", index, *([key] if key else []))) for key in ("", *_KEYS)},
        )
        for index, entry in enumerate(loaded.spec.servers or ())
    )


def is_of(process: str, entry: str) -> bool:
    """Whether a process has the name of one of the spec's entry of that name: on one of its GPUs, a replica of it.

    Two entries may be such that a name fits both, as ``a-r0`` fits ``a`` and ``a-r0``: the longer one is meant then.
    """
    return process.startswith(entry) and _PLACE.fullmatch(process, len(entry)) is not None


def stored(servers: tuple[Server, ...]) -> list[dict[str, Any]]:
    """The servers as JSON has them, in lines of one file; the file is left out."""
    return [
        {key: getattr(server, key) for key in ("index", *_KEYS)}
        | {"lines": {key: origin.line for key, origin in server.origins.items()}}
        for server in servers
    ]


def restored(values: list[dict[str, Any]], file: str) -> tuple[Server, ...]:
    """The servers that ``stored`` gave, as written in ``file``."""
    found = []
    for value in values:
        facts: dict[str, Any] = {key: value[key] for key in ("index", *_KEYS)}
        for key in ("models", "gpus"):
            facts[key] = None if facts[key] is None else tuple(facts[key])
        found.append(Server(**facts, origins={key: Origin(file, line) for key, line in value["lines"].items()}))
    return tuple(found)
