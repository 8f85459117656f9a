"""A module of more than 2 GB, which protobuf cannot hold: exported to ONNX with its weights beside it, proved, served.

    PYTHONPATH=. python benchmarks/large_export.py --work /tmp/large

Takes about 10 GB of memory, 8 GB of disk and a few minutes. Needs the extras ``server``, ``cpu`` and ``export``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import tritonclient.grpc as triton
from load import server

WORDS, WIDTH = 560_000, 1024
SPEC = """\
version: 1
models:
  large:
    source: {torch: "large_export:large"}
    backend: onnxruntime
    max_batch_size: 4
    input: {tokens: "INT64[8]"}
    output: {features: "FP32[8,16]"}
    export: {ranges: {tokens: [0, 559999]}}
    instance_group: [{count: 1, kind: KIND_CPU}]
"""


def large() -> torch.nn.Module:
    """An embedding of 2.3 GB, and a layer behind it."""
    return torch.nn.Sequential(torch.nn.Embedding(WORDS, WIDTH), torch.nn.Linear(WIDTH, 16))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    work: Path = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    (work / "spec.yaml").write_text(SPEC)
    shutil.copy(__file__, work)
    environment = {**os.environ, "TRITONKIT_CACHE": str(work / "cache")}
    # This file is a module of the project too, and imports what its neighbours give it.
    environment["PYTHONPATH"] = f"{Path(__file__).parent}:{environment.get('PYTHONPATH', '')}"
    for command in (["export", "spec.yaml"], ["build-repo", "spec.yaml"]):
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "tritonkit", *command], cwd=work, env=environment, check=True)
        print(f"tritonkit {command[0]}: {time.monotonic() - began:.0f} s", flush=True)
    files = sorted(file for file in (work / "model_repository").rglob("*") if file.is_file())
    for file in files:
        print(f"{file.relative_to(work)}: {file.stat().st_size:,} bytes")
    torch.manual_seed(0)
    module = large().eval()
    tokens = np.random.default_rng(1).integers(0, WORDS, (3, 8))
    with torch.inference_mode():
        told = module(torch.from_numpy(tokens)).numpy()
    with server(work, work / "model_repository") as deployment, triton.InferenceServerClient(deployment.grpc) as client:
        tensor = triton.InferInput("tokens", [3, 8], "INT64")
        tensor.set_data_from_numpy(tokens)
        answer = client.infer("large", [tensor]).as_numpy("features")
    worst = float(np.abs(answer - told).max() / np.abs(told).max())
    print(f"served by Triton against torch: largest difference {worst:.1e} of the largest output")
    assert worst < 1e-4


if __name__ == "__main__":
    main()
