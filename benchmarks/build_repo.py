"""How long ``tritonkit build-repo`` takes on a spec of many models.

    python benchmarks/build_repo.py [--models 1000] [--repeats 5]

Prints a Markdown table: the median of whole processes, and each as a multiple of starting Python with Typer.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

STARTER = Path(__file__).parent.parent / "templates/starters/digits"
FRESH = "{fresh folder}"

MODEL = """\
  model_{number}:
    backend: onnxruntime
    source: models/digits.onnx
    max_batch_size: {batch}
    instance_group: [{{count: 2, kind: KIND_CPU}}]
    dynamic_batching: {{preferred_batch_size: [8, 16], max_queue_delay_microseconds: 200}}
"""


def seconds(argv: list[str], folder: Path, prepare: Callable[[], object], repeats: int) -> float:
    """Median wall-clock seconds of a whole process; ``prepare`` runs before each, not counted."""
    taken = []
    for number in range(repeats):
        prepare()
        words = [word.replace(FRESH, f"fresh_{number}") for word in argv]
        start = time.perf_counter()
        subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def write_spec(folder: Path, models: int, batch: int) -> None:
    text = "".join(MODEL.format(number=number, batch=batch) for number in range(models))
    (folder / "spec.yaml").write_text(f"version: 1\nmodels:\n{text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    build = [sys.executable, "-m", "tritonkit", "build-repo", "spec.yaml"]
    batches = iter(range(16, 10_000))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(STARTER / "models", folder / "models")

        def change_every_model() -> None:
            write_spec(folder, options.models, next(batches))

        change_every_model()
        subprocess.run(build, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        cases: list[tuple[str, list[str], Callable[[], object]]] = [
            ("python with Typer, doing nothing", [sys.executable, "-c", "import typer; typer.Typer()"], lambda: None),
            # A new folder each time: file systems are slow to hand out what was deleted a moment ago.
            ("first build", [*build, "--output", FRESH], lambda: None),
            ("nothing changed", build, lambda: None),
            ("every model changed", build, change_every_model),
            ("`--check`", [*build, "--check"], lambda: None),
        ]
        print(f"| {options.models:,} models | seconds | times Typer |")
        print("| --- | ---: | ---: |")
        baseline = 0.0
        for label, argv, prepare in cases:
            taken = seconds(argv, folder, prepare, options.repeats)
            baseline = baseline or taken
            print(f"| {label} | {taken:.2f} | {taken / baseline:.1f} |", flush=True)


if __name__ == "__main__":
    main()
