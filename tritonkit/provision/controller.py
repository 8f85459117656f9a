"""When to plan anew as the load changes: a dead band around what was planned for. Pure; time comes from outside."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

NO_RATE = 1e-6
"""What percentages are taken to be for that hold an SLO at no rate at all, in requests a second."""
HOLDS_NONE = "what runs holds its SLO at no rate"
"""That, in words."""

# What a product of floating point numbers may be off by.
_EXACT = 1e-9


@dataclass(frozen=True)
class Policy:
    """How the load is followed.

    Attributes:
        headroom: a plan is for so much more than was measured, as a part of it.
        spare: while what was planned for a model is more than this many times what a new plan would be for, it has
            too much.
        patience_s: how long it must have had too much, before a plan takes it away.
        rest_s: after a change, the time until the next one; measurements from before say nothing of it. Nor is it said
            more often that percentages alone cannot follow the same models.
        tighter: while its p99 is over its SLO within the rate that was planned for, a model is planned for so many
            times more.
        tightest: and for at most so many times more in all: what does not help by then is no want of a GPU.
        forget_s: how long its p99 must have been within its SLO, before one of these times is taken back.
        smoothing: the part of each new measurement in the estimate when the rate falls; a rise counts at once.
        least: requests a second that are planned for at least.
    """

    headroom: float = 0.25
    spare: float = 1.6
    patience_s: float = 600.0
    rest_s: float = 60.0
    tighter: float = 1.25
    tightest: float = 2.0
    forget_s: float = 3600.0
    smoothing: float = 0.3
    least: float = 1.0


@dataclass(frozen=True)
class Observation:
    """What one model did lately: items a second, and the p99 of its requests' latency where it was measured."""

    rate: float
    latency_p99_ms: float | None = None


@dataclass(frozen=True)
class State:
    """What the controller remembers.

    Attributes:
        planned: for each model the rate that its percentages are for; ``NO_RATE`` where they hold none.
        estimate: for each model the smoothed rate.
        idle_since: since when each model has too much; missing where it has not.
        changed: when percentages were last changed.
        margins: how many times more a model is planned for than the policy says, as its p99 was over its SLO; missing
            where that never was.
        within_since: since when the p99 of each of these models is within its SLO.
        percentages: for each server the percentage that ``planned`` is about.
        beyond: the models of which it was last said that percentages alone cannot follow them.
        beyond_said: when that was.
    """

    planned: Mapping[str, float] = field(default_factory=dict)
    estimate: Mapping[str, float] = field(default_factory=dict)
    idle_since: Mapping[str, float] = field(default_factory=dict)
    changed: float = float("-inf")
    margins: Mapping[str, float] = field(default_factory=dict)
    within_since: Mapping[str, float] = field(default_factory=dict)
    percentages: Mapping[str, float] = field(default_factory=dict)
    beyond: tuple[str, ...] = ()
    beyond_said: float = float("-inf")


@dataclass(frozen=True)
class Decision:
    """To plan for other rates, or why not.

    Attributes:
        rates: for each model that left its dead band the rate to plan for; none within it, and while it rests.
        reasons: why, a sentence for each of them.
        margins: for those of them whose p99 is over its SLO, how many times more they are planned for.
        notes: of whose p99 no further percentage would help, a sentence each.
        resting_s: how long nothing is changed yet.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    margins: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    resting_s: float = 0.0


def step(
    state: State, seen: Mapping[str, Observation], slos_ms: Mapping[str, float], now: float, policy: Policy
) -> tuple[State, Decision]:
    """One look at the load: the new state, and what to plan for.

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
    late = [
        model
        for model, each in seen.items()
        if each.latency_p99_ms is not None and each.latency_p99_ms > slos_ms.get(model, math.inf)
    ]
    margins, within = _margins(state, seen, late, now, policy)
    known = replace(state, estimate=estimate, margins=margins, within_since=within)
    wanted = needs(known, policy)
    idle = {
        model: state.idle_since.get(model, now)
        for model, rate in wanted.items()
        if state.planned[model] > policy.spare * rate
    }
    known = replace(known, idle_since=idle)
    rates: dict[str, float] = {}
    reasons, tried = [], {}
    for model in wanted:
        planned = state.planned[model]
        if model in seen and estimate[model] * margins.get(model, 1.0) > planned:
            rates[model] = wanted[model]
            held = f"planned for {planned / margins.get(model, 1.0):.4g}/s" if planned > NO_RATE else HOLDS_NONE
            reasons.append(f"{model}: {estimate[model]:.4g}/s, {held}")
        elif model in late and _tighter(model, margins, policy) is not None:
            tried[model] = margins.get(model, 1.0) * policy.tighter
            rates[model] = max(wanted[model], planned) * policy.tighter
            reasons.append(_late(model, seen, slos_ms))
        elif model in idle and model not in late and now - idle[model] >= policy.patience_s:
            rates[model] = wanted[model]
            seconds = now - idle[model]
            reasons.append(f"{model}: {estimate[model]:.4g}/s for {seconds:.0f} s, planned for {planned:.4g}/s")
    notes = tuple(
        f"{_late(model, seen, slos_ms)}, and planning for {margins[model]:.2g} times its rate has not helped: "
        "more of a GPU will not"
        for model in late
        if model in state.planned and model not in rates and _tighter(model, margins, policy) is None
    )
    resting = max(state.changed + policy.rest_s - now, 0.0)
    if resting:
        return known, Decision(notes=notes, resting_s=resting)
    return known, Decision(rates, tuple(reasons), tried, notes)


def needs(state: State, policy: Policy) -> dict[str, float]:
    """The rate that each model that was ever seen would be planned for by now."""
    return {
        model: max(rate * state.margins.get(model, 1.0) * (1 + policy.headroom), policy.least)
        for model, rate in state.estimate.items()
        if model in state.planned
    }


def applied(state: State, decision: Decision, models: Collection[str]) -> State:
    """The state once percentages run that follow the decision for these of its models."""
    taken = {model: rate for model, rate in decision.rates.items() if model in models}
    grown = {model: margin for model, margin in decision.margins.items() if model in models}
    return replace(
        state,
        planned={**state.planned, **taken},
        margins={**state.margins, **grown},
        idle_since={model: since for model, since in state.idle_since.items() if model not in taken},
    )


def _margins(
    state: State, seen: Mapping[str, Observation], late: Collection[str], now: float, policy: Policy
) -> tuple[dict[str, float], dict[str, float]]:
    """The margins that are still asked for, and since when each of these models is within its SLO."""
    margins = {**state.margins}
    within = {}
    for model in state.margins:
        each = seen.get(model)
        if model in late:
            continue
        if each is not None and each.latency_p99_ms is not None:
            within[model] = state.within_since.get(model, now)
        elif model in state.within_since:
            within[model] = state.within_since[model]
        if model in within and now - within[model] >= policy.forget_s:
            within[model] = now
            margins[model] /= policy.tighter
            if margins[model] <= 1 + _EXACT:
                del margins[model], within[model]
    return margins, within


def _tighter(model: str, margins: Mapping[str, float], policy: Policy) -> float | None:
    """The next larger margin; None where there is none."""
    margin = margins.get(model, 1.0) * policy.tighter
    return margin if margin <= policy.tightest + _EXACT else None


def _late(model: str, seen: Mapping[str, Observation], slos_ms: Mapping[str, float]) -> str:
    return f"{model}: p99 of {seen[model].latency_p99_ms:.4g} ms, over its SLO of {slos_ms[model]:g} ms"
