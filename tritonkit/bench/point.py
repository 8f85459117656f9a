"""Measuring one point, once: load levels under perf_analyzer, one process a level, alone or at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from tritonkit.bench.command import WINDOWS, Measurement, argv, bearing, shell_line
from tritonkit.bench.levels import Concurrency, Intervals, Level
from tritonkit.bench.preparation import Subject
from tritonkit.bench.process import Ended, Job, run
from tritonkit.bench.records import PARTS, Repeat, Usage
from tritonkit.bench.row import Row, Window, delayed, parse, requests, sent, summed, unsettled, windows, words
from tritonkit.bench.sending import held_back
from tritonkit.bench.usage import Sampler
from tritonkit.client import activity
from tritonkit.client.endpoint import Addresses
from tritonkit.client.signature import Signature
from tritonkit.errors import BenchmarkFailed
from tritonkit.tools.perf_analyzer import PerfAnalyzer

# Averages that grow by this much over the last windows, each above the one before, are a queue that grows.
RISE = 2.0
# So often is measured what perf_analyzer does not send all of.
_ATTEMPTS = 3
_LATE = "perf_analyzer was stopped after {:g} s: answers do not come, or far too slowly for the load"


@dataclass(frozen=True)
class Bench:
    """What measuring needs, whatever the level.

    Attributes:
        server: where to send.
        analyzer: perf_analyzer.
        subjects: the models.
        data: the file with each model's input data.
        processes: the server's processes at any moment, for sampling.
        gpus: the UUIDs of the server's GPUs, likewise.
    """

    server: Addresses
    analyzer: PerfAnalyzer
    subjects: Mapping[str, Subject]
    data: Mapping[str, Path]
    processes: Callable[[], Iterable[int]] = tuple
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """One level, measured once; exactly one of ``repeat`` and ``error`` is there."""

    level: Level
    repeat: Repeat | None
    error: str


@dataclass(frozen=True)
class _Run:
    """One perf_analyzer that has ended.

    Its command line is without the token, which may not be written down. What the model did comes before what its
    members did, and ``replicas`` says how many servers have each of them.
    """

    level: Level
    argv: tuple[str, ...]
    report: Path
    log: Path
    ended: Ended
    measurement: Measurement
    server: tuple[activity.Activity, ...]
    replicas: Mapping[str, int]
    started: str
    usage: Usage = field(default_factory=Usage)

    @cached_property
    def text(self) -> str:
        """What it wrote."""
        return self.log.read_text(errors="replace")

    @cached_property
    def figures(self) -> tuple[Row | None, str]:
        """The row, or why there is none."""
        late = "" if self.ended.itself else _LATE.format(self.measurement.deadline)
        said = "\n".join(part for part in (late, words(self.text)) if part)
        if late or not self.report.exists():
            return None, said
        try:
            return parse(self.report.read_text()), ""
        except BenchmarkFailed as error:
            return None, f"{error}\n{said}"

    @cached_property
    def held_back(self) -> float | None:
        """The requests a second that were sent, where perf_analyzer kept some to itself."""
        row, _ = self.figures
        served = self.server[0].requests + self.server[0].failures if self.server else 0
        return None if row is None else held_back(self.level, row, self.text, served)


def measure(levels: Sequence[Level], folders: Sequence[Path], number: int, bench: Bench) -> list[Result]:
    """Measure levels of different models at the same time, or one level alone. A level that fails is a result too.

    One alone is measured until perf_analyzer calls it stable, else as it comes. Several have windows of the same
    length, taken as they come, so that all are under load together. Where perf_analyzer kept requests to itself, all
    are measured anew, twice at most.

    Args:
        levels: what to measure.
        folders: for each the folder of its raw output, which exists.
        number: of the repeat, from 1; it stands in the names of the files.
        bench: the rest.
    """
    together = len(levels) > 1
    longest = max(bench.subjects[level.model].measurement.interval_ms for level in levels)
    asked = []
    for level in levels:
        measurement = bench.subjects[level.model].measurement
        if together:
            measurement = replace(measurement, interval_ms=longest).as_it_comes()
        traces = [one.load.seconds for one in levels if isinstance(one.load, Intervals)]
        asked.append(measurement.over(max(traces)) if traces else measurement)
    runs = _attempts(levels, folders, asked, str(number), bench)
    (first,) = runs[:1]
    if not together and first.ended.itself and unsettled(first.text) and not first.report.exists():
        again = [asked[0].as_it_comes()]
        before = first
        runs = _attempts(levels, folders, again, f"{number}-again", bench)
        return [_result(runs[0], bench, 1.0, (before,))]
    overlap = _overlap([one.ended for one in runs])
    return [_result(one, bench, overlap) for one in runs]


def warm_up(levels: Sequence[Level], folders: Sequence[Path], seconds: float, bench: Bench) -> None:
    """Put the load on for a while, without a look at the figures."""
    interval = max(int(seconds * 1000 / WINDOWS), 1)
    asked = [replace(bench.subjects[level.model].measurement, interval_ms=interval).as_it_comes() for level in levels]
    for one in _attempt(levels, folders, asked, "warm-up", bench):
        one.report.unlink(missing_ok=True)


def _attempts(
    levels: Sequence[Level], folders: Sequence[Path], asked: Sequence[Measurement], name: str, bench: Bench
) -> list[_Run]:
    """The first attempt in which every perf_analyzer sent what it was to, or one failed; else the last one."""
    runs = _attempt(levels, folders, asked, name, bench)
    for anew in range(1, _ATTEMPTS):
        if not all(one.figures[0] for one in runs) or not any(one.held_back for one in runs):
            break
        runs = _attempt(levels, folders, asked, f"{name}-anew-{anew}", bench)
    return runs


def _attempt(
    levels: Sequence[Level], folders: Sequence[Path], asked: Sequence[Measurement], name: str, bench: Bench
) -> list[_Run]:
    models = {
        level.model: tuple(dict.fromkeys((level.model, *bench.subjects[level.model].signature.members)))
        for level in levels
    }
    lines, jobs, reports = [], [], []
    for level, folder, measurement in zip(levels, folders, asked, strict=True):
        report = folder / f"report-{name}.csv"
        report.unlink(missing_ok=True)
        data = bench.data[level.model]
        line = argv(bench.analyzer.binary, level, bench.server, measurement, data=data, report=report)
        with (folder / "command.txt").open("a") as commands:
            commands.write(f"{shell_line(line, bench.analyzer.env)}\n")
        log = folder / f"perf_analyzer-{name}.log"
        log.unlink(missing_ok=True)
        regions = _regions(bench.subjects[level.model]) if level.shared_memory == "system" else ()
        jobs.append(Job(bearing(line, bench.server.access), bench.analyzer.env, log, measurement.deadline, regions))
        lines.append(tuple(line))
        reports.append(report)
    started = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    before = activity.snapshots(bench.server)
    with Sampler(bench.processes, bench.gpus) as sampler:

        def watch(pids: Sequence[int]) -> None:
            sampler.clients = pids

        ended = run(jobs, watch)
    after = activity.snapshots(bench.server)
    return [
        _Run(
            level=level,
            argv=line,
            report=report,
            log=job.log,
            ended=end,
            measurement=measurement,
            server=activity.between(before, after, models[level.model]),
            replicas={model: activity.replicas(after, model) for model in models[level.model]},
            started=started,
            usage=sampler.usage,
        )
        for level, line, job, report, end, measurement in zip(levels, lines, jobs, reports, ended, asked, strict=True)
    ]


def _result(one: _Run, bench: Bench, overlap: float, earlier: tuple[_Run, ...] = ()) -> Result:
    log = one.text
    row, error = one.figures
    if row is None:
        return Result(one.level, None, error)
    if any(count > 1 for count in one.replicas.values()):
        row = summed(row, one.server)
    seen = windows(log)
    busy, busiest = _busy(one, row, bench.subjects[one.level.model].instances)
    closed = isinstance(one.level.load, Concurrency)
    main, members = one.server[:1], one.server[1:]
    return Result(
        one.level,
        Repeat(
            throughput=row.throughput,
            latency_avg=row.latency_avg,
            latency_p50=row.latency_p50,
            latency_p90=row.latency_p90,
            latency_p95=row.latency_p95,
            latency_p99=row.latency_p99,
            parts=_parts(row, one.server, bench.subjects[one.level.model].signature),
            requests=requests(log),
            failures=sum(each.failures for each in main),
            stable=not earlier and not unsettled(log),
            delayed_percent=0.0 if closed else delayed(log),
            batches={} if members else dict(main[0].batches) if main else {},
            cache_hits=sum(each.cache_hits for each in one.server),
            usage=one.usage,
            quantiles={50.0: row.latency_p50, 90.0: row.latency_p90, 95.0: row.latency_p95, 99.0: row.latency_p99},
            started=one.started,
            seconds=round(one.ended.seconds, 3),
            argv=tuple(each.argv for each in (*earlier, one)),
            raw=tuple(file.name for each in (*earlier, one) for file in (each.report, each.log) if file.exists()),
            members={each.model: round(each.average_batch, 3) for each in members if each.average_batch},
            sent=None if closed else sent(log) or one.held_back,
            rising=not closed and not isinstance(one.level.load, Intervals) and _rising(seen[-WINDOWS:]),
            busy=busy,
            busiest=busiest,
            overlap=round(overlap, 3),
        ),
        "",
    )


def _parts(row: Row, server: Sequence[activity.Activity], signature: Signature) -> dict[str, float]:
    """Where the time goes; the queue of an ensemble is that of its members, which perf_analyzer does not see."""
    parts = {name: value for name in PARTS if (value := getattr(row, name)) is not None}
    members = server[1:]
    if members and server[0].requests:
        parts["queue"] = 0.0
        for member in members:
            runs = member.requests / server[0].requests
            if not signature.decoupled:
                # A member counts the requests of everybody; only so many of them come from each of the ensemble's.
                runs = min(runs, signature.members.count(member.model))
            parts["queue"] += member.queue * runs
        # It counts the same time as spent between client and server.
        parts["network"] = max(parts.get("network", 0.0) - parts["queue"], 0.0)
    return parts


def _busy(one: _Run, row: Row, instances: Mapping[str, int]) -> tuple[float | None, str]:
    """How much of the time instances computed: executions a second times the length of one, over the instances."""
    found = []
    main = one.server[0] if one.server else None
    for each in one.server[1:] or one.server:
        if main is None or not each.executions or not main.inferences or not instances.get(each.model):
            continue
        # From the rate of the windows: before and after them the server idles, and is counted too.
        executions = row.throughput * each.executions / main.inferences
        everywhere = instances[each.model] * one.replicas[each.model]
        found.append((executions * each.busy / each.executions / 1e6 / everywhere, each.model))
    return max(found) if found else (None, "")


def _rising(seen: Sequence[Window]) -> bool:
    averages = [window.latency_avg for window in seen]
    growing = all(later > earlier for earlier, later in pairwise(averages))
    return len(averages) == WINDOWS and growing and averages[-1] > RISE * averages[0]


def _overlap(ends: Sequence[Ended]) -> float:
    """The share of the longest run in which all were running."""
    longest = max(end.seconds for end in ends)
    return min(end.seconds for end in ends) / longest if longest else 0.0


def _regions(subject: Subject) -> tuple[str, ...]:
    """The names that perf_analyzer gives its shared memory: one region a step of an input, one an output."""
    steps = range(len(subject.data.steps))
    inputs = [f"{name}_0_{step}" for name in subject.data.steps[0] for step in steps]
    return (*inputs, *(output.name for output in subject.signature.outputs))
