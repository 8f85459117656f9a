"""The tutorial from nothing to its figures, unattended: prepare, run the study, print what it shows.

Run from the root of the repository, with the extras ``server``, ``bench``, ``export`` and ``cpu`` or ``gpu``::

    PYTHONPATH=. python benchmarks/tutorial/run.py food --output benchmarks/results/tutorial-h200

The exit code is 1 when a point has no figures. A run that is cut short goes on where it stopped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tritonkit.bench import figures
from tritonkit.bench.records import Record, load

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("digits", "food"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], help="replace a value of the study: repeats=1")
    arguments = parser.parse_args()
    subprocess.run([sys.executable, str(HERE / "prepare.py"), arguments.name], check=True)
    options = [word for value in arguments.set for word in ("--set", value)]
    argv = [sys.executable, "-m", "tritonkit", "bench", str(HERE / f"{arguments.name}.yaml"), *options]
    done = subprocess.run([*argv, "--output", str(arguments.output)], check=False)
    print(effects(load(arguments.output).records))
    raise SystemExit(1 if done.returncode else 0)


def effects(records: tuple[Record, ...]) -> str:
    """What the tutorial is about, one line each: what was compared, and what came out."""
    models = list(dict.fromkeys(record.model for record in records if not record.model.startswith("fastapi")))
    lines = ["", "| effect | model | figures |", "|---|---|---|"]

    def one(model: str, value: float, variant: str = "", distribution: str = "", batch: int = 1) -> Record | None:
        return next(
            (
                record
                for record in records
                if (record.model, record.load.value, record.variant) == (model, value, variant)
                and (record.load.distribution, record.batch_size) == (distribution, batch)
            ),
            None,
        )

    def rates(*found: Record | None) -> str:
        return " / ".join(_shown(record, "throughput") for record in found)

    for model in models:
        more = rates(*(one(model, clients) for clients in (1, 8, 16)))
        lines.append(f"| concurrency 1 / 8 / 16 | {model} | {more} inferences/s |")
        counts = rates(*(one(model, 8, name) for name in ("", "2 instances", "4 instances")))
        lines.append(f"| 1 / 2 / 4 instances at concurrency 8 | {model} | {counts} inferences/s |")
        batches = rates(one(model, 1), one(model, 1, batch=16))
        lines.append(f"| batch 1 / 16 at concurrency 1 | {model} | {batches} inferences/s |")
    for service in ("fastapi_torch", "fastapi_onnx"):
        lines.append(f"| concurrency 1 / 16 | {service} | {rates(one(service, 1), one(service, 16))} inferences/s |")
    for rate in sorted({record.load.value for record in records if record.load.kind == "request_rate"}):
        for model in models:
            spaced = [
                one(model, rate, distribution="constant"),
                one(model, rate, distribution="poisson"),
                one(model, rate, "dynamic batching", "poisson"),
            ]
            if any(spaced):
                times = " / ".join(f"{_shown(record, 'latency_p99')} ({_shown(record, 'queue')})" for record in spaced)
                title = f"{rate:g}/s constant / Poisson / Poisson with dynamic batching"
                lines.append(f"| {title} | {model} | p99 (queue) {times} us |")
    for record in records:
        if record.variant == "dynamic batching" and record.repeats:
            sizes = ", ".join(f"{count} of {size}" for size, count in figures.batches(record).items())
            lines.append(f"| executions by batch size, {record.load} | {record.model} | {sizes} |")
    return "\n".join(lines)


def _shown(record: Record | None, metric: str) -> str:
    value = None if record is None else figures.median(record, metric)
    return "-" if value is None else f"{value:.0f}"


if __name__ == "__main__":
    main()
