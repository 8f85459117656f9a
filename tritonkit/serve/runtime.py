"""The short folder for the sockets of a deployment: their paths may have 108 bytes, and a project's may be longer."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tritonkit.errors import TritonkitError

# What lies below it may take the rest of the 108 bytes.
_LONGEST = 60


def runtime_directory(deployment: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the sockets of a deployment lie; nothing is made yet.

    ``$XDG_RUNTIME_DIR/tritonkit/ID`` where that folder is this user's own and its path is short, else
    ``/tmp/tritonkit-UID/ID``.
    """
    named = environment.get("XDG_RUNTIME_DIR", "")
    if named.startswith("/") and len(os.fsencode(named)) <= _LONGEST and _is_own(Path(named)):
        return Path(named) / "tritonkit" / deployment
    return Path("/tmp") / f"tritonkit-{os.getuid()}" / deployment  # noqa: S108 - its owner is checked


def create(folder: Path) -> None:
    """Make a ``runtime_directory``, for this user alone.

    Raises:
        TritonkitError: it, or the folder around it, is another user's or leads elsewhere; or it cannot be made.
    """
    for place in (folder.parent, folder):
        try:
            with suppress(FileExistsError):
                place.mkdir(mode=0o700)
            if not _is_own(place):
                raise TritonkitError(
                    f"{place}: is not a folder of this user, so no sockets are put there", hint="Remove or rename it."
                )
            place.chmod(0o700)
        except OSError as error:
            raise TritonkitError(f"{place}: cannot be made: {error.strerror}") from error


def remove(folder: Path) -> None:
    """Remove a ``runtime_directory`` with all that lies in it, and the folder around it when nothing else does."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()


def _is_own(place: Path) -> bool:
    try:
        status = place.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
