"""Whether perf_analyzer sent what a load asks for. Pure, but for the trace's file.

At a rate it sends from several threads, which wait until all are told to begin. The flag is set without the lock that
they look at it under, so that now and then one is told between its look and its wait: it waits for ever, its share of
the requests is never sent, and perf_analyzer reports the rest as if the server had served no more. How often:
``benchmarks/lost_requests.py``.
"""

from __future__ import annotations

import math
from itertools import accumulate

from tritonkit.bench.command import THREADS, WINDOWS
from tritonkit.bench.levels import Concurrency, Intervals, Level, RequestRate
from tritonkit.bench.row import Row, delayed, requests, windows
from tritonkit.bench.soundness import DEVIATIONS, LATE_PERCENT

# Of fewer a thread's share cannot be told from the ends of the windows.
_FEWEST = 2


def held_back(level: Level, row: Row, log: str, served: int) -> float | None:
    """The requests a second that were sent, where perf_analyzer kept a thread's share to itself; None where it did not.

    Before it ends it waits for every answer, so what the server counts is what was sent: what it is slow to serve is
    counted too. Missing is half of a thread's share or more, and more than random arrivals leave out. What
    perf_analyzer itself says it sent too late is another matter.

    Args:
        level: what was asked for.
        row: what came of it.
        log: what perf_analyzer wrote.
        served: the requests that the server counts from its start to its end, those of others too: they hide some of
            what is missing. Where it counts fewer than were answered, as one of several behind somebody else's balancer
            does, nothing can be told.
    """
    answered, seen = requests(log), len(windows(log))
    if isinstance(level.load, Concurrency) or not answered or not row.throughput:
        return None
    if served < answered or delayed(log) >= LATE_PERCENT:
        return None
    # The row is of the last windows, which are equally long; it sent from the beginning of the first.
    seconds = answered * level.batch_size / row.throughput * max(seen / WINDOWS, 1)
    due = _due(level.load, seconds) if isinstance(level.load, Intervals) else level.load.per_second * seconds
    # Those of its random arrivals are the same in every run, so that to measure anew would not help.
    random = isinstance(level.load, RequestRate) and level.load.distribution == "poisson"
    least = max(_FEWEST, due / THREADS / 2, DEVIATIONS * math.sqrt(due) if random else 0.0)
    return served / seconds if due - served >= least else None


def _due(trace: Intervals, seconds: float) -> int:
    """How many requests of a trace are due in its first ``seconds``, as it is played over and over."""
    times = list(accumulate(int(wait) for wait in trace.file.read_text().split()))
    rounds, rest = divmod(seconds * 1e6, times[-1])
    return int(rounds) * len(times) + sum(time <= rest for time in times)
