"""When to plan anew as the load changes: a dead band around what was planned for. Pure; time comes from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Policy:
    """How the load is followed.

    Attributes:
        headroom: a plan is for so much more than was measured, as a part of it.
        spare: while what was planned for a model is more than this many times what a new plan would be for, it has
            too much.
        patience_s: how long it must have had too much, before a plan takes it away.
        rest_s: after a change, the time until the next one; measurements from before say nothing of it.
        smoothing: the part of each new measurement in the estimate when the rate falls; a rise counts at once.
        least: requests a second that are planned for at least.
    """

    headroom: float = 0.25
    spare: float = 1.6
    patience_s: float = 600.0
    rest_s: float = 60.0
    smoothing: float = 0.3
    least: float = 1.0


@dataclass(frozen=True)
class Observation:
    """What one model did lately: requests a second, and the p99 of their latency where it was measured."""

    rate: float
    latency_p99_ms: float | None = None


@dataclass(frozen=True)
class State:
    """What the controller remembers.

    Attributes:
        planned: for each model the rate that its percentages are for.
        estimate: for each model the smoothed rate.
        idle_since: since when each model has too much; missing where it has not.
        changed: when the plan was last changed.
    """

    planned: Mapping[str, float]
    estimate: Mapping[str, float] = field(default_factory=dict)
    idle_since: Mapping[str, float] = field(default_factory=dict)
    changed: float = float("-inf")


@dataclass(frozen=True)
class Decision:
    """To plan for other rates.

    Attributes:
        rates: for every model the rate to plan for.
        reasons: why, a sentence for each model that left its dead band.
    """

    rates: Mapping[str, float]
    reasons: tuple[str, ...]


def step(
    state: State, seen: Mapping[str, Observation], slos_ms: Mapping[str, float], now: float, policy: Policy
) -> tuple[State, Decision | None]:
    """One look at the load: the new state, and what to plan for, or None within the dead band.

    Args:
        state: as it was.
        seen: what each model did since the last look; models that are not in it are taken to be as before.
        slos_ms: each model's SLO.
        now: seconds of any clock that does not go back.
        policy: how the load is followed.
    """
    estimate = {**state.estimate}
    for model, each in seen.items():
        before = estimate.get(model, each.rate)
        smoothed = before + policy.smoothing * (each.rate - before)
        estimate[model] = max(each.rate, smoothed)
    wanted = {
        model: max(estimate.get(model, planned) * (1 + policy.headroom), policy.least) if model in estimate else planned
        for model, planned in state.planned.items()
    }
    rising = _rising(state, seen, slos_ms, estimate)
    idle = {
        model: state.idle_since.get(model, now)
        for model, planned in state.planned.items()
        if planned > policy.spare * wanted[model]
    }
    falling = [model for model, since in idle.items() if now - since >= policy.patience_s]
    known = replace(state, estimate=estimate, idle_since=idle)
    if now - state.changed < policy.rest_s or not (rising or falling):
        return known, None
    reasons = [*rising.values()]
    reasons += [
        f"{model}: {estimate[model]:.4g}/s for {now - idle[model]:.0f} s, planned for {state.planned[model]:.4g}/s"
        for model in falling
    ]
    rates = {
        # What a rise is about gets what it needs; the rest is taken from what was idle for long, and nobody else.
        model: wanted[model] if model in falling else max(wanted[model], planned) if model in rising else planned
        for model, planned in state.planned.items()
    }
    for model in rising:
        if rates[model] <= state.planned[model]:
            # The rate is within the plan, and its p99 is not: the plan was too tight.
            rates[model] = state.planned[model] * (1 + policy.headroom)
    return known, Decision(rates, tuple(reasons))


def applied(state: State, rates: Mapping[str, float], now: float) -> State:
    """The state once a plan for these rates runs."""
    return replace(state, planned=dict(rates), idle_since={}, changed=now)


def _rising(
    state: State, seen: Mapping[str, Observation], slos_ms: Mapping[str, float], estimate: Mapping[str, float]
) -> dict[str, str]:
    found = {}
    for model, each in seen.items():
        planned = state.planned.get(model)
        if planned is None:
            continue
        if estimate[model] > planned:
            found[model] = f"{model}: {estimate[model]:.4g}/s, planned for {planned:.4g}/s"
        elif each.latency_p99_ms is not None and each.latency_p99_ms > slos_ms[model]:
            found[model] = f"{model}: p99 of {each.latency_p99_ms:.4g} ms, over its SLO of {slos_ms[model]:g} ms"
    return found
