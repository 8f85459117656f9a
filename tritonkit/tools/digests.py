"""SHA-256 of files; those of large files are remembered, so that an unchanged plan of gigabytes is not read again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from tritonkit.tools.commands import cache_directory

_LARGE = 1024 * 1024
# A file changed within the clock's granularity of our look could change again without its times telling.
_SETTLED_NS = 2_000_000_000


def of_bytes(content: bytes) -> str:
    """The digest of some bytes."""
    return hashlib.sha256(content).hexdigest()


def of_file(path: Path) -> str:
    """The digest of a file's content.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        stat = os.fstat(stream.fileno())
        if stat.st_size < _LARGE:
            return of_bytes(stream.read())
        # Inode and change time are in the key: a file replaced by one of the same size and time is not taken for it.
        state = [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        memory = cache_directory() / "digests" / f"{of_bytes(os.fsencode(path.absolute()))}.json"
        known = _recall(memory)
        if known is not None and known[0] == state:
            return known[1]
        digest = hashlib.sha256()
        while block := stream.read(_LARGE):
            digest.update(block)
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > _SETTLED_NS:
        _remember(memory, state, digest.hexdigest())
    return digest.hexdigest()


def _recall(memory: Path) -> tuple[list[int], str] | None:
    try:
        state, digest = json.loads(memory.read_text())
    except (OSError, ValueError):
        return None
    return (state, digest) if isinstance(digest, str) else None


def _remember(memory: Path, state: list[int], digest: str) -> None:
    partial = memory.with_suffix(f".{os.getpid()}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps([state, digest]))
        partial.replace(memory)
    except OSError:
        # A cache that cannot be written costs time, and nothing else.
        return
