"""The tables of a report: what its plots are drawn from, and what it offers as CSV. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tritonkit.bench import figures
from tritonkit.bench.colocation import interference
from tritonkit.bench.records import PARTS, Record, Study
from tritonkit.bench.report_effects import effects
from tritonkit.bench.report_front import front
from tritonkit.bench.store import as_csv
from tritonkit.bench.titles import configured, others, series

_UNITS = {"inferences/s": "_per_s", "µs": "_us", "%": "_percent", "MiB": "_mib"}


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Attributes:
        columns: the columns, with units in their names.
        rows: a value for each column; None where nothing is known.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def tables(study: Study) -> dict[str, Table]:
    """Every table of a report, by name; those without rows are left out."""
    found = {
        "results": results(study.records),
        "effects": _effects(study.records),
        "interference": _interference(study.records),
        "quantiles": _quantiles(study.records),
        "breakdown": _breakdown(study.records),
        "batches": _batches(study.records),
        "repeats": _repeats(study.records),
    }
    return {name: table for name, table in found.items() if table.rows}


def results(records: Sequence[Record]) -> Table:
    """A row a point, as in the study's results.csv, and whether it is on the Pareto front."""
    columns, *rows = csv.reader(io.StringIO(as_csv(records))) if records else [[]]
    optimal = front(records)
    marked = [(*row, record.label in optimal) for row, record in zip(rows, records, strict=True)]
    return Table((*columns, "pareto"), tuple(marked))


def unit(metric: str) -> str:
    """What a column of a metric has behind its name; nothing where the name says the unit already."""
    suffix = _UNITS.get(figures.METRICS[metric], "")
    return "" if metric.endswith(suffix) else suffix


def _effects(records: Sequence[Record]) -> Table:
    columns = ("model", "axis", "from", "to", "throughput_percent", "p50_percent", "p99_percent", "pairs_of_points")
    return Table(
        columns,
        tuple(
            (
                effect.model,
                effect.axis.removeprefix("configuration "),
                effect.before,
                effect.after,
                *(round(100 * change, 1) for change in effect.changes.values()),
                effect.points,
            )
            for effect in effects(records)
        ),
    )


def _interference(records: Sequence[Record]) -> Table:
    columns = ("model", "load", "configuration", "beside", "p99_over_alone", "throughput_kept", "alone", "together")
    return Table(
        columns,
        tuple(
            (
                each.together.model,
                str(each.together.load),
                configured(each.together),
                ", ".join(others(each.together)),
                round(each.p99_ratio, 3),
                round(each.throughput_kept, 3),
                each.alone.label,
                each.together.label,
            )
            for each in interference(records)
        ),
    )


def _quantiles(records: Sequence[Record]) -> Table:
    found = {record.label: figures.quantiles(record) for record in records}
    shares = sorted({share for known in found.values() for share in known})
    rows = [
        (record.label, series(record), str(record.load), *(_short(found[record.label].get(share)) for share in shares))
        for record in records
        if found[record.label]
    ]
    return Table(("label", "series", "load", *(f"p{share:g}_us" for share in shares)), tuple(rows))


def _breakdown(records: Sequence[Record]) -> Table:
    rows = [
        (record.label, series(record), str(record.load), *(_short(figures.median(record, part)) for part in PARTS))
        for record in records
        if any(repeat.parts for repeat in record.repeats)
    ]
    return Table(("label", "series", "load", *(f"{part}_us" for part in PARTS)), tuple(rows))


def _batches(records: Sequence[Record]) -> Table:
    rows = [
        (record.label, series(record), str(record.load), size, count)
        for record in records
        for size, count in figures.batches(record).items()
    ]
    return Table(("label", "series", "load", "batch_size", "executions"), tuple(rows))


def _repeats(records: Sequence[Record]) -> Table:
    metrics = list(figures.METRICS)
    rows = [
        (record.label, number, repeat.started, *(_short(figures.of(repeat, metric)) for metric in metrics))
        for record in records
        for number, repeat in enumerate(record.repeats, 1)
    ]
    return Table(("label", "repeat", "started", *(f"{metric}{unit(metric)}" for metric in metrics)), tuple(rows))


def _short(value: float | None) -> float | None:
    """A tenth of a microsecond is more than anybody measures."""
    return None if value is None else round(value, 1)
