"""Which rows are marked and why, and which resource is called the limit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tritonkit.bench import figures
from tritonkit.bench.records import Extent, Load, Record, Repeat, Usage, record
from tritonkit.bench.soundness import judged

GOOD = Repeat(100.0, 1000, 900, 1100, 1200, 1500, {"queue": 10.0}, requests=5000, batches={1: 100, 3: 20}, busy=0.3)
CLOSED = Load("concurrency", 4)
CONSTANT, POISSON = Load("request_rate", 100, "constant"), Load("request_rate", 100, "poisson")


def of(load: Load, *repeats: Repeat, **changes: Any) -> Record:
    return judged(Record("k", "l", "m", load, "ok", repeats=repeats or (GOOD,), **changes), cores=4)


def with_(**changes: Any) -> Repeat:
    return replace(GOOD, **changes)


@pytest.mark.parametrize(
    ("found", "status", "note"),
    [
        (of(CLOSED), "ok", ""),
        (of(CONSTANT), "ok", ""),
        (of(CLOSED, with_(stable=False)), "unstable", "unstable"),
        (of(CLOSED, GOOD, with_(stable=False)), "unstable", "unstable in 1 of 2 repeats"),
        (of(CLOSED, GOOD, with_(throughput=10.0)), "unstable", "the repeats' throughput differs by up to 82%"),
        (of(CONSTANT, with_(throughput=94.0)), "overloaded", "served 94 of 100/s"),
        (of(CONSTANT, with_(throughput=96.0)), "ok", ""),
        # By chance a Poisson process of 100 requests may have 30 fewer.
        (of(POISSON, with_(throughput=90.0, requests=100)), "ok", ""),
        (of(POISSON, with_(throughput=90.0, requests=100_000)), "overloaded", "served 90 of 100/s"),
        (of(CONSTANT, with_(throughput=190.0), batch_size=2), "ok", ""),
        (of(CONSTANT, with_(throughput=180.0), batch_size=2), "overloaded", "served 180 of 200/s"),
        (of(CONSTANT, with_(rising=True)), "overloaded", "the queue only grows"),
        (of(CONSTANT, with_(delayed_percent=30.0)), "client-limited", "sent 30% of the requests too late"),
        (of(CONSTANT, with_(delayed_percent=0.5)), "ok", "sent 0.5% of the requests too late"),
        (of(CONSTANT, with_(sent=50.0, throughput=50.0)), "client-limited", "sent 50 of 100 requests/s"),
        (of(CONSTANT, with_(sent=99.0, throughput=50.0)), "overloaded", "served 50 of 100/s"),
        (of(CLOSED, with_(failures=3)), "failed", "3 requests failed"),
        (of(CLOSED, error="no answer\nmore"), "failed", "failed after 1 repeats: no answer"),
        (of(CLOSED, with_(requests=50)), "ok", "only 50 requests"),
        (of(CLOSED, with_(overlap=0.5)), "ok", "all under load together for 50% of the time only"),
        (of(CONSTANT, with_(stable=False, delayed_percent=30.0)), "client-limited", "unstable"),
    ],
)
def test_marks(found: Record, status: str, note: str) -> None:
    assert found.status == status
    assert note in "; ".join(found.notes)
    assert bool(note) == bool(found.notes)


def test_without_any_figures() -> None:
    failed = judged(Record("k", "l", "m", CLOSED, "ok", error="the 50th request is refused\nmore"), 4)
    assert (failed.status, failed.notes, failed.limit) == ("failed", ("failed: the 50th request is refused",), "none")
    unbuilt = judged(Record("k", "l", "m", CLOSED, "unbuilt", error="no such file"), 4)
    assert (unbuilt.status, unbuilt.notes) == ("unbuilt", ("unbuilt: no such file",))


def used(server: float, client: float = 0.0, gpu: float | None = None) -> Repeat:
    shares = [None if share is None else Extent(share, share) for share in (server, client, gpu)]
    return with_(usage=Usage(shares[0], shares[1], shares[2]), busy=0.95, busiest="m")


@pytest.mark.parametrize(
    ("found", "limit", "evidence"),
    [
        (of(CLOSED, used(100, gpu=97)), "gpu", "the GPUs computed 97% of the time"),
        (of(CLOSED, used(300, 80, gpu=50)), "cpu", "server and client used 300% and 80% of the machine's 400%"),
        (of(CLOSED, used(100)), "instances", "the instances of m computed 95% of the time"),
        (of(CLOSED), "load", "no resource was used up by 4 requests in flight"),
        (of(CONSTANT), "rate", "all of the 100 requests/s that were asked for are served"),
        (of(CONSTANT, with_(delayed_percent=30.0)), "client", "too late"),
        (of(CONSTANT, with_(throughput=50.0)), "none", "more was asked than is served"),
    ],
)
def test_the_limit_has_one_word_and_a_reason(found: Record, limit: str, evidence: str) -> None:
    assert found.limit == limit
    assert evidence in found.evidence


def test_figures_over_repeats() -> None:
    found = of(
        CLOSED, *(with_(throughput=rate, quantiles={50.0: rate, 99.0: 2 * rate}) for rate in (90.0, 100.0, 104.0))
    )
    assert figures.median(found, "throughput") == 100
    assert figures.median(found, "average_batch") == pytest.approx(160 / 120)
    assert figures.median(found, "compute") is None
    low, high = figures.interval(found, "throughput") or (0, 0)
    # mean 98, standard deviation 7.211, t 4.303 for two degrees of freedom
    assert [low, high] == pytest.approx([98 - 17.916, 98 + 17.916], abs=0.01)
    assert figures.interval(of(CLOSED), "throughput") is None
    assert figures.quantiles(found) == {50.0: 100, 99.0: 200}
    assert figures.batches(found) == {1: 300, 3: 60}


def test_a_record_survives_json() -> None:
    import json

    whole = of(POISSON, used(1, 2, 3), configuration={"a.b": None}, together=("m", "n"))
    assert record(json.loads(json.dumps(whole.as_json()))) == whole
