"""How well plans are predicted on a real GPU: profile, points that were held out, a plan, and five minutes of its load.

    PYTHONPATH=. python benchmarks/provisioning_gpu.py --work /tmp/provisioning [--gpus 0,1] [--seconds 300] [STAGE ...]

Needs torch, torchvision, transformers, onnx, onnxruntime-gpu, nvidia-pytriton, haproxy and the extra ``provision``.
Models have random weights. Several GPUs measure different models at once. What was measured stays in the folder: run
again after an interruption, it goes on. Prints Markdown tables last. Exits 1 when a mean error is over its limit, or
when the plan does not hold every SLO.

With ``--gpus none`` all of it runs on the CPU with tiny models: a rehearsal, whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from isolation_models import LARGE, SMALL, THROUGHPUT, make

from tritonkit.provision.campaign import ring
from tritonkit.provision.prediction import Behaviour, Neighbour, behaviours, predict
from tritonkit.provision.profiles import Row, read, write

# In the order of how long they take to measure, so that every second one takes about half of it.
NETWORKS = ("vgg16", "resnet50", "bert_base", "vit_b_16")
STAGES = ("profile", "held", "plan")
LARGEST = 8
TOKENS = 128
# Of what a model serves with 15 percent: the rates that are tried.
PARTS = (0.6, 0.5, 0.4, 0.3, 0.2)
ALONE_LIMIT, TOGETHER_LIMIT = 0.05, 0.10
# Other percentages, batches and splits than the profile has.
HELD = ("--percentages", "15,30,70", "--batch-size", "3,6")
HELD_ON_CPU = ("--batch-size", "3,6")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"{', '.join(STAGES)} (default: all)")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--gpus", default="0")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--interval", type=int, default=500, help="one window of perf_analyzer, in ms")
    options = parser.parse_args()
    stages = options.stages or STAGES
    if any(stage not in STAGES for stage in stages):
        parser.error(f"stages are {', '.join(STAGES)}")
    work, gpus = options.work, options.gpus.split(",")
    rehearsal = options.gpus == "none"
    work.mkdir(parents=True, exist_ok=True)
    if rehearsal:
        tiny(work)
    else:
        export(work)
    write_spec(work, {}, rehearsal=rehearsal)
    tritonkit(work, "build-repo", "spec.yaml")
    window = ("--measurement-interval", str(options.interval), "--protocol", "grpc")
    if "profile" in stages:
        profiled(work, "profiles.csv", gpus, window)
    if "held" in stages:
        profiled(work, "held.csv", gpus, (*window, *(HELD_ON_CPU if rehearsal else HELD)))
    known = behaviours(read(work / "profiles.csv"))
    report_fits(known)
    failed = False
    if "held" in stages:
        alone, together = errors(known, read(work / "held.csv"))
        report_errors(alone, together)
        failed = mean(alone) > ALONE_LIMIT or mean(together) > TOGETHER_LIMIT
    if "plan" in stages:
        done = planned(work, known, options.seconds, rehearsal=rehearsal)
        (work / "plan.json").write_text(done.stdout)
        plan = json.loads(done.stdout)
        report_plan(plan)
        failed |= done.returncode != 0 or not all(row["held"] for row in plan["validation"])
    if failed and not rehearsal:
        print("FAILED: an SLO was not held, or a mean error is over its limit", file=sys.stderr)
        return 1
    return 0


def planned(
    work: Path, known: Mapping[str, Behaviour], seconds: float, *, rehearsal: bool
) -> subprocess.CompletedProcess[str]:
    """Plan for the largest of some rates that one GPU holds for every model at once, and validate the plan."""
    line = ["provision", "--gpus", str(len(NETWORKS)) if rehearsal else "1", "--json"]
    for part in PARTS:
        # All models and perf_analyzer share the cores of a rehearsal.
        wanted = {name: objective(each, part, 20.0 if rehearsal else 1e6) for name, each in known.items()}
        write_spec(work, wanted, rehearsal=rehearsal)
        if tritonkit(work, *line, check=False).returncode == 0:
            break
    return tritonkit(work, *line, "--validate", "--seconds", str(seconds), "--protocol", "grpc", check=False)


def profiled(work: Path, name: str, gpus: Sequence[str], options: Sequence[str]) -> None:
    """One profile from all GPUs: each measures models of its own, and then pairs of its own."""
    count = len(gpus)
    models = [[f"--model={model}" for model in NETWORKS[number::count]] for number in range(count)]
    measured(work, f"alone-{name}", name, gpus, [[*options, "--no-pairs", *each] for each in models])
    if gpus != ["none"]:
        pairs = ring(sorted(NETWORKS))
        chosen = [[f"--pair={one},{other}" for one, other in pairs[number::count]] for number in range(count)]
        measured(work, f"beside-{name}", name, gpus, [[*options, *each] for each in chosen])


def measured(work: Path, part: str, name: str, gpus: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Run ``tritonkit profile`` on every GPU at once, with options and a file of its own; the files become one."""
    files = [work / f"{gpu}-{part}" for gpu in gpus]
    whole = work / name
    for file in files:
        # Points alone that are there already are not measured for pairs again.
        if whole.exists() and not file.exists():
            shutil.copy(whole, file)

    def run(gpu: str, file: Path, line: Sequence[str]) -> None:
        # Points that cannot be measured are missing from the profile, and said on standard error.
        tritonkit(work, "profile", "--gpu", gpu, "--profile", file.name, *line, check=False)

    with ThreadPoolExecutor(len(gpus)) as pool:
        list(pool.map(run, gpus, files, lines))
    rows = {row.key: row for file in files for row in read(file)}
    write(whole, list(rows.values()))


