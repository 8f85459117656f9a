"""What Python keeps beside sources that a server ran from a repository."""

from __future__ import annotations

from contextlib import suppress
from glob import escape
from pathlib import Path


def remove(source: Path) -> None:
    """Remove what Python kept of a source that is gone: alone, it would make its folder look like a model.

    Raises:
        OSError: a file of it cannot be removed.
    """
    cache = source.parent / "__pycache__"
    if source.suffix != ".py" or cache.is_symlink() or not cache.is_dir():
        return
    for file in cache.glob(f"{escape(source.stem)}.cpython-*.pyc"):
        file.unlink()
    with suppress(OSError):
        # Others' files in it keep it.
        cache.rmdir()
