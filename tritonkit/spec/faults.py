"""Collecting every fault of a spec before refusing it, each with its file, line and dotted path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from tritonkit.errors import Fault, SpecError

Path = tuple[str | int, ...]
"""Where a value stands in the spec: keys and list indices from the root."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


class Origin(NamedTuple):
    """The place in a file that a value was read from; line 0 stands for the file as a whole."""

    file: str
    line: int


def dotted(path: Path) -> str:
    """A path as users read it: ``models.digits.instance_group[0].count``."""
    parts: list[str] = []
    for key in path:
        if isinstance(key, int):
            parts.append(f"[{key}]")
        elif _PLAIN_KEY.match(key):
            parts.append(f".{key}" if parts else key)
        else:
            parts.append(f'["{key}"]')
    return "".join(parts)


def shown(value: Any) -> str:
    """A value as messages quote it."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and abs(value) >= 2**128:
        # Python refuses to write out very long numbers.
        return "a number that is too large"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class Faults:
    """The faults found so far. Checks add to it and go on; ``raise_if_any`` ends them together."""

    def __init__(self, file: str, origins: Mapping[Path, Origin]) -> None:
        self._file = file
        self._origins = origins
        self._found: list[Fault] = []
        self._paths: list[Path] = []

    def __len__(self) -> int:
        return len(self._found)

    def within(self, path: Path) -> bool:
        """Whether a fault was found at ``path`` or below it: then what is missing there may only have been left out."""
        return any(found[: len(path)] == path for found in self._paths)

    @property
    def found(self) -> tuple[Fault, ...]:
        """Every fault so far, in the order in which it was found."""
        return tuple(self._found)

    def origin(self, path: Path) -> Origin:
        """Where the value at ``path`` was written, or its nearest ancestor that the user wrote."""
        for length in range(len(path), -1, -1):
            if path[:length] in self._origins:
                return self._origins[path[:length]]
        return Origin(self._file, 0)

    def add(self, path: Path, message: str) -> None:
        """Record a fault of the value at ``path``, or of its nearest ancestor that the user wrote."""
        origin = self.origin(path)
        self._paths.append(path)
        self._found.append(Fault(origin.file, origin.line, dotted(path), message))

    def raise_if_any(self, *, hint: str | None = None) -> None:
        """Raise one SpecError with every fault found, and what can be done about them.

        Raises:
            SpecError: at least one fault was added.
        """
        if self._found:
            raise SpecError(self._found, hint=hint)
