"""Numbers as they stand in a profile file, each with what it may be. Each raises ValueError with what was expected."""

from __future__ import annotations

import math

# What no model and no GPU has: larger numbers are slips, and searches over batches would not end.
MOST_BATCH = 8192
_LEAST, _MOST = 1e-6, 1e12


def positive(text: str) -> float:
    """A number above 0, and not so small that sums of it would be lost."""
    value = not_negative(text)
    if value == 0:
        raise ValueError("expected a number above 0")
    if value < _LEAST:
        raise ValueError(f"expected at least {_LEAST:g}")
    return value


def not_negative(text: str) -> float:
    """A plain number from 0 on: no infinity, no other digits than ASCII's."""
    # Python's float takes more than people write: digits of any script, and underscores.
    if not text.isascii() or "_" in text:
        raise ValueError("expected a number")
    try:
        value = float(text)
    except ValueError:
        raise ValueError("expected a number") from None
    if not math.isfinite(value) or value < 0:
        raise ValueError("expected a number above 0")
    if value > _MOST:
        raise ValueError(f"expected at most {_MOST:g}")
    return value


def percentage(text: str) -> float:
    """A number above 0, at most 100."""
    value = positive(text)
    if value > 100:
        raise ValueError("expected at most 100")
    return value


def count(text: str) -> int:
    """A whole number from 1 on."""
    value = positive(text)
    if value != int(value):
        raise ValueError("expected a whole number")
    return int(value)


def batch_size(text: str) -> int:
    """A whole number that can be a batch."""
    value = count(text)
    if value > MOST_BATCH:
        raise ValueError(f"expected a batch of at most {MOST_BATCH}")
    return value
