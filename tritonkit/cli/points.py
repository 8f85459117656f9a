"""How measured points look on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tritonkit.cli.console import print_json, print_table

if TYPE_CHECKING:
    from tritonkit.bench.records import Record
    from tritonkit.errors import BenchmarkFailed

_FIGURES = ("infer/s", "p50", "p95", "p99", "queue", "compute", "batch")


def failure(records: Sequence[Record], planned: int, folder: Path, ended: str) -> BenchmarkFailed | None:
    """The error of a study in which points failed or were not tried; None for one without."""
    from tritonkit.errors import BenchmarkFailed

    failed = [record for record in records if record.status in ("failed", "unbuilt")]
    if not failed and len(records) == planned:
        return None
    lines = [f"{len(failed)} of {planned} points failed"]
    lines += [f"{title_of(record)}: {record.error or '; '.join(record.notes)}" for record in failed]
    if len(records) < planned:
        lines.append(f"{planned - len(records)} more were not tried: {ended}")
    return BenchmarkFailed("\n".join(lines), hint=f"perf_analyzer's logs and command lines are in {folder}")


def print_points(records: Sequence[Record], folder: Path, *, as_json: bool) -> None:
    """A table with notes below it, or everything as JSON."""
    if as_json:
        print_json({"folder": str(folder), "points": [record.as_json() for record in records]})
        return
    varied: dict[str, list[str]] = {
        "experiment": [record.experiment for record in records],
        "deployment": [deployment_of(record) for record in records],
        "model": [record.model for record in records],
        "with": ["+".join(name for name in record.together if name != record.model) for record in records],
        "protocol": [record.protocol for record in records],
        "memory": [record.shared_memory for record in records],
        "batch size": [str(record.batch_size) for record in records],
    }
    shown = [name for name, values in varied.items() if len(set(values)) > 1]
    load, loads = _load_column(records)
    # Notes are sentences: below the table they leave it narrow enough for 80 columns.
    marked = [f"{text} !" if record.notes else text for record, text in zip(records, loads, strict=True)]
    rows = [
        (*(varied[name][index] for name in shown), marked[index], *_figures(record), record.limit)
        for index, record in enumerate(records)
    ]
    repeats = max((len(record.repeats) for record in records), default=1)
    medians = f", medians of {repeats}" if repeats > 1 else ""
    title = f"{', '.join(dict.fromkeys(varied['model']))}: times in ms{medians}"
    print_table((*shown, load, *_FIGURES, "limit"), rows, title=title, right=("batch size", load, *_FIGURES))
    _print_interference(records)
    for record in records:
        if record.notes:
            typer.echo(f"! {title_of(record)}: {', '.join(record.notes)}")
    typer.echo(f"results: {folder}")


def deployment_of(record: Record) -> str:
    """What of the deployment is varied, in words; empty where nothing is."""
    from tritonkit.bench.axes import shown_value

    if record.variant:
        return record.variant
    parts = [f"{path.rsplit('.', 1)[-1]}={shown_value(value)}" for path, value in record.configuration.items()]
    return ", ".join(parts)


def title_of(record: Record) -> str:
    """One point in words."""
    memory = "" if record.shared_memory == "none" else f" with {record.shared_memory} shared memory"
    others = [name for name in record.together if name != record.model]
    together = f", together with {', '.join(others)}" if others else ""
    where = deployment_of(record)
    return (
        f"{f'{where}: ' if where else ''}{record.model}, batch {record.batch_size}, {record.protocol}{memory}, "
        f"{record.load}{together}"
    )


def _print_interference(records: Sequence[Record]) -> None:
    from tritonkit.bench.colocation import interference

    found = interference(records)
    if not found:
        return
    from tritonkit.bench import figures

    rows = []
    for one in found:
        times = (figures.median(one.alone, "latency_p99"), figures.median(one.together, "latency_p99"))
        others = ", ".join(name for name in one.together.together if name != one.together.model)
        shown = [f"{time / 1000:.2f}" for time in times if time is not None]
        ratios = (f"{one.p99_ratio:.2f}", f"{100 * one.throughput_kept:.0f}%")
        rows.append((deployment_of(one.together), one.together.model, others, *shown, *ratios))
    columns = ("deployment", "model", "beside", "p99 alone", "p99 together", "ratio", "throughput kept")
    first = 0 if any(row[0] for row in rows) else 1
    title = "interference: times in ms"
    print_table(columns[first:], [row[first:] for row in rows], title=title, right=columns[-4:])


def _load_column(records: Sequence[Record]) -> tuple[str, list[str]]:
    """Its heading and its cells, as short as the kinds of load allow."""
    if all(record.load.kind == "concurrency" for record in records):
        return "concurrent", [f"{record.load.value:g}" for record in records]
    return "load", [str(record.load) for record in records]


def _figures(record: Record) -> tuple[str, ...]:
    if not record.repeats:
        return ("-",) * len(_FIGURES)
    from tritonkit.bench import figures

    names = ("latency_p50", "latency_p95", "latency_p99", "queue", "compute")
    times = (figures.median(record, name) for name in names)
    milliseconds = ("-" if value is None else f"{value / 1000:.2f}" for value in times)
    return (_throughput(record), *milliseconds, _batches(record))


def _throughput(record: Record) -> str:
    from tritonkit.bench import figures

    median, interval = figures.median(record, "throughput"), figures.interval(record, "throughput")
    reach = f" ±{(interval.high - interval.low) / 2:.2g}" if interval is not None else ""
    return f"{median:.1f}{reach}"


def _batches(record: Record) -> str:
    """The average batch; of an ensemble those of its members, in its order: it has no batches of its own."""
    from tritonkit.bench import figures

    last = record.repeats[-1]
    if last.members:
        return "/".join(f"{value:.1f}" for value in last.members.values())
    average = figures.median(record, "average_batch")
    return "-" if average is None else f"{average:.1f}"
