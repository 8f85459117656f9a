"""What a TensorRT plan's own bytes say of its inputs, outputs and profiles.

Deserializing takes a driver, so tests without a GPU read the file itself. Its form is not documented: this finds the
records that TensorRT for RTX 1.x writes, and fails where there are none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

# A record of dims: their number, then each in 8 bytes. Between the three of a profile lie 16 bytes of tags.
_TAGS = 16
# A binding's shape comes soon after its name.
_NEAR = 160


def stated_size(plan: bytes) -> int:
    """The size that the plan's header states."""
    assert plan[:4] in (b"vtrt", b"ptrt"), plan[:4]
    return int(struct.unpack_from("<Q", plan, 16)[0])


def binding(plan: bytes, name: str, rank: int) -> tuple[int, ...]:
    """The shape of an input or output, -1 where it varies."""
    label = struct.pack("<Q", len(name)) + name.encode()
    found = set()
    for start in _all(plan, label):
        for place in _all(plan[start : start + len(label) + _NEAR], struct.pack("<Q", rank)):
            dims = struct.unpack_from(f"<{rank}q", plan, start + place + 8)
            if any(dims) and all(-8 <= dim < 2**31 for dim in dims):
                found.add(tuple(-1 if dim < 0 else dim for dim in dims))
    assert len(found) == 1, (name, found)
    return found.pop()


def profiles(plan: bytes, rank: int) -> list[tuple[tuple[int, ...], ...]]:
    """Every profile's smallest, best and largest shape, of inputs of this rank."""
    step = 8 + 8 * rank + _TAGS
    found = []
    for start in _all(plan, struct.pack("<Q", rank)):
        triple = []
        for index in range(3):
            place = start + index * step
            if plan[place : place + 8] != struct.pack("<Q", rank) or place + 8 + 8 * rank > len(plan):
                break
            triple.append(struct.unpack_from(f"<{rank}q", plan, place + 8))
        ordered = len(triple) == 3 and all(0 < a <= b <= c < 2**31 for a, b, c in zip(*triple, strict=True))
        if ordered:
            found.append(tuple(triple))
    return found


def _all(data: bytes, pattern: bytes) -> Iterator[int]:
    place = data.find(pattern)
    while place >= 0:
        yield place
        place = data.find(pattern, place + 1)
