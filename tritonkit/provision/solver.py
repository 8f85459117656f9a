"""Fewer GPUs than the greedy plan by OR-tools' CP-SAT, or the proof that there is no such plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritonkit.errors import ToolMissing
from tritonkit.provision.choices import WHOLE, Choice, Terms
from tritonkit.provision.placement import Item, settle

SEED = 8
# More seats to decide on than this are not asked about: the question alone would take many seconds.
LARGEST = 12_000
# Pressure is counted in whole numbers; rounding is always to the safe side.
_SCALE = 10_000


@dataclass(frozen=True)
class _Option:
    """A choice as whole numbers: it holds while pressure and so much a neighbour stay under ``bears``."""

    choice: Choice
    pressure: int
    bears: int
    neighbour: int


def improve(
    menus: Mapping[str, Sequence[Item]], terms: Terms, plan: list[list[Item]], bound: int, effort: float
) -> tuple[list[list[Item]], int]:
    """The best plan, and a bound that it is held against: equal to its GPUs where it is proven that fewer do not do.

    Half of the effort goes into showing that the smallest numbers of GPUs are too few, as that is often easy; the rest
    into plans with one GPU less than the best one so far.

    Args:
        menus: for each model the replicas that are offered.
        terms: what a plan keeps to.
        plan: the best one so far.
        bound: a number of GPUs that no plan is below.
        effort: units of the solver's deterministic clock.

    Raises:
        ToolMissing: OR-tools are not installed.
    """
    most = max(each.behaviour.demand for menu in menus.values() for each in menu)
    offered = {
        name: [(each, _options(each.choices, most, len(menus))) for each in menu] for name, menu in menus.items()
    }
    seats = sum(len(options) for menu in offered.values() for _, options in menu)
    left = effort / 2
    while len(plan) - 1 > bound and left > 0 and seats * bound <= LARGEST:
        found, spent, impossible = _ask(offered, terms, bound, left)
        left -= spent
        if found is not None:
            return found, bound
        if not impossible:
            break
        bound += 1
    left += effort / 2
    while len(plan) > bound and left > 0 and seats * (len(plan) - 1) <= LARGEST:
        found, spent, impossible = _ask(offered, terms, len(plan) - 1, left)
        left -= spent
        if impossible:
            return plan, len(plan)
        if found is None:
            break
        plan = found
    return plan, bound


def _ask(
    offered: Mapping[str, Sequence[tuple[Item, Sequence[_Option]]]], terms: Terms, gpus: int, effort: float
) -> tuple[list[list[Item]] | None, float, bool]:
    """A plan on so many GPUs or None, the effort, and whether it is impossible."""
    cp_model = _ortools()
    model = cp_model.CpModel()
    most = max(each.behaviour.demand for menu in offered.values() for each, _ in menu)
    seated: list[list[tuple[Any, _Option]]] = [[] for _ in range(gpus)]
    total = [model.new_int_var(0, int(_SCALE * most) + len(offered), f"pressure {gpu}") for gpu in range(gpus)]
    count = [model.new_int_var(0, len(offered), f"seats {gpu}") for gpu in range(gpus)]
    taken: list[tuple[Item, int, list[Any]]] = []
    for name, menu in offered.items():
        fitting = [(item, options) for item, options in menu if item.replicas <= gpus]
        kinds = [model.new_bool_var(f"{name} {number}") for number in range(len(fitting))]
        if not kinds:
            return None, 0.0, True
        model.add_exactly_one(kinds)
        for (item, options), kind in zip(fitting, kinds, strict=True):
            places = []
            for gpu in range(gpus):
                mine = []
                for option in options:
                    seat = model.new_bool_var(f"{kind} gpu {gpu} {option.choice.thread_percentage} %")
                    limit = option.bears + option.pressure + option.neighbour
                    model.add(total[gpu] + option.neighbour * count[gpu] <= limit).only_enforce_if(seat)
                    seated[gpu].append((seat, option))
                    mine.append(seat)
                taken.append((item, gpu, mine))
                places += mine
                model.add_at_most_one(mine)
            model.add(cp_model.LinearExpr.sum(places) == item.replicas * kind)
    for gpu in range(gpus):
        known = [option.choice.behaviour for _, option in seated[gpu]]

        def weighed(weights: Sequence[int], seats: Sequence[Any] = tuple(seat for seat, _ in seated[gpu])) -> Any:
            return cp_model.LinearExpr.weighted_sum(seats, weights)

        model.add(weighed([option.choice.thread_percentage for _, option in seated[gpu]]) <= int(WHOLE))
        model.add(weighed([option.pressure for _, option in seated[gpu]]) == total[gpu])
        model.add(weighed([1] * len(known)) == count[gpu])
        model.add(weighed([each.clients for each in known]) <= terms.clients)
        if terms.memory_mib is not None:
            model.add(weighed([math.ceil(each.memory_mib) for each in known]) <= math.floor(terms.memory_mib))
        if gpu:
            # GPUs are alike: without an order every plan would be there many times.
            model.add(count[gpu] <= count[gpu - 1])
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = SEED
    solver.parameters.max_deterministic_time = effort
    status = solver.solve(model)
    # OR-tools 9.10 has no property for it.
    spent = float(solver.response_proto.deterministic_time)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, spent, status == cp_model.INFEASIBLE
    plan: list[list[Item]] = [[] for _ in range(gpus)]
    for item, gpu, mine in taken:
        if any(solver.value(seat) for seat in mine):
            plan[gpu].append(item)
    plan = [placed for placed in plan if placed]
    if any(settle(placed, terms) is None for placed in plan):
        raise AssertionError("rounding to the safe side leaves no plan that does not hold")
    return plan, spent, False


def _options(choices: Sequence[Choice], most: float, models: int) -> list[_Option]:
    """The choices that differ in what they bear: more of a GPU than the worst company asks for is never needed."""
    found: list[_Option] = []
    for choice in choices:
        worst = most * (WHOLE - choice.thread_percentage) / WHOLE
        largest = math.ceil(_SCALE * worst) + 1
        bears, neighbour = _borne(choice, worst, models)
        option = _Option(choice, math.ceil(_SCALE * choice.pressure), bears, neighbour)
        if found and found[-1].bears >= bears and found[-1].neighbour <= neighbour:
            continue
        found.append(option)
        if bears >= largest and not neighbour:
            break
    return found


def _borne(choice: Choice, worst: float, models: int) -> tuple[int, int]:
    """What it bears, and what each neighbour costs of that, in units of pressure; no more than a plan can ask."""
    delay = choice.behaviour.delay_ms
    if choice.slope_ms * worst > 1e-4 * choice.slack_ms:
        bears = math.floor(_SCALE * choice.slack_ms / choice.slope_ms)
        # One neighbour that costs more than is borne is too much already.
        return bears, math.ceil(min(_SCALE * delay / choice.slope_ms, bears + 1))
    # Pressure does next to nothing: all of it is taken off, and then only the number of neighbours counts.
    largest = math.ceil(_SCALE * worst) + 1
    left = choice.slack_ms - choice.slope_ms * worst
    if not delay:
        return largest, 0
    # So large a step for each neighbour that any pressure is small beside it.
    step = largest + 1
    return step * math.floor(min(left / delay, models)) + largest, step


def _ortools() -> Any:
    try:
        from ortools.sat.python import cp_model
    except ModuleNotFoundError:
        raise ToolMissing(
            "OR-tools are not installed: they look for plans with fewer GPUs",
            hint="Install them with: pip install 'tritonkit[provision]'",
        ) from None
    return cp_model
