"""From one plan to the next: percentages where they are enough, another placement where they are not. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tritonkit.provision.choices import Choice, Terms, Workload, choices, lower_bound
from tritonkit.provision.packing import Packing, pack
from tritonkit.provision.placement import Item, seats, settle
from tritonkit.provision.prediction import Behaviour


@dataclass(frozen=True)
class Change:
    """One difference between two plans.

    Attributes:
        kind: ``set`` (another percentage), ``start`` or ``stop`` (of a replica on a GPU), or ``batch``.
        model: the model.
        gpu: the GPU's number in the plan.
        before: the percentage, or the batch, that it has; 0 for none.
        after: the one that it is to have; 0 for none.
    """

    kind: Literal["set", "start", "stop", "batch"]
    model: str
    gpu: int
    before: int
    after: int

    def __str__(self) -> str:
        where = f"{self.model} on GPU {self.gpu}"
        if self.kind == "batch":
            return f"{where}: batches of {self.after} instead of {self.before}"
        if self.kind == "set":
            return f"{where}: {self.before} % -> {self.after} %"
        return f"{self.kind} {where} ({self.after or self.before} %)"


def follow(
    current: Packing,
    workloads: Sequence[Workload],
    behaviours: Mapping[str, Behaviour],
    terms: Terms,
    *,
    moves: bool = True,
) -> Packing | None:
    """A plan for other rates that changes as little as it can.

    Seats and batches stay where they are if the percentages alone can follow, unless that holds more GPUs than needed.
    Who is asked for no less than before keeps at least its percentage while there is room: a server whose percentage
    changes is started again.

    Args:
        current: the plan that runs.
        workloads: the same models, with their new rates.
        behaviours: what is known of them.
        terms: what the plan keeps to.
        moves: whether models may move; without, None where percentages alone cannot follow.

    Raises:
        Infeasible: no plan for these rates was found.
    """
    stayed = _stayed(current, workloads, behaviours, terms, keeping=True)
    stayed = stayed or _stayed(current, workloads, behaviours, terms, keeping=False)
    if not moves:
        return stayed
    bound = lower_bound(workloads, behaviours, terms)
    if stayed is not None and len(stayed.gpus) <= bound:
        return stayed
    fresh = pack(workloads, behaviours, terms)
    if stayed is not None and len(stayed.gpus) <= len(fresh.gpus):
        return stayed
    return fresh


def differences(current: Packing, following: Packing) -> tuple[Change, ...]:
    """What leads from one plan to another, in an order in which no GPU is ever given out more than once."""
    before = {(seat.model, number): seat.choice for number, seat in current.seats}
    after = {(seat.model, number): seat.choice for number, seat in following.seats}
    found: list[Change] = []
    for model, gpu in before.keys() - after.keys():
        found.append(Change("stop", model, gpu, before[model, gpu].thread_percentage, 0))
    for model, gpu in after.keys() - before.keys():
        found.append(Change("start", model, gpu, 0, after[model, gpu].thread_percentage))
    for model, gpu in before.keys() & after.keys():
        one, other = before[model, gpu], after[model, gpu]
        if one.batch_size != other.batch_size:
            found.append(Change("batch", model, gpu, one.batch_size, other.batch_size))
        if one.thread_percentage != other.thread_percentage:
            found.append(Change("set", model, gpu, one.thread_percentage, other.thread_percentage))
    return tuple(sorted(found, key=_order))


def _order(change: Change) -> tuple[int, str, int]:
    shrinks = change.kind == "set" and change.after < change.before
    rank = {"stop": 0, "batch": 2, "set": 3, "start": 4}[change.kind]
    return (1 if shrinks else rank), change.model, change.gpu


def _stayed(
    current: Packing,
    workloads: Sequence[Workload],
    behaviours: Mapping[str, Behaviour],
    terms: Terms,
    *,
    keeping: bool,
) -> Packing | None:
    wanted = {each.model: each for each in workloads}
    alone: dict[tuple[str, int], int] = {}
    placed = []
    for gpu in current.gpus:
        items: list[Item] = []
        for seat in gpu:
            count, batch = seat.choice.replicas, seat.choice.batch_size
            same = choices(behaviours[seat.model], wanted[seat.model], count, terms.execution_share, only_batch=batch)
            if not same:
                return None
            alone[seat.model, count] = same[0].thread_percentage
            if keeping and wanted[seat.model].rate >= seat.choice.workload.rate:
                least = min(seat.choice.thread_percentage, same[-1].thread_percentage)
                same = tuple(choice for choice in same if choice.thread_percentage >= least)
            items.append(Item(seat.model, count, same))
        settled = settle(items, terms)
        if settled is None:
            return None
        placed.append(seats(settled, alone))
    bound = lower_bound(workloads, behaviours, terms)
    return Packing(tuple(placed), min(bound, len(placed)))


@dataclass(frozen=True)
class Place:
    """Where a model runs: the number of the GPU and the percentage."""

    model: str
    gpu: int
    thread_percentage: int


def running(places: Sequence[Place], workloads: Sequence[Workload], behaviours: Mapping[str, Behaviour]) -> Packing:
    """The plan that runs, from what is known of its servers; each model has the largest batch that it takes.

    GPUs are numbered from 0 in the order of their own numbers; a GPU that serves none of the models is left out.
    """
    wanted = {each.model: each for each in workloads}
    known = [place for place in places if place.model in wanted]
    count = Counter(place.model for place in known)
    gpus: dict[int, list[Choice]] = {}
    for place in sorted(known, key=lambda each: (each.gpu, each.model)):
        workload, behaviour = wanted[place.model], behaviours[place.model]
        most = behaviour.curve.extent.batches[1]
        batch = min(workload.largest_batch or most, most)
        choice = Choice(behaviour, workload, count[place.model], place.thread_percentage, batch, 0.0, 0.0)
        gpus.setdefault(place.gpu, []).append(choice)
    alone = {(place.model, count[place.model]): place.thread_percentage for place in known}
    return Packing(tuple(seats(chosen, alone) for _, chosen in sorted(gpus.items())), len(gpus))
