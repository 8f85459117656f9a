"""Autoscaling on a real GPU: the load of one model doubles and falls again, and percentages follow.

    PYTHONPATH=. python benchmarks/autoscale_gpu.py --work /tmp/provisioning [--gpu 0] [--phase 45]

Wants the folder of ``provisioning_gpu.py`` with its profile, and what that one needs. Requests are sent at random
times (Poisson) whether or not they are answered. Prints a Markdown table: one line a look of ``tritonkit autoscale``,
and how many requests of the whole time were lost.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from provisioning_gpu import objective, tritonkit

from tritonkit.provision.observing import SUMMARIES
from tritonkit.provision.prediction import behaviours
from tritonkit.provision.profiles import read

MODELS = ("resnet50", "bert_base")
# What the first model is asked for in each phase, as a part of the rate that was planned for.
PHASES = (0.8, 1.7, 0.3)
# Both begin with about a quarter of the GPU.
PART = 0.6
LOOK = 5.0
FOLLOWING = ("--interval", f"{LOOK:g}", "--rest", "10", "--patience", "20", "--json")
ASKING = 32


@dataclass
class Load:
    """Requests to one model at random times; ``rate`` may be changed meanwhile.

    Attributes:
        ask: sends one request, and raises where it fails.
        rate: requests a second.
        answers: of each request when it was due, in seconds, and its latency; None where it failed.
    """

    ask: Callable[[], object]
    rate: float
    answers: list[tuple[float, float | None]] = field(default_factory=list)

    def run(self, over: threading.Event, seed: int) -> None:
        """Send until ``over``; latencies count from when a request was due."""
        rng = random.Random(seed)  # noqa: S311
        due = time.monotonic()
        with ThreadPoolExecutor(ASKING) as pool:
            while not over.is_set():
                due += rng.expovariate(self.rate)
                time.sleep(max(due - time.monotonic(), 0))
                pool.submit(self._one, due)

    def _one(self, due: float) -> None:
        try:
            self.ask()
        except Exception:
            self.answers.append((due, None))
        else:
            self.answers.append((due, time.monotonic() - due))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--gpu", type=int, default=0)
    parser.add_argument("--phase", type=float, default=45.0, help="seconds of each of the three phases")
    options = parser.parse_args()
    folder = options.work / "autoscale"
    folder.mkdir(exist_ok=True)
    rates = plan(options.work, folder, options.gpu)
    files = ("spec.yaml", "plan.yaml", "--profile", "../profiles.csv")
    tritonkit(folder, "up", "spec.yaml", "plan.yaml", SUMMARIES, "--detach")
    try:
        address = json.loads(tritonkit(folder, "status", "--json").stdout)["http"]
        loads = {name: Load(asker(address, name), rates[name]) for name in MODELS}
        first = loads[MODELS[0]]
        first.rate = PHASES[0] * rates[MODELS[0]]
        looks = []
        with sending(loads.values()):
            count = int(options.phase * len(PHASES) / LOOK)
            line = [sys.executable, "-m", "tritonkit", "autoscale", *files, *FOLLOWING, "--looks", str(count)]
            began = time.monotonic()
            with subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, text=True) as following:
                for text in following.stdout or ():
                    now = time.monotonic()
                    looks.append((now - began, first.rate, json.loads(text), percentages(folder), seen(loads, now)))
                    first.rate = PHASES[min(int((now - began) / options.phase), len(PHASES) - 1)] * rates[MODELS[0]]
        report(looks, rates)
        for name, load in loads.items():
            lost = sum(taken is None for _, taken in load.answers)
            print(f"{name}: {len(load.answers)} requests, {lost} without an answer")
    finally:
        tritonkit(folder, "down")
    return 0


def plan(work: Path, folder: Path, gpu: int) -> dict[str, float]:
    """Write the spec and the plan, on this GPU; the rates that it is for."""
    known = behaviours(read(work / "profiles.csv"))
    spec: dict[str, Any] = yaml.safe_load((work / "spec.yaml").read_text())
    models = {name: {**spec["models"][name], "source": f"../{name}.onnx"} for name in MODELS}
    for name in MODELS:
        models[name]["slo"] = objective(known[name], PART, 1e6)
    (folder / "spec.yaml").write_text(yaml.safe_dump({"version": 1, "models": models}, sort_keys=False))
    tritonkit(folder, "provision", "--profile", "../profiles.csv", "--gpus", "1", "-o", "plan.yaml", "--force")
    made = yaml.safe_load((folder / "plan.yaml").read_text())
    for server in made["servers"]:
        server["gpus"] = [gpu]
    (folder / "plan.yaml").write_text(yaml.safe_dump(made, sort_keys=False))
    return {name: float(models[name]["slo"]["rate"].removesuffix("/s")) for name in MODELS}


def asker(address: str, model: str) -> Callable[[], object]:
    """A function that sends one request; every thread has a connection of its own."""
    from tritonclient.http import InferenceServerClient, InferInput

    if model == "bert_base":
        array = np.arange(1000, 1128, dtype=np.int32)[None]
        given = InferInput("tokens", list(array.shape), "INT32")
    else:
        array = np.full((1, 3, 224, 224), 127, dtype=np.uint8)
        given = InferInput("image", list(array.shape), "UINT8")
    given.set_data_from_numpy(array)
    local = threading.local()

    def ask() -> object:
        if not hasattr(local, "client"):
            local.client = InferenceServerClient(address, network_timeout=10.0, connection_timeout=10.0)
        return local.client.infer(model, [given])

    return ask


@contextmanager
def sending(loads: Any) -> Iterator[None]:
    """All loads at once, for the time of a block."""
    over = threading.Event()
    threads = [threading.Thread(target=load.run, args=(over, seed)) for seed, load in enumerate(loads)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def seen(loads: dict[str, Load], now: float) -> dict[str, tuple[float, float, int]]:
    """Of the last look's time: answers a second, their p99 in ms, and requests without an answer."""
    found = {}
    for name, load in loads.items():
        late = [taken for due, taken in list(load.answers) if now - LOOK <= due]
        good = sorted(taken for taken in late if taken is not None)
        p99 = good[min(int(0.99 * len(good)), len(good) - 1)] * 1000 if good else float("nan")
        found[name] = (len(good) / LOOK, p99, len(late) - len(good))
    return found


def percentages(folder: Path) -> dict[str, float]:
    """Each server's thread percentage now."""
    # While a server is started again, the exit code says that not all is ready.
    shown = json.loads(tritonkit(folder, "status", "--json", check=False).stdout)
    return {server["name"]: server["thread_percentage"] for server in shown["servers"] if server["kind"] == "server"}


def report(looks: Sequence[Any], rates: dict[str, float]) -> None:
    print(f"planned for: {', '.join(f'{name} {rate:g}/s' for name, rate in rates.items())}")
    print()
    heads = [f"{name}: {word}" for name in MODELS for word in ("percent", "answers/s", "p99 ms", "lost")]
    print(f"| s | {MODELS[0]} asked/s | {' | '.join(heads)} | changes |")
    print(f"|{'---:|' * (2 + len(heads))}---|")
    for at, rate, look, shares, figures in looks:
        cells = [
            text
            for name in MODELS
            for text in (
                f"{shares.get(name, 0):g}", f"{figures[name][0]:.0f}", f"{figures[name][1]:.1f}", f"{figures[name][2]}",
            )
        ]  # fmt: skip
        changes = "; ".join(look["changes"]) or look["beyond"]
        print(f"| {at:.0f} | {rate:.0f} | {' | '.join(cells)} | {changes} |")
    print()


if __name__ == "__main__":
    sys.exit(main())
