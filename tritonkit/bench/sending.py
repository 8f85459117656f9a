"""Whether perf_analyzer sent what a load asks for.

At a rate it sends from several threads, which wait until all are told to begin. The flag is set without the lock that
they look at it under, so that now and then one is told between its look and its wait: it waits for ever, its share of
the requests is never sent, and perf_analyzer reports the rest as if the server had served no more. Seen with 2.51.0
in one of 200 runs, six at a time on two cores.
"""

from __future__ import annotations

import math
from itertools import accumulate

from tritonkit.bench.command import THREADS
from tritonkit.bench.levels import Concurrency, Intervals, Level, RequestRate
from tritonkit.bench.row import Row, delayed, requests, windows
from tritonkit.bench.soundness import DEVIATIONS, LATE_PERCENT


def held_back(level: Level, row: Row, log: str) -> float | None:
    """The requests a second that were sent, where perf_analyzer kept a thread's share to itself; None where it did not.

    Of requests that come faster than a server serves them, more and more wait, and answers come later and later. Where
    half of a thread's share or more is not answered, more than chance leaves out, and hardly any can have waited, they
    were never sent. What perf_analyzer itself says it sent too late is another matter.

    Args:
        level: what was asked for.
        row: what came of it.
        log: what perf_analyzer wrote.
    """
    answered, seen = requests(log), windows(log)
    if isinstance(level.load, Concurrency) or not answered or not seen or not row.throughput:
        return None
    if delayed(log) >= LATE_PERCENT:
        return None
    seconds = answered * level.batch_size / row.throughput
    due = _due(level.load, seconds) if isinstance(level.load, Intervals) else level.load.per_second * seconds
    missing = due - answered
    random = isinstance(level.load, RequestRate) and level.load.distribution == "poisson"
    if missing < max(due / THREADS / 2, DEVIATIONS * math.sqrt(due) if random else 0.0):
        return None
    # If that is a queue, as many waited as answers of the last window say: five sixths of what is missing at its end.
    waiting = seen[-1].latency_avg / 1e6 * due / seconds
    return answered / seconds if missing > 2 * waiting else None


def _due(trace: Intervals, seconds: float) -> int:
    """How many requests of a trace are due in its first ``seconds``, as it is played over and over."""
    times = list(accumulate(int(wait) for wait in trace.file.read_text().split()))
    rounds, rest = divmod(seconds * 1e6, times[-1])
    return int(rounds) * len(times) + sum(time <= rest for time in times)
