"""A study's folder on disk: written after every repeat, so that whatever ends a study, what was measured is kept.

::

    study.json            the study as given, versions, hardware, its state, the planned points
    results.csv           every point, one line each, with units in the names of the columns
    points/LABEL/         point.json, and perf_analyzer's own output
    inputs/  arrivals/    what was sent, and when
    superseded/           points that were measured again, because something about them had changed
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tritonkit.bench import figures
from tritonkit.bench.records import FORMAT, POINT_FILE, POINTS, STUDY_FILE, Record, read_point
from tritonkit.errors import BenchmarkFailed

_SUPERSEDED = "superseded"
_UNITS = {"µs": "_us", "inferences/s": "_per_s", "MiB": "", "%": "", "items": "_items", "": ""}


class Store:
    """One study's folder."""

    def __init__(self, folder: Path, planned: Sequence[str], *, fresh: bool = False) -> None:
        """Nothing is read or written yet.

        Args:
            folder: the folder.
            planned: the labels of every point, in the order of the study.
            fresh: whether points that are there are measured again.
        """
        self.folder = folder
        self.planned = list(planned)
        self._fresh = fresh
        self._records: dict[str, Record] = {}
        self._document: dict[str, Any] = {}

    def refuse_foreign(self) -> None:
        """Make sure that the folder is a study's, or empty, or not there.

        Raises:
            BenchmarkFailed: something else is in it.
        """
        folder = self.folder
        if not folder.exists() or (folder.is_dir() and (folder / STUDY_FILE).is_file()):
            return
        if not folder.is_dir() or any(folder.iterdir()):
            raise BenchmarkFailed(
                f"{folder} is not an empty folder and holds no study, and results never overwrite anything",
                hint="Choose another folder with --output",
            )

    def begin(self, document: Mapping[str, Any], files: Mapping[Path, str]) -> None:
        """Make the folder, and write what is known before anything is measured.

        Raises:
            BenchmarkFailed: it cannot be written.
        """
        self.refuse_foreign()
        self._document = {"format": FORMAT, **document, "planned": self.planned}
        try:
            (self.folder / POINTS).mkdir(parents=True, exist_ok=True)
            for path, text in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                _replace(path, text)
        except OSError as error:
            raise self._refused(error) from error
        self.state("running")

    def state(self, state: str) -> None:
        """Write ``study.json`` and ``results.csv`` with a state: ``running``, ``complete``, or why it ended.

        Raises:
            BenchmarkFailed: they cannot be written; what was there before is whole.
        """
        self._document["state"] = state
        try:
            _replace(self.folder / STUDY_FILE, json.dumps(self._document, indent=2) + "\n")
            _replace(self.folder / "results.csv", as_csv(self.records))
        except OSError as error:
            raise self._refused(error) from error

    def describe(self, deployment: str, document: Mapping[str, Any]) -> None:
        """Note what a deployment that is up says of itself, for ``study.json``."""
        self._document.setdefault("deployments", {})[deployment] = document

    @property
    def records(self) -> list[Record]:
        """The points so far, in the order of the study."""
        return [self._records[label] for label in self.planned if label in self._records]

    def earlier(self, label: str, key: str) -> Record | None:
        """The record of a point that measured the same thing, and is of use; whatever else is there is put aside.

        Raises:
            BenchmarkFailed: the disk refuses.
        """
        if label in self._records:
            return self._records[label]
        folder = self.point(label)
        if not folder.exists():
            return None
        record = None
        if (folder / POINT_FILE).is_file() and not self._fresh:
            try:
                record = read_point(folder / POINT_FILE)
            except BenchmarkFailed:
                record = None
        if record is not None and record.key == key and record.repeats and record.error is None:
            self._records[label] = record
            return record
        self._set_aside(folder)
        return None

    def point(self, label: str) -> Path:
        """The folder of a point."""
        return self.folder / POINTS / label

    def keep(self, record: Record) -> None:
        """Write a point's record, and the table with it.

        Raises:
            BenchmarkFailed: they cannot be written; what was there before is whole.
        """
        try:
            folder = self.point(record.label)
            folder.mkdir(parents=True, exist_ok=True)
            _replace(folder / POINT_FILE, json.dumps(record.as_json(), indent=1) + "\n")
        except OSError as error:
            raise self._refused(error) from error
        self._records[record.label] = record
        self.state("running")

    def _set_aside(self, folder: Path) -> None:
        try:
            aside = self.folder / _SUPERSEDED
            aside.mkdir(exist_ok=True)
            number = 1
            while (aside / f"{folder.name}.{number}").exists():
                number += 1
            folder.rename(aside / f"{folder.name}.{number}")
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> BenchmarkFailed:
        where = error.filename or self.folder
        return BenchmarkFailed(
            f"{where}: the results cannot be written: {error.strerror}",
            hint=f"What was measured before is kept in {self.folder}. Run the same command again to go on.",
        )


def as_csv(records: Sequence[Record]) -> str:
    """One line a point: medians over its repeats, and both ends of the 95% confidence interval of the throughput."""
    buffer = io.StringIO()
    paths = list(dict.fromkeys(path for record in records for path in record.configuration))
    rows = [_row(record, paths) for record in records]
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _row(record: Record, paths: Sequence[str]) -> dict[str, Any]:
    rate = "" if record.load.kind == "concurrency" else record.load.value
    row: dict[str, Any] = {
        "label": record.label,
        "experiment": record.experiment,
        "variant": record.variant,
        **{path: json.dumps(record.configuration[path]) if path in record.configuration else "" for path in paths},
        "model": record.model,
        "together": " ".join(record.together),
        "protocol": record.protocol,
        "shared_memory": record.shared_memory,
        "streaming": record.streaming,
        "batch_size_items": record.batch_size,
        "concurrency_requests": int(record.load.value) if record.load.kind == "concurrency" else "",
        "request_rate_per_s": rate,
        "distribution": record.load.distribution,
        "status": record.status,
        "limit": record.limit,
        "repeats": len(record.repeats),
    }
    for metric, unit in figures.METRICS.items():
        value = figures.median(record, metric)
        row[f"{metric}{_UNITS[unit]}"] = "" if value is None else round(value, 3)
        if metric in ("throughput", "latency_p50", "latency_p99"):
            interval = figures.interval(record, metric)
            for end in ("low", "high"):
                name = f"{metric}{_UNITS[unit]}_{end}"
                row[name] = "" if interval is None else round(getattr(interval, end), 3)
    batches = figures.batches(record)
    row["executions_by_batch_size"] = " ".join(f"{size}:{count}" for size, count in batches.items())
    row["notes"] = "; ".join(record.notes)
    row["evidence"] = record.evidence
    row["error"] = record.error or ""
    return row


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
