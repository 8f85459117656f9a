"""How far servers that share one GPU disturb each other: time slices, MPS, and MPS with limits.

Run from the root of the repository, with torch, torchvision, onnx, onnxruntime-gpu and nvidia-pytriton installed::

    PYTHONPATH=. python benchmarks/isolation.py --work /tmp/isolation

A small model (MobileNetV2) gets requests at a steady Poisson rate, in a server of its own. Its neighbour is a second
server on the same GPU, loaded as far as it goes: with ResNet-50 at batch 8, bound by the SMs, or with passes over big
tensors, bound by the memory's bandwidth, which MPS does not partition. Four arms: time slices, MPS without limits,
MPS with several splits, and the small model alone. Every figure is the median of ``--repeats`` measurements after a
warm-up; the latency over that alone is the isolation. Then four models of batch 1, each loaded as far as it goes:
what all of them get together, over what time slices give them. Requests go to the servers themselves, through shared
memory, so that the GPU is measured and not the transport.

With ``--gpus none`` all of it runs on the CPU with tiny models: a rehearsal, whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from isolation_models import BANDWIDTH, LARGE, SMALL, THROUGHPUT, make

from tritonkit import serve
from tritonkit.bench import point, preparation, soundness
from tritonkit.bench.command import ANY_PERCENTAGE, WINDOWS, Measurement, argv
from tritonkit.bench.data import document
from tritonkit.bench.levels import Concurrency, Level, RequestRate, recorded
from tritonkit.bench.records import Record
from tritonkit.client.endpoint import Addresses, Endpoint
from tritonkit.spec.servers import Server
from tritonkit.tools import perf_analyzer
from tritonkit.tools.launcher import tied

SPLITS = ((40, 60), (30, 50), (20, 40), (50, 50))
NEIGHBOURS = {
    LARGE: Level(LARGE, Concurrency(6), 8, "grpc", "system"),
    BANDWIDTH: Level(BANDWIDTH, Concurrency(4), 1, "grpc", "system"),
}
WARM_SECONDS = 2.0
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - POSIX shared memory lies there on Linux
FREE_PORTS = {"http": 0, "grpc": 0, "metrics": 0}


@dataclass
class Latencies:
    """One arm's measurements of the small model, in milliseconds, beside one neighbour."""

    arm: str
    neighbour: str
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    neighbour_rate: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Rates:
    """One arm's inferences a second of each model, all loaded together."""

    arm: str
    rates: dict[str, float]


@dataclass
class Bench:
    """What the arms have in common, and what they found."""

    arguments: argparse.Namespace
    analyzer: perf_analyzer.PerfAnalyzer
    latencies: list[Latencies] = field(default_factory=list)
    throughput: list[Rates] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    runs: int = 0

    @property
    def folder(self) -> Path:
        """A new folder for one run of perf_analyzer."""
        self.runs += 1
        place: Path = self.arguments.work / "raw" / f"{self.runs:03}"
        place.mkdir(parents=True)
        return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder, or one that is not there yet")
    parser.add_argument("--gpus", default="0", help="the GPU, by index or UUID; none rehearses on the CPU")
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second of the small model")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one measurement")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds after which no further arm begins")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--splits", default=" ".join(f"{a}/{b}" for a, b in SPLITS), help="small/neighbour, in percent")
    arguments = parser.parse_args()
    arguments.work = arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    make(arguments.work / "models", tiny=arguments.gpus == "none")
    print(f"models made: {time.monotonic() - began:.0f} s", flush=True)
    bench = Bench(arguments, perf_analyzer.find())
    splits = [tuple(float(part) for part in split.split("/")) for split in arguments.splits.split()]
    limited = [partial(latency_arm, bench, f"MPS {a:g}/{b:g}", pair(a, b), "on") for a, b in splits]
    arms: list[partial[None]] = [
        partial(latency_arm, bench, "alone", (server(SMALL),), "off"),
        partial(latency_arm, bench, "time slices", pair(), "off"),
        partial(latency_arm, bench, "MPS", pair(), "on"),
        limited[0],
        partial(throughput_arm, bench, "time slices", "off", None),
        partial(throughput_arm, bench, "MPS", "on", None),
        # The SM-bound neighbour is what limits are for: one split shows what they do against the other.
        *(partial(arm, neighbours=(LARGE,)) for arm in limited[1:]),
        partial(throughput_arm, bench, "MPS 25 each", "on", 25.0),
    ]
    for arm in arms:
        name = f"{arm.func.__name__} {arm.args[1]}"
        if time.monotonic() - began > arguments.budget:
            bench.failed.append(f"{name}: left out, the time was up")
            continue
        started = time.monotonic()
        try:
            arm()
        except Exception:
            # One arm that fails leaves the others; the exit code tells of it.
            bench.failed.append(f"{name}: {traceback.format_exc(limit=2).strip().splitlines()[-1]}")
            traceback.print_exc()
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        written = {
            "latencies": [asdict(one) for one in bench.latencies],
            "throughput": [asdict(one) for one in bench.throughput],
        }
        (arguments.work / "results.json").write_text(json.dumps(written, indent=1))
    print(f"all: {time.monotonic() - began:.0f} s\n\n{report(bench)}")
    sys.exit(1 if bench.failed else 0)


