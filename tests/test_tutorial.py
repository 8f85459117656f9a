"""The published serving tutorial as one study, small enough for two cores: every part of it, with real figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tritonkit.bench import figures
from tritonkit.bench.records import Record, load
from tritonkit.tools.perf_analyzer import PerfAnalyzer

TUTORIAL = Path(__file__).parent.parent / "benchmarks/tutorial"
SMALL = (
    "repeats=1",
    "warmup=0",
    "measurement={interval_ms: 300, stability_percentage: 1000}",
    "experiments.FastAPI.load.concurrency=4",
    'experiments["Python against ONNX"].load.concurrency=[1, 8]',
    "experiments.instances.load.concurrency=8",
    'experiments.instances.variants=[{name: 2 instances, set: {"models.*.instance_group[0].count": 2}}]',
    "experiments.arrivals.load.request_rate=120",
    'experiments["dynamic batching"].load.request_rate=400',
)


@pytest.mark.timeout(900)
def test_the_tutorial_on_the_digits_starter(perf_analyzer: PerfAnalyzer, tmp_path: Path) -> None:
    options = [word for value in SMALL for word in ("--set", value)]
    argv = [sys.executable, str(TUTORIAL / "run.py"), "digits", "--output", str(tmp_path / "out"), *options]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=850)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    records = load(tmp_path / "out").records
    assert len(records) == 13

    def one(model: str, value: float, variant: str = "", batch: int = 1) -> Record:
        (found,) = [
            record
            for record in records
            if (record.model, record.load.value, record.variant, record.batch_size) == (model, value, variant, batch)
            and record.load.distribution in ("", "poisson")
        ]
        return found

    def rate(record: Record) -> float:
        found = figures.median(record, "throughput")
        assert found is not None
        return found

    # A batch of 16 is 16 inferences: the Python model answers all of its pictures.
    assert set(figures.batches(one("digits_python", 1, batch=16))) == {16}
    assert rate(one("digits_python", 1, batch=16)) > 0
    # Dynamic batching runs several requests at once, and only it does.
    assert max(figures.batches(one("digits", 400, "dynamic batching"))) > 1
    assert set(figures.batches(one("digits", 8))) == {1}
    for name in ("fastapi_torch", "fastapi_onnx"):
        assert rate(one(name, 4)) > 0
    assert "| 1 / 2 / 4 instances at concurrency 8 | digits_python |" in done.stdout
