"""Studies made up for the tests of reports and comparisons: no server is needed to read figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tritonkit.bench.records import (
    FORMAT,
    PARTS,
    POINT_FILE,
    POINTS,
    STUDY_FILE,
    Extent,
    Load,
    Record,
    Repeat,
    Study,
    Usage,
)

NASTY = "</script><script>alert('x')</script> \"naïve\", 数字 & <b>"


def repeat(throughput: float, p50: float, **changes: Any) -> Repeat:
    """One measurement whose other figures follow from throughput and median latency (µs)."""
    tail = {"latency_p90": p50 * 1.2, "latency_p95": p50 * 1.4, "latency_p99": p50 * 2}
    shares = dict(zip(PARTS, (0.02, 0.2, 0.3, 0.03, 0.4, 0.03, 0.02), strict=True))
    values: dict[str, Any] = {
        "throughput": throughput,
        "latency_avg": p50 * 1.05,
        "latency_p50": p50,
        **tail,
        "parts": {name: p50 * share for name, share in shares.items()},
        "requests": 1000,
        "batches": {1: 600, 2: 150, 4: 25},
        "quantiles": {50.0: p50, 75.0: p50 * 1.1, 90.0: p50 * 1.2, 95.0: p50 * 1.4, 99.0: p50 * 2, 99.9: p50 * 3},
        "usage": Usage(cpu_percent=Extent(140.0, 190.0)),
        "started": "2026-11-21T12:00:00+00:00",
        "argv": (("perf_analyzer", "-m", "digits"),),
    }
    return Repeat(**{**values, **changes})


def record(model: str, concurrency: float, throughputs: Sequence[float], **changes: Any) -> Record:
    """A point of a closed loop, with a repeat for each throughput."""
    repeats = tuple(repeat(throughput, 1e6 * concurrency / throughput) for throughput in throughputs)
    values: dict[str, Any] = {
        "key": f"{model}-{concurrency}",
        "label": f"{model.encode().hex()[:24]}-c{concurrency:g}",
        "model": model,
        "load": Load("concurrency", concurrency),
        "status": "ok",
        "repeats": repeats,
        "limit": "instances",
        "evidence": "requests wait 70% of their time in the queue",
    }
    return Record(**{**values, **changes})


def study(records: Sequence[Record], name: str = "study", **document: Any) -> Study:
    """A study as it would be read from its folder."""
    whole = {
        "format": FORMAT,
        "name": name,
        "state": "complete",
        "planned": [each.label for each in records],
        "tritonkit": "0.1.0",
        "perf_analyzer": "2.51.0",
        "machine": {"cpu": "a CPU", "cores": 2, "gpus": []},
        **document,
    }
    return Study(name, whole, tuple(records))


def write(folder: Path, held: Study) -> Path:
    """A study's folder; the folder."""
    (folder / POINTS).mkdir(parents=True)
    (folder / STUDY_FILE).write_text(json.dumps(held.document))
    for each in held.records:
        (folder / POINTS / each.label).mkdir()
        (folder / POINTS / each.label / POINT_FILE).write_text(json.dumps(each.as_json()))
    return folder


def varied(model: str = "digits", seed: int = 0) -> list[Record]:
    """A grid: instances 1, 2 and 4 under concurrency 1 to 16, with noise, and one point of every status."""
    noise = np.random.default_rng(seed)
    records = []
    for count in (1, 2, 4):
        for concurrency in (1, 2, 4, 8, 16):
            most = 400.0 * count**0.8
            served = most * concurrency / (concurrency + count)
            throughputs = [served * float(noise.uniform(0.98, 1.02)) for _ in range(3)]
            axis: Mapping[str, Any] = {f"models.{model}.instance_group[0].count": count}
            label = f"i{count}-c{concurrency}"
            records.append(record(model, concurrency, throughputs, configuration=axis, label=label))
    return records


def troubled() -> list[Record]:
    """A point of every status that needs care."""
    overload = Load("request_rate", 900, "poisson")
    return [
        record("digits", 32, [500, 900, 700], status="unstable", notes=("unstable",), label="unstable"),
        record("digits", 1, [600], load=overload, status="overloaded", notes=("served 600 of 900/s",), label="over"),
        record("digits", 1, [800], load=overload, status="client-limited", batch_size=4, label="client"),
        record("digits", 64, [], status="failed", error="the server does not answer\nat all", label="failed"),
        record("digits", 1, [], status="unbuilt", error="DYN02 too large", configuration={"x": 1}, label="unbuilt"),
    ]


def together() -> list[Record]:
    """Two models, each alone and both at once."""
    pair = ("big", "small")
    return [
        record("small", 4, [1000, 1010, 990], label="small-alone"),
        record("big", 4, [200, 202, 198], label="big-alone"),
        record("small", 4, [500, 510, 490], label="small-both", together=pair),
        record("big", 4, [150, 151, 149], label="big-both", together=pair),
    ]


def nasty() -> Study:
    """Everything at once, under names that try to break out of the page."""
    records = [*varied(), *troubled(), *together(), record(NASTY, 2, [300, 303, 297], label="nasty")]
    return study(records, name=NASTY)