def server(*models: str, name: str = "", share: float | None = None) -> Server:
    return Server(name or models[0].replace("_", "-"), 0, models, thread_percentage=share)


def pair(small: float | None = None, large: float | None = None) -> tuple[Server, ...]:
    return server(SMALL, share=small), server(LARGE, BANDWIDTH, name="neighbour", share=large)


@contextmanager
def up(bench: Bench, servers: Sequence[Server], mps: Any) -> Iterator[dict[str, Addresses]]:
    """The servers, each by the models that it has."""
    on_cpu = bench.arguments.gpus == "none"
    asked = {name for one in servers for name in one.models or ()}
    repository = bench.arguments.work / "served"
    for link in repository.glob("*"):
        link.unlink()
    repository.mkdir(exist_ok=True)
    for name in asked:
        (repository / name).symlink_to(bench.arguments.work / "models" / name)
    request = serve.Request(
        repository=repository,
        project=bench.arguments.work,
        servers=tuple(servers),
        gpus=(bench.arguments.gpus,),
        mps="auto" if on_cpu else mps,
        ports=FREE_PORTS,
        policy=serve.Policy(start_timeout=180, stop_timeout=10),
    )
    with serve.up(serve.plan(request, serve.survey(request))) as deployment:
        yield {
            model: Addresses(one.addresses["http"], one.addresses["grpc"])
            for one in deployment.servers
            if one.kind == "server"
            for model in one.models
        }


def latency_arm(
    bench: Bench,
    arm: str,
    servers: Sequence[Server],
    mps: str,
    neighbours: Sequence[str | None] = (None, LARGE, BANDWIDTH),
) -> None:
    level = Level(SMALL, RequestRate(bench.arguments.rate, "poisson"), 1, "grpc", "system")
    measurement = Measurement(int(bench.arguments.seconds * 1000 / WINDOWS), ANY_PERCENTAGE, WINDOWS)
    with up(bench, servers, mps) as addresses:
        subject = prepared(addresses[SMALL], level, measurement)
        warm = Measurement(int(WARM_SECONDS * 1000 / WINDOWS), ANY_PERCENTAGE, WINDOWS)
        once(bench, level, replace(subject, measurement=warm), addresses[SMALL])
        for neighbour in neighbours if len(servers) > 1 else (None,):
            found = Latencies(arm, neighbour or "idle")
            bench.latencies.append(found)
            with ExitStack() as loaded:
                if neighbour is not None:
                    loaded.enter_context(load(bench, NEIGHBOURS[neighbour], addresses[neighbour]))
                    time.sleep(WARM_SECONDS)
                # Beside an idle neighbour one look is enough, but for the figure that all others are over.
                once_only = neighbour is None and len(servers) > 1
                for _ in range(1 if once_only else bench.arguments.repeats):
                    before = counted(addresses, neighbour)
                    started = time.monotonic()
                    record = once(bench, level, subject, addresses[SMALL])
                    spent = time.monotonic() - started
                    (repeat,) = record.repeats
                    found.p50.append(repeat.latency_p50 / 1000)
                    found.p99.append(repeat.latency_p99 / 1000)
                    found.neighbour_rate.append((counted(addresses, neighbour) - before) / spent)
                    found.notes += record.notes
            print(f"  {arm}, {found.neighbour}: p99 {shown(found.p99)} ms", flush=True)


def throughput_arm(bench: Bench, arm: str, mps: str, share: float | None) -> None:
    with up(bench, [server(name, share=share) for name in THROUGHPUT], mps) as addresses:
        with ExitStack() as loaded:
            for name in THROUGHPUT:
                loaded.enter_context(load(bench, Level(name, Concurrency(8), 1, "grpc", "system"), addresses[name]))
            time.sleep(2 * WARM_SECONDS)
            before = {name: counted(addresses, name) for name in THROUGHPUT}
            started = time.monotonic()
            time.sleep(bench.arguments.seconds)
            after = {name: counted(addresses, name) for name in THROUGHPUT}
            spent = time.monotonic() - started
        rates = {name: (after[name] - before[name]) / spent for name in THROUGHPUT}
        bench.throughput.append(Rates(arm, rates))
        print(f"  {arm}: {', '.join(f'{name} {rate:.0f}/s' for name, rate in rates.items())}", flush=True)


def prepared(addresses: Addresses, level: Level, measurement: Measurement) -> preparation.Subject:
    subject = preparation.prepare(addresses, [level], preparation.Wish({}, {}, seed=1))[level.model]
    return replace(subject, measurement=measurement)


