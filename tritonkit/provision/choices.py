"""What a model could be given: for each percentage the batch that meets its objective beside the most others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tritonkit.provision.prediction import Behaviour, throughput
from tritonkit.provision.queueing import longest_ms, wait_ms

# Percentages are multiples of this, and measured ones: an MPS limit is rounded down to pairs of SMs, which is finer on
# large GPUs only.
STEP = 5
# Of what a replica could serve, a plan asks for no more than this: above, waiting grows without end with any error.
MOST_LOAD = 0.9
# Batches up to so many are all tried; of larger ones, each an eighth larger than the one before.
EVERY_BATCH = 64
# A plan asks for the same choices several times, and what follows a load for those of most models again.
_REMEMBERED = 1024
# As many as the GPUs that a plan may have.
MOST_REPLICAS = 64
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
        execution_share: the part of an SLO that a request may take beside its waiting; None lets each model divide
            its SLO as it needs least.
        spare: whether some of a GPU has to be left, for models that are not planned for.
    """

    gpus: int | None = None
    memory_mib: float | None = None
    clients: int = MPS_CLIENTS
    execution_share: float | None = None
    spare: bool = False

    def __post_init__(self) -> None:
        if self.execution_share is not None and not 0 < self.execution_share < 1:
            raise ValueError("a part of an SLO is between 0 and 1")

    @property
    def most_replicas(self) -> int:
        """Of one model, as each has a GPU of its own."""
        return MOST_REPLICAS if self.gpus is None else self.gpus


