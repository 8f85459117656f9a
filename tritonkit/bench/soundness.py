"""Which figures can be believed, and what was the limit: judged from a point's repeats alone. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace

from tritonkit.bench import figures
from tritonkit.bench.records import Record, Repeat, Status

# Below this share of the offered rate the queue only grows, and latencies say how long the test ran.
KEPT_RATE = 0.95
# More requests than this sent too late, and the load is not the one that was asked for.
LATE_PERCENT = 5.0
# Random arrivals hardly lie by more standard deviations off their mean.
DEVIATIONS = 3.0
# A p99 of fewer requests is the slowest of them.
FEW_REQUESTS = 100
# Models that were together under load for less of the time were partly alone.
TOGETHER = 0.9
SATURATED = 0.85
SATURATED_GPU_PERCENT = 90.0
# Repeats that differ by more than this from their mean are not one figure.
SPREAD = 0.25


def judged(record: Record, cores: int) -> Record:
    """The record with its status, notes, limit and evidence.

    Args:
        record: with every repeat so far, and ``error`` where one failed.
        cores: logical cores that server and client share; for the limit.
    """
    if record.error is not None and not record.repeats:
        status: Status = "unbuilt" if record.status == "unbuilt" else "failed"
        return replace(record, status=status, notes=(f"{status}: {_first_line(record.error)}",), limit="none")
    notes: list[tuple[Status, str]] = []
    if record.error is not None:
        notes.append(("failed", f"failed after {len(record.repeats)} repeats: {_first_line(record.error)}"))
    for judge in (_failures, _late, _overload, _unstable):
        found = judge(record)
        if found is not None:
            notes.append(found)
    notes += [("ok", note) for note in (_few(record), _parted(record)) if note]
    found_statuses = {status for status, _ in notes}
    order: tuple[Status, ...] = ("failed", "client-limited", "overloaded", "unstable", "ok")
    status = next((each for each in order if each in found_statuses), "ok")
    limit, evidence = _limit(record, status, cores)
    return replace(record, status=status, notes=tuple(note for _, note in notes), limit=limit, evidence=evidence)


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0]


def _failures(record: Record) -> tuple[Status, str] | None:
    failures = sum(repeat.failures for repeat in record.repeats)
    return ("failed", f"{failures} requests failed") if failures else None


def _offered(record: Record) -> float | None:
    """Requests a second that were asked for; None in a closed loop."""
    return None if record.load.kind == "concurrency" else record.load.value


def _chance(record: Record, repeat: Repeat) -> float:
    """How far a rate may lie below its mean by chance: that of Poisson arrivals."""
    return DEVIATIONS / repeat.requests**0.5 if repeat.requests and record.load.distribution != "constant" else 0.0


def _late(record: Record) -> tuple[Status, str] | None:
    offered = _offered(record)
    if offered is None:
        return None
    delayed = statistics.median(repeat.delayed_percent for repeat in record.repeats)
    if delayed >= LATE_PERCENT:
        return "client-limited", f"perf_analyzer sent {delayed:g}% of the requests too late"
    short = [
        repeat
        for repeat in record.repeats
        if repeat.sent is not None and repeat.sent < offered * (KEPT_RATE - _chance(record, repeat))
    ]
    if short:
        return "client-limited", f"perf_analyzer sent {short[0].sent:.4g} of {offered:.4g} requests/s"
    return ("ok", f"perf_analyzer sent {delayed:g}% of the requests too late") if delayed else None


def _overload(record: Record) -> tuple[Status, str] | None:
    offered = _offered(record)
    if offered is None:
        return None
    for repeat in record.repeats:
        asked = offered * record.batch_size
        wanted = asked * (KEPT_RATE - _chance(record, repeat))
        if repeat.sent is not None:
            # What was really sent is known, so chance has no part in it.
            wanted = KEPT_RATE * min(repeat.sent * record.batch_size, asked)
        if repeat.throughput < wanted:
            return "overloaded", f"overloaded: served {repeat.throughput:.4g} of {asked:.4g}/s"
        if repeat.rising:
            return "overloaded", "overloaded: latencies kept rising, so the queue only grows"
    return None


def _unstable(record: Record) -> tuple[Status, str] | None:
    unstable = sum(not repeat.stable for repeat in record.repeats)
    if unstable:
        of = f" in {unstable} of {len(record.repeats)} repeats" if len(record.repeats) > 1 else ""
        return "unstable", f"unstable{of}"
    rates = figures.values(record, "throughput")
    mean = statistics.fmean(rates)
    spread = max(abs(rate - mean) for rate in rates) / mean if mean else 0.0
    if spread > SPREAD:
        return "unstable", f"unstable: the repeats' throughput differs by up to {100 * spread:.0f}% from its mean"
    return None


def _few(record: Record) -> str:
    counts = [repeat.requests for repeat in record.repeats if repeat.requests is not None]
    return f"only {min(counts)} requests" if counts and min(counts) < FEW_REQUESTS else ""


def _parted(record: Record) -> str:
    least = min(repeat.overlap for repeat in record.repeats)
    return f"all under load together for {100 * least:.0f}% of the time only" if least < TOGETHER else ""


def _limit(record: Record, status: Status, cores: int) -> tuple[str, str]:
    """The resource that was the limit, and why; the nearest to the hardware that is used up."""
    if status == "client-limited":
        return "client", next(note for note in (_late(record) or ("", ""))[1:])
    for judge in (_gpu, lambda one: _cpu(one, cores), _instances):
        found: tuple[str, str] | None = judge(record)
        if found is not None:
            return found
    if record.load.kind != "concurrency":
        if status == "overloaded":
            return "none", "more was asked than is served, and neither GPU, CPU nor instances were used up"
        return "rate", f"all of the {record.load.value:.4g} requests/s that were asked for are served"
    return "load", f"no resource was used up by {record.load.value:g} requests in flight{_idle(record)}"


def _gpu(record: Record) -> tuple[str, str] | None:
    share = figures.median(record, "gpu_percent")
    if share is None or share < SATURATED_GPU_PERCENT:
        return None
    return "gpu", f"the GPUs computed {share:.0f}% of the time"


def _cpu(record: Record, cores: int) -> tuple[str, str] | None:
    server = figures.median(record, "cpu_percent")
    if server is None:
        return None
    client = figures.median(record, "client_cpu_percent") or 0.0
    if server + client < 100 * cores * SATURATED:
        return None
    return "cpu", f"server and client used {server:.0f}% and {client:.0f}% of the machine's {100 * cores}%"


def _instances(record: Record) -> tuple[str, str] | None:
    known = [repeat for repeat in record.repeats if repeat.busy is not None]
    if not known:
        return None
    busy = statistics.median(repeat.busy for repeat in known if repeat.busy is not None)
    if busy < SATURATED:
        return None
    return "instances", f"the instances of {known[0].busiest} computed {100 * min(busy, 1):.0f}% of the time"


def _idle(record: Record) -> str:
    words: list[str] = []
    told: dict[str, Callable[[Record], float | None]] = {
        "CPU": lambda one: figures.median(one, "cpu_percent"),
        "GPU": lambda one: figures.median(one, "gpu_percent"),
    }
    for name, figure in told.items():
        value = figure(record)
        if value is not None:
            words.append(f"{name} {value:.0f}%")
    return f" ({', '.join(words)})" if words else ""
