"""How few GPUs plans need, against published heuristics and the lower bound, and how long planning takes.

    python benchmarks/provisioning.py [--instances 100] [--limit 10]

Prints the Markdown tables of docs/provisioning.md. Exits 1 when a heuristic needs fewer GPUs for any instance, or when
a plan for at most 8 GPUs and 40 models takes longer than the limit. Times are those of one core, as planning uses one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass

from provisioning_baselines import HEURISTICS
from provisioning_instances import instances

from tritonkit.provision.packing import pack
from tritonkit.provision.placement import settle

SIZES = ((4, 8), (10, 16), (20, 40))


@dataclass(frozen=True)
class Outcome:
    """One instance, solved."""

    models: int
    gpus: int
    bound: int
    seconds: float
    heuristics: dict[str, int]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--limit", type=float, default=10.0)
    options = parser.parse_args()
    found = []
    for one in instances(options.instances):
        began = time.process_time()
        plan = pack(one.workloads, one.behaviours, one.terms)
        took = time.process_time() - began
        others = {}
        for name, heuristic in HEURISTICS.items():
            gpus = heuristic(one.workloads, one.behaviours, one.terms)
            assert all(settle(placed, one.terms) is not None for placed in gpus), (one.seed, name)
            others[name] = len(gpus)
        found.append(Outcome(len(one.workloads), len(plan.gpus), plan.lower_bound, took, others))
        print(f"seed {one.seed}: {found[-1]}", file=sys.stderr, flush=True)
    report(found)
    worse = [each for each in found if any(count < each.gpus for count in each.heuristics.values())]
    slow = [each for each in found if each.gpus <= 8 and each.seconds > options.limit]
    for each in (*worse, *slow):
        print(f"FAILED: {each}", file=sys.stderr)
    return 1 if worse or slow else 0


def report(found: list[Outcome]) -> None:
    names = list(HEURISTICS)
    print(f"| models | instances | GPUs | {' | '.join(names)} | lower bound | proven fewest | median s | slowest s |")
    print(f"|---|---:|---:|{'---:|' * len(names)}---:|---:|---:|---:|")
    for low, high in (*SIZES, (0, 1000)):
        some = [each for each in found if low <= each.models <= high]
        if not some:
            continue
        label = "all" if high == 1000 else f"{low} to {high}"
        others = " | ".join(str(sum(each.heuristics[name] for each in some)) for name in names)
        seconds = [each.seconds for each in some]
        print(
            f"| {label} | {len(some)} | {sum(each.gpus for each in some)} | {others} | "
            f"{sum(each.bound for each in some)} | {sum(each.gpus == each.bound for each in some)} | "
            f"{statistics.median(seconds):.2f} | {max(seconds):.2f} |"
        )
    print()
    print("| against | fewer GPUs | as many | more | saved |")
    print("|---|---:|---:|---:|---:|")
    ours = sum(each.gpus for each in found)
    for name in names:
        fewer, same, more = (
            sum((each.gpus > each.heuristics[name]) - (each.gpus < each.heuristics[name]) == sign for each in found)
            for sign in (-1, 0, 1)
        )
        theirs = sum(each.heuristics[name] for each in found)
        print(f"| {name} | {fewer} | {same} | {more} | {1 - ours / theirs:.0%} |")


if __name__ == "__main__":
    sys.exit(main())
