"""A plan that runs, against what was predicted of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tritonkit.bench.records import Repeat
from tritonkit.bench.soundness import DEVIATIONS
from tritonkit.provision.packing import Packing
from tritonkit.provision.placement import Seat
from tritonkit.provision.prediction import neighbours_of, predict

# A rate counts as served from this part of it on, and from what random arrivals may lie below.
SERVED = 0.97
# Where that is more than this part of the rate, there were too few requests to tell.
TOLD = 0.1


@dataclass(frozen=True)
class Comparison:
    """One model under its load, all others under theirs.

    Attributes:
        model: its name.
        slo_ms: what 99 of 100 requests are to take no longer than.
        latency_p99_ms: what they took.
        predicted_p99_ms: the bound that the plan was made with.
        latency_ms: what they took on average.
        batch_size: the average batch.
        compute_ms: how long the instance was busy with one; None where the server did not tell.
        predicted_compute_ms: what is predicted for batches of those sizes beside neighbours as busy as planned.
        rate: requests a second that were to be served.
        throughput: requests a second that were served.
        told: whether there was enough time to tell that the rate was served, or that it was not.
        held: whether the SLO and the rate were held; not where it cannot be told.
    """

    model: str
    slo_ms: float
    latency_p99_ms: float
    predicted_p99_ms: float
    latency_ms: float | None
    batch_size: float
    compute_ms: float | None
    predicted_compute_ms: float | None
    rate: float
    throughput: float
    told: bool
    held: bool

    @property
    def error(self) -> float | None:
        """The relative error of the predicted computation, with its sign; None where it was not measured."""
        if self.compute_ms is None or self.predicted_compute_ms is None:
            return None
        return self.predicted_compute_ms / self.compute_ms - 1

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "error": self.error}


def compare(
    packing: Packing, measured: Mapping[str, Repeat], padded: Mapping[str, Sequence[int]]
) -> tuple[Comparison, ...]:
    """Predicted against measured for every model of a plan that was measured, all under load at once.

    A model with replicas is held against the slowest of them.

    Args:
        packing: the plan.
        measured: what each model did.
        padded: the batch sizes that each model's backend pads to; none, or no such model, where it does not.
    """
    slowest: dict[str, tuple[int, Seat]] = {}
    for number, seat in packing.seats:
        known = slowest.get(seat.model)
        if known is None or seat.prediction.latency_p99_ms > known[1].prediction.latency_p99_ms:
            slowest[seat.model] = (number, seat)
    return tuple(
        _compared(seat, packing.gpus[number], measured[model], padded.get(model, ()))
        for model, (number, seat) in sorted(slowest.items())
        if model in measured
    )


def _compared(seat: Seat, placed: tuple[Seat, ...], repeat: Repeat, padded: Sequence[int]) -> Comparison:
    choice = seat.choice
    batch = repeat.average_batch or 1.0
    compute = repeat.compute
    around = neighbours_of(
        placed.index(seat),
        [(each.choice.behaviour, float(each.choice.thread_percentage)) for each in placed],
        {index: min(each.prediction.load, 1.0) for index, each in enumerate(placed)},
    )
    # As often as each size was executed: the mean of a curve is not the curve at the mean.
    sizes = repeat.batches or {1: 1}
    predicted = sum(
        count * predict(choice.behaviour, _run_as(size, padded), choice.thread_percentage, around).service_ms
        for size, count in sizes.items()
    ) / sum(sizes.values())
    workload = choice.workload
    p99 = repeat.latency_p99 / 1000
    served = _served(workload.rate, repeat)
    return Comparison(
        model=workload.model,
        slo_ms=workload.slo_ms,
        latency_p99_ms=p99,
        predicted_p99_ms=seat.prediction.latency_p99_ms,
        latency_ms=None if repeat.latency_avg is None else repeat.latency_avg / 1000,
        batch_size=batch,
        compute_ms=compute / 1000 if compute else None,
        predicted_compute_ms=predicted if compute and predicted < float("inf") else None,
        rate=workload.rate,
        throughput=repeat.throughput,
        told=served is not None,
        held=p99 <= workload.slo_ms and bool(served) and not repeat.failures,
    )


def _run_as(size: int, padded: Sequence[int]) -> int:
    """The size that a batch runs as."""
    return next((one for one in sorted(padded) if one >= size), size)


def seconds_to_tell(rate: float) -> float:
    """How long a rate of random arrivals must last, until it can be told whether it was served."""
    return (DEVIATIONS / TOLD) ** 2 / rate


def _served(rate: float, repeat: Repeat) -> bool | None:
    """Whether a rate was served; None where random arrivals leave that open, or the log does not say how many came."""
    if repeat.throughput >= SERVED * rate:
        return True
    if not repeat.requests or not repeat.throughput:
        return None
    # What the figures rest on; perf_analyzer itself runs for longer.
    seconds = repeat.requests / repeat.throughput
    if repeat.throughput < SERVED * rate - DEVIATIONS * math.sqrt(rate / seconds):
        return False
    return True if seconds >= seconds_to_tell(rate) else None
