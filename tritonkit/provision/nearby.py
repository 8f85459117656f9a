"""The nearest rate or SLO that fits, as it is told: with three digits, and tried as such. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from tritonkit.provision.choices import Workload

# No user would take an SLO that is so many times as long.
LONGEST = 1000.0
# What cannot be served at such a part of its rate cannot be served at any.
SLOWEST = 1e6
# Nearest values are told to this part of themselves.
_CLOSE = 0.01
# So many values are tried near one that fits, each further off.
_TRIES = 8


def slower(workload: Workload, holds: Callable[[Workload], bool], most: float) -> float | None:
    """The highest rate with three digits that fits; None where none does down to so small a part of what is asked."""
    factor = nearest(lambda factor: holds(replace(workload, rate=workload.rate / factor)), most)
    if factor is None:
        return None
    return _held(workload.rate / factor, 1 - _CLOSE, floor, lambda value: holds(replace(workload, rate=value)))


def longer(workload: Workload, holds: Callable[[Workload], bool]) -> float | None:
    """The shortest SLO with three digits that fits, likewise."""
    factor = nearest(lambda factor: holds(replace(workload, slo_ms=workload.slo_ms * factor)), LONGEST)
    if factor is None:
        return None
    return _held(workload.slo_ms * factor, 1 + _CLOSE, ceil, lambda value: holds(replace(workload, slo_ms=value)))


def _held(value: float, step: float, rounded: Callable[[float], float], holds: Callable[[float], bool]) -> float | None:
    """A value as it is told: a search that places models in some order may miss a plan for one that asks for less."""
    for _ in range(_TRIES):
        value = rounded(value)
        if holds(value):
            return value
        value *= step
    return None


def nearest(holds: Callable[[float], bool], most: float) -> float | None:
    """The smallest factor, above 1, with which it holds; None where not even the largest one does."""
    low, high = 1.0, 2.0
    while not holds(high):
        low, high = high, high * 4
        if high > most:
            return None
    while high / low > 1 + _CLOSE:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def floor(value: float) -> float:
    """A value with three digits, and never more than it."""
    digits = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.floor(value / digits) * digits:.10g}")


def ceil(value: float) -> float:
    """A value with three digits, and never less than it."""
    digits = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / digits) * digits:.10g}")
