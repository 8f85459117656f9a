"""The results folder: ``results.csv`` and ``results.json`` beside perf_analyzer's own files."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tritonkit.bench.levels import Concurrency
from tritonkit.bench.provenance import Provenance
from tritonkit.bench.sweep import Point
from tritonkit.errors import BenchmarkFailed

FORMAT = 1
_ROW_FIELDS = (
    "throughput", "latency_avg", "latency_p50", "latency_p90", "latency_p95", "latency_p99", "client_send",
    "network", "compute_input", "compute_infer", "compute_output", "client_recv",
)  # fmt: skip


def refuse_occupied(folder: Path) -> None:
    """Make sure that nothing would be overwritten.

    Raises:
        BenchmarkFailed: there is something in the folder, or it is none.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BenchmarkFailed(
            f"{folder} is not an empty folder, and results never overwrite anything",
            hint="Choose another folder with --output",
        )


def create(folder: Path) -> None:
    """Make the results folder.

    Raises:
        BenchmarkFailed: something is there already, or it cannot be made.
    """
    refuse_occupied(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchmarkFailed(f"{folder}: the results folder cannot be made: {error.strerror}") from error


def write(folder: Path, points: Sequence[Point], provenance: Provenance, *, planned: int, state: str) -> None:
    """Write ``results.csv`` and ``results.json``, each in one piece or not at all.

    Args:
        folder: the results folder.
        points: what was measured so far.
        provenance: where the figures come from.
        planned: how many levels the sweep has.
        state: ``complete``, ``running``, ``interrupted``, or why it ended early.

    Raises:
        BenchmarkFailed: they cannot be written.
    """
    document = {
        "format": FORMAT,
        "state": state,
        "planned": planned,
        **asdict(provenance),
        "points": [point_document(point) for point in points],
    }
    try:
        _replace(folder / "results.json", json.dumps(document, indent=2) + "\n")
        _replace(folder / "results.csv", as_csv(points))
    except OSError as error:
        raise BenchmarkFailed(f"{folder}: the results cannot be written: {error.strerror}") from error


def as_csv(points: Sequence[Point]) -> str:
    """One line a level; times in microseconds, throughput in inferences a second.

    ``average_batch``, ``failed_requests`` and, of an ensemble, ``queue`` come from the server's own statistics: they
    cover the whole process that gave the row, its first requests included, and whatever else asked meanwhile.
    """
    buffer = io.StringIO()
    records = [_record(point) for point in points]
    writer = csv.DictWriter(buffer, fieldnames=list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def point_document(point: Point) -> dict[str, Any]:
    """One level as plain values that JSON can hold; ``server`` covers what the same columns of the CSV do."""
    level = asdict(point.level)
    level["load"] = {"kind": type(point.level.load).__name__, **level["load"]}
    document = {name: value for name, value in asdict(point).items() if name != "level"}
    return {
        "level": level,
        **document,
        "server": [{**asdict(one), "average_batch": one.average_batch} for one in point.server],
        "queue": point.queue,
        "notes": list(point.notes),
    }


def _record(point: Point) -> dict[str, Any]:
    level = point.level
    closed = isinstance(level.load, Concurrency)
    figures = asdict(point.row) if point.row else {}
    main = point.server[0] if point.server else None
    return {
        "model": level.model,
        "version": level.version,
        "protocol": level.protocol,
        "shared_memory": level.shared_memory,
        "batch_size": level.batch_size,
        "concurrency": level.load.requests if isinstance(level.load, Concurrency) else "",
        "request_rate": "" if isinstance(level.load, Concurrency) else level.load.per_second,
        "distribution": "" if isinstance(level.load, Concurrency) else level.load.distribution,
        **{f"{name}": figures.get(name, "") for name in _ROW_FIELDS},
        "queue": "" if point.queue is None else round(point.queue, 1),
        "average_batch": round(main.average_batch, 3) if main and main.average_batch else "",
        "requests": point.requests if point.requests is not None else "",
        "failed_requests": main.failures if main else "",
        "delayed_percent": "" if closed else point.delayed,
        "stable": point.stable if point.row else "",
        "notes": "; ".join(point.notes),
    }


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
