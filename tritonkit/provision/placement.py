"""Places on GPUs: what sits together, with percentages grown until every objective there holds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tritonkit.provision.choices import MOST_LOAD, WHOLE, Choice, Terms, Workload, batches, choices
from tritonkit.provision.prediction import Behaviour, Prediction, neighbours_of, predict

# What arithmetic may be off by, in ms and in requests a second.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Item:
    """One of a model's replicas, to be placed: the choices that it has, ascending."""

    model: str
    replicas: int
    choices: tuple[Choice, ...]

    @property
    def behaviour(self) -> Behaviour:
        """The model's."""
        return self.choices[0].behaviour


@dataclass(frozen=True)
class Seat:
    """One replica in its place.

    Attributes:
        choice: its percentage and batch.
        alone: the smallest percentage that it would need without neighbours.
        prediction: how it runs there, beside all its neighbours at full load.
    """

    choice: Choice
    alone: int
    prediction: Prediction

    @property
    def model(self) -> str:
        """The model's name."""
        return self.choice.workload.model

    @property
    def margin_ms(self) -> float:
        """What is left of its SLO."""
        return self.choice.workload.slo_ms - self.prediction.latency_p99_ms


def item(behaviour: Behaviour, workload: Workload, replicas: int, terms: Terms) -> Item:
    """One of so many replicas of a model, with the batch that bears most at the smallest percentage.

    A model has one configuration, and so all of its replicas have one batch; a single one has no need to choose.
    """
    found = choices(behaviour, workload, replicas, terms.execution_share)
    if replicas == 1 or not found:
        return Item(workload.model, replicas, found)
    smallest = found[0].thread_percentage
    size = max((each.slack_ms, each.batch_size) for each in found if each.thread_percentage == smallest)[1]
    return Item(workload.model, replicas, tuple(each for each in found if each.batch_size == size))


def items(behaviour: Behaviour, workload: Workload, replicas: int, terms: Terms) -> tuple[Item, ...]:
    """Likewise, one for each batch that they could have, but for those that another one is better than everywhere.

    Each has all percentages of its batch: where another batch is better at one of them, replicas cannot take that one
    there and this one elsewhere.
    """
    if replicas == 1:
        return (item(behaviour, workload, replicas, terms),)
    kept: list[tuple[Choice, ...]] = []
    for size in batches(behaviour, workload):
        found = choices(behaviour, workload, replicas, terms.execution_share, only_batch=size)
        if not any(_replaces(other, found) for other in kept):
            kept = [other for other in kept if not _replaces(found, other)] + [found]
    return tuple(Item(workload.model, replicas, found) for found in kept)


def _replaces(one: Sequence[Choice], other: Sequence[Choice]) -> bool:
    """Whether a batch bears at each percentage of another one at least what that does, in any company."""
    at = {choice.thread_percentage: choice for choice in one}
    return all(
        choice.thread_percentage in at
        and at[choice.thread_percentage].slack_ms >= choice.slack_ms
        and at[choice.thread_percentage].slope_ms <= choice.slope_ms
        for choice in other
    )


def settle(items: Sequence[Item], terms: Terms) -> tuple[Choice, ...] | None:
    """The smallest percentages with which all of them hold together on one GPU; None where they do not fit.

    Percentages only grow: each growth presses on the neighbours, which then may have to grow as well.
    """
    if any(not each.choices for each in items) or len({each.model for each in items}) < len(items):
        return None
    if not _fits(items, terms):
        return None
    places = [0] * len(items)
    neighbours = len(items) - 1
    while True:
        taken = [each.choices[place] for each, place in zip(items, places, strict=True)]
        if sum(choice.thread_percentage for choice in taken) > WHOLE:
            return None
        pressure = sum(choice.pressure for choice in taken)
        grown = False
        for index, each in enumerate(items):
            others = pressure - taken[index].pressure
            while not each.choices[places[index]].bears(others, neighbours):
                places[index] += 1
                grown = True
                if places[index] == len(each.choices):
                    return None
        if not grown:
            return tuple(taken)


def _fits(items: Sequence[Item], terms: Terms) -> bool:
    memory = sum(each.behaviour.memory_mib for each in items)
    clients = sum(each.behaviour.clients for each in items)
    return clients <= terms.clients and (terms.memory_mib is None or memory <= terms.memory_mib)


def seats(chosen: Sequence[Choice], alone: Mapping[tuple[str, int], int]) -> tuple[Seat, ...]:
    """The seats of one GPU, with what is predicted there; ``alone`` gives the percentage by model and replicas."""
    together = [(choice.behaviour, float(choice.thread_percentage)) for choice in chosen]
    return tuple(
        Seat(
            choice,
            alone[choice.workload.model, choice.replicas],
            predict(
                choice.behaviour,
                choice.batch_size,
                choice.thread_percentage,
                neighbours_of(index, together),
                choice.rate,
            ),
        )
        for index, choice in enumerate(chosen)
    )


def faults(gpus: Sequence[Sequence[Seat]], workloads: Sequence[Workload], terms: Terms) -> list[str]:
    """Everything that a plan breaks, by the predictor alone; a plan that may be used breaks nothing."""
    found = []
    served = {each.model: 0.0 for each in workloads}
    if terms.gpus is not None and len(gpus) > terms.gpus:
        found.append(f"{len(gpus)} GPUs are used, and there are {terms.gpus}")
    for number, placed in enumerate(gpus):
        percentages = sum(seat.choice.thread_percentage for seat in placed)
        memory = sum(seat.choice.behaviour.memory_mib for seat in placed)
        clients = sum(seat.choice.behaviour.clients for seat in placed)
        if percentages > WHOLE:
            found.append(f"GPU {number}: {percentages} % in sum")
        if terms.memory_mib is not None and memory > terms.memory_mib:
            found.append(f"GPU {number}: {memory:.0f} MiB of {terms.memory_mib:.0f} MiB")
        if clients > terms.clients:
            found.append(f"GPU {number}: {clients} MPS clients of {terms.clients}")
        for fresh in seats([seat.choice for seat in placed], {_of(seat): seat.alone for seat in placed}):
            run, slo, share = fresh.prediction, fresh.choice.workload.slo_ms, terms.execution_share
            if run.latency_p99_ms > slo + ROUNDING:
                found.append(f"{fresh.model}: {run.latency_p99_ms:.3f} ms is more than {slo:g} ms")
            if run.load > MOST_LOAD + ROUNDING:
                found.append(f"{fresh.model}: a load of {run.load:.1%}")
            if share is not None and run.takes_ms > slo * share + ROUNDING:
                found.append(f"{fresh.model}: {run.takes_ms:.3f} ms is more than its part of {slo:g} ms")
            if share is not None and run.wait_ms > slo * (1 - share) + ROUNDING:
                found.append(f"{fresh.model}: waits {run.wait_ms:.3f} ms of {slo:g} ms")
            served[fresh.model] += min(fresh.choice.rate, run.capacity)
    for each in workloads:
        if served[each.model] < each.rate - ROUNDING:
            found.append(f"{each.model}: {served[each.model]:.2f}/s of {each.rate:g}/s")
    return found


def _of(seat: Seat) -> tuple[str, int]:
    return seat.model, seat.choice.replicas
