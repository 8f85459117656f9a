"""Following the load: the dead band, the smallest difference between plans, and days of a trace."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
from profiled import rows

from tritonkit.bench.arrivals import Rates, Times
from tritonkit.errors import Infeasible
from tritonkit.provision.changes import Change, Place, differences, follow, running
from tritonkit.provision.choices import Terms, Workload
from tritonkit.provision.controller import Observation, Policy, State, applied, step
from tritonkit.provision.observing import Counters, observed, parse_p99_ms
from tritonkit.provision.packing import Packing, pack
from tritonkit.provision.placement import faults
from tritonkit.provision.prediction import behaviours, neighbours_of, predict

KNOWN = behaviours(rows())
SLOS = {"bert": 60.0, "mobilenet": 12.0, "resnet50": 30.0}
POLICY = Policy()
TERMS = Terms(gpus=8)
INTERVAL = 20.0


def workloads(rates: Mapping[str, float]) -> list[Workload]:
    return [Workload(model, SLOS[model], rate) for model, rate in rates.items()]


def look(state: State, rate: float, now: float, p99: float | None = None) -> tuple[State, Mapping[str, float] | None]:
    state, decision = step(state, {"bert": Observation(rate, p99)}, SLOS, now, POLICY)
    return state, decision.rates if decision else None


def test_noise_within_the_band_changes_nothing() -> None:
    random = np.random.default_rng(1)
    state = State({"bert": 125.0})
    for number in range(5000):
        state, rates = look(state, random.poisson(100 * INTERVAL) / INTERVAL, number * INTERVAL, 40.0)
        assert rates is None


def test_a_rise_counts_at_once_and_a_fall_after_a_while() -> None:
    state, rates = look(State({"bert": 125.0}), 130.0, 0)
    assert rates is not None
    assert rates["bert"] == pytest.approx(130 * 1.25)
    state = applied(state, rates, 0)
    # No second change before it was seen what the first one did.
    state, rates = look(state, 500.0, POLICY.rest_s / 2)
    assert rates is None
    state, rates = look(state, 500.0, POLICY.rest_s + 1)
    assert rates == {"bert": 625}
    state = applied(state, {"bert": 625.0}, 100.0)
    now, fell = 100.0, None
    while fell is None:
        now += INTERVAL
        state, fell = look(state, 100.0, now)
    assert now - 100 >= POLICY.patience_s
    assert now - 100 < POLICY.patience_s + 300
    assert 100 * 1.25 <= fell["bert"] < 140


def test_a_short_pause_takes_nothing_away() -> None:
    state = State({"bert": 125.0})
    for number in range(200):
        # Ten minutes idle in pieces, never at a stretch.
        rate = 10.0 if number % 20 else 100.0
        state, rates = look(state, rate, number * INTERVAL)
        assert rates is None


def test_a_p99_over_its_slo_asks_for_more_than_the_plan_was_for() -> None:
    state, rates = look(State({"bert": 125.0}), 100.0, 0, p99=61.0)
    assert rates == {"bert": 125 * 1.25}
    _, decision = step(State({"bert": 125.0}), {"bert": Observation(100, 61.0)}, SLOS, 0, POLICY)
    assert decision is not None
    assert decision.reasons == ("bert: p99 of 61 ms, over its SLO of 60 ms",)
    assert look(state, 100.0, 0, p99=59.0)[1] is None


def test_only_what_left_its_band_is_planned_anew() -> None:
    state = State({"bert": 125.0, "resnet50": 300.0})
    seen = {"bert": Observation(200.0), "resnet50": Observation(250.0)}
    _, decision = step(state, seen, SLOS, 0, POLICY)
    assert decision is not None
    assert decision.rates == {"bert": 250, "resnet50": 300}
    assert decision.reasons == ("bert: 200/s, planned for 125/s",)


def test_percentages_follow_where_they_can() -> None:
    before = pack(workloads({"bert": 150, "mobilenet": 400}), KNOWN, TERMS)
    after = follow(before, workloads({"bert": 150, "mobilenet": 3000}), KNOWN, TERMS)
    assert after is not None
    changes = differences(before, after)
    assert {change.kind for change in changes} == {"set"}
    assert any(change.model == "mobilenet" and change.after > change.before for change in changes)
    assert [seat.choice.batch_size for _, seat in after.seats] == [seat.choice.batch_size for _, seat in before.seats]
    assert faults(after.gpus, workloads({"bert": 150, "mobilenet": 3000}), TERMS) == []
    assert differences(before, before) == ()


def test_what_shrinks_goes_first_so_that_no_gpu_is_given_out_twice() -> None:
    before = pack(workloads({"bert": 500, "mobilenet": 400}), KNOWN, Terms(gpus=1))
    after = follow(before, workloads({"bert": 100, "mobilenet": 1000}), KNOWN, Terms(gpus=1), moves=False)
    assert after is not None
    given = {seat.model: seat.choice.thread_percentage for _, seat in before.seats}
    changes = differences(before, after)
    assert next(change.model for change in changes) == "bert"
    for change in changes:
        given[change.model] = change.after
        assert sum(given.values()) <= 100


def test_what_percentages_cannot_follow_moves_or_is_refused() -> None:
    rates = {"bert": 150.0, "mobilenet": 400.0, "resnet50": 300.0}
    before = pack(workloads(rates), KNOWN, TERMS)
    assert len(before.gpus) == 1
    more = workloads({**rates, "resnet50": 6000.0})
    assert follow(before, more, KNOWN, TERMS, moves=False) is None
    after = follow(before, more, KNOWN, TERMS)
    assert after is not None
    assert len(after.gpus) > 1
    changes = differences(before, after)
    assert any(change.kind == "start" and change.model == "resnet50" for change in changes)
    assert str(changes[-1]).startswith("start resnet50 on GPU ")
    # And back: nobody holds GPUs that are not needed.
    back = follow(after, workloads(rates), KNOWN, TERMS)
    assert back is not None
    assert len(back.gpus) == 1
    assert any(change.kind == "stop" for change in differences(after, back))
    with pytest.raises(Infeasible):
        follow(before, workloads({**rates, "resnet50": 60_000.0}), KNOWN, Terms(gpus=2))


def test_the_plan_that_runs_is_known_from_its_servers() -> None:
    wanted = [replace(each, largest_batch=4) for each in workloads({"bert": 150, "mobilenet": 400})]
    places = [Place("mobilenet", 3, 20), Place("bert", 1, 30), Place("mobilenet", 1, 40), Place("other", 0, 5)]
    plan = running(places, wanted, KNOWN)
    assert [(number, seat.model, seat.choice.thread_percentage) for number, seat in plan.seats] == [
        (0, "bert", 30), (0, "mobilenet", 40), (1, "mobilenet", 20),
    ]  # fmt: skip
    assert {seat.choice.replicas for _, seat in plan.seats} == {1, 2}
    assert {seat.choice.batch_size for _, seat in plan.seats} == {4}
    assert str(Change("set", "bert", 0, 30, 35)) == "bert on GPU 0: 30 % -> 35 %"
    assert str(Change("batch", "bert", 0, 4, 8)) == "bert on GPU 0: batches of 8 instead of 4"


def test_rates_are_differences_of_counters() -> None:
    before = Counters(100.0, {"bert": 1000, "mobilenet": 500, "gone": 5})
    after = Counters(110.0, {"bert": 1500, "mobilenet": 20, "new": 7})
    # What was started anew counts from zero, and what is new has no rate yet.
    assert observed(before, after, {"bert": 7.0}) == {"bert": Observation(50.0, 7.0)}


def test_the_p99_is_read_off_tritons_summaries() -> None:
    text = (
        "# TYPE nv_inference_request_summary_us summary\n"
        'nv_inference_request_summary_us_count{model="bert",version="1"} 3\n'
        'nv_inference_request_summary_us{model="bert",version="1",quantile="0.5"} 812\n'
        'nv_inference_request_summary_us{model="bert",version="1",quantile="0.99"} 2514\n'
        'nv_inference_request_summary_us{model="idle",version="1",quantile="0.99"} Nan\n'
    )
    assert parse_p99_ms(text) == {"bert": 2.514}
    assert parse_p99_ms("") == {}


@dataclass
class Day:
    """What days of a trace did to a fleet that follows the load."""

    changes: int = 0
    intervals: int = 0
    late: int = 0
    percent: float = 0.0
    most: int = 0


def predicted(plan: Packing, rates: Mapping[str, float]) -> dict[str, float]:
    """The p99 of each model at the rates that it really has, by the predictor: the fleet that is followed."""
    found: dict[str, float] = {}
    for placed in plan.gpus:
        together = [(seat.choice.behaviour, float(seat.choice.thread_percentage)) for seat in placed]
        for index, seat in enumerate(placed):
            choice = seat.choice
            run = predict(
                choice.behaviour, choice.batch_size, choice.thread_percentage, neighbours_of(index, together),
                rates[seat.model] / choice.replicas,
            )  # fmt: skip
            found[seat.model] = max(found.get(seat.model, 0.0), min(run.latency_p99_ms, 10_000.0))
    return found


def simulate(trace: Mapping[str, Times], start: Mapping[str, float], policy: Policy) -> Day:
    random = np.random.default_rng(42)
    state = State(dict(start))
    plan = pack(workloads(start), KNOWN, TERMS)
    told = Day()
    for number in range(len(next(iter(trace.values())))):
        rates = {model: float(series[number]) for model, series in trace.items()}
        p99 = predicted(plan, rates)
        told.intervals += 1
        told.late += any(p99[model] > SLOS[model] for model in rates)
        seen = {
            model: Observation(random.poisson(rate * INTERVAL) / INTERVAL, p99[model]) for model, rate in rates.items()
        }
        used = sum(seat.choice.thread_percentage for _, seat in plan.seats)
        told.percent += used
        told.most = max(told.most, used)
        now = number * INTERVAL
        state, decision = step(state, seen, SLOS, now, policy)
        if decision is not None:
            following = follow(plan, workloads(decision.rates), KNOWN, TERMS)
            assert following is not None
            assert faults(following.gpus, workloads(decision.rates), TERMS) == []
            told.changes += bool(differences(plan, following))
            plan, state = following, applied(state, decision.rates, now)
    told.percent /= told.intervals
    return told


def test_three_days_of_a_daily_rhythm_are_followed_with_few_changes() -> None:
    count = int(3 * 86_400 / INTERVAL)
    hours = np.arange(count) * INTERVAL / 3600
    random = np.random.default_rng(42)
    rhythm = 1 - 0.75 * np.cos(2 * np.pi * hours / 24)
    trace = {
        "bert": 120 * rhythm * random.lognormal(0, 0.05, count),
        "mobilenet": 900 * rhythm * random.lognormal(0, 0.05, count),
        "resnet50": 300 * rhythm * random.lognormal(0, 0.05, count),
    }
    found = simulate(trace, {model: float(series[0]) * 1.25 for model, series in trace.items()}, POLICY)
    # The rate changes sevenfold up and down each day; that takes steps, and no flapping.
    assert 6 <= found.changes <= 3 * 60
    assert found.late / found.intervals < 0.01
    assert found.percent < 0.9 * found.most


def test_a_day_of_bursts_settles_for_the_busy_times() -> None:
    count = int(86_400 / INTERVAL)
    rates = Rates("burst").draw(count, np.random.default_rng(42))
    trace = {"mobilenet": 4 * rates, "resnet50": 2 * rates}
    found = simulate(trace, {"mobilenet": 20.0, "resnet50": 10.0}, POLICY)
    # Busy and quiet times follow each other within a minute: what a burst needs is not taken away between two.
    assert found.changes < 60
    assert found.late / found.intervals < 0.01
    some = {model: series[:200] for model, series in trace.items()}
    start = {"mobilenet": 20.0, "resnet50": 10.0}
    eager = simulate(some, start, Policy(patience_s=0, rest_s=0, smoothing=1.0, spare=1.0))
    assert eager.changes > 3 * max(simulate(some, start, POLICY).changes, 1)


def test_a_clock_may_begin_at_any_number() -> None:
    for origin in (0.0, 1e6, -1e6):
        state, rates = look(State({"bert": 125.0}), 130.0, origin)
        assert rates is not None
        assert math.isinf(state.changed)
