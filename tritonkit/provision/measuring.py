"""One point of a profile, measured with the benchmark's own means on servers that run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tritonkit.bench import point
from tritonkit.bench.data import document
from tritonkit.bench.levels import Concurrency, Level
from tritonkit.bench.preparation import Wish, prepare
from tritonkit.bench.records import Repeat
from tritonkit.client.endpoint import Addresses, Protocol
from tritonkit.errors import BenchmarkFailed
from tritonkit.provision import profiles
from tritonkit.provision.profiles import Key, Row
from tritonkit.tools.perf_analyzer import PerfAnalyzer

# Enough for clocks and caches to settle; servers have run every batch before they are ready.
WARM_UP = 1.0


@dataclass(frozen=True)
class Gpu:
    """The GPU that is measured on.

    Attributes:
        uuid: its UUID; empty on a CPU.
        name: the product.
        memory_mib: all of its memory.
        used_mib: what was taken of it before the servers started.
    """

    uuid: str = ""
    name: str = ""
    memory_mib: float | None = None
    used_mib: float = 0.0


CPU = Gpu(name=profiles.CPU)


@dataclass
class Meter:
    """Measures points on servers that run.

    Attributes:
        server: where they answer.
        analyzer: perf_analyzer.
        wish: data, and how long to look.
        folder: where raw output goes; a folder a point.
        samples: for each model the values of its inputs.
        samples_folder: where the paths in ``samples`` start.
        gpu: what is measured on.
        protocol: how requests are sent.
        warm_up: seconds under load before each point.
    """

    server: Addresses
    analyzer: PerfAnalyzer
    wish: Wish
    folder: Path
    samples: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    samples_folder: Path | None = None
    gpu: Gpu = field(default_factory=Gpu)
    protocol: Protocol = "http"
    warm_up: float = WARM_UP

    def row(self, key: Key, *, clients: int | None = None) -> Row:
        """Measure a point: alone its latency, then its throughput; beside others its latency while they are busy.

        Raises:
            SpecError, RequestFailed: the model cannot be asked.
            BenchmarkFailed: it could not be measured; in perf_analyzer's words.
        """
        single = self._level(key.model, 1, key.batch_size)
        busy = [self._level(each.model, 2, each.batch_size) for each in key.beside]
        latency = self._measured(key, [single, *busy], "latency", self.warm_up)
        if key.beside:
            return beside(key, latency, self.gpu)
        # Two requests for each instance: one computes while the other one travels.
        full = self._level(key.model, 2 * max(self._instances(key), 1), key.batch_size)
        return alone(key, latency, self._measured(key, [full], "throughput", 0.0), self.gpu, clients)

    def _level(self, model: str, requests: int, batch_size: int) -> Level:
        return Level(model, Concurrency(requests), batch_size, self.protocol)

    def _instances(self, key: Key) -> int:
        found = prepare(
            self.server, [self._level(key.model, 1, 1)], self.wish, samples=self.samples,
            folder=self.samples_folder, tried=False,
        )  # fmt: skip
        return min(found[key.model].instances.values(), default=1)

    def _measured(self, key: Key, levels: Sequence[Level], what: str, warm_up: float) -> Repeat:
        label = f"{key.model}-{key.thread_percentage:g}-b{key.batch_size}"
        label += "".join(f"-beside-{each.model}-{each.thread_percentage:g}-b{each.batch_size}" for each in key.beside)
        try:
            found = under_load(
                levels, self.server, self.analyzer, self.wish, self.folder / label, what, samples=self.samples,
                samples_folder=self.samples_folder, gpus=(self.gpu.uuid,) if self.gpu.uuid else (), warm_up=warm_up,
            )  # fmt: skip
        except BenchmarkFailed as error:
            raise BenchmarkFailed(f"{key}: {error.args[0]}", hint=f"The logs are in {self.folder / label}") from error
        return found[key.model]


def alone(key: Key, latency: Repeat, throughput: Repeat, gpu: Gpu, clients: int | None) -> Row:
    """The point of a model by itself: one request at a time, and as many as it takes.

    Raises:
        BenchmarkFailed: requests failed, or the mean latency is missing.
    """
    time = _mean(key, latency)
    _answered(key, throughput)
    memory = throughput.usage.gpu_memory_mib
    compute = (latency.compute or 0.0) / 1000
    return Row(
        key,
        time,
        throughput=throughput.throughput,
        transfer_ms=time - compute if 0 < compute < time else None,
        memory_mib=max(memory.max - gpu.used_mib, 1.0) if memory is not None else None,
        gpu_memory_mib=gpu.memory_mib,
        clients=clients,
        gpu=gpu.name,
    )


def beside(key: Key, latency: Repeat, gpu: Gpu) -> Row:
    """The point of a model beside busy neighbours.

    Raises:
        BenchmarkFailed: requests failed, or the mean latency is missing.
    """
    return Row(key, _mean(key, latency), gpu=gpu.name)


def _mean(key: Key, latency: Repeat) -> float:
    _answered(key, latency)
    if latency.latency_avg is None:
        raise BenchmarkFailed(f"{key}: perf_analyzer reports no mean latency")
    return latency.latency_avg / 1000


def _answered(key: Key, repeat: Repeat) -> None:
    if repeat.failures:
        raise BenchmarkFailed(f"{key}: {repeat.failures} requests failed")


def under_load(
    levels: Sequence[Level],
    server: Addresses,
    analyzer: PerfAnalyzer,
    wish: Wish,
    folder: Path,
    what: str,
    *,
    samples: Mapping[str, Mapping[str, str]],
    samples_folder: Path | None,
    gpus: tuple[str, ...] = (),
    warm_up: float,
) -> dict[str, Repeat]:
    """Measure levels of different models at once; what each model did.

    Args:
        levels: a load for each model.
        server: where they answer.
        analyzer: perf_analyzer.
        wish: data, and how long to look.
        folder: where raw output goes.
        what: the beginning of its folders' names; a model's name follows.
        samples: for each model the values of its inputs.
        samples_folder: where the paths in ``samples`` start.
        gpus: the UUIDs of the GPUs to watch.
        warm_up: seconds under load before; 0 for none.

    Raises:
        SpecError, RequestFailed: a model cannot be asked.
        BenchmarkFailed: one could not be measured; in perf_analyzer's words.
    """
    subjects = prepare(server, levels, wish, samples=samples, folder=samples_folder)
    folders = [folder / f"{what}-{level.model}" for level in levels]
    data = {}
    for place, level in zip(folders, levels, strict=True):
        place.mkdir(parents=True, exist_ok=True)
        one = subjects[level.model]
        data[level.model] = place / "input.json"
        data[level.model].write_text(document(one.data, one.signature))
    bench = point.Bench(server, analyzer, subjects, data, gpus=gpus)
    if warm_up:
        point.warm_up(levels, folders, warm_up, bench)
    found = {}
    for result in point.measure(levels, folders, 1, bench):
        if result.repeat is None:
            raise BenchmarkFailed(f"{result.level.model}: {result.error}")
        found[result.level.model] = result.repeat
    return found
