"""The tables of a report: what its plots are drawn from, and what it offers as CSV. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tritonkit.bench import figures
from tritonkit.bench.records import PARTS, Record, Study
from tritonkit.bench.report_effects import effects
from tritonkit.bench.report_interference import interference
from tritonkit.bench.report_summary import front
from tritonkit.bench.titles import series, value_text

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
    """A row a point: what was asked, every figure's median, and the confidence intervals of the main ones."""
    paths = list(dict.fromkeys(path for record in records for path in record.configuration))
    optimal = front(records)
    intervals = ("throughput", "latency_p50", "latency_p99")
    columns = [
        "label", "experiment", "deployment", "model", *paths, "load", "load_kind", "arrivals", "batch_size",
        "protocol", "shared_memory", "streaming", "together", "status", "limit", "evidence", "repeats",
        *(f"{name}{unit(name)}" for name in figures.METRICS),
        *(f"{name}_{end}{unit(name)}" for name in intervals for end in ("low", "high")),
        "pareto", "notes", "error",
    ]  # fmt: skip
    rows = []
    for record in records:
        ranges = [figures.interval(record, name) for name in intervals]
        rows.append(
            (
                record.label, record.experiment, record.variant, record.model,
                *(value_text(record.configuration[path]) if path in record.configuration else None for path in paths),
                record.load.value, record.load.kind, record.load.distribution, record.batch_size, record.protocol,
                record.shared_memory, record.streaming, " ".join(record.together), record.status, record.limit,
                record.evidence, len(record.repeats),
                *(_short(figures.median(record, name)) for name in figures.METRICS),
                *(_short(end) for found in ranges for end in (found or (None, None))),
                record.label in optimal, "; ".join(record.notes), record.error,
            )
        )  # fmt: skip
    return Table(tuple(columns), tuple(rows))


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
    columns = (
        "model",
        "load",
        "configuration",
        "beside",
        "p99_over_alone",
        "throughput_over_alone",
        "alone",
        "together",
    )
    return Table(
        columns,
        tuple(
            (
                cell.model,
                cell.load,
                cell.configuration,
                ", ".join(cell.others),
                _ratio(cell.latency),
                _ratio(cell.throughput),
                cell.alone,
                cell.together,
            )
            for cell in interference(records)
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


def _ratio(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _short(value: float | None) -> float | None:
    """A tenth of a microsecond is more than anybody measures."""
    return None if value is None else round(value, 1)
