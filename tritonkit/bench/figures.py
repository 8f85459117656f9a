"""The figures of a record: medians over its repeats, and how far they can be trusted. Pure.

Tables, reports and comparisons all take theirs from here, so that they tell the same.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tritonkit.bench.records import PARTS, Extent, Record, Repeat

# Two-sided 95% quantiles of Student's t, by degrees of freedom.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL = 1.96

METRICS: Mapping[str, str] = {
    "throughput": "inferences/s",
    "latency_avg": "µs",
    "latency_p50": "µs",
    "latency_p90": "µs",
    "latency_p95": "µs",
    "latency_p99": "µs",
    **dict.fromkeys(PARTS, "µs"),
    "compute": "µs",
    "average_batch": "items",
    "requests": "",
    "failures": "",
    "delayed_percent": "%",
    "cache_hits": "",
    "cpu_percent": "%",
    "client_cpu_percent": "%",
    "gpu_percent": "%",
    "gpu_memory_mib": "MiB",
}
"""Every figure of a point that is a number, with its unit."""


class Interval(NamedTuple):
    """A confidence interval: both ends."""

    low: float
    high: float


def of(repeat: Repeat, metric: str) -> float | None:
    """One of ``METRICS`` of one repeat; None where it was not measured. Of what was sampled, the mean."""
    if metric in PARTS:
        return repeat.parts.get(metric)
    value = getattr(repeat if hasattr(repeat, metric) else repeat.usage, metric)
    return value.mean if isinstance(value, Extent) else value


def values(record: Record, metric: str) -> list[float]:
    """A metric of every repeat that has it."""
    return [value for repeat in record.repeats if (value := of(repeat, metric)) is not None]


def median(record: Record, metric: str) -> float | None:
    """The median over the repeats; None where nothing was measured."""
    found = values(record, metric)
    return statistics.median(found) if found else None


def interval(record: Record, metric: str) -> Interval | None:
    """The 95% confidence interval of the mean over the repeats (Student's t); None with fewer than two."""
    return confidence(values(record, metric))


def confidence(sample: Sequence[float]) -> Interval | None:
    """The 95% confidence interval of a sample's mean; None with fewer than two values."""
    if len(sample) < 2:
        return None
    degrees = len(sample) - 1
    quantile = _T95[degrees - 1] if degrees <= len(_T95) else _NORMAL
    mean = statistics.fmean(sample)
    reach = quantile * statistics.stdev(sample) / len(sample) ** 0.5
    return Interval(mean - reach, mean + reach)


def quantiles(record: Record) -> dict[float, float]:
    """Latency by percentile: for each that every repeat knows, the median over the repeats."""
    shares = set.intersection(*(set(repeat.quantiles) for repeat in record.repeats)) if record.repeats else set()
    return {share: statistics.median(each.quantiles[share] for each in record.repeats) for share in sorted(shares)}


def batches(record: Record) -> dict[int, int]:
    """Executions by batch size, all repeats together."""
    total: Counter[int] = Counter()
    for repeat in record.repeats:
        total.update(repeat.batches)
    return dict(sorted(total.items()))
