"""One look at the load of what runs: what was seen, what it asks for, and which percentages follow it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tritonkit.errors import Infeasible
from tritonkit.provision.changes import Change, differences, follow
from tritonkit.provision.choices import Choice, Terms, Workload
from tritonkit.provision.controller import (
    HOLDS_NONE,
    NO_RATE,
    Decision,
    Observation,
    Policy,
    State,
    applied,
    needs,
    step,
)
from tritonkit.provision.fleet import Fleet, Place, fleet, held, menu, rated
from tritonkit.provision.packing import pack
from tritonkit.provision.prediction import Behaviour


@dataclass(frozen=True)
class Look:
    """What one look comes to.

    Attributes:
        seen: what each model did.
        decision: what it asks for.
        changes: what follows it, in the order in which it is to be done.
        left: the models that percentages alone cannot follow.
        beyond: what would follow them; empty where there are none, or where it was said of them lately.
        after: the state once every change is made, but for the time of the last one.
    """

    seen: Mapping[str, Observation]
    decision: Decision
    after: State
    changes: tuple[Change, ...] = ()
    left: tuple[str, ...] = ()
    beyond: str = ""

    def made(self, now: float) -> State:
        """The state now that every change has been made."""
        return replace(self.after, changed=now)


def look(
    state: State,
    places: Sequence[Place],
    seen: Mapping[str, Observation],
    workloads: Sequence[Workload],
    behaviours: Mapping[str, Behaviour],
    terms: Terms,
    now: float,
    policy: Policy,
) -> tuple[State, Look]:
    """Decide on what was seen since the last look; the state is that with no change made.

    Whoever makes all changes goes on with ``Look.made``; whoever makes none of them, or not all, with the state that
    is returned: what runs is told by ``places``, and where that is not what the state is about, each model is taken to
    be planned for what its percentages hold.

    Args:
        state: as the last look left it; ``State()`` at first.
        places: every server that runs.
        seen: what each model did since the last look.
        workloads: the models to be followed, with their SLOs.
        behaviours: what is known of them.
        terms: what a plan keeps to.
        now: seconds of any clock that does not go back.
        policy: how the load is followed.

    Raises:
        UsageError: the servers are not as a plan has them.
    """
    current = fleet(places, workloads, behaviours)
    percentages = {place.server: float(place.thread_percentage or 0) for share in current for place in share.places}
    news = percentages != state.percentages
    if news:
        state = replace(state, planned=held(current, terms), percentages=percentages, idle_since={})
    state, decision = step(state, seen, {each.model: each.slo_ms for each in workloads}, now, policy)
    if news:
        # Also of what nobody asks for yet; where somebody does, that is a reason already.
        none = sorted(model for model, rate in state.planned.items() if rate <= NO_RATE and model not in decision.rates)
        decision = replace(decision, notes=(*(f"{model}: {HOLDS_NONE}" for model in none), *decision.notes))
    if not decision.rates:
        return state, Look(seen, decision, state)
    wanted = needs(state, policy)
    # A neighbour keeps what it needs, which may be less than all that it holds: else each growth would be everybody's.
    rates = {
        model: planned if model in decision.rates else min(planned, wanted.get(model, planned))
        for model, planned in state.planned.items()
    }
    current = rated(current, rates)
    models, following = _most(current, rates, decision, workloads, terms)
    changes = differences(current, following)
    holding = held(
        tuple(replace(share, choices=tuple(has)) for share, has in zip(current, following, strict=True)), terms
    )
    planned = {model: min(rate, holding[model]) for model, rate in state.planned.items()}
    left = tuple(sorted(set(decision.rates) - set(models)))
    beyond = ""
    if left and (left != state.beyond or now - state.beyond_said >= policy.rest_s):
        rates = {**state.planned, **wanted, **decision.rates}
        beyond = _beyond(left, [replace(each, rate=rates[each.model]) for each in workloads], behaviours, terms)
        state = replace(state, beyond_said=now)
    state = replace(state, beyond=left)
    given = {change.server: float(change.after) for change in changes if change.server in percentages}
    after = applied(replace(state, planned=planned, percentages={**percentages, **given}), decision, models)
    # Where nothing is to be changed, what runs holds the new rates already.
    return state if changes else after, Look(seen, decision, after, changes, left, beyond)


def _most(
    current: Fleet, planned: Mapping[str, float], decision: Decision, workloads: Sequence[Workload], terms: Terms
) -> tuple[list[str], Sequence[Sequence[Choice]]]:
    """As many models as percentages alone can follow, those first that give something back or take least; with them."""
    rates = dict(planned)
    models: list[str] = []
    following: Sequence[Sequence[Choice]] = [share.choices for share in current]
    for model in sorted(
        decision.rates, key=lambda model: (_growth(model, decision.rates[model], current, terms), model)
    ):
        tried = {**rates, model: decision.rates[model]}
        found = follow(current, [replace(each, rate=tried[each.model]) for each in workloads], terms)
        if found is not None:
            rates, following = tried, found
            models.append(model)
    return models, following


def _growth(model: str, rate: float, current: Fleet, terms: Terms) -> float:
    """How much more of all GPUs a model would need for a rate, without neighbours; infinite where none is enough."""
    growth = 0.0
    for share in current:
        for choice in share.choices:
            if choice.workload.model == model:
                possible = menu(choice, replace(choice.workload, rate=rate), terms)
                needed = possible[0].thread_percentage if possible else float("inf")
                growth += needed - choice.thread_percentage
    return growth


def _beyond(
    left: Sequence[str], workloads: Sequence[Workload], behaviours: Mapping[str, Behaviour], terms: Terms
) -> str:
    """What is to be told of the models that percentages alone cannot follow."""
    try:
        count = len(pack(workloads, behaviours, terms).gpus)
    except Infeasible as error:
        return str(error)
    return (
        f"percentages alone cannot follow {', '.join(left)}; a plan with other places needs {count} "
        f"GPU{'s' if count > 1 else ''}: provision with these rates"
    )
