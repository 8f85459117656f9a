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
from tritonkit.provision.profiles import Key, Row
from tritonkit.tools.perf_analyzer import PerfAnalyzer

# Enough for clocks and caches to settle; servers have run every batch before they are ready.
WARM_UP = 1.0


@dataclass(frozen=True)
class Gpu:
    """The GPU that is measured on; empty on a CPU.

    Attributes:
        uuid: its UUID.
        name: the product.
        memory_mib: all of its memory.
        used_mib: what was taken of it before the servers started.
    """

    uuid: str = ""
    name: str = ""
    memory_mib: float | None = None
    used_mib: float = 0.0


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
        if latency.latency_avg is None:
            raise BenchmarkFailed(f"{key}: perf_analyzer reports no mean latency")
        time = latency.latency_avg / 1000
        if key.beside:
            return Row(key, time, gpu=self.gpu.name)
        # Two requests for each instance: one computes while the other one travels.
        full = self._level(key.model, 2 * max(self._instances(key), 1), key.batch_size)
        throughput = self._measured(key, [full], "throughput", 0.0)
        memory = throughput.usage.gpu_memory_mib
        compute = (latency.compute or 0.0) / 1000
        return Row(
            key,
            time,
            throughput=throughput.throughput,
            transfer_ms=time - compute if 0 < compute < time else None,
            memory_mib=max(memory.max - self.gpu.used_mib, 1.0) if memory is not None else None,
            gpu_memory_mib=self.gpu.memory_mib,
            clients=clients,
            gpu=self.gpu.name,
        )

    def _level(self, model: str, requests: int, batch_size: int) -> Level:
        return Level(model, Concurrency(requests), batch_size, self.protocol)

    def _instances(self, key: Key) -> int:
        found = prepare(
            self.server, [self._level(key.model, 1, 1)], self.wish, samples=self.samples,
            folder=self.samples_folder, tried=False,
        )  # fmt: skip
        return min(found[key.model].instances.values(), default=1)

    def _measured(self, key: Key, levels: Sequence[Level], what: str, warm_up: float) -> Repeat:
        subjects = prepare(self.server, levels, self.wish, samples=self.samples, folder=self.samples_folder)
        label = f"{key.model}-{key.thread_percentage:g}-b{key.batch_size}"
        label += "".join(f"-beside-{each.model}-{each.thread_percentage:g}-b{each.batch_size}" for each in key.beside)
        folders = [self.folder / label / f"{what}-{level.model}" for level in levels]
        data = {}
        for folder, level in zip(folders, levels, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            one = subjects[level.model]
            data[level.model] = folder / "input.json"
            data[level.model].write_text(document(one.data, one.signature))
        gpus = (self.gpu.uuid,) if self.gpu.uuid else ()
        bench = point.Bench(self.server, self.analyzer, subjects, data, gpus=gpus)
        if warm_up:
            point.warm_up(levels, folders, warm_up, bench)
        results = point.measure(levels, folders, 1, bench)
        for result in results:
            if result.repeat is None:
                raise BenchmarkFailed(
                    f"{key}: {result.level.model}: {result.error}", hint=f"perf_analyzer's logs are in {self.folder}"
                )
        first = results[0].repeat
        if first is None:
            raise AssertionError("a result without an error has a repeat")
        if first.failures:
            raise BenchmarkFailed(f"{key}: {first.failures} requests failed", hint=f"See the logs in {self.folder}")
        return first
