"""``pack``: from rates and objectives to the fewest GPUs, with percentages, batches and replicas. Pure.

Several orders of a greedy search give a first plan; where it is above the lower bound, CP-SAT looks for one with fewer
GPUs, or proves that there is none. Everything is deterministic: the solver has one worker, a fixed seed, and a limit
that counts its work and not the time; problems that are too large for it are not put to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tritonkit.errors import Infeasible
from tritonkit.provision import solver
from tritonkit.provision.choices import WHOLE, Terms, Workload, lower_bound, shares
from tritonkit.provision.placement import Item, Seat, faults, item, items, seats, settle
from tritonkit.provision.prediction import Behaviour

# Units of the solver's own clock, for all of its questions together; about a second each.
EFFORT = 2.5
# A replica that takes so much of a GPU may fit better as two smaller ones, also where these take more in sum.
LARGE = 40
# While there are no more than so many choices for all GPUs together, all numbers of replicas and all batches that are
# offered are tried.
EVERY = 13_500


@dataclass(frozen=True)
class Packing:
    """A plan.

    Attributes:
        gpus: the seats on each GPU.
        lower_bound: a number of GPUs that no plan is below whose replicas have equal parts of a rate and whose
            percentages and batches are those that are offered.
        lower_bound_tried: likewise, of plans with the numbers of replicas and their batches that were tried.
        available: how many GPUs there are; None where as many are used as are needed.
    """

    gpus: tuple[tuple[Seat, ...], ...]
    lower_bound: int
    lower_bound_tried: int = 0
    available: int | None = None

    @property
    def proven(self) -> bool:
        """Whether no such plan has fewer GPUs."""
        return len(self.gpus) == self.lower_bound

    @property
    def seats(self) -> tuple[tuple[int, Seat], ...]:
        """Every seat with the number of its GPU, in the order of the models' names."""
        found = [(number, seat) for number, placed in enumerate(self.gpus) for seat in placed]
        return tuple(sorted(found, key=lambda each: (each[1].model, each[0])))


def pack(
    workloads: Sequence[Workload],
    behaviours: Mapping[str, Behaviour],
    terms: Terms,
    *,
    effort: float = EFFORT,
) -> Packing:
    """The plan with the fewest GPUs that was found, each percentage as small as its objectives let it be.

    Args:
        workloads: what to serve, each model once.
        behaviours: what is known of every one of these models.
        terms: what the plan keeps to.
        effort: how long the solver may look, in units of its deterministic clock.

    Raises:
        Infeasible: models cannot meet their objectives at all, or the GPUs are too few; with what would fit.
        ToolMissing: OR-tools are not installed, and the greedy plan is not the best one at once.
    """
    from tritonkit.provision import shortfall

    workloads = sorted(workloads, key=lambda each: each.model)
    short = [each for each in workloads if not shares(behaviours[each.model], each, terms)]
    if short:
        raise shortfall.alone(short, workloads, behaviours, terms)
    bound = tried = lower_bound(workloads, behaviours, terms)
    menus = {each.model: menu(each, behaviours[each.model], terms) for each in workloads}
    best = greedy(menus, terms)
    if len(best) > bound:
        wider = {each.model: _every(each, behaviours[each.model], terms, len(best) - 1) for each in workloads}
        complete = len(best) * sum(len(each.choices) for menu in wider.values() for each in menu) <= EVERY
        best, tried = solver.improve(wider if complete else menus, terms, best, bound, effort)
        bound = tried if complete else bound
    roomy = room(best, terms)
    if terms.gpus is not None and (len(best) > terms.gpus or not roomy):
        needed, proven = len(best) + (not roomy), roomy and len(best) == bound
        raise shortfall.together(workloads, behaviours, terms, needed, proven=proven, room=roomy)
    packing = _packing(best, terms, bound, tried)
    wrong = faults(packing.gpus, workloads, terms)
    if wrong:
        raise Infeasible("the plan does not hold by the predictor; please report this: " + "; ".join(wrong))
    return packing


def menu(workload: Workload, behaviour: Behaviour, terms: Terms) -> tuple[Item, ...]:
    """The replicas that are usually tried: as few as can be, and more where that may help.

    It may where their sum gets smaller, and one more may where each takes much of a GPU.
    """
    offered = shares(behaviour, workload, terms)
    fewest = min(offered)
    counts, least = [], 10**9
    for count, percentage in offered.items():
        if count * percentage < least:
            counts.append(count)
            least = count * percentage
    if offered[fewest] >= LARGE and fewest + 1 in offered and fewest + 1 not in counts:
        counts.append(fewest + 1)
    return tuple(item(behaviour, workload, count, terms) for count in counts)


