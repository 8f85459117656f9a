"""Why a seat has its percentage: what would break with one step less. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tritonkit.provision.choices import MOST_LOAD, Terms, batches, percentages
from tritonkit.provision.packing import Packing
from tritonkit.provision.placement import Seat
from tritonkit.provision.prediction import Prediction, neighbours_of, predict


def why(seat: Seat, placed: Sequence[Seat], terms: Terms) -> str:
    """One sentence on a seat among all those of its GPU, itself included."""
    choice = seat.choice
    company = _company(seat, len(placed) - 1)
    smaller = [each for each in percentages(choice.behaviour) if each < choice.thread_percentage]
    if not smaller:
        low = choice.behaviour.curve.extent.percentages[0]
        if low < choice.thread_percentage:
            return f"the smallest that plans give, as they give whole percentages and {low:g} % was profiled{company}"
        return f"the smallest that was profiled{company}"
    percentage = smaller[-1]
    around = neighbours_of(
        placed.index(seat), [(each.choice.behaviour, float(each.choice.thread_percentage)) for each in placed]
    )
    slo = choice.workload.slo_ms
    share = terms.execution_share
    parts = (slo, slo) if share is None else (slo * share, slo * (1 - share))
    sizes = batches(choice.behaviour, choice.workload)
    if choice.replicas > 1:
        # Replicas have one batch, and this one would need another.
        sizes = (choice.batch_size,)
    tried = [predict(choice.behaviour, batch, percentage, around, choice.rate) for batch in sizes]
    # Where none of them keeps up, the one that comes nearest to it.
    nearest = min(tried, key=lambda each: (_excess(each, slo, parts), -each.capacity))
    if nearest.load > MOST_LOAD:
        return f"at {percentage} % it serves {nearest.capacity:.4g}/s at best, {MOST_LOAD:.0%} of it in a plan{company}"
    if nearest.takes_ms > parts[0]:
        return f"at {percentage} % it takes {nearest.takes_ms:.3g} of {parts[0]:.3g} ms{company}"
    if nearest.wait_ms > parts[1]:
        return f"at {percentage} % requests wait {nearest.wait_ms:.3g} of {parts[1]:.3g} ms{company}"
    if nearest.latency_p99_ms > slo:
        return f"at {percentage} % it takes and waits {nearest.latency_p99_ms:.3g} of {slo:.3g} ms{company}"
    # Its neighbours had to grow after it; with their final percentages one step less would do, but not the whole plan.
    return f"grown with its neighbours{company}"


def _company(seat: Seat, neighbours: int) -> str:
    if seat.choice.thread_percentage == seat.alone or not neighbours:
        return ""
    return f" ({seat.alone} % without neighbours)"


def _excess(prediction: Prediction, slo: float, parts: tuple[float, float]) -> float:
    if prediction.load > MOST_LOAD:
        return math.inf
    return max(prediction.takes_ms / parts[0], prediction.wait_ms / parts[1], prediction.latency_p99_ms / slo)


def fewest(packing: Packing) -> str:
    """What is known of plans with fewer GPUs, in a few words."""
    if packing.proven:
        return "no plan has fewer"
    least = f"at least {packing.lower_bound} are needed"
    if len(packing.gpus) == packing.lower_bound_tried:
        return f"no plan with the numbers of replicas that were tried has fewer; {least}"
    return least


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
                "takes_p99_ms": seat.prediction.takes_ms,
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
