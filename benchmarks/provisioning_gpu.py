"""How well plans are predicted on a real GPU: profile, points that were held out, a plan, and five minutes of its load.

    PYTHONPATH=. python benchmarks/provisioning_gpu.py --work /tmp/provisioning [--gpu 0] [--seconds 300]

Needs torch, torchvision, onnx, onnxruntime-gpu, nvidia-pytriton, haproxy and the extra ``provision``. Models have
random weights. What was measured stays in the folder: run again after an interruption, it goes on. Prints Markdown
tables last. Exits 1 when a mean error is over its limit, or when the plan does not hold every SLO.

With ``--gpu none`` all of it runs on the CPU with tiny models: a rehearsal, whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from isolation_models import LARGE, SMALL, THROUGHPUT, make

from tritonkit.provision.prediction import Behaviour, Neighbour, behaviours, predict
from tritonkit.provision.profiles import Row, read

NETWORKS = ("mobilenet_v2", "resnet18", "resnet50", "vgg16")
LARGEST = 8
ALONE_LIMIT, TOGETHER_LIMIT = 0.05, 0.10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--gpu", default="0")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--interval", type=int, default=500, help="one window of perf_analyzer, in ms")
    options = parser.parse_args()
    rehearsal = options.gpu == "none"
    options.work.mkdir(parents=True, exist_ok=True)
    if rehearsal:
        tiny(options.work)
    else:
        export(options.work)
    write_spec(options.work, {}, rehearsal=rehearsal)
    measuring = ["--gpu", options.gpu, "--measurement-interval", str(options.interval)]
    tritonkit(options.work, "profile", *measuring)
    # Other percentages, batches and splits than the profile has.
    held = ["--batch-size", "2,6"] if rehearsal else ["--percentages", "20,50", "--batch-size", "2,6"]
    tritonkit(options.work, "profile", *measuring, "--profile", "held.csv", *held)
    known = behaviours(read(options.work / "profiles.csv"))
    alone, together = errors(known, read(options.work / "held.csv"))
    # All models and perf_analyzer share the cores of a rehearsal.
    most = 20.0 if rehearsal else 1e6
    write_spec(options.work, {name: objective(each, most) for name, each in known.items()}, rehearsal=rehearsal)
    done = tritonkit(
        options.work, "provision", "--gpus", "4" if rehearsal else "1", "--validate", "--seconds", str(options.seconds),
        "--json", check=False,
    )  # fmt: skip
    plan = json.loads(done.stdout)
    report(known, alone, together, plan)
    held_all = done.returncode == 0 and all(row["held"] for row in plan["validation"])
    close = mean(alone) <= ALONE_LIMIT and mean(together) <= TOGETHER_LIMIT
    if not rehearsal and not (held_all and close):
        print("FAILED: an SLO was not held, or a mean error is over its limit", file=sys.stderr)
        return 1
    return 0


def export(work: Path) -> None:
    import torch
    import torchvision

    for name in NETWORKS:
        file = work / f"{name}.onnx"
        if file.exists():
            continue
        torch.manual_seed(0)
        module = getattr(torchvision.models, name)(weights=None).eval()
        torch.onnx.export(
            module, (torch.randn(2, 3, 224, 224),), str(file), input_names=["image"], output_names=["scores"],
            dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}}, opset_version=17, dynamo=False,
        )  # fmt: skip


def tiny(work: Path) -> None:
    """The small models of the benchmark of isolation, under the networks' names."""
    make(work / "tiny", tiny=True)
    for name, source in zip(NETWORKS, (SMALL, LARGE, *THROUGHPUT), strict=False):
        shutil.copy(work / "tiny" / source / "1/model.onnx", work / f"{name}.onnx")


def write_spec(work: Path, objectives: Mapping[str, Mapping[str, str]], *, rehearsal: bool) -> None:
    kind = "KIND_CPU" if rehearsal else "KIND_GPU"
    models: dict[str, Any] = {}
    for name in NETWORKS:
        models[name] = {
            "backend": "onnxruntime",
            "source": f"{name}.onnx",
            "max_batch_size": LARGEST,
            "dynamic_batching": {},
            "instance_group": [{"count": 1, "kind": kind}],
            **({"slo": dict(objectives[name])} if name in objectives else {}),
        }
    (work / "spec.yaml").write_text(yaml.safe_dump({"version": 1, "models": models}, sort_keys=False))


def objective(behaviour: Behaviour, most: float) -> dict[str, str]:
    """An SLO and a rate, at most this one, that about a fifth of a GPU holds."""
    at = max(20.0, behaviour.curve.extent.percentages[0])
    batch = min(4, behaviour.curve.extent.batches[1])
    run = predict(behaviour, batch, at)
    return {"latency_p99": f"{6 * run.latency_ms:.1f}ms", "rate": f"{min(0.4 * run.capacity, most):.1f}/s"}


def errors(known: Mapping[str, Behaviour], rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """The relative errors at the points that were held out: alone, and beside a neighbour."""
    alone: list[float] = []
    together: list[float] = []
    for row in rows:
        key = row.key
        around = [Neighbour(known[each.model], each.thread_percentage) for each in key.beside]
        run = predict(known[key.model], key.batch_size, key.thread_percentage, around)
        (together if key.beside else alone).append(abs(run.latency_ms / row.latency_ms - 1))
    return alone, together


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def report(
    known: Mapping[str, Behaviour], alone: Sequence[float], together: Sequence[float], plan: Mapping[str, Any]
) -> None:
    print("| model | form | fit, mean | fit, most | left out, mean | alpha | demand | notes |")
    print("|---|---|---:|---:|---:|---:|---:|---|")
    for name, each in known.items():
        left_out = "-" if each.curve.held_out is None else f"{each.curve.held_out:.1%}"
        print(
            f"| {name} | {each.curve.form} | {each.curve.mean_error:.1%} | {each.curve.max_error:.1%} | {left_out} | "
            f"{each.alpha:.2f} | {each.demand:.2f} | {'; '.join(each.notes) or '-'} |"
        )
    print()
    print("| points that were held out | number | mean error | largest |")
    print("|---|---:|---:|---:|")
    for label, values in (("alone", alone), ("beside a neighbour", together)):
        print(f"| {label} | {len(values)} | {mean(values):.1%} | {max(values, default=0.0):.1%} |")
    print()
    print("| model | percent | batch | SLO ms | p99 ms | bound ms | rate/s | served/s | computation | held |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---|")
    seats = {seat["model"]: seat for seat in plan["seats"]}
    for row in plan["validation"]:
        seat = seats[row["model"]]
        error = "-" if row["error"] is None else f"{row['error']:+.1%}"
        print(
            f"| {row['model']} | {seat['thread_percentage']} | {seat['batch_size']} | {row['slo_ms']:g} | "
            f"{row['latency_p99_ms']:.2f} | {row['predicted_p99_ms']:.2f} | {row['rate']:g} | "
            f"{row['throughput']:.1f} | {error} | {'yes' if row['held'] else 'NO'} |"
        )


def tritonkit(work: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the program in the working folder; what it says on standard error is shown as it comes."""
    line = [sys.executable, "-m", "tritonkit", *arguments]
    print("$", "tritonkit", *arguments, file=sys.stderr, flush=True)
    done = subprocess.run(line, cwd=work, stdout=subprocess.PIPE, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"tritonkit {arguments[0]} ended with {done.returncode}:\n{done.stdout}")
    if not done.stdout.strip():
        raise SystemExit(f"tritonkit {arguments[0]} said nothing")
    return done


if __name__ == "__main__":
    sys.exit(main())
