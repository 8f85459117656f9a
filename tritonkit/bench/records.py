"""What a study measured, as values that stay readable: one record a point, each with its repeats.

Plain data and JSON; nothing here measures, judges or prints. Times are microseconds, rates are a second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from tritonkit.errors import BenchmarkFailed

FORMAT = 2
STUDY_FILE = "study.json"
POINTS = "points"
POINT_FILE = "point.json"

Status: TypeAlias = Literal["ok", "unstable", "overloaded", "client-limited", "failed", "unbuilt"]
STATUSES: tuple[Status, ...] = get_args(Status)
PARTS = ("client_send", "network", "queue", "compute_input", "compute_infer", "compute_output", "client_recv")
"""Where a request's time goes, in the order in which it passes."""


@dataclass(frozen=True)
class Load:
    """How much was asked of a model.

    Attributes:
        kind: ``concurrency`` (so many requests in flight), ``request_rate`` (so many sent a second) or ``intervals``
            (sent at the times of a generated or recorded trace).
        value: the requests in flight, or the mean rate in requests a second.
        distribution: how requests are spaced: ``constant``, ``poisson``, or the name of the arrivals; empty for
            ``concurrency``.
    """

    kind: str
    value: float
    distribution: str = ""

    def __str__(self) -> str:
        number = f"{self.value:g}"
        return f"{number} concurrent" if self.kind == "concurrency" else f"{number}/s {self.distribution}"


@dataclass(frozen=True)
class Extent:
    """The mean and the largest of what was sampled."""

    mean: float
    max: float


@dataclass(frozen=True)
class Usage:
    """What the server used meanwhile; None where it was not measured.

    Attributes:
        cpu_percent: of all its processes; 100 is one core kept busy.
        client_cpu_percent: of perf_analyzer.
        gpu_percent: the share of time in which the GPUs computed, mean over the server's GPUs.
        gpu_memory_mib: memory taken on the server's GPUs, all together.
    """

    cpu_percent: Extent | None = None
    client_cpu_percent: Extent | None = None
    gpu_percent: Extent | None = None
    gpu_memory_mib: Extent | None = None


@dataclass(frozen=True)
class Repeat:
    """One measurement of a point.

    Attributes:
        throughput: inferences a second; a request with a batch of 8 is 8 inferences.
        latency_avg: mean time of a request, as the client sees it; None where it is not known.
        latency_p50: half of the requests took at most this long; p90 to p99 likewise.
        parts: mean time in each of ``PARTS``, as far as it is known.
        requests: how many requests the figures rest on; None when that is not known.
        failures: requests that failed, by the server's count.
        stable: whether perf_analyzer called its last windows alike.
        delayed_percent: requests that the client sent too late to keep the rate.
        batches: how many executions there were of each batch size; of an ensemble, nothing.
        cache_hits: requests that the response cache answered.
        usage: what the server used.
        quantiles: latency by percentile, as many as are known.
        started: when it began, in ISO 8601.
        seconds: how long it took, warm-up left out.
        argv: the command lines that gave the figures.
        raw: the files with the raw output, in the point's folder.
        members: of an ensemble, the average batch of each member.
        sent: requests a second that the client sent, where it fell behind the rate; None where it kept it.
        rising: whether latencies kept rising from window to window at a fixed rate: a queue that only grows.
        busy: the share of the time in which the instances computed, for the model or the member that has least to
            spare; None when it is not known.
        busiest: that model.
        overlap: of models measured together, the share of the time in which all of them were under load.
    """

    throughput: float
    latency_avg: float | None
    latency_p50: float
    latency_p90: float
    latency_p95: float
    latency_p99: float
    parts: Mapping[str, float] = field(default_factory=dict)
    requests: int | None = None
    failures: int = 0
    stable: bool = True
    delayed_percent: float = 0.0
    batches: Mapping[int, int] = field(default_factory=dict)
    cache_hits: int = 0
    usage: Usage = field(default_factory=Usage)
    quantiles: Mapping[float, float] = field(default_factory=dict)
    started: str = ""
    seconds: float = 0.0
    argv: tuple[tuple[str, ...], ...] = ()
    raw: tuple[str, ...] = ()
    members: Mapping[str, float] = field(default_factory=dict)
    sent: float | None = None
    rising: bool = False
    busy: float | None = None
    busiest: str = ""
    overlap: float = 1.0

    @property
    def compute(self) -> float | None:
        """The server's compute times together; None where none is known."""
        known = [self.parts[name] for name in PARTS if name.startswith("compute") and name in self.parts]
        return sum(known) if known else None

    @property
    def average_batch(self) -> float | None:
        """Items in one execution, on average; None when none was counted."""
        executions = sum(self.batches.values())
        return sum(size * count for size, count in self.batches.items()) / executions if executions else None


