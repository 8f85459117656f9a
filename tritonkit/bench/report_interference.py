"""How models that are loaded at once disturb each other: each together against each alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tritonkit.bench import figures
from tritonkit.bench.records import Record
from tritonkit.bench.titles import configured, identity, others


@dataclass(frozen=True)
class Cell:
    """One model under one load, among others.

    Attributes:
        model: the model.
        load: how much was asked of it, in words.
        configuration: the deployment, in words.
        others: the models loaded with it.
        latency: p99 together over p99 alone; None where one is not known.
        throughput: throughput together over throughput alone, likewise.
        alone: label of the point alone.
        together: label of the point together.
    """

    model: str
    load: str
    configuration: str
    others: tuple[str, ...]
    latency: float | None
    throughput: float | None
    alone: str
    together: str


def interference(records: Sequence[Record]) -> list[Cell]:
    """A cell for every point of several models for which the study has the same point alone."""
    alone = {identity(replace(record, experiment="")): record for record in records if not others(record)}
    cells = []
    for record in records:
        if not others(record):
            continue
        match = alone.get(identity(replace(record, experiment="", together=())))
        match = match or alone.get(identity(replace(record, experiment="", together=(record.model,))))
        if match is not None:
            cells.append(
                Cell(
                    record.model,
                    str(record.load),
                    configured(record),
                    others(record),
                    _over(record, match, "latency_p99"),
                    _over(record, match, "throughput"),
                    match.label,
                    record.label,
                )
            )
    return cells


def _over(together: Record, alone: Record, metric: str) -> float | None:
    first, last = figures.median(alone, metric), figures.median(together, metric)
    return last / first if first and last is not None else None
