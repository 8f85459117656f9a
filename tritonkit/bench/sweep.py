"""Measuring load levels one after the other, with one perf_analyzer process each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonkit.bench.command import Measurement, argv, bearing, shell_line
from tritonkit.bench.data import document
from tritonkit.bench.levels import Level, RequestRate
from tritonkit.bench.preparation import Subject
from tritonkit.bench.process import run
from tritonkit.bench.row import Row, Window, delayed, parse, requests, summed, unsettled, windows, words
from tritonkit.client import activity
from tritonkit.client.endpoint import Addresses
from tritonkit.errors import BenchmarkFailed
from tritonkit.tools.perf_analyzer import PerfAnalyzer

# Below this share of the offered rate the queue only grows, and latencies say how long the test ran.
KEPT_RATE = 0.95
# A p99 of fewer requests is the slowest of them.
FEW_REQUESTS = 100
_LATE = "perf_analyzer was stopped after {:g} s: answers do not come, or far too slowly for the load"


@dataclass(frozen=True)
class Point:
    """One load level, measured or failed; exactly one of ``row`` and ``error`` is there.

    Attributes:
        level: the load level.
        argv: perf_analyzer's command lines, without tokens; a second one where the level never was stable.
        seconds: how long all of it took.
        row: the figures, or None.
        error: why there are none, in perf_analyzer's words; empty where there are.
        stable: whether the last windows agreed; never without a row.
        requests: how many requests the row rests on; None when that is not known.
        delayed: percentage of requests that perf_analyzer sent too late to keep the rate.
        windows: the windows of the process that gave the row.
        server: what the model did, by the server's statistics, then each member of an ensemble. From the start to the
            end of the process that gave the row, so beyond its last three windows, and whoever asked.
    """

    level: Level
    argv: tuple[tuple[str, ...], ...]
    seconds: float
    row: Row | None
    error: str
    stable: bool
    requests: int | None
    delayed: float
    windows: tuple[Window, ...]
    server: tuple[activity.Activity, ...]

    @property
    def queue(self) -> float | None:
        """Mean time in queues, in microseconds; of an ensemble's request, in those of its members."""
        members = self.server[1:]
        if members and self.server[0].requests:
            # perf_analyzer reports 0 here: an ensemble has no queue of its own.
            waited = sum(member.queue * member.requests for member in members)
            return waited / self.server[0].requests
        return self.row.queue if self.row else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before believing the figures."""
        if self.row is None:
            return (f"failed: {self.error.splitlines()[0]}",)
        notes = [] if self.stable else ["unstable"]
        if self.delayed:
            notes.append(f"perf_analyzer sent {self.delayed:g}% too late")
        load = self.level.load
        if isinstance(load, RequestRate):
            offered = load.per_second * self.level.batch_size
            if self.row.throughput < KEPT_RATE * offered:
                notes.append(f"overloaded: served {self.row.throughput:.4g} of {offered:.4g}/s")
        if self.requests is not None and self.requests < FEW_REQUESTS:
            notes.append(f"only {self.requests} requests")
        failures = sum(one.failures for one in self.server[:1])
        if failures:
            notes.append(f"{failures} requests failed")
        return tuple(notes)


def measure(
    wanted: Sequence[Level],
    subjects: Mapping[str, Subject],
    server: Addresses,
    analyzer: PerfAnalyzer,
    folder: Path,
) -> Iterator[Point]:
    """Measure the levels in order, each when the next point is asked for. A level that fails is a point too.

    Raw output goes to ``folder``: ``inputs/MODEL.json``, and for each level a folder with perf_analyzer's CSV,
    its log and its command line. It ends early when the server does not answer any more.
    """
    endpoint = server.endpoint()
    for model, subject in subjects.items():
        file = data_file(folder, model)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(document(subject.data, subject.signature))
    for level in wanted:
        yield _measure(level, subjects[level.model], server, analyzer, folder)
        if not endpoint.live():
            return


def data_file(folder: Path, model: str) -> Path:
    """Where the input data of a model lies in a results folder."""
    return folder / "inputs" / f"{model}.json"


def report_file(folder: Path, level: Level) -> Path:
    """Where perf_analyzer's CSV for a level lies in a results folder."""
    return folder / level.label / "report.csv"


def _measure(level: Level, subject: Subject, server: Addresses, analyzer: PerfAnalyzer, folder: Path) -> Point:
    models = (level.model, *subject.signature.members)
    began = time.monotonic()
    report = report_file(folder, level)
    report.parent.mkdir()
    lines: list[tuple[str, ...]] = []
    replicated: list[str] = []

    def attempt(measurement: Measurement) -> tuple[str, str, tuple[activity.Activity, ...]]:
        line = argv(analyzer.binary, level, server, measurement, data=data_file(folder, level.model), report=report)
        lines.append(tuple(line))
        commands = "".join(f"{shell_line(line, analyzer.env)}\n" for line in lines)
        (report.parent / "command.txt").write_text(commands)
        log = report.parent / f"perf_analyzer-{len(lines)}.log"
        regions = _regions(subject) if level.shared_memory == "system" else ()
        before = activity.snapshots(server)
        ended = run(bearing(line, server.access), analyzer.env, log, deadline=measurement.deadline, regions=regions)
        after = activity.snapshots(server)
        replicated.extend(model for model in models if activity.replicated(after, model))
        did = activity.between(before, after, models)
        return log.read_text(errors="replace"), "" if ended else _LATE.format(measurement.deadline), did

    log, late, did = attempt(subject.measurement)
    settled = not unsettled(log)
    if not settled and not report.exists():
        log, late, did = attempt(subject.measurement.as_it_comes())
    figures, error = _figures(report, log, late)
    if figures is not None and replicated:
        figures = summed(figures, did)
    return Point(
        level=level,
        argv=tuple(lines),
        seconds=time.monotonic() - began,
        row=figures,
        error=error,
        stable=settled and figures is not None,
        requests=requests(log),
        delayed=delayed(log),
        windows=windows(log),
        server=did,
    )


def _figures(report: Path, log: str, late: str) -> tuple[Row | None, str]:
    """The row, or why there is none."""
    said = "\n".join(part for part in (late, words(log)) if part)
    if late or not report.exists():
        return None, said
    try:
        return parse(report.read_text()), ""
    except BenchmarkFailed as error:
        return None, f"{error}\n{said}"


def _regions(subject: Subject) -> list[str]:
    """The names that perf_analyzer gives its shared memory: one region a step of an input, one an output."""
    steps = range(len(subject.data.steps))
    inputs = [f"{name}_0_{step}" for name in subject.data.steps[0] for step in steps]
    return [*inputs, *(output.name for output in subject.signature.outputs)]
