"""perf_analyzer's own CSV files, read in as the points of a study."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tritonkit.bench import row
from tritonkit.bench.records import FORMAT, PARTS, Load, Record, Repeat, Study
from tritonkit.errors import BenchmarkFailed

_LOADS = {"Concurrency": "concurrency", "Request Rate": "request_rate"}
_LATENCY = re.compile(r"p(\d+(?:\.\d+)?) latency")


def read(files: Sequence[Path], *, model: str = "") -> Study:
    """A study of the levels in perf_analyzer's CSV files (``perf_analyzer -f FILE``), whose times are microseconds.

    A CSV does not say which model it is about: that is the file's name, unless ``model`` does. The same load of the
    same model in several files is one point, measured several times.

    Args:
        files: the CSV files.
        model: the model of all of them; empty to take each file's name.

    Raises:
        BenchmarkFailed: a file cannot be read, or is no CSV of perf_analyzer.
    """
    points: dict[tuple[str, Load], Record] = {}
    for file in files:
        try:
            heading, *lines = file.read_text(encoding="utf-8-sig").strip().splitlines() or [""]
        except (OSError, UnicodeError) as error:
            raise BenchmarkFailed(f"{file}: cannot be read: {error}") from error
        if not lines:
            raise BenchmarkFailed(f"{file}: there is no row in it", hint="Give CSV files of perf_analyzer -f FILE.")
        for number, line in enumerate(lines, 2):
            try:
                load, repeat = _level(heading, line)
            except BenchmarkFailed as error:
                raise BenchmarkFailed(f"{file}:{number}: {error}") from error
            name = model or file.stem
            known = points.get((name, load)) or _record(name, load)
            points[name, load] = replace(known, repeats=(*known.repeats, replace(repeat, raw=(file.name,))))
    records = tuple(sorted(points.values(), key=lambda each: (each.model, each.load.kind, each.load.value)))
    document = {"format": FORMAT, "state": "read from perf_analyzer's CSV", "planned": [each.label for each in records]}
    return Study(", ".join(file.name for file in files), document, records)


def _record(model: str, load: Load) -> Record:
    label = f"{model}-{load.kind}-{load.value:g}"
    notes = ("from a CSV, which does not say whether the level was stable",)
    key = hashlib.sha256(label.encode()).hexdigest()
    return Record(key=key, label=label, model=model, load=load, status="ok", notes=notes)


def _level(heading: str, line: str) -> tuple[Load, Repeat]:
    """What was asked, and the figures."""
    (cells,) = csv.DictReader([heading, line])
    column = next((name for name in _LOADS if name in cells), None)
    if column is None:
        raise BenchmarkFailed(f"expected a column {' or '.join(_LOADS)}; found {heading}")
    figures = row.parse(f"{heading}\n{line}")
    try:
        load = Load(_LOADS[column], float(cells[column]))
        shares = {float(found.group(1)): name for name in cells if (found := _LATENCY.fullmatch(str(name)))}
        quantiles = {share: float(cells[name]) for share, name in shares.items() if cells[name]}
    except (TypeError, ValueError) as error:
        raise BenchmarkFailed(f"expected a number: {error}") from error
    values = asdict(figures)
    return load, Repeat(
        **{name: value for name, value in values.items() if name not in PARTS},
        parts={name: values[name] for name in PARTS if values[name] is not None},
        quantiles=quantiles,
    )
