"""How long tritonkit check takes on a spec of 1,000 models, as a process of its own.

    python benchmarks/check_speed.py [--models 1000] [--limit 1.5]

Exits 1 when the median is over the limit.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODEL = """\
  model_{number}:
    backend: python
    source: src
    max_batch_size: 8
    input: {{IMAGE: "UINT8[3,224,224]", SIZE: "INT32[2]"}}
    output: {{SCORES: "FP32[1000]", BOXES: "FP32[-1,4]"}}
    instance_group: [{{count: 2, kind: KIND_CPU}}]
    dynamic_batching: {{preferred_batch_size: [4, 8], max_queue_delay_microseconds: 200}}
    parameters: {{threads: 2}}
"""
ENSEMBLE = """\
  ensemble_{number}:
    max_batch_size: 8
    ensemble:
      - {{model: model_{number}, input: {{IMAGE: IMAGE, SIZE: SIZE}}, output: {{SCORES: SCORES}}}}
    input: {{IMAGE: "UINT8[3,224,224]", SIZE: "INT32[2]"}}
    output: {{SCORES: "FP32[1000]"}}
"""


def write(folder: Path, models: int) -> Path:
    """A spec in which every tenth model is an ensemble."""
    (folder / "src").mkdir()
    (folder / "src" / "model.py").write_text("class TritonPythonModel: ...\n")
    said = [
        (ENSEMBLE if number % 10 == 9 else MODEL).format(number=number - number % 10 if number % 10 == 9 else number)
        for number in range(models)
    ]
    spec = folder / "spec.yaml"
    spec.write_text("version: 1\nmodels:\n" + "".join(said))
    return spec


def measured(spec: Path) -> tuple[float, float]:
    """Seconds on the clock, and of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tritonkit", "check", str(spec)], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stdout + done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--limit", type=float, default=1.5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spec = write(Path(folder), options.models)
        runs = [measured(spec) for _ in range(5)]
    median, processor = (statistics.median(column) for column in zip(*runs, strict=True))
    print(f"{options.models} models: median {median:.2f} s, {processor:.2f} s of one processor")
    return 1 if median > options.limit else 0


if __name__ == "__main__":
    sys.exit(main())
