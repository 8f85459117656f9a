"""What a model could be given: for each percentage the batch that meets its objective beside the most others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tritonkit.provision.prediction import Behaviour, throughput
from tritonkit.provision.queueing import wait_ms

# Percentages are multiples of this: an MPS limit is rounded down to pairs of SMs, which is finer on large GPUs only.
STEP = 5
# Two processes of one driver; more from CUDA 13.1 on, so this holds everywhere.
MPS_CLIENTS = 48
WHOLE = 100.0
# Arithmetic of floating point numbers may be off by this; no measurement is as exact.
SLACK = 1e-9


@dataclass(frozen=True)
class Workload:
    """A model with its objective.

    Attributes:
        model: its name.
        slo_ms: 99 of 100 requests are to take no longer.
        rate: requests a second, of one item each.
        largest_batch: what the model takes at most; None sets no limit.
    """

    model: str
    slo_ms: float
    rate: float
    largest_batch: int | None = None


@dataclass(frozen=True)
class Terms:
    """What every plan keeps to.

    Attributes:
        gpus: the most GPUs to use; None takes as many as are needed.
        memory_mib: the memory of each; None sets no limit.
        clients: MPS clients on each.
        execution_share: the part of an SLO that a request may take beside its waiting.
        most_replicas: of one model.
    """

    gpus: int | None = None
    memory_mib: float | None = None
    clients: int = MPS_CLIENTS
    execution_share: float = 0.5
    most_replicas: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.execution_share < 1:
            raise ValueError("a part of an SLO is between 0 and 1")


@dataclass(frozen=True)
class Choice:
    """One replica of a model at a percentage and a batch, and how much company it bears.

    Attributes:
        behaviour: the model's.
        workload: what it must hold.
        replicas: how many replicas share its rate.
        thread_percentage: its limit.
        batch_size: the largest batch.
        slack_ms: how much longer a batch may take than alone.
        slope_ms: how much longer each unit of pressure makes it.
    """

    behaviour: Behaviour
    workload: Workload
    replicas: int
    thread_percentage: int
    batch_size: int
    slack_ms: float
    slope_ms: float

    @property
    def rate(self) -> float:
        """Requests a second for this replica."""
        return self.workload.rate / self.replicas

    @property
    def pressure(self) -> float:
        """What it is to its neighbours."""
        return self.behaviour.pressure(self.thread_percentage)

    def bears(self, pressure: float, neighbours: int) -> bool:
        """Whether its objective holds beside so many neighbours of this pressure together."""
        return self.slope_ms * pressure + self.behaviour.delay_ms * neighbours <= self.slack_ms + SLACK


def longest_service_ms(behaviour: Behaviour, workload: Workload, batch_size: int, replicas: int, share: float) -> float:
    """How long a batch may keep the instance so that both parts of the SLO hold; 0 where no time does."""
    transfer = behaviour.curve.transfer_ms(batch_size)
    most = workload.slo_ms * share - transfer
    if most <= 0:
        return 0.0
    rate, patience = workload.rate / replicas, workload.slo_ms * (1 - share)

    def holds(service: float) -> bool:
        return wait_ms(service, batch_size, throughput(behaviour, batch_size, service), rate) <= patience

    if holds(most):
        return most
    low, high = 0.0, most
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def choices(
    behaviour: Behaviour, workload: Workload, replicas: int, share: float, *, only_batch: int | None = None
) -> tuple[Choice, ...]:
    """Every percentage at which one of so many replicas holds its objective alone, ascending; none where none does.

    A percentage stands there once for each batch that bears some company better than any other batch does; with
    ``only_batch`` no other batch is considered.
    """
    low, high = behaviour.curve.extent.percentages
    least, most = behaviour.curve.extent.batches
    if workload.largest_batch is not None:
        most = min(most, workload.largest_batch)
    limits = {
        batch: longest_service_ms(behaviour, workload, batch, replicas, share)
        for batch in range(least, most + 1)
        if only_batch in (None, batch)
    }
    found: list[Choice] = []
    for percentage in range(STEP * math.ceil(low / STEP), int(high) + 1, STEP):
        at = []
        for batch, limit in limits.items():
            active = behaviour.curve.active_ms(batch, percentage)
            if active <= limit:
                slope = behaviour.alpha * active
                at.append(Choice(behaviour, workload, replicas, percentage, batch, limit - active, slope))
        found += _best(at)
    if replicas > 1 and found:
        # A model has one configuration, so all of its replicas have one batch: that of the smallest percentage.
        batch = max((choice.slack_ms, choice.batch_size) for choice in found if choice.thread_percentage ==
                    found[0].thread_percentage)[1]  # fmt: skip
        found = [choice for choice in found if choice.batch_size == batch]
    return tuple(found)


def _best(at: Sequence[Choice]) -> list[Choice]:
    """Those that no other one is better than in any company; smaller batches first."""
    kept: list[Choice] = []
    for one in sorted(at, key=lambda choice: (choice.slope_ms, -choice.slack_ms, choice.batch_size)):
        if not kept or one.slack_ms > kept[-1].slack_ms:
            kept.append(one)
    return sorted(kept, key=lambda choice: choice.batch_size)


def fewest_replicas(behaviour: Behaviour, workload: Workload, terms: Terms) -> int | None:
    """How many replicas the rate needs, each alone on a GPU; None where no number would do."""
    most = min(terms.most_replicas, terms.gpus or terms.most_replicas)
    if terms.memory_mib is not None and behaviour.memory_mib > terms.memory_mib:
        return None
    return next(
        (count for count in range(1, most + 1) if choices(behaviour, workload, count, terms.execution_share)), None
    )


def least_share(behaviour: Behaviour, workload: Workload, terms: Terms) -> int:
    """The smallest sum of percentages that any number of replicas needs, each alone; it bounds every plan.

    Where no number of replicas would do, that of as many whole GPUs as there may be replicas.
    """
    sums = []
    for count in range(1, terms.most_replicas + 1):
        at = choices(behaviour, workload, count, terms.execution_share)
        if at:
            sums.append(count * at[0].thread_percentage)
            if at[0].thread_percentage <= STEP * math.ceil(behaviour.curve.extent.percentages[0] / STEP):
                break
    return min(sums, default=terms.most_replicas * int(WHOLE))


def lower_bound(workloads: Sequence[Workload], behaviours: Mapping[str, Behaviour], terms: Terms) -> int:
    """A number of GPUs that no plan is below: percentages without interference, memory and clients, each in sum."""
    if not workloads:
        return 0
    known = [behaviours[each.model] for each in workloads]
    share = sum(least_share(behaviours[each.model], each, terms) for each in workloads)
    replicas = [fewest_replicas(behaviours[each.model], each, terms) or 1 for each in workloads]
    bounds = [share / WHOLE, sum(each.clients for each in known) / terms.clients, float(max(replicas))]
    if terms.memory_mib:
        needed = (count * each.memory_mib for count, each in zip(replicas, known, strict=True))
        bounds.append(sum(needed) / terms.memory_mib)
    return max(math.ceil(bound - SLACK) for bound in bounds)
