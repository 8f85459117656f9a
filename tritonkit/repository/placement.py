"""Where a model's files go in a repository, by backend."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tritonkit.spec.paths import is_plain

FILENAMES = {
    "onnxruntime": "model.onnx",
    "tensorrt": "model.plan",
    "pytorch": "model.pt",
    "python": "model.py",
}
"""The file that each backend looks for in a version's folder, unless ``default_model_filename`` names another."""

_BY_SUFFIX = {
    ".onnx": "onnxruntime",
    ".plan": "tensorrt",
    ".engine": "tensorrt",
    ".pt": "pytorch",
    ".pt2": "pytorch",
    ".py": "python",
}

_BY_PLATFORM = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
}

# Left behind by interpreters, editors and desktops; none is part of a model.
_CLUTTER_NAMES = frozenset({"__pycache__", "Thumbs.db"})
_CLUTTER_SUFFIXES = frozenset({".pyc", ".pyo", ".swp"})


@dataclass(frozen=True)
class RepositoryFile:
    """One file of a repository; either ``content`` or ``source`` is given.

    Attributes:
        path: where it goes, relative to the repository, with forward slashes. A path that leads anywhere else is a
            defect of the plan, and never made into a file.
        content: the bytes to write.
        source: the file to copy.
    """

    path: str
    content: bytes | None = None
    source: Path | None = None

    def __post_init__(self) -> None:
        if not is_plain(self.path):
            raise ValueError(f"planned outside the repository: {self.path!r}")


def backend_of(source: Path | None, backend: str, platform: str) -> str | None:
    """The backend that will load a model: the one stated, else the one that its source is made for, else None."""
    if backend or platform:
        return backend or _BY_PLATFORM.get(platform)
    if source is None:
        return None
    if is_there(source) and source.is_dir():
        held = [name for name, filename in FILENAMES.items() if (source / filename).exists()]
        return held[0] if len(held) == 1 else None
    return _BY_SUFFIX.get(source.suffix)


def is_there(source: Path) -> bool:
    """Whether a path is a regular file or a folder. A pipe or a device, which reading could wait for, is neither."""
    try:
        return source.is_file() or source.is_dir()
    except (OSError, ValueError):
        # A name that is too long, or that holds a NUL.
        return False


def is_file(path: Path) -> bool:
    """Whether there is anything at a path that is no folder."""
    return is_there(path) and not path.is_dir()


def version_files(source: Path, filename: str | None) -> list[tuple[str, Path]]:
    """The files of a version's folder, each with its path there and where it comes from.

    Args:
        source: one file, or a folder whose whole content (without caches and hidden files) is meant.
        filename: the name that a single file gets; None keeps its own.

    Raises:
        OSError: a folder cannot be read, or holds what can be no file of a model.
    """
    if not source.is_dir():
        return [(filename or source.name, source)]
    return [(file.relative_to(source).as_posix(), file) for file in folder_files(source)]


def is_clutter(name: str) -> bool:
    """Whether a file or folder is taken for no part of a model unless it is named: caches, and what is hidden."""
    return name.startswith(".") or name in _CLUTTER_NAMES or any(name.endswith(end) for end in _CLUTTER_SUFFIXES)


def folder_files(folder: Path) -> list[Path]:
    """Every file below a folder that belongs to a model, in order of its path.

    Raises:
        OSError: a folder cannot be read; or there is a link to nothing, a link back to a folder that it lies in, or
            something that is no file, as a pipe.
    """
    return [file for file in all_files(folder) if not any(map(is_clutter, file.relative_to(folder).parts))]


def all_files(folder: Path) -> list[Path]:
    """As ``folder_files``, with caches and hidden files."""
    return list(_walk(folder, ()))


def _walk(folder: Path, within: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    stat = folder.stat()
    if (stat.st_dev, stat.st_ino) in within:
        raise OSError(errno.ELOOP, "a link leads back to the folder that it lies in", str(folder))
    with os.scandir(folder) as entries:
        listing = sorted(entries, key=lambda entry: entry.name)
    for entry in listing:
        path = folder / entry.name
        if entry.is_dir():
            yield from _walk(path, (*within, (stat.st_dev, stat.st_ino)))
        elif entry.is_file():
            yield path
        else:
            raise OSError(errno.EINVAL, "neither a file nor a folder, nor a link to one", str(path))