def written(folder: Path, subject: preparation.Subject) -> Path:
    """The file with a model's input data."""
    file = folder / "data.json"
    file.write_text(document(subject.data, subject.signature))
    return file


def once(bench: Bench, level: Level, subject: preparation.Subject, addresses: Addresses) -> Record:
    """One measurement, judged."""
    folder = bench.folder
    ready = point.Bench(addresses, bench.analyzer, {level.model: subject}, {level.model: written(folder, subject)})
    (result,) = point.measure([level], [folder], 1, ready)
    assert result.repeat is not None, result.error
    record = Record("", level.label, level.model, recorded(level.load), "ok", repeats=(result.repeat,))
    return soundness.judged(record, cores=os.cpu_count() or 1)


@contextmanager
def load(bench: Bench, level: Level, addresses: Addresses) -> Iterator[None]:
    """One perf_analyzer that keeps a model busy for the time of a block."""
    subject = prepared(addresses, level, Measurement(1000, 0.0, 1_000_000))
    folder = bench.folder
    data = written(folder, subject)
    line = argv(bench.analyzer.binary, level, addresses, subject.measurement, data=data, report=folder / "report.csv")
    with running(line, bench.analyzer.env, folder / "load.log") as process:
        yield
        if process.poll() is not None:
            raise RuntimeError(f"the load on {level.model} ended:\n{(folder / 'load.log').read_text()[-1500:]}")


@contextmanager
def running(line: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the time of a block, killed at the end; the shared memory that it made goes with it."""
    before = set(SHARED_MEMORY.iterdir())
    with log.open("wb") as sink:
        process = subprocess.Popen(tied(line), env={**os.environ, **env}, stdout=sink, stderr=sink)
    try:
        yield process
    finally:
        # What it has mapped is known only while it lives. A region of that name that was there before is another's.
        made = mapped(process.pid) - before
        # Asked in a friendlier way it would go on to the end of its window.
        process.kill()
        process.wait(10)
        for region in made:
            region.unlink(missing_ok=True)


def mapped(pid: int) -> set[Path]:
    """The shared memory that a process uses; none of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    files = (Path(fields[5]) for fields in (line.split(maxsplit=5) for line in lines) if len(fields) > 5)
    return {file for file in files if file.parent == SHARED_MEMORY}


def counted(addresses: dict[str, Addresses], model: str | None) -> int:
    """How many inferences a model has made."""
    if model is None:
        return 0
    (told,) = Endpoint(addresses[model].http).statistics(model)["model_stats"]
    return int(told["inference_count"])


def shown(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})"


def report(bench: Bench) -> str:
    lines = [
        "| arm | neighbour | p50 ms | p99 ms (each) | p99 over alone | neighbour/s |",
        "|---|---|---:|---:|---:|---:|",
    ]
    alone = next((one for one in bench.latencies if one.arm == "alone" and one.p99), None)
    base = statistics.median(alone.p99) if alone else float("nan")
    ratios: dict[tuple[str, str], float] = {}
    for one in bench.latencies:
        if not one.p99:
            continue
        ratios[one.arm, one.neighbour] = ratio = statistics.median(one.p99) / base
        notes = f" {'; '.join(dict.fromkeys(one.notes))}" if one.notes else ""
        rate = f"{statistics.median(one.neighbour_rate):.0f}" if one.neighbour != "idle" else "-"
        figures = f"{statistics.median(one.p50):.2f} | {shown(one.p99)} | {ratio:.2f}{notes} | {rate}"
        lines.append(f"| {one.arm} | {one.neighbour} | {figures} |")
    lines += ["", "| co-located, batch 1 | " + " | ".join(THROUGHPUT) + " | together | over time slices |"]
    lines.append("|---|" + "---:|" * (len(THROUGHPUT) + 2))
    sliced = next((one for one in bench.throughput if one.arm == "time slices"), None)
    total = sum(sliced.rates.values()) if sliced else float("nan")
    for rates in bench.throughput:
        each = " | ".join(f"{rate:.0f}" for rate in rates.rates.values())
        together = sum(rates.rates.values())
        lines.append(f"| {rates.arm} | {each} | {together:.0f} | {together / total:.2f} |")
    limited = {arm: ratio for (arm, neighbour), ratio in ratios.items() if neighbour == LARGE and "/" in arm}
    if limited:
        best = min(limited, key=lambda arm: limited[arm])
        lines += ["", f"Isolation, best split: {best}, p99 {limited[best]:.2f} times that alone (target: at most 1.2)."]
    gains = {rates.arm: sum(rates.rates.values()) / total for rates in bench.throughput if rates.arm != "time slices"}
    if gains:
        each = ", ".join(f"{arm} {gain:.2f}" for arm, gain in gains.items())
        lines.append(f"Throughput over time slices: {each} (target: at least 1.2).")
    return "\n".join([*lines, *(f"FAILED {words}" for words in bench.failed)])


if __name__ == "__main__":
    main()