@dataclass(frozen=True)
class Choice:
    """One replica of a model at a percentage and a batch, and how much company it bears.

    Attributes:
        behaviour: the model's.
        workload: what it must hold.
        replicas: how many replicas share its rate.
        thread_percentage: its limit.
        batch_size: the largest batch.
        slack_ms: how much longer a batch may be expected to take than alone.
        slope_ms: how much longer each unit of pressure makes it, in a plan.
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


def percentages(behaviour: Behaviour) -> tuple[int, ...]:
    """The thread percentages that a model may be given, ascending: within what was measured."""
    low, high = behaviour.curve.extent.percentages
    measured = {int(each) for each, _ in behaviour.curve.extent.hardest if each == int(each)}
    return tuple(sorted(measured | {each for each in range(STEP, int(WHOLE) + 1, STEP) if low <= each <= high}))


def batches(behaviour: Behaviour, workload: Workload) -> tuple[int, ...]:
    """The batches that a model may be given, ascending: within what was measured and what it takes."""
    least, most = behaviour.curve.extent.batches
    if workload.largest_batch is not None:
        most = min(most, workload.largest_batch)
    found = list(range(least, min(most, EVERY_BATCH) + 1))
    size = max(least, EVERY_BATCH)
    while size < most:
        size = min(size + size // 8 + 1, most)
        found.append(size)
    return tuple(found)


def admits(
    behaviour: Behaviour, workload: Workload, batch_size: int, service_ms: float, *, replicas: int, share: float | None
) -> bool:
    """Whether a replica holds its objective where a batch keeps the instance for so long, in a plan.

    This is the one rule of admission: the SLO is more than what a request takes and waits, the load is not above
    ``MOST_LOAD``, and both parts are kept where the SLO has a fixed ``share`` for what it takes.
    """
    rate, slo = workload.rate / replicas, workload.slo_ms
    takes = longest_ms(service_ms, behaviour.variation) + behaviour.curve.transfer_ms(batch_size)
    if takes > (slo if share is None else slo * share):
        return False
    capacity = throughput(behaviour, batch_size, service_ms)
    if rate > MOST_LOAD * capacity:
        return False
    waits = wait_ms(service_ms, batch_size, capacity, rate, behaviour.variation)
    return waits <= (slo - takes if share is None else slo * (1 - share))


def _longest_service_ms(
    behaviour: Behaviour, workload: Workload, batch_size: int, replicas: int, share: float | None, least: float
) -> float:
    """How long a batch may be expected to keep the instance so that the objective holds; it holds with ``least``.

    A plan counts on more than what is expected, by the model's margin.
    """
    low, high = least * behaviour.margin, workload.slo_ms
    for _ in range(40):
        middle = (low + high) / 2
        if admits(behaviour, workload, batch_size, middle, replicas=replicas, share=share):
            low = middle
        else:
            high = middle
    return low / behaviour.margin


@lru_cache(_REMEMBERED)
def choices(
    behaviour: Behaviour, workload: Workload, replicas: int, share: float | None, *, only_batch: int | None = None
) -> tuple[Choice, ...]:
    """Every percentage at which one of so many replicas holds its objective alone, ascending; none where none does.

    A percentage stands there once for each batch that bears some company better than any other batch does; with
    ``only_batch`` no other batch is considered.
    """
    offered = percentages(behaviour)
    at: dict[int, list[Choice]] = {percentage: [] for percentage in offered}
    for batch in batches(behaviour, workload):
        if only_batch not in (None, batch):
            continue
        times = {percentage: behaviour.curve.active_ms(batch, percentage) for percentage in offered}
        fastest = min(times.values(), default=math.inf)
        if not _alone(behaviour, workload, batch, fastest, replicas, share):
            continue
        limit = _longest_service_ms(behaviour, workload, batch, replicas, share, fastest)
        for percentage, active in times.items():
            if active <= limit:
                slope = (behaviour.alpha + behaviour.doubt) * active
                at[percentage].append(Choice(behaviour, workload, replicas, percentage, batch, limit - active, slope))
    return tuple(choice for percentage in offered for choice in _best(at[percentage]))


def _alone(
    behaviour: Behaviour, workload: Workload, batch_size: int, active_ms: float, replicas: int, share: float | None
) -> bool:
    return admits(behaviour, workload, batch_size, active_ms * behaviour.margin, replicas=replicas, share=share)


def least_percentage(behaviour: Behaviour, workload: Workload, replicas: int, share: float | None) -> int | None:
    """The smallest percentage at which one of so many replicas holds its objective alone; None where none does."""
    sizes = batches(behaviour, workload)
    return next(
        (
            percentage
            for percentage in percentages(behaviour)
            if any(
                _alone(behaviour, workload, batch, behaviour.curve.active_ms(batch, percentage), replicas, share)
                for batch in sizes
            )
        ),
        None,
    )


def _best(at: Sequence[Choice]) -> list[Choice]:
    """Those that no other one is better than in any company; larger batches first, as they follow a load further."""
    kept: list[Choice] = []
    for one in sorted(at, key=lambda choice: (choice.slope_ms, -choice.slack_ms, choice.batch_size)):
        if not kept or one.slack_ms > kept[-1].slack_ms:
            kept.append(one)
    return sorted(kept, key=lambda choice: -choice.batch_size)


def fewest_replicas(behaviour: Behaviour, workload: Workload, terms: Terms) -> int | None:
    """How many replicas the rate needs, each alone on a GPU; None where no number would do."""
    if terms.memory_mib is not None and behaviour.memory_mib > terms.memory_mib:
        return None

    def does(count: int) -> bool:
        return least_percentage(behaviour, workload, count, terms.execution_share) is not None

    if does(1):
        return 1
    low, high = 1, terms.most_replicas
    if not does(high):
        return None
    # The smaller a replica's part of the rate, the easier it is held.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if does(middle) else (middle, high)
    return high


@lru_cache(_REMEMBERED)
def shares(behaviour: Behaviour, workload: Workload, terms: Terms) -> dict[int, int]:
    """The smallest percentage of each of so many replicas, alone, by their number: while more can make the sum smaller.

    It is empty where no number of replicas would do.
    """
    count = fewest_replicas(behaviour, workload, terms)
    if count is None:
        return {}
    found: dict[int, int] = {}
    floor, least = percentages(behaviour)[0], math.inf
    while count <= terms.most_replicas and count * floor < least:
        at = least_percentage(behaviour, workload, count, terms.execution_share)
        if at is not None:
            found[count] = at
            least = min(least, count * at)
        count += 1
    return found


def least_share(behaviour: Behaviour, workload: Workload, terms: Terms) -> int:
    """The smallest sum of percentages that any number of replicas needs, each alone; it bounds every plan.

    Where no number of replicas would do, that of as many whole GPUs as there may be replicas.
    """
    return _least_sum(shares(behaviour, workload, terms), terms)


def _least_sum(offered: Mapping[int, int], terms: Terms) -> int:
    return min((count * at for count, at in offered.items()), default=terms.most_replicas * int(WHOLE))


def lower_bound(workloads: Sequence[Workload], behaviours: Mapping[str, Behaviour], terms: Terms) -> int:
    """A number of GPUs that no plan is below: percentages without interference, memory and clients, each in sum."""
    if not workloads:
        return 0
    known = [behaviours[each.model] for each in workloads]
    offered = [shares(behaviours[each.model], each, terms) for each in workloads]
    share = sum(_least_sum(found, terms) for found in offered)
    replicas = [min(found, default=1) for found in offered]
    bounds = [share / WHOLE, sum(each.clients for each in known) / terms.clients, float(max(replicas))]
    if terms.memory_mib:
        needed = (count * each.memory_mib for count, each in zip(replicas, known, strict=True))
        bounds.append(sum(needed) / terms.memory_mib)
    return max(math.ceil(bound - SLACK) for bound in bounds)
