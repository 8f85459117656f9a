"""What stands in a repository beside what tritonkit wrote there, and what of it Triton would serve."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tritonkit.repository import manifest
from tritonkit.repository.placement import is_clutter

# Triton takes a folder whose name begins with a number for that version: "2", and "2_old" too.
_DIGITS = frozenset("0123456789")


@dataclass(frozen=True)
class Strangers:
    """Paths in a repository that no build of tritonkit planned or wrote, folders with a slash at the end.

    Attributes:
        served: models, and versions of planned models, that Triton would serve with the rest.
        other: files that Triton makes nothing of by itself.
    """

    served: tuple[str, ...]
    other: tuple[str, ...]


def find(repository: Path, own: Iterable[str]) -> Strangers:
    """Look through a repository. Caches and hidden files do not count; links are not followed.

    Args:
        repository: its folder; nothing is found where there is none.
        own: the paths that are planned, or recorded as written.

    Raises:
        OSError: a folder cannot be read.
    """
    paths = set(own)
    folders = {parent for path in paths for parent in _parents(path)}
    served: list[str] = []
    other: list[str] = []
    waiting = [""] if repository.is_dir() else []
    while waiting:
        below = waiting.pop()
        with os.scandir(repository / below) as entries:
            for entry in entries:
                path = f"{below}{entry.name}"
                if is_clutter(entry.name) or path in paths or path == manifest.NAME:
                    continue
                if not entry.is_dir():
                    other.append(path)
                elif path in folders:
                    if not entry.is_symlink():
                        waiting.append(f"{path}/")
                elif not below or (below.count("/") == 1 and entry.name[0] in _DIGITS):
                    served.append(f"{path}/")
                else:
                    other.append(f"{path}/")
    return Strangers(tuple(sorted(served)), tuple(sorted(other)))


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]