def export(work: Path) -> None:
    """Make the models that are not there yet, each in a process of its own."""
    missing = [name for name in NETWORKS if not (work / f"{name}.onnx").exists()]
    line = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("provisioning_models.py"))]
    running = [subprocess.Popen([*line, name, str(work / f"{name}.onnx")]) for name in missing]
    failed = [name for name, process in zip(missing, running, strict=True) if process.wait()]
    if failed:
        raise SystemExit(f"could not be exported: {', '.join(failed)}")


def tiny(work: Path) -> None:
    """The small models of the benchmark of isolation, under the networks' names."""
    make(work / "tiny", tiny=True)
    for name, source in zip(NETWORKS, (SMALL, LARGE, *THROUGHPUT), strict=False):
        shutil.copy(work / "tiny" / source / "1/model.onnx", work / f"{name}.onnx")


def write_spec(work: Path, objectives: Mapping[str, Mapping[str, str]], *, rehearsal: bool) -> None:
    """The spec of the models that have objectives; of all without any."""
    kind = "KIND_CPU" if rehearsal else "KIND_GPU"
    models: dict[str, Any] = {}
    for name in objectives or NETWORKS:
        models[name] = {
            "backend": "onnxruntime",
            "source": f"{name}.onnx",
            "max_batch_size": LARGEST,
            "dynamic_batching": {},
            "instance_group": [{"count": 1, "kind": kind}],
            # The held-out batches are not padded to others.
            "parameters": {"batch_buckets": "1,2,3,4,6,8"},
            **(
                {"samples": {"tokens": list(range(1000, 1000 + TOKENS))}}
                if name == "bert_base" and not rehearsal
                else {}
            ),
            **({"slo": dict(objectives[name])} if name in objectives else {}),
        }
    (work / "spec.yaml").write_text(yaml.safe_dump({"version": 1, "models": models}, sort_keys=False))


def objective(behaviour: Behaviour, part: float, most: float) -> dict[str, str]:
    """An SLO, and a part of the rate, at most this one, that a model serves with 15 percent, or the fewest measured."""
    batch = min(4, behaviour.curve.extent.batches[1])
    at = next(share for share in range(15, 101, 5) if behaviour.curve.extent.holds(batch, share))
    run = predict(behaviour, batch, at)
    return {"latency_p99": f"{6 * run.latency_ms:.1f}ms", "rate": f"{min(part * run.capacity, most):.1f}/s"}


def errors(known: Mapping[str, Behaviour], rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """The relative errors at the points that were held out: alone, and beside a neighbour."""
    alone: list[float] = []
    together: list[float] = []
    for row in rows:
        key = row.key
        if not known[key.model].curve.extent.holds(key.batch_size, key.thread_percentage):
            continue
        around = [Neighbour(known[each.model], each.thread_percentage) for each in key.beside]
        run = predict(known[key.model], key.batch_size, key.thread_percentage, around)
        (together if key.beside else alone).append(abs(run.latency_ms / row.latency_ms - 1))
    return alone, together


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def report_fits(known: Mapping[str, Behaviour]) -> None:
    print("| model | form | fit, mean | fit, most | left out, mean | alpha | demand | notes |")
    print("|---|---|---:|---:|---:|---:|---:|---|")
    for name, each in known.items():
        left_out = "-" if each.curve.held_out is None else f"{each.curve.held_out:.1%}"
        print(
            f"| {name} | {each.curve.form} | {each.curve.mean_error:.1%} | {each.curve.max_error:.1%} | {left_out} | "
            f"{each.alpha:.2f} | {each.demand:.2f} | {'; '.join(each.notes) or '-'} |"
        )
    print()


def report_errors(alone: Sequence[float], together: Sequence[float]) -> None:
    print("| points that were held out | number | mean error | largest |")
    print("|---|---:|---:|---:|")
    for label, values in (("alone", alone), ("beside a neighbour", together)):
        print(f"| {label} | {len(values)} | {mean(values):.1%} | {max(values, default=0.0):.1%} |")
    print()


def report_plan(plan: Mapping[str, Any]) -> None:
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
    return done


if __name__ == "__main__":
    sys.exit(main())
