"""A limit to a latency, as people write it: ``p99<20ms``. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tritonkit.bench import figures
from tritonkit.bench.records import Record
from tritonkit.errors import Fault, SpecError

_PATTERN = re.compile(r"(avg|p50|p90|p95|p99)\s*<=?\s*(\d+(?:\.\d+)?)\s*(us|µs|ms|s)")
_MICROSECONDS = {"us": 1.0, "µs": 1.0, "ms": 1e3, "s": 1e6}


@dataclass(frozen=True)
class Objective:
    """A latency that is not to be exceeded.

    Attributes:
        text: as it was given.
        metric: which latency, as in ``figures.METRICS``.
        limit: in microseconds.
    """

    text: str
    metric: str
    limit: float

    def met(self, record: Record) -> bool:
        """Whether the median over a point's repeats is within the limit; not, where nothing was measured."""
        latency = figures.median(record, self.metric)
        return latency is not None and latency <= self.limit


def objective(option: str, text: str) -> Objective:
    """Read ``p99<20ms``.

    Raises:
        SpecError: it is nothing of the kind; ``option`` is named as the place.
    """
    found = _PATTERN.fullmatch(text.strip())
    if not found:
        expected = "expected a latency and its limit (avg, p50, p90, p95 or p99; us, ms or s)"
        raise SpecError([Fault(option, 0, "", f"{expected}, got {text!r}")], hint="For example: 'p99<20ms'")
    name, limit, unit = found.groups()
    return Objective(text.strip(), f"latency_{name}", float(limit) * _MICROSECONDS[unit])
