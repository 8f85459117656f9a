"""Published heuristics for sharing GPUs, after their papers' descriptions, with this project's predictor for all.

Each gives a plan that keeps to the same terms, so that only the search is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tritonkit.provision.choices import Terms, Workload, admits, batches, choices, fewest_replicas
from tritonkit.provision.placement import Item, item, settle
from tritonkit.provision.prediction import Behaviour, predict

Heuristic = Callable[[Sequence[Workload], Mapping[str, Behaviour], Terms], list[list[Item]]]
# The sizes of gpulets, in percent of a GPU; a GPU has two at most.
GPULETS = (20, 40, 50, 60, 80, 100)


def first_fit_decreasing(
    workloads: Sequence[Workload], behaviours: Mapping[str, Behaviour], terms: Terms
) -> list[list[Item]]:
    """The largest percentage first, each on the first GPU where all hold."""
    gpus: list[list[Item]] = []
    for each in _replicas(workloads, behaviours, terms):
        place = next((gpu for gpu in gpus if settle([*gpu, each], terms) is not None), None)
        if place is None:
            gpus.append([each])
        else:
            place.append(each)
    return gpus


def igniter(workloads: Sequence[Workload], behaviours: Mapping[str, Behaviour], terms: Terms) -> list[list[Item]]:
    """IGniter (Xu et al., 2022): the largest first, each where its coming makes percentages grow least."""
    gpus: list[list[Item]] = []
    for each in _replicas(workloads, behaviours, terms):
        grown = []
        for number, gpu in enumerate(gpus):
            settled = settle([*gpu, each], terms)
            if settled is not None:
                before = sum(choice.thread_percentage for choice in settle(gpu, terms) or ())
                alone = each.choices[0].thread_percentage
                grown.append((sum(choice.thread_percentage for choice in settled) - before - alone, number))
        if grown:
            gpus[min(grown)[1]].append(each)
        else:
            gpus.append([each])
    return gpus


def gpulets(workloads: Sequence[Workload], behaviours: Mapping[str, Behaviour], terms: Terms) -> list[list[Item]]:
    """Gpulets (Choi et al., 2022): sizes in steps, two a GPU; a rate is split over the most efficient size."""
    items: list[Item] = []
    for workload in workloads:
        items += _gpulets_of(workload, behaviours[workload.model], terms)
    gpus: list[list[Item]] = []
    for each in sorted(items, key=lambda one: (-one.choices[0].thread_percentage, one.model)):
        tight = []
        for number, gpu in enumerate(gpus):
            settled = settle([*gpu, each], terms) if len(gpu) == 1 else None
            if settled is not None:
                tight.append((-sum(choice.thread_percentage for choice in settled), number))
        if tight:
            gpus[min(tight)[1]].append(each)
        else:
            gpus.append([each])
    return gpus


HEURISTICS: Mapping[str, Heuristic] = {
    "first-fit decreasing": first_fit_decreasing,
    "iGniter-style": igniter,
    "gpulets-style": gpulets,
}


def _replicas(workloads: Sequence[Workload], behaviours: Mapping[str, Behaviour], terms: Terms) -> list[Item]:
    found = []
    for each in workloads:
        count = fewest_replicas(behaviours[each.model], each, terms)
        assert count is not None, each
        found += [item(behaviours[each.model], each, count, terms)] * count
    return sorted(found, key=lambda one: (-one.choices[0].thread_percentage, one.model))


def _gpulets_of(workload: Workload, behaviour: Behaviour, terms: Terms) -> list[Item]:
    """Full gpulets of the size that serves most for each percent, then the smallest one for what is left."""
    rates = {size: _largest_rate(workload, behaviour, size, terms) for size in GPULETS}
    size = max(GPULETS, key=lambda one: (rates[one] / one, -one))
    items, left = [], workload.rate
    while left > 1e-9:
        rate = min(left, rates[size] * 0.999)
        smallest = next(one for one in GPULETS if rates[one] * 0.9995 >= rate)
        options = _sized(workload, behaviour, rate, smallest, terms)
        items.append(Item(workload.model, 1, options))
        left -= rate
    return items


def _sized(workload: Workload, behaviour: Behaviour, rate: float, least: int, terms: Terms) -> tuple:  # type: ignore[type-arg]
    found = choices(behaviour, replace(workload, rate=rate), 1, terms.execution_share)
    return tuple(one for one in found if one.thread_percentage in GPULETS and one.thread_percentage >= least)


def _largest_rate(workload: Workload, behaviour: Behaviour, size: int, terms: Terms) -> float:
    """How much a gpulet serves alone, with its best batch."""
    return max(_served(workload, behaviour, size, batch, terms) for batch in batches(behaviour, workload))


def _served(workload: Workload, behaviour: Behaviour, size: int, batch: int, terms: Terms) -> float:
    service = behaviour.curve.active_ms(batch, size) * behaviour.margin
    low, high = 0.0, predict(behaviour, batch, size).capacity
    for _ in range(20):
        middle = (low + high) / 2
        asked = replace(workload, rate=middle)
        if admits(behaviour, asked, batch, service, replicas=1, share=terms.execution_share):
            low = middle
        else:
            high = middle
    return low
