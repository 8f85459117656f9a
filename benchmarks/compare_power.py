"""Whether ``tritonkit compare`` calls a planted regression, and leaves two runs of the same thing alone.

    python benchmarks/compare_power.py [--runs 20] [--sleep-ms 1]

Each run is a study of its own, with a tritonserver of its own: two levels of a model that computes for about 2 ms, and
in every second run the same model with a sleep planted. Neighbouring runs of the same kind are compared (they should
be called the same), and each run with the slower one after it (which should be called slower). Ends with exit code 1
when a regression is missed, or when more than one in twenty of the others is called.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from load import server

from tritonkit.bench.compare import Comparison, compare
from tritonkit.bench.records import load

MODEL = """
import time
import numpy as np
import triton_python_backend_utils as pb
class TritonPythonModel:
    def initialize(self, args):
        self.weights = np.random.default_rng(0).random((160, 160), dtype=np.float32)
    def execute(self, requests):
        return [self.answer(pb.get_input_tensor_by_name(request, "X").as_numpy()) for request in requests]
    def answer(self, x):
        end = time.perf_counter() + 0.002
        while time.perf_counter() < end:
            np.dot(self.weights, self.weights)
        time.sleep(PLANTED)
        return pb.InferenceResponse([pb.Tensor("Y", x)])
"""
CONFIG = """
backend: "python"
max_batch_size: 0
input [{ name: "X" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "Y" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""
STUDY = [
    "--concurrency", "1,4", "--repeats", "4", "--warmup", "0.2", "--measurement-interval", "200",
    "--stability-percentage", "1000", "--max-trials", "3",
]  # fmt: skip
SMALLEST = (None, 0.0, 0.02, 0.05, 0.1, 0.2)


def repository(folder: Path, planted: float) -> Path:
    version = folder / "work" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL.replace("PLANTED", repr(planted)))
    (version.parent / "config.pbtxt").write_text(CONFIG)
    return folder


def run(project: Path, models: Path, results: Path) -> None:
    """One study, as a user makes it; figures that could not be had end the benchmark."""
    project.mkdir()
    with server(project, models) as deployment:
        argv = [sys.executable, "-m", "tritonkit", "bench", "work", "--url", deployment.http, *STUDY]
        done = subprocess.run([*argv, "-o", str(results)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{done.stderr}")


def slower(found: Comparison) -> bool:
    return any(change.worse for _, change in found.significant)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--sleep-ms", type=float, default=1.0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {
            "same": repository(folder / "same-models", 0.0),
            "slow": repository(folder / "slow-models", options.sleep_ms / 1000),
        }
        for index in range(options.runs):
            for kind, where in models.items():
                run(folder / f"{kind}-{index}-project", where, folder / f"{kind}-{index}")
                print(f"run {index + 1} of {options.runs}, {kind}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        run(folder / "last-project", models["same"], folder / f"same-{options.runs}")
        same = [load(folder / f"same-{index}") for index in range(options.runs + 1)]
        slow = [load(folder / f"slow-{index}") for index in range(options.runs)]
    print(
        f"{options.runs} pairs each, {options.sleep_ms:g} ms planted in about 2 ms, {time.monotonic() - began:.0f} s\n"
    )
    print("| smallest change that counts | the same, called different | slower, called slower |")
    print("| --- | ---: | ---: |")
    calls = {}
    for smallest in SMALLEST:
        false = sum(bool(compare(same[i], same[i + 1], smallest=smallest).significant) for i in range(options.runs))
        true = sum(slower(compare(same[i], slow[i], smallest=smallest)) for i in range(options.runs))
        calls[smallest] = false, true
        shown = "5%, 10% of p99 (default)" if smallest is None else f"{smallest:.0%}"
        print(f"| {shown} | {false} of {options.runs} | {true} of {options.runs} |")
    false, true = calls[None]
    if true < options.runs or false > options.runs / 20:
        raise SystemExit("a regression was missed, or too many pairs of the same were called different")


if __name__ == "__main__":
    main()
