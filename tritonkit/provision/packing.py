"""``pack``: from rates and objectives to the fewest GPUs, with percentages, batches and replicas. Pure.

Several orders of a greedy search give a first plan; where it is above the lower bound, CP-SAT looks for one with fewer
GPUs, or proves that there is none. Everything is deterministic: the solver has one worker, a fixed seed, and a limit
that counts its work and not the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tritonkit.errors import Infeasible
from tritonkit.provision import solver
from tritonkit.provision.choices import Terms, Workload, fewest_replicas, lower_bound
from tritonkit.provision.placement import Item, Seat, faults, item, seats, settle
from tritonkit.provision.prediction import Behaviour

# Units of the solver's own clock, for all of its questions together; about a second each.
EFFORT = 2.0
# A replica that takes so much of a GPU may fit better as two smaller ones; of others there are as few as there can be.
LARGE = 40


@dataclass(frozen=True)
class Packing:
    """A plan.

    Attributes:
        gpus: the seats on each GPU.
        lower_bound: a number of GPUs that no plan is below, within the steps of percentages, replicas with equal parts
            of a rate, and their numbers that are tried.
    """

    gpus: tuple[tuple[Seat, ...], ...]
    lower_bound: int

    @property
    def proven(self) -> bool:
        """Whether no plan has fewer GPUs."""
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
        Infeasible: a model cannot meet its objective at all, or the GPUs are too few; with what would fit.
        ToolMissing: OR-tools are not installed, and the greedy plan is not the best one at once.
    """
    from tritonkit.provision import shortfall

    workloads = sorted(workloads, key=lambda each: each.model)
    needed = {}
    for each in workloads:
        count = fewest_replicas(behaviours[each.model], each, terms)
        if count is None:
            raise shortfall.alone(each, behaviours[each.model], terms)
        needed[each.model] = count
    bound = lower_bound(workloads, behaviours, terms)
    menus = {each.model: _menu(each, behaviours[each.model], needed[each.model], terms) for each in workloads}
    best = greedy(menus, terms)
    if len(best) > bound:
        best, bound = solver.improve(menus, terms, best, bound, effort)
    if terms.gpus is not None and len(best) > terms.gpus:
        raise shortfall.together(workloads, behaviours, terms, len(best), proven=len(best) == bound)
    packing = _packing(best, menus, terms, bound)
    wrong = faults(packing.gpus, workloads, terms)
    if wrong:
        raise Infeasible("the plan does not hold by the predictor; please report this: " + "; ".join(wrong))
    return packing


def _menu(workload: Workload, behaviour: Behaviour, count: int, terms: Terms) -> dict[int, Item]:
    """The numbers of replicas that are tried: the fewest, and one more where each takes much of a GPU."""
    fewest = item(behaviour, workload, count, terms)
    if fewest.choices[0].thread_percentage < LARGE:
        return {count: fewest}
    more = item(behaviour, workload, count + 1, terms)
    return {count: fewest, count + 1: more} if more.choices else {count: fewest}


def greedy(menus: Mapping[str, Mapping[int, Item]], terms: Terms) -> list[list[Item]]:
    """The best plan of several orders: each replica goes where it makes percentages grow least, else to a new GPU."""
    plans = [_placed(order, terms) for order in _orders(menus)]
    return min(plans, key=lambda plan: (len(plan), _sum(plan, terms)))


def _orders(menus: Mapping[str, Mapping[int, Item]]) -> Iterator[list[Item]]:
    fewest = [menu[min(menu)] for menu in menus.values()]
    more = [menu[max(menu)] if menu[min(menu)].choices[0].thread_percentage > 50 else menu[min(menu)] for menu in
            menus.values()]  # fmt: skip
    for chosen in (fewest, more) if more != fewest else (fewest,):
        for key in (_by_percentage, _by_pressure, _by_sensitivity, _by_memory):
            yield [each for each in sorted(chosen, key=key) for _ in range(each.replicas)]


def _by_percentage(each: Item) -> tuple[float, str]:
    return -each.choices[0].thread_percentage, each.model


def _by_pressure(each: Item) -> tuple[float, str]:
    return -each.choices[0].pressure, each.model


def _by_sensitivity(each: Item) -> tuple[float, str]:
    return each.choices[0].slack_ms / (each.choices[0].slope_ms or 1e-9), each.model


def _by_memory(each: Item) -> tuple[float, str]:
    return -each.behaviour.memory_mib, each.model


def _placed(order: Sequence[Item], terms: Terms) -> list[list[Item]]:
    gpus: list[list[Item]] = []
    sums: list[int] = []
    for each in order:
        options = []
        for number, there in enumerate(gpus):
            settled = settle([*there, each], terms)
            if settled is not None:
                total = sum(choice.thread_percentage for choice in settled)
                options.append((total - sums[number], -total, number, total))
        if options:
            _, _, number, total = min(options)
            gpus[number].append(each)
            sums[number] = total
        else:
            gpus.append([each])
            sums.append(each.choices[0].thread_percentage)
    return gpus


def _sum(plan: Sequence[Sequence[Item]], terms: Terms) -> int:
    return sum(choice.thread_percentage for placed in plan for choice in settle(placed, terms) or ())


def _packing(
    plan: Sequence[Sequence[Item]],
    menus: Mapping[str, Mapping[int, Item]],
    terms: Terms,
    bound: int,
) -> Packing:
    alone = {
        (model, count): each.choices[0].thread_percentage
        for model, menu in menus.items()
        for count, each in menu.items()
        if each.choices
    }
    placed = [seats(settle(sorted(items, key=lambda each: each.model), terms) or (), alone) for items in plan]
    ordered = sorted(placed, key=lambda gpu: (-sum(seat.choice.thread_percentage for seat in gpu), gpu[0].model))
    return Packing(tuple(ordered), bound)
