"""Starters: small projects that work as they are, copied for the user to change."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tritonkit.errors import RepositoryConflict, UsageError, nearest
from tritonkit.resources import templates_directory

# Python and tritonkit leave these beside files that are used in place; an installer compiles starters too.
_CLUTTER = frozenset({"__pycache__", ".tritonkit"})
_SHOWN_FILES = 8


@dataclass(frozen=True)
class Starter:
    """A project to begin with.

    Attributes:
        name: what the user asks for.
        summary: what it is, in one line.
        commands: what to run in a copy of it, in this order.
        directory: where it lies.
    """

    name: str
    summary: str
    commands: tuple[str, ...]
    directory: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """The paths of its files, relative to ``directory``, in order."""
        found = (file.relative_to(self.directory) for file in self.directory.rglob("*") if file.is_file())
        return tuple(sorted(path for path in found if _CLUTTER.isdisjoint(path.parts)))


def available() -> tuple[Starter, ...]:
    """The starters that ship with tritonkit, in order of their names."""
    folder = templates_directory() / "starters"
    return tuple(read(directory) for directory in sorted(folder.iterdir()) if directory.is_dir())


def read(directory: Path) -> Starter:
    """The starter in a folder.

    Its README.md says what the starter is (the first line, ``# name: summary``) and what to run (the first block of
    ``sh``), so that the command line and the page say the same.
    """
    title, _, text = (directory / "README.md").read_text(encoding="utf-8").partition("\n")
    commands = text.partition("```sh\n")[2].partition("\n```")[0].splitlines()
    return Starter(directory.name, title.partition(": ")[2], tuple(commands), directory)


def find(name: str) -> Starter:
    """The starter of this name.

    Raises:
        UsageError: there is none; the message names the nearest one, or all of them.
    """
    starters = {starter.name: starter for starter in available()}
    if name in starters:
        return starters[name]
    raise UsageError(
        f"there is no starter '{name}'{nearest(name.lower(), starters)}", hint="All of them: tritonkit init --list"
    )


def plan(starter: Starter, target: Path) -> tuple[Path, ...]:
    """The files that ``copy`` would write. Reads only.

    Raises:
        RepositoryConflict: files of the target are in the way; the message names them.
    """
    if os.path.lexists(target) and not target.is_dir():
        raise _conflict(f"{target} is in the way: it is no folder")
    in_the_way = [path for path in starter.files if os.path.lexists(target / path)]
    for path in starter.files:
        in_the_way.extend(up for up in path.parents if os.path.lexists(target / up) and not (target / up).is_dir())
    if in_the_way:
        raise _conflict(f"{target} has files in the way: {_shown(list(dict.fromkeys(in_the_way)))}")
    return tuple(target / path for path in starter.files)


def copy(starter: Starter, target: Path) -> tuple[Path, ...]:
    """Copy a starter into a folder, new or not: all of its files, or none. Nothing is overwritten.

    Returns:
        The files written.

    Raises:
        RepositoryConflict: files of the target are in the way; the message names them.
        OSError: the target cannot be written to.
    """
    written = plan(starter, target)
    try:
        with ExitStack() as undo:
            if target.is_dir():
                _write(starter, target, undo)
            else:
                _make_folder(target.parent, undo)
                _place(starter, target)
            undo.pop_all()
    except OSError as error:
        # A write that fails, on a full disk for one, does not say where.
        raise OSError(error.errno, error.strerror, error.filename or str(target)) from error
    return written


def _place(starter: Starter, target: Path) -> None:
    # Written beside its place and renamed into it, a new folder is whole even if we are killed.
    with tempfile.TemporaryDirectory(prefix=".tritonkit-init-", dir=target.parent) as scratch:
        whole = Path(scratch) / target.name
        whole.mkdir()
        _write(starter, whole, ExitStack())
        try:
            whole.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise _conflict(f"{target} is in the way: it has just been made by something else") from error
            raise


def _write(starter: Starter, folder: Path, undo: ExitStack) -> None:
    for path in starter.files:
        content = (starter.directory / path).read_bytes()
        file = folder / path
        _make_folder(file.parent, undo)
        try:
            with file.open("xb") as stream:
                undo.callback(file.unlink)
                stream.write(content)
        except FileExistsError as error:
            raise _conflict(f"{file} is in the way: it has just been made by something else") from error


def _make_folder(folder: Path, undo: ExitStack) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir()
        undo.callback(path.rmdir)


def _shown(files: Sequence[Path]) -> str:
    more = f" and {len(files) - _SHOWN_FILES} more" if len(files) > _SHOWN_FILES else ""
    return ", ".join(str(path) for path in files[:_SHOWN_FILES]) + more


def _conflict(message: str) -> RepositoryConflict:
    hint = "Nothing was written. Give another folder with --output, or move what is there away."
    return RepositoryConflict(message, hint=hint)
