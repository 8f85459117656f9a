"""Times and rates as people write objectives: with their unit, always."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

# The digits are those of ASCII in every language that reads the pattern.
TIME_PATTERN = r"^([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s)$"
RATE_PATTERN = r"^([0-9]+(?:\.[0-9]+)?)\s*/\s*(s|min)$"

_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_PER_SECOND = {"s": 1.0, "min": 1 / 60}
# What is outside is a slip: no server answers faster or is asked more, and nobody waits for a p99 of less.
_TIMES_MS = (1e-3, 3_600_000.0)
_RATES = (1e-3, 1e9)


def milliseconds(text: object) -> float:
    """``20ms``, ``500us`` or ``1.5s`` in milliseconds.

    Raises:
        ValueError: it is no text of that form, or not from 1us to 3600s.
    """
    value = _number(text, TIME_PATTERN, _MILLISECONDS)
    if value is None:
        raise ValueError("expected a time with its unit (us, ms or s), as in 20ms")
    if value <= 0:
        raise ValueError("expected a time above 0")
    if not _TIMES_MS[0] <= value <= _TIMES_MS[1]:
        raise ValueError("expected a time from 1us to 3600s")
    return value


def per_second(text: object) -> float:
    """``300/s`` or ``900/min`` in requests a second.

    Raises:
        ValueError: it is no text of that form, or not from 0.001/s to 1000000000/s.
    """
    value = _number(text, RATE_PATTERN, _PER_SECOND)
    if value is None:
        raise ValueError("expected a rate with its unit (/s or /min), as in 300/s")
    if value <= 0:
        raise ValueError("expected a rate above 0; a model that nobody asks needs no slo")
    if not _RATES[0] <= value <= _RATES[1]:
        raise ValueError("expected a rate from 0.001/s to 1000000000/s")
    return value


def _number(text: object, pattern: str, units: Mapping[str, float]) -> float | None:
    match = re.fullmatch(pattern, text, re.ASCII) if isinstance(text, str) else None
    return None if match is None else float(match[1]) * units[match[2]]


Milliseconds = Annotated[
    float, BeforeValidator(milliseconds), WithJsonSchema({"type": "string", "pattern": TIME_PATTERN})
]
PerSecond = Annotated[float, BeforeValidator(per_second), WithJsonSchema({"type": "string", "pattern": RATE_PATTERN})]