@dataclass(frozen=True)
class Record:
    """One point of a study: what was asked, and every time that it was measured.

    Attributes:
        key: a digest of everything that defines the point; two records with one key measured the same thing.
        label: the name of its folder, unique in the study.
        model: the model.
        load: how much was asked of it.
        status: ``ok``, or why the figures need care: ``unstable``, ``overloaded`` (more was asked than is served),
            ``client-limited`` (perf_analyzer could not send as much as was asked), ``failed`` (no figures, or requests
            that failed), ``unbuilt`` (the deployment could not be built or started).
        configuration: the deployment axes' values, by dotted path; empty when nothing of the deployment is varied.
        variant: the name of the deployment, where it has one.
        experiment: the part of the study that it belongs to; empty where there is one part.
        batch_size: items in one request.
        protocol: ``http`` or ``grpc``.
        shared_memory: ``none`` or ``system``.
        streaming: whether requests went over one stream.
        together: the models that were loaded at the same time, itself among them; empty for a model alone.
        repeats: the measurements; empty when all failed.
        notes: what a reader must know before believing the figures, in short sentences.
        limit: the resource that was the limit, in one word: ``gpu``, ``cpu``, ``instances``, ``client``, ``rate``
            (no more was asked), ``load`` (likewise, of a closed loop) or ``none`` (nobody can tell).
        evidence: why, in one sentence.
        error: why there are no figures, or None.
        environment: versions of tritonkit, perf_analyzer and the server, and the hardware.
    """

    key: str
    label: str
    model: str
    load: Load
    status: Status
    configuration: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""
    experiment: str = ""
    batch_size: int = 1
    protocol: str = "http"
    shared_memory: str = "none"
    streaming: bool = False
    together: tuple[str, ...] = ()
    repeats: tuple[Repeat, ...] = ()
    notes: tuple[str, ...] = ()
    limit: str = "none"
    evidence: str = ""
    error: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values that JSON can hold; ``record`` is the way back."""
        return asdict(self)


@dataclass(frozen=True)
class Study:
    """A study's folder, read.

    Attributes:
        name: the study's name.
        document: ``study.json`` as it is: the study as given, versions, hardware, state, planned points.
        records: the points that are measured or failed, in the order of the plan.
    """

    name: str
    document: Mapping[str, Any]
    records: tuple[Record, ...]


def record(document: Mapping[str, Any]) -> Record:
    """The record that ``as_json`` wrote; keys that are not known are passed over.

    Raises:
        KeyError, TypeError, ValueError: it is no such document.
    """
    values = _known(Record, document)
    values["load"] = Load(**_known(Load, document["load"]))
    values["repeats"] = tuple(_repeat(each) for each in document.get("repeats", ()))
    for name in ("together", "notes"):
        values[name] = tuple(document.get(name, ()))
    return Record(**values)


def load(folder: Path) -> Study:
    """Read a study's folder, whatever state it is in.

    Raises:
        BenchmarkFailed: it is no study's folder, or one of its files cannot be read.
    """
    document = _read(folder / STUDY_FILE, hint="Give the folder that tritonkit bench wrote (--output).")
    if document.get("format") != FORMAT:
        raise BenchmarkFailed(f"{folder / STUDY_FILE}: expected format {FORMAT}, found {document.get('format')!r}")
    records = []
    for label in document.get("planned", []):
        file = folder / POINTS / label / POINT_FILE
        if file.is_file():
            records.append(read_point(file))
    return Study(str(document.get("name", folder.name)), document, tuple(records))


def read_point(file: Path) -> Record:
    """The record in a ``point.json``.

    Raises:
        BenchmarkFailed: it cannot be read, or is none.
    """
    document = _read(file)
    try:
        return record(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BenchmarkFailed(f"{file}: not a point that tritonkit wrote ({type(error).__name__}: {error})") from error


def _read(file: Path, hint: str | None = None) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text())
    except FileNotFoundError:
        raise BenchmarkFailed(f"{file}: no such file, so {file.parent} holds no study", hint=hint) from None
    except (OSError, ValueError) as error:
        raise BenchmarkFailed(f"{file}: cannot be read: {error}", hint=hint) from error
    if not isinstance(document, dict):
        raise BenchmarkFailed(f"{file}: expected a mapping, found {type(document).__name__}", hint=hint)
    return document


def _repeat(document: Mapping[str, Any]) -> Repeat:
    values = _known(Repeat, document)
    values["batches"] = {int(size): int(count) for size, count in document.get("batches", {}).items()}
    values["quantiles"] = {float(share): float(time) for share, time in document.get("quantiles", {}).items()}
    usage = document.get("usage") or {}
    values["usage"] = Usage(**{name: Extent(**extent) for name, extent in usage.items() if extent is not None})
    values["argv"] = tuple(tuple(line) for line in document.get("argv", ()))
    values["raw"] = tuple(document.get("raw", ()))
    return Repeat(**values)


def _known(kind: type[Any], document: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in document.items() if name in names}