def _every(workload: Workload, behaviour: Behaviour, terms: Terms, gpus: int) -> tuple[Item, ...]:
    """All that can be tried on so many GPUs, as replicas of a model are on different ones."""
    fewest = min(shares(behaviour, workload, terms))
    return tuple(
        each
        for count in range(fewest, max(gpus, fewest) + 1)
        for each in items(behaviour, workload, count, terms)
        if each.choices
    )


def greedy(menus: Mapping[str, Sequence[Item]], terms: Terms) -> list[list[Item]]:
    """The best plan of several orders and rules of where each replica goes; to a new GPU where it fits on none."""
    plans = [_placed(order, terms, rule) for order, rules in _orders(menus) for rule in rules]
    return min(plans, key=lambda plan: (len(plan), _sum(plan, terms)))


def room(plan: Sequence[Sequence[Item]], terms: Terms) -> bool:
    """Whether a plan leaves models that are not planned for some of a GPU, where there are such models."""
    if not terms.spare or terms.gpus is None or len(plan) != terms.gpus:
        return True
    return any(_sum([placed], terms) < WHOLE for placed in plan)


def _tightest(growth: int, total: int) -> tuple[int, int]:
    """Where percentages grow least, and of these where least is left."""
    return growth, -total


def _least_growth(growth: int, total: int) -> tuple[int, int]:
    del total
    return growth, 0


def _first(growth: int, total: int) -> tuple[int, int]:
    del growth, total
    return 0, 0


_Rule: TypeAlias = Callable[[int, int], tuple[int, int]]
"""From how much percentages grow on a GPU, and their sum then: the smallest value takes the replica."""


def _orders(menus: Mapping[str, Sequence[Item]]) -> Iterator[tuple[list[Item], tuple[_Rule, ...]]]:
    fewest = [menu[0] for menu in menus.values()]
    more = [max(menu, key=lambda each: each.replicas) if menu[0].choices[0].thread_percentage > 50 else menu[0]
            for menu in menus.values()]  # fmt: skip
    leanest = [min(menu, key=lambda each: each.replicas * each.choices[0].thread_percentage) for menu in menus.values()]
    tried: list[list[Item]] = []
    for chosen in (fewest, more, leanest):
        if chosen in tried:
            continue
        rules = (_tightest,) if tried else (_tightest, _least_growth, _first)
        tried.append(chosen)
        for key in (_by_percentage, _by_pressure, _by_sensitivity, _by_memory):
            yield [each for each in sorted(chosen, key=key) for _ in range(each.replicas)], rules


def _by_percentage(each: Item) -> tuple[float, str]:
    return -each.choices[0].thread_percentage, each.model


def _by_pressure(each: Item) -> tuple[float, str]:
    return -each.choices[0].pressure, each.model


def _by_sensitivity(each: Item) -> tuple[float, str]:
    return each.choices[0].slack_ms / (each.choices[0].slope_ms or 1e-9), each.model


def _by_memory(each: Item) -> tuple[float, str]:
    return -each.behaviour.memory_mib, each.model


def _placed(order: Sequence[Item], terms: Terms, rule: _Rule) -> list[list[Item]]:
    gpus: list[list[Item]] = []
    sums: list[int] = []
    for each in order:
        options = []
        for number, there in enumerate(gpus):
            settled = settle([*there, each], terms)
            if settled is not None:
                total = sum(choice.thread_percentage for choice in settled)
                options.append((rule(total - sums[number], total), number, total))
                if rule is _first:
                    break
        if options:
            _, number, total = min(options)
            gpus[number].append(each)
            sums[number] = total
        else:
            gpus.append([each])
            sums.append(each.choices[0].thread_percentage)
    return gpus


def _sum(plan: Sequence[Sequence[Item]], terms: Terms) -> int:
    return sum(choice.thread_percentage for placed in plan for choice in settle(placed, terms) or ())


def _packing(plan: Sequence[Sequence[Item]], terms: Terms, bound: int, tried: int) -> Packing:
    alone = {(each.model, each.replicas): each.choices[0].thread_percentage for placed in plan for each in placed}
    placed = [seats(settle(sorted(items, key=lambda each: each.model), terms) or (), alone) for items in plan]
    ordered = sorted(placed, key=lambda gpu: (-sum(seat.choice.thread_percentage for seat in gpu), gpu[0].model))
    return Packing(tuple(ordered), bound, tried, terms.gpus)
