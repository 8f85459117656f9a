"""Writing what a process finds on the disk when it starts."""

from __future__ import annotations

import shutil
from contextlib import suppress

from tritonkit.serve.processes import Folder


def write(folder: Folder) -> None:
    """Replace the folder, whole. What its links lead to is not touched.

    Raises:
        OSError: it cannot be written.
    """
    if folder.path.is_symlink():
        folder.path.unlink()
    with suppress(FileNotFoundError):
        shutil.rmtree(folder.path)
    folder.path.mkdir(parents=True)
    for name, text in folder.files.items():
        file = folder.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    for name, target in folder.links.items():
        link = folder.path / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
