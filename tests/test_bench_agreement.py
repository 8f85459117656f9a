"""What bench reports is what another client sees: a plain loop over tritonclient, in turns with perf_analyzer."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from serving import tritonkit

from tritonkit.bench.records import load
from tritonkit.serve import Deployment
from tritonkit.tools.perf_analyzer import PerfAnalyzer

ROUNDS = 3
REQUESTS = 30


def loop(server: Deployment) -> float:
    """The median time of a request, in microseconds, that an independent client sees."""
    tensor = triton.InferInput("X", [1], "FP32")
    tensor.set_data_from_numpy(np.array([-5], np.float32))
    times = []
    with triton.InferenceServerClient(server.http) as client:
        client.infer("moody", [tensor])
        for _ in range(REQUESTS):
            began = time.perf_counter()
            client.infer("moody", [tensor])
            times.append((time.perf_counter() - began) * 1e6)
    return statistics.median(times)


@pytest.mark.alone
def test_the_median_latency_is_that_of_an_independent_client_within_5_percent(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    # A request of 50 ms: what the two clients cost themselves is far below 5% of it.
    ours, theirs = [], []
    for number in range(ROUNDS):
        theirs.append(loop(measured_server))
        folder = tmp_path / str(number)
        done = tritonkit(
            tmp_path, "bench", "moody", "--url", measured_server.http, "-i", "X=[-5]", "--concurrency", "1",
            "--measurement-interval", "1000", "--warmup", "0", "-o", str(folder),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        ours.append(load(folder).records[0].repeats[0].latency_p50)
    assert min(ours) > 50_000
    difference = statistics.median(ours) / statistics.median(theirs) - 1
    assert abs(difference) < 0.05, (ours, theirs)
