"""The logs of a deployment: where they are, their ends, and what is added to them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from tritonkit.errors import TritonkitError, UsageError
from tritonkit.serve.state import directory

SUPERVISOR = "supervisor"
_BLOCK = 64 * 1024


def files(project: Path, name: str | None) -> dict[str, Path]:
    """The logs of a project's servers by name, or the one of that name (``supervisor`` is one too).

    Raises:
        TritonkitError: there are no logs.
        UsageError: there are, and none of that name.
    """
    found = {path.stem: path for path in sorted((directory(project) / "logs").glob("*.log"))}
    chosen = {server: path for server, path in found.items() if (server == name if name else server != SUPERVISOR)}
    if name and found and not chosen:
        raise UsageError(f"{project}: no log of {name!r}; there is: {', '.join(found)}")
    if not chosen:
        raise TritonkitError(f"{project}: no logs", hint="tritonkit up writes them.")
    return chosen


class Follower:
    """Reads what is added to one log, also when a new run puts a new file in its place.

    A line that is not whole yet is kept until it is; ``rest`` gives it out at the end.
    """

    def __init__(self, path: Path, *, last: int | None = None) -> None:
        """Begin at the last ``last`` lines, or at the end when that is 0, or at the beginning when None."""
        self._path = path
        self._inode = 0
        self._offset = 0
        self._rest = b""
        if last is not None:
            with suppress(FileNotFoundError), path.open("rb") as file:
                self._inode, self._offset = os.fstat(file.fileno()).st_ino, _start_of_last(file, last)

    def read(self) -> list[str]:
        """The whole lines that are new since the last call."""
        before: list[str] = []
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    before = self.rest()
                    self._inode, self._offset = status.st_ino, 0
                file.seek(self._offset)
                data = file.read()
                self._offset = file.tell()
        except FileNotFoundError:
            return []
        *whole, self._rest = (self._rest + data).split(b"\n")
        return before + [line.decode(errors="replace") for line in whole]

    def rest(self) -> list[str]:
        """The line that nobody will end any more, as after a crash; nothing where there is none."""
        rest, self._rest = self._rest, b""
        return [rest.decode(errors="replace")] if rest else []


def _start_of_last(file: BinaryIO, lines: int) -> int:
    """Where the last ``lines`` lines of a file begin, of which the very last may have no end."""
    position = size = file.seek(0, os.SEEK_END)
    if not lines:
        return size
    while position:
        length = min(_BLOCK, position)
        position -= length
        file.seek(position)
        block = file.read(length)
        # The file's last byte ends a line, or is in one; it begins none.
        until = min(length, size - 1 - position)
        while (found := block.rfind(b"\n", 0, until)) >= 0:
            lines -= 1
            if not lines:
                return position + found + 1
            until = found
    return 0
