"""Artifacts by what they were made from. Entries are whole and never change: one appears by a single rename."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tritonkit.artifacts import provenance
from tritonkit.artifacts.provenance import Provenance
from tritonkit.tools import digests, packages
from tritonkit.tools.commands import cache_directory

_STAGING = "staging-"


@dataclass(frozen=True)
class Entry:
    """What one recipe made.

    Attributes:
        folder: holds the artifacts, the files that go with them and their records, and nothing else.
        records: the record of each artifact, by its file name.
    """

    folder: Path
    records: Mapping[str, Provenance]

    @property
    def artifacts(self) -> tuple[Path, ...]:
        """The artifacts' files."""
        return tuple(self.folder / name for name in sorted(self.records))

    @property
    def size(self) -> int:
        """Bytes of the artifacts and of the files that go with them."""
        return sum(file.stat().st_size for file in self.folder.iterdir() if not file.name.endswith(provenance.SUFFIX))


def folder() -> Path:
    """Where entries lie."""
    return cache_directory() / "artifacts"


def find(key: str, directory: Path) -> Entry | None:
    """The entry of a recipe that would be made just so today.

    Args:
        key: the recipe's key.
        directory: the folder that dependencies are relative to.
    """
    for candidate in sorted(folder().glob(f"{key}-*")):
        entry = read(candidate)
        if entry is not None and all(_is_current(record, directory) for record in entry.records.values()):
            return entry
    return None


def read(candidate: Path) -> Entry | None:
    """The entry in a folder; None if it is not whole."""
    records = {}
    for file in candidate.glob(f"*{provenance.SUFFIX}"):
        artifact = file.with_name(file.name.removesuffix(provenance.SUFFIX))
        record = provenance.read(artifact)
        if record is None or not artifact.is_file() or digests.of_file(artifact) != record.sha256:
            return None
        records[artifact.name] = record
    return Entry(candidate, records) if records else None


def _is_current(record: Provenance, directory: Path) -> bool:
    if packages.outdated(record.tools):
        return False
    try:
        return all(digests.of_file(directory / path) == digest for path, digest in record.dependencies.items())
    except OSError:
        return False


@contextmanager
def staging() -> Iterator[Path]:
    """A fresh folder on the cache's file system. It goes at the end; ``sweep`` finds those of killed processes."""
    root = folder()
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root):
        path = Path(tempfile.mkdtemp(prefix=_STAGING, dir=root))
        # Held for as long as we live, by the kernel: whoever gets the lock knows that the folder is nobody's.
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    # Short: nobody sweeps up a folder between its making and its locking.
    lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def sweep() -> None:
    """Remove what exports that were killed have left."""
    root = folder()
    if not any(root.glob(f"{_STAGING}*")):
        return
    with _locked(root):
        _sweep(root)


def _sweep(root: Path) -> None:
    for path in root.glob(f"{_STAGING}*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def publish(made: Path, key: str) -> Entry:
    """Move a folder of finished artifacts into the cache, at once.

    Raises:
        OSError: the disk refuses.
    """
    entry = read(made)
    if entry is None:
        raise AssertionError(f"{made} holds no finished artifact")
    conditions = [[record.dependencies, record.tools] for record in entry.records.values()]
    target = folder() / f"{key}-{digests.of_bytes(json.dumps(conditions, sort_keys=True).encode())[:16]}"
    try:
        made.rename(target)
    except OSError:
        existing = read(target)
        if existing is not None:
            # Another process was as quick, and made the same.
            return existing
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    return Entry(target, entry.records)
