"""Where a model's files go in a repository, by backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
        path: where it goes, relative to the repository, with forward slashes.
        content: the bytes to write.
        source: the file to copy.
    """

    path: str
    content: bytes | None = None
    source: Path | None = None


def backend_of(source: Path | None, backend: str, platform: str) -> str | None:
    """The backend that will load a model: the one stated, else the one that its source is made for, else None."""
    if backend or platform:
        return backend or _BY_PLATFORM.get(platform)
    if source is None:
        return None
    if source.is_dir():
        held = [name for name, filename in FILENAMES.items() if (source / filename).exists()]
        return held[0] if len(held) == 1 else None
    return _BY_SUFFIX.get(source.suffix)


def version_files(source: Path, filename: str | None) -> list[tuple[str, Path]]:
    """The files of a version's folder, each with its path there and where it comes from.

    Args:
        source: one file, or a folder whose whole content (without caches and hidden files) is meant.
        filename: the name that a single file gets; None keeps its own.
    """
    if not source.is_dir():
        return [(filename or source.name, source)]
    return [(file.relative_to(source).as_posix(), file) for file in folder_files(source)]


def folder_files(folder: Path) -> list[Path]:
    """Every file below a folder that belongs to a model, in order of its path."""
    files: list[Path] = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name in _CLUTTER_NAMES or entry.suffix in _CLUTTER_SUFFIXES:
            continue
        files.extend(folder_files(entry) if entry.is_dir() else [entry])
    return files
