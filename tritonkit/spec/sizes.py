"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

SIZE_PATTERN = r"^[0-9]+(?:\.[0-9]+)?\s*(?:[KMGT]i?B)?$"
"""A number of bytes, as in ``4GiB``, ``512MB`` or ``1048576``."""

MIB = 2**20

_SIZE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?:(?P<unit>[KMGT])(?P<binary>i?)B)?")
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}


def size_in_bytes(text: object) -> int:
    """``4GiB`` as a number.

    Raises:
        ValueError: it is no text of that form.
    """
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("expected a number of bytes, as in 4GiB")
    power = _POWERS.get(match["unit"] or "", 0)
    return int(float(match["number"]) * (1024 if match["binary"] else 1000) ** power)


def shown_size(size: int) -> str:
    """A number of bytes in the largest unit that leaves it whole, or in MiB: ``8GiB``, ``7629MiB``."""
    return f"{size // 2**30}GiB" if size % 2**30 == 0 else f"{size // MIB}MiB"
