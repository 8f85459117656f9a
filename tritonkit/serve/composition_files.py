"""A composition on disk: compose.yaml and the files beside it, in a folder that tritonkit knows again as its own."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from tritonkit.errors import RepositoryConflict, TritonkitError
from tritonkit.serve.containers import COMPOSE, Composition, render
from tritonkit.spec.paths import is_plain

RECORD = ".tritonkit-compose.json"
"""Names the files that tritonkit wrote; the others in the folder are somebody else's."""


def write(composition: Composition, folder: Path) -> Path:
    """Write a composition into ``folder``; what an earlier one had there and this one has not goes. Its compose.yaml.

    Raises:
        RepositoryConflict: a file is in the way that tritonkit did not write; nothing has changed then.
        TritonkitError: the folder cannot be written to.
    """
    texts = {COMPOSE: render(composition), **composition.files}
    wanted = [*texts, *composition.links]
    try:
        known = _recorded(folder)
        foreign = sorted(path for path in wanted if path not in known and os.path.lexists(folder / path))
        if foreign:
            raise RepositoryConflict(
                f"{folder}: tritonkit did not write {', '.join(foreign)}, which it would replace",
                hint="Name another folder with --output, or move them away.",
            )
        folder.mkdir(parents=True, exist_ok=True)
        # Whatever happens from here on, everything written so far is known as ours.
        _record(folder, sorted({*known, *wanted}))
        for path in sorted(set(known) - set(wanted)):
            _remove(folder, path)
        for path, text in texts.items():
            _replace(folder, path).write_text(text, encoding="utf-8")
        for path, target in composition.links.items():
            _replace(folder, path).symlink_to(target)
        _record(folder, sorted(wanted))
    except OSError as error:
        raise TritonkitError(f"{error.filename or folder}: cannot be written: {error.strerror}") from error
    return folder / COMPOSE


def _replace(folder: Path, path: str) -> Path:
    """Where a file goes, with nothing there and no link on the way."""
    place = folder
    for part in Path(path).parts[:-1]:
        place /= part
        if place.is_symlink():
            raise RepositoryConflict(f"{place}: is a link, and tritonkit would write through it", hint="Remove it.")
        place.mkdir(exist_ok=True)
    place = folder / path
    place.unlink(missing_ok=True)
    return place


def _remove(folder: Path, path: str) -> None:
    place = folder / path
    if any(parent.is_symlink() for parent in place.parents if parent != folder and folder in parent.parents):
        return
    place.unlink(missing_ok=True)
    for parent in place.parents:
        if parent == folder or any(parent.iterdir()):
            return
        parent.rmdir()


def _recorded(folder: Path) -> tuple[str, ...]:
    try:
        stored = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        paths = tuple(str(path) for path in stored["files"])
    except FileNotFoundError:
        return ()
    except (ValueError, KeyError, TypeError):
        paths = ("",)
    # Files are removed by these names.
    if not all(is_plain(path) for path in paths):
        raise RepositoryConflict(f"{folder / RECORD}: is no record of tritonkit's", hint="Remove it.")
    return paths


def _record(folder: Path, paths: list[str]) -> None:
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=f"{RECORD}.", delete=False, encoding="utf-8") as file:
        json.dump({"files": paths}, file, indent=1)
    Path(file.name).replace(folder / RECORD)
