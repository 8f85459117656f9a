"""A study as one HTML file: no network, no second file, the figures inside it as JSON."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tritonkit.bench import figures
from tritonkit.bench.colocation import interference
from tritonkit.bench.objective import Limit
from tritonkit.bench.records import PARTS, Record, Study
from tritonkit.bench.report_front import front
from tritonkit.bench.report_provenance import provenance
from tritonkit.bench.report_summary import summary
from tritonkit.bench.report_tables import tables
from tritonkit.bench.titles import configured, others, series
from tritonkit.errors import BenchmarkFailed
from tritonkit.resources import templates_directory

FILE = "report.html"
_LIBRARY = "chart.umd.min.js"
_PERCENTILES = {"latency_p50": 50.0, "latency_p90": 90.0, "latency_p95": 95.0, "latency_p99": 99.0}


def write(study: Study, path: Path, *, limits: Sequence[Limit] = ()) -> None:
    """Write the report of a study; what was there is replaced in one piece.

    Raises:
        BenchmarkFailed: the file cannot be written.
    """
    text = html(study, limits=limits)
    staged = path.with_name(f".{path.name}.new")
    try:
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise BenchmarkFailed(f"{path}: the report cannot be written: {error.strerror}") from error


def html(study: Study, *, limits: Sequence[Limit] = ()) -> str:
    """The report of a study.

    Args:
        study: a study, finished or not.
        limits: what the recommended points keep to.
    """
    folder = templates_directory() / "report"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The map of the library is no part of the report, and a browser's developer tools would look for it.
    library = (folder / _LIBRARY).read_text(encoding="utf-8").split("//# sourceMappingURL")[0]
    scripts = {"library": library, "script": (folder / "report.js").read_text(encoding="utf-8")}
    optimal = front(study.records)
    return environment.get_template("report.html.j2").render(
        study=study,
        sentences=summary(study, limits),
        rows=[_row(record, optimal) for record in study.records],
        cells=[
            (each, configured(each.together), ", ".join(others(each.together))) for each in interference(study.records)
        ],
        provenance=provenance(study),
        commands=list(_commands(study.records)),
        data=_data(study, optimal),
        style=Markup((folder / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - our own files
        scripts={name: Markup(text) for name, text in scripts.items()},  # noqa: S704
        # The only scripts that may run: whatever a model is called, it cannot bring its own.
        hashes=[_digest(text) for text in scripts.values()],
    )


def _data(study: Study, optimal: set[str]) -> dict[str, Any]:
    """What the plots and the CSV files are made from."""
    return {
        "name": study.name,
        "parts": list(PARTS),
        "points": [_point(record, optimal) for record in study.records if record.repeats],
        "tables": {
            name: {"columns": table.columns, "rows": table.rows} for name, table in tables(study).items()
        },
    }  # fmt: skip


def _point(record: Record, optimal: set[str]) -> dict[str, Any]:
    shares: Mapping[float, float | None] = figures.quantiles(record) or {
        share: figures.median(record, metric) for metric, share in _PERCENTILES.items()
    }
    executions = figures.batches(record)
    return {
        "series": series(record),
        "load": str(record.load),
        "status": record.status,
        "pareto": record.label in optimal,
        "throughput": _digits(figures.median(record, "throughput")),
        "latency": {
            name: _milliseconds(figures.median(record, f"latency_{name}"))
            for name in ("avg", "p50", "p90", "p95", "p99")
        },
        "quantiles": [(share, _milliseconds(time)) for share, time in shares.items()],
        "parts": [_milliseconds(figures.median(record, part)) for part in PARTS],
        "batches": list(executions.items()),
    }  # fmt: skip


def _row(record: Record, optimal: set[str]) -> dict[str, Any]:
    """A row of the table that people read; each cell with the value to sort by."""
    reach = figures.interval(record, "throughput")
    median = {name: figures.median(record, name) for name in figures.METRICS}
    return {
        "record": record,
        "series": series(record),
        "beside": ", ".join(others(record)),
        "pareto": record.label in optimal,
        "throughput": median["throughput"],
        "interval": f"95% confidence: {reach.low:.4g} to {reach.high:.4g}" if reach else "",
        "times": [median[f"latency_{name}"] for name in ("p50", "p90", "p95", "p99")],
        "queue": median["queue"],
        "compute": median["compute"],
        "batch": median["average_batch"],
        "cpu": median["cpu_percent"],
        "gpu": median["gpu_percent"],
    }


def _commands(records: Sequence[Record]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The last command line of each point."""
    for record in records:
        if record.repeats and record.repeats[-1].argv:
            yield record.label, record.repeats[-1].argv[-1]


def _milliseconds(microseconds: float | None) -> float | None:
    return None if microseconds is None else round(microseconds / 1000, 4)


def _digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
