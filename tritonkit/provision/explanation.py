"""Why a seat has its percentage: what would break with one step less. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tritonkit.provision.choices import STEP, Terms
from tritonkit.provision.packing import Packing
from tritonkit.provision.placement import Seat
from tritonkit.provision.prediction import Prediction, neighbours_of, predict


def why(seat: Seat, placed: Sequence[Seat], terms: Terms) -> str:
    """One sentence on a seat among all those of its GPU, itself included."""
    choice = seat.choice
    company = _company(seat, len(placed) - 1)
    least = STEP * math.ceil(choice.behaviour.curve.extent.percentages[0] / STEP)
    if choice.thread_percentage == least:
        return f"the smallest that was profiled{company}"
    percentage = choice.thread_percentage - STEP
    around = neighbours_of(
        placed.index(seat), [(each.choice.behaviour, float(each.choice.thread_percentage)) for each in placed]
    )
    slo = choice.workload.slo_ms
    parts = (slo * terms.execution_share, slo * (1 - terms.execution_share))
    least_batch, most = choice.behaviour.curve.extent.batches
    most = min(most, choice.workload.largest_batch or most)
    tried = [
        predict(choice.behaviour, batch, percentage, around, choice.rate) for batch in range(least_batch, most + 1)
    ]
    nearest = min(tried, key=lambda each: _excess(each, parts))
    if not nearest.rate < nearest.capacity:
        return f"at {percentage} % it serves {nearest.capacity:.4g}/s{company}"
    if nearest.latency_ms > parts[0]:
        return f"at {percentage} % it takes {nearest.latency_ms:.3g} of {parts[0]:.3g} ms{company}"
    if nearest.wait_ms > parts[1]:
        return f"at {percentage} % requests wait {nearest.wait_ms:.3g} of {parts[1]:.3g} ms{company}"
    # Its neighbours had to grow after it; with their final percentages one step less would do, but not the whole plan.
    return f"grown with its neighbours{company}"


def _company(seat: Seat, neighbours: int) -> str:
    if seat.choice.thread_percentage == seat.alone or not neighbours:
        return ""
    return f" ({seat.alone} % without neighbours)"


def _excess(prediction: Prediction, parts: tuple[float, float]) -> float:
    return max(prediction.latency_ms / parts[0], prediction.wait_ms / parts[1])


def document(packing: Packing, terms: Terms) -> dict[str, Any]:
    """A plan as plain values; times in milliseconds, rates in requests a second."""
    return {
        "gpus": len(packing.gpus),
        "lower_bound": packing.lower_bound,
        "fewest_proven": packing.proven,
        "terms": asdict(terms),
        "seats": [
            {
                "model": seat.model,
                "gpu": number,
                "thread_percentage": seat.choice.thread_percentage,
                "alone_thread_percentage": seat.alone,
                "batch_size": seat.choice.batch_size,
                "replicas": seat.choice.replicas,
                "rate": seat.choice.rate,
                "capacity": seat.prediction.capacity,
                "latency_ms": seat.prediction.latency_ms,
                "wait_p99_ms": seat.prediction.wait_ms,
                "latency_p99_ms": seat.prediction.latency_p99_ms,
                "slo_ms": seat.choice.workload.slo_ms,
                "margin_ms": seat.margin_ms,
                "memory_mib": seat.choice.behaviour.memory_mib,
                "why": why(seat, packing.gpus[number], terms),
                "notes": list(seat.choice.behaviour.notes),
            }
            for number, seat in packing.seats
        ],
    }
