"""SHA-256 of files; those of large files are remembered, so that an unchanged plan of gigabytes is not read again."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import time
from pathlib import Path
from typing import BinaryIO

from tritonkit.tools.commands import cache_directory

_LARGE = 1024 * 1024
# A file changed within the clock's granularity of our look could change again without its times telling.
_SETTLED_NS = 2_000_000_000


def of_bytes(content: bytes) -> str:
    """The digest of some bytes."""
    return hashlib.sha256(content).hexdigest()


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes. A pipe or a device, which reading could wait for or never end, is refused.

    Raises:
        OSError: it is no regular file, or cannot be read.
    """
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return stream


def is_executable(path: Path) -> bool:
    """Whether a file is one that somebody may run.

    Raises:
        OSError: there is no such file.
    """
    return bool(path.stat().st_mode & 0o111)


def of_source(path: Path) -> str:
    """The digest of all that a build takes over from a file: its content, and whether it may be run.

    Raises:
        OSError: the file cannot be read.
    """
    return of_file(path) + ("+x" if is_executable(path) else "")


def of_file(path: Path) -> str:
    """The digest of a file's content.

    Raises:
        OSError: it is no regular file, or cannot be read.
    """
    with open_regular(path) as stream:
        status = os.fstat(stream.fileno())
        if status.st_size < _LARGE:
            return of_bytes(stream.read())
        # Inode and change time are in the key: a file replaced by one of the same size and time is not taken for it.
        state = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        memory = cache_directory() / "digests" / f"{of_bytes(os.fsencode(path.absolute()))}.json"
        known = _recall(memory)
        if known is not None and known[0] == state:
            return known[1]
        digest = hashlib.sha256()
        while block := stream.read(_LARGE):
            digest.update(block)
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS:
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
