"""Which relative paths stay inside the folder that they start from."""

from __future__ import annotations


def is_plain(path: str) -> bool:
    """Whether a path names something below a folder, in one way only, and in text that can be written down.

    Absolute paths, ``.``, ``..``, empty parts, backslashes, NULs and bytes that are no UTF-8 are not plain.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return not ({"", ".", ".."} & set(path.split("/")) or "\\" in path or "\0" in path)
