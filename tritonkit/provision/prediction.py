"""``predict``: how a model runs at any percentage and batch beside any neighbours. Pure, once profiles are fitted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tritonkit.provision.curves import Curve, curve
from tritonkit.provision.interference import Sensitivity, interference
from tritonkit.provision.profiles import Row
from tritonkit.provision.queueing import VARIATION, longest_ms, wait_ms

# MPS clients of a server whose profile does not say: tritonserver, and the process of one Python-based instance.
USUAL_CLIENTS = 2
# A point beside others that is further off than this is told.
POOR_BESIDE = 0.1


@dataclass(frozen=True)
class Behaviour:
    """All that is known of a model.

    Attributes:
        model: its name.
        curve: how long it takes alone.
        alpha: its relative slowdown for each unit of pressure.
        demand: the pressure that it is to others, at the whole GPU.
        delay_ms: the scheduling delay for each neighbour.
        efficiency: measured throughput over the one that the curve gives; 1 where it was not measured.
        memory_mib: the GPU memory of its server; 0 where it was not measured.
        clients: the MPS clients of its server.
        doubt: how far alpha is off where it was measured; plans count on alpha and so much more.
        variation: the standard deviation of a batch's time, as a part of its mean.
        notes: what was assumed, and where the curve is not trusted.
    """

    model: str
    curve: Curve
    alpha: float
    demand: float
    delay_ms: float = 0.0
    efficiency: float = 1.0
    memory_mib: float = 0.0
    clients: int = USUAL_CLIENTS
    doubt: float = 0.0
    variation: float = VARIATION
    notes: tuple[str, ...] = ()

    def pressure(self, thread_percentage: float) -> float:
        """What it is to its neighbours at this percentage."""
        return self.demand * thread_percentage / 100

    @property
    def margin(self) -> float:
        """How many times as long as predicted plans let a batch take: the curve's own error."""
        return 1 + self.curve.error


@dataclass(frozen=True)
class Neighbour:
    """Another model on the same GPU; ``busy`` is the share of the time in which it computes."""

    behaviour: Behaviour
    thread_percentage: float
    busy: float = 1.0


@dataclass(frozen=True)
class Prediction:
    """How a model runs: what is to be expected, and what a plan counts on, which is worse by what is not known.

    Attributes:
        latency_ms: a request with a whole batch, without waiting; expected.
        service_ms: the part of it in which the instance is busy; expected.
        takes_ms: what 99 of 100 whole batches do not take longer than, without waiting.
        wait_ms: what 99 of 100 requests do not wait longer than.
        capacity: items served a second, in a plan.
        rate: items that arrive a second.
    """

    latency_ms: float
    service_ms: float
    takes_ms: float
    wait_ms: float
    capacity: float
    rate: float

    @property
    def latency_p99_ms(self) -> float:
        """99 of 100 requests take no longer."""
        return self.takes_ms + self.wait_ms

    @property
    def load(self) -> float:
        """The share of its capacity that is used."""
        return self.rate / self.capacity if self.capacity else math.inf


def predict(
    behaviour: Behaviour,
    batch_size: int,
    thread_percentage: float,
    neighbours: Sequence[Neighbour] = (),
    rate: float = 0.0,
) -> Prediction:
    """How a model runs at this batch and percentage, beside these neighbours, at this rate in items a second.

    Beyond what was measured every time is infinite, and the capacity 0.
    """
    pressure = sum(each.behaviour.pressure(each.thread_percentage) * each.busy for each in neighbours)
    active = behaviour.curve.active_ms(batch_size, thread_percentage)
    delay = behaviour.delay_ms * len(neighbours)
    service = active * (1 + behaviour.alpha * pressure) + delay
    planned = (active * (1 + (behaviour.alpha + behaviour.doubt) * pressure) + delay) * behaviour.margin
    capacity = throughput(behaviour, batch_size, planned)
    transfer = behaviour.curve.transfer_ms(batch_size)
    return Prediction(
        latency_ms=service + transfer,
        service_ms=service,
        takes_ms=longest_ms(planned, behaviour.variation) + transfer,
        wait_ms=wait_ms(planned, batch_size, capacity, rate, behaviour.variation) if rate else 0.0,
        capacity=capacity,
        rate=rate,
    )


def throughput(behaviour: Behaviour, batch_size: int, service_ms: float) -> float:
    """Items a second, where a batch keeps the instance for ``service_ms``: requests travel while others compute."""
    return behaviour.efficiency * batch_size * 1000 / service_ms


def behaviours(rows: Iterable[Row]) -> dict[str, Behaviour]:
    """Every model of a profile that was measured alone, by name.

    Raises:
        ToolMissing: scipy is not installed.
    """
    rows = tuple(rows)
    by_model: dict[str, list[Row]] = {}
    for row in rows:
        if not row.key.beside:
            by_model.setdefault(row.key.model, []).append(row)
    curves = {model: curve(points) for model, points in sorted(by_model.items())}
    beside = interference(rows, curves)
    return {
        model: Behaviour(
            model,
            curves[model],
            beside.models[model].alpha,
            beside.models[model].demand,
            beside.delay_ms,
            _efficiency(points, curves[model]),
            max((row.memory_mib or 0.0 for row in points), default=0.0),
            max((row.clients for row in points if row.clients), default=USUAL_CLIENTS),
            beside.models[model].doubt,
            notes=(*curves[model].notes, *_assumptions(points, beside.models[model])),
        )
        for model, points in sorted(by_model.items())
    }


def gpu_memory_mib(rows: Iterable[Row]) -> float | None:
    """The memory of the smallest GPU that a profile was measured on; None where it does not say."""
    return min((row.gpu_memory_mib for row in rows if row.gpu_memory_mib), default=None)


def _efficiency(points: Sequence[Row], shape: Curve) -> float:
    ratios = sorted(
        row.throughput * shape.active_ms(row.key.batch_size, row.key.thread_percentage) / 1000 / row.key.batch_size
        for row in points
        if row.throughput
    )
    if not ratios:
        return 1.0
    middle = len(ratios) // 2
    return ratios[middle] if len(ratios) % 2 else (ratios[middle - 1] + ratios[middle]) / 2


def _assumptions(points: Sequence[Row], beside: Sensitivity) -> list[str]:
    assumed = []
    largest = max(row.key.thread_percentage for row in points)
    if largest < 100:
        assumed.append(f"it was profiled only up to {largest:g} %: larger percentages might need fewer GPUs")
    if beside.off > POOR_BESIDE:
        assumed.append(
            f"beside others it is predicted with an error of up to {beside.off:.0%}: plans leave room for it, and more "
            "pairs would tell"
        )
    if not beside.measured:
        assumed.append("its influence on neighbours, or theirs on it, was not measured and is assumed")
    if not any(row.throughput for row in points):
        assumed.append("its throughput was not measured: batches are taken to follow one another without a gap")
    if not any(row.memory_mib for row in points):
        assumed.append("its memory was not measured")
    return assumed


def neighbours_of(
    index: int, seated: Sequence[tuple[Behaviour, float]], busy: Mapping[int, float] | None = None
) -> list[Neighbour]:
    """All that sit on a GPU but one, as its neighbours; each is busy all the time unless ``busy`` says less."""
    return [
        Neighbour(behaviour, percentage, (busy or {}).get(other, 1.0))
        for other, (behaviour, percentage) in enumerate(seated)
        if other != index
    ]
