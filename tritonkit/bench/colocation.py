"""What models do to each other: each model of a group together with the others, held against itself alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tritonkit.bench import figures
from tritonkit.bench.records import Record


@dataclass(frozen=True)
class Interference:
    """One model of a group.

    Attributes:
        together: its record beside the others.
        alone: its record under the same load without them.
        p99_ratio: p99 together over p99 alone; 1 when the others are not felt.
        throughput_kept: throughput together over throughput alone.
    """

    together: Record
    alone: Record
    p99_ratio: float
    throughput_kept: float


def interference(records: Sequence[Record]) -> list[Interference]:
    """Every model that was measured both together with others and alone, in the order of the records."""
    alone = {_same(record): record for record in records if not record.together}
    found = []
    for record in records:
        other = alone.get(_same(record))
        if not record.together or other is None:
            continue
        times = figures.median(record, "latency_p99"), figures.median(other, "latency_p99")
        rates = figures.median(record, "throughput"), figures.median(other, "throughput")
        if times[0] and times[1] and rates[0] is not None and rates[1]:
            found.append(Interference(record, other, times[0] / times[1], rates[0] / rates[1]))
    return found


def _same(record: Record) -> tuple[Any, ...]:
    """What has to be the same for the two to be compared."""
    return (
        repr(sorted(record.configuration.items())), record.variant, record.model, record.load, record.batch_size,
        record.protocol, record.shared_memory, record.streaming,
    )  # fmt: skip
