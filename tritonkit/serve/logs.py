"""The logs of a deployment: where they are, their ends, and what is added to them."""

from __future__ import annotations

import os
from pathlib import Path

from tritonkit.errors import TritonkitError
from tritonkit.serve.state import directory

SUPERVISOR = "supervisor"


def files(project: Path, name: str | None) -> dict[str, Path]:
    """The logs of a project's servers by name, or the one of that name (``supervisor`` is one too).

    Raises:
        TritonkitError: there is none.
    """
    found = {path.stem: path for path in sorted((directory(project) / "logs").glob("*.log"))}
    chosen = {server: path for server, path in found.items() if (server == name if name else server != SUPERVISOR)}
    if not chosen:
        raise TritonkitError(
            f"{project}: no log of {name!r}; there is: {', '.join(found) or 'none'}" if name else f"{project}: no logs",
            hint="tritonkit up writes them.",
        )
    return chosen


class Follower:
    """Reads what is added to one log, also when a new run puts a new file in its place."""

    def __init__(self, path: Path, *, last: int | None = None) -> None:
        """Begin at the last ``last`` lines, or at the end when that is 0, or at the beginning when None."""
        self._path = path
        self._inode = 0
        self._offset = 0
        self._rest = b""
        self._held: list[str] = []
        if last is not None:
            lines = self.read()
            self._held = lines[-last:] if last else []

    def read(self) -> list[str]:
        """The whole lines that are new since the last call."""
        held, self._held = self._held, []
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset, self._rest = status.st_ino, 0, b""
                file.seek(self._offset)
                data = file.read()
                self._offset = file.tell()
        except FileNotFoundError:
            return held
        *whole, self._rest = (self._rest + data).split(b"\n")
        return held + [line.decode(errors="replace") for line in whole]
