"""How measured load levels look on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tritonkit.cli.console import print_json, print_table

if TYPE_CHECKING:
    from tritonkit.bench.levels import Level
    from tritonkit.bench.sweep import Point
    from tritonkit.errors import BenchmarkFailed


def failure(points: Sequence[Point], planned: int, folder: Path) -> BenchmarkFailed | None:
    """The error of a sweep in which levels failed or were not tried; None for one without."""
    from tritonkit.errors import BenchmarkFailed

    failed = [point for point in points if point.row is None]
    if not failed and len(points) == planned:
        return None
    lines = [f"{len(failed)} of {planned} load levels failed"]
    lines += [f"{title_of(point.level)}: {point.error}" for point in failed]
    if len(points) < planned:
        lines.append(f"{planned - len(points)} more were not tried: the server does not answer any more")
    return BenchmarkFailed("\n".join(lines), hint=f"perf_analyzer's logs and command lines are in {folder}")


def print_points(points: Sequence[Point], folder: Path, *, as_json: bool) -> None:
    """A table with notes below it, or everything as JSON."""
    from tritonkit.bench.results import point_document

    if as_json:
        print_json({"folder": str(folder), "points": [point_document(point) for point in points]})
        return
    levels = [point.level for point in points]
    varied: dict[str, list[str]] = {
        "model": [level.model for level in levels],
        "protocol": [level.protocol for level in levels],
        "memory": [level.shared_memory for level in levels],
        "batch": [str(level.batch_size) for level in levels],
    }
    shown = [name for name, values in varied.items() if len(set(values)) > 1]
    load, loads = _load_column(levels)
    # Notes are sentences: below the table they leave it narrow enough for 80 columns.
    marked = [f"{text} !" if point.notes else text for point, text in zip(points, loads, strict=True)]
    figures = ("infer/s", "p50", "p90", "p95", "p99", "queue", "compute", "batch")
    rows = [
        (*(varied[name][index] for name in shown), marked[index], *_figures(point))
        for index, point in enumerate(points)
    ]
    title = f"{', '.join(dict.fromkeys(varied['model']))}: times in ms"
    columns = (*("batch size" if name == "batch" else name for name in shown), load, *figures)
    print_table(columns, rows, title=title, right=("batch size", load, *figures))
    for point in points:
        if point.notes:
            typer.echo(f"! {title_of(point.level)}: {', '.join(point.notes)}")
    typer.echo(f"results: {folder}")


def _load_column(levels: Sequence[Level]) -> tuple[str, list[str]]:
    """Its heading and its cells, as short as the kinds of load allow."""
    from tritonkit.bench.levels import Concurrency

    if all(isinstance(level.load, Concurrency) for level in levels):
        return "concurrent", [level.load.label.removeprefix("c") for level in levels]
    return "load", [str(level.load) for level in levels]


def _figures(point: Point) -> tuple[str, ...]:
    if point.row is None:
        return ("-",) * 8
    row = point.row
    times = (row.latency_p50, row.latency_p90, row.latency_p95, row.latency_p99, point.queue, row.compute)
    # Of an ensemble those of its members, in its order: it has no batches of its own.
    computed = point.server[1:] or point.server[:1]
    batches = [f"{one.average_batch:.1f}" if one.average_batch else "-" for one in computed]
    milliseconds = ("-" if value is None else f"{value / 1000:.2f}" for value in times)
    return (f"{row.throughput:.1f}", *milliseconds, "/".join(batches))


def title_of(level: Level) -> str:
    """One load level in words."""
    memory = "" if level.shared_memory == "none" else f" with {level.shared_memory} shared memory"
    return f"{level.model}, batch {level.batch_size}, {level.protocol}{memory}, {level.load}"
