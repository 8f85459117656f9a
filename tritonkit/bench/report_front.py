"""Which points of a study are of use, and which of them nothing beats. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tritonkit.bench import figures
from tritonkit.bench.records import Record


def sound(record: Record) -> bool:
    """Whether a point has figures that are of use: not those of a load that was never served."""
    return record.status in ("ok", "unstable") and bool(record.repeats)


def front(records: Sequence[Record]) -> set[str]:
    """The labels of the sound points that no other sound point of their model beats in throughput and p99 at once."""
    best: set[str] = set()
    for model in dict.fromkeys(record.model for record in records):
        mine = [record for record in records if record.model == model and sound(record)]
        lowest = float("inf")
        for record in sorted(mine, key=lambda each: (-_median(each, "throughput"), _median(each, "latency_p99"))):
            if _median(record, "latency_p99") < lowest:
                lowest = _median(record, "latency_p99")
                best.add(record.label)
    return best


def _median(record: Record, metric: str) -> float:
    return figures.median(record, metric) or 0.0
