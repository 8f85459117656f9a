"""Times and rates as people write objectives: with their unit, always."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

TIME_PATTERN = r"^\d+(?:\.\d+)?\s*(?:us|ms|s)$"
RATE_PATTERN = r"^\d+(?:\.\d+)?\s*/\s*(?:s|min)$"

_TIME = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>us|ms|s)")
_RATE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*/\s*(?P<unit>s|min)")
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_SECONDS = {"s": 1.0, "min": 60.0}


def milliseconds(text: object) -> float:
    """``20ms``, ``500us`` or ``1.5s`` in milliseconds.

    Raises:
        ValueError: it is no text of that form, or it is 0.
    """
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("expected a time with its unit (us, ms or s), as in 20ms")
    value = float(match["number"]) * _MILLISECONDS[match["unit"]]
    if value <= 0:
        raise ValueError("expected a time above 0")
    return value


def per_second(text: object) -> float:
    """``300/s`` or ``900/min`` in requests a second.

    Raises:
        ValueError: it is no text of that form, or it is 0.
    """
    match = _RATE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("expected a rate with its unit (/s or /min), as in 300/s")
    value = float(match["number"]) / _SECONDS[match["unit"]]
    if value <= 0:
        raise ValueError("expected a rate above 0; a model that nobody asks needs no slo")
    return value


Milliseconds = Annotated[
    float, BeforeValidator(milliseconds), WithJsonSchema({"type": "string", "pattern": TIME_PATTERN})
]
PerSecond = Annotated[float, BeforeValidator(per_second), WithJsonSchema({"type": "string", "pattern": RATE_PATTERN})]
