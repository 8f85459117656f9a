"""The short folder for the sockets of a deployment: their paths may have 108 bytes, and a project's may be longer."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from tritonkit.errors import TritonkitError


def runtime_directory(deployment: str) -> Path:
    """Where the sockets of a deployment lie, ``/tmp/tritonkit-UID/ID``; nothing is made yet.

    Not in ``$XDG_RUNTIME_DIR``: that goes when its user logs out, and a deployment may stay.
    """
    return Path("/tmp") / f"tritonkit-{os.getuid()}" / deployment  # noqa: S108 - its owner is checked


def create(folder: Path) -> None:
    """Make a ``runtime_directory``, for this user alone.

    Raises:
        TritonkitError: it, or the folder around it, is another user's or leads elsewhere; or it cannot be made.
    """
    try:
        _make(folder.parent)
        try:
            _make(folder)
        except FileNotFoundError:
            # The last deployment but this one has just ended, and removed the folder around it.
            _make(folder.parent)
            _make(folder)
    except OSError as error:
        raise TritonkitError(f"{error.filename or folder}: cannot be made: {error.strerror}") from error


def hold(folder: Path) -> int:
    """Keep what cleans /tmp of old files away from a ``runtime_directory``, until what this gives is closed."""
    # systemd-tmpfiles leaves alone what lies in a folder that somebody has locked.
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with suppress(OSError):
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return held


def remove(folder: Path) -> None:
    """Remove a ``runtime_directory`` with all that lies in it, and the folder around it when nothing else does."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()


def _make(place: Path) -> None:
    with suppress(FileExistsError):
        place.mkdir(mode=0o700)
    status = place.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise TritonkitError(
            f"{place}: is not a folder of this user, so no sockets are put there", hint="Remove or rename it."
        )
    place.chmod(0o700)
