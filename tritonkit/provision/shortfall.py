"""Why objectives cannot be met: which model, by how much, and the nearest rate or SLO that would fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tritonkit.errors import Infeasible
from tritonkit.provision.choices import (
    STEP,
    Terms,
    Workload,
    batches,
    fewest_replicas,
    least_share,
    percentages,
)
from tritonkit.provision.prediction import Behaviour, predict

# Nearest values are told to this part of themselves.
_CLOSE = 0.01
# No user would take an SLO that is so many times as long.
_LONGEST = 1000.0
# What cannot be served at such a part of its rate cannot be served at any.
_SLOWEST = 1e6
# Of how many models it is asked what a smaller rate would do; the largest ones first.
_ASKED = 6


def alone(workload: Workload, behaviour: Behaviour, terms: Terms) -> Infeasible:
    """The error of a model that cannot meet its objective on GPUs of its own."""
    name = workload.model
    if terms.memory_mib is not None and behaviour.memory_mib > terms.memory_mib:
        return Infeasible(
            f"{name}: its server takes {behaviour.memory_mib:.0f} MiB, and a GPU has {terms.memory_mib:.0f} MiB",
            hint="Give GPUs with more memory (--gpu-memory), or a smaller model.",
        )

    offered = percentages(behaviour)
    if not offered:
        low, high = behaviour.curve.extent.percentages
        return Infeasible(
            f"{name}: plans give percentages that are multiples of {STEP} or were measured and are whole, and its "
            f"profile has none from {low:g} to {high:g} %",
            hint=f"Measure it at a multiple of {STEP}: tritonkit profile --percentages",
        )

    def holds(changed: Workload) -> bool:
        return fewest_replicas(behaviour, changed, terms) is not None

    slo = _nearest(lambda factor: holds(replace(workload, slo_ms=workload.slo_ms * factor)), _LONGEST)
    rate = _nearest(lambda factor: holds(replace(workload, rate=workload.rate / factor)), _SLOWEST)
    if rate is None:
        fastest = min(
            predict(behaviour, batch, offered[-1], (), workload.rate / _SLOWEST).latency_p99_ms
            for batch in batches(behaviour, workload)
        )
        message = (
            f"{name}: an SLO of {workload.slo_ms:g} ms cannot be met at any rate: alone at {offered[-1]} % a request "
            f"takes {fastest:.3g} ms at best, 99 times of 100"
        )
        if fastest > workload.slo_ms:
            message += f", which is {fastest - workload.slo_ms:.3g} ms too much"
        elif terms.execution_share is not None:
            message += f"; it may take {terms.execution_share:.0%} of the SLO, and wait the rest"
    else:
        count = terms.most_replicas
        where = (
            f"{count} GPU{'s' if count > 1 else ''} of its own{'' if terms.gpus else ', as many as a plan may have'}"
        )
        message = f"{name}: {workload.rate:g}/s cannot be served within {workload.slo_ms:g} ms, not with {where}"
        message += f": {workload.rate - workload.rate / rate:.4g}/s too much"
    return Infeasible(message, hint=_hint(workload, rate, slo))


def together(
    workloads: Sequence[Workload], behaviours: Mapping[str, Behaviour], terms: Terms, needed: int, *, proven: bool
) -> Infeasible:
    """The error of models that do not fit on the GPUs together."""
    words = "are needed" if proven else "were needed by the best plan found"
    have = f"there {'is' if terms.gpus == 1 else 'are'} {terms.gpus}"

    def holds(changed: Sequence[Workload]) -> bool:
        return fits(changed, behaviours, terms)

    def changed(place: int, **values: Any) -> list[Workload]:
        return [replace(each, **values) if index == place else each for index, each in enumerate(workloads)]

    sizes = {index: least_share(behaviours[each.model], each, terms) for index, each in enumerate(workloads)}
    largest = sorted(sizes, key=lambda index: (-sizes[index], workloads[index].model))[:_ASKED]
    found = []
    for index in largest:
        each = workloads[index]
        if len(workloads) > 1 and not holds([*workloads[:index], *workloads[index + 1 :]]):
            continue
        rate = _nearest(lambda factor, i=index, w=each: holds(changed(i, rate=w.rate / factor)), 1e4)  # type: ignore[misc]
        slo = _nearest(lambda factor, i=index, w=each: holds(changed(i, slo_ms=w.slo_ms * factor)), _LONGEST)  # type: ignore[misc]
        if rate is not None or slo is not None:
            found.append((min(rate or math.inf, slo or math.inf), index, rate, slo))
    if found:
        _, index, rate, slo = min(found)
        each = workloads[index]
        short = f", which is {each.rate - each.rate / rate:.4g}/s too much" if rate is not None else ""
        message = f"{each.model}: {needed} GPUs {words}, and {have}; it asks for {each.rate:g}/s{short}"
        return Infeasible(message, hint=_hint(each, rate, slo))
    every = _nearest(lambda factor: holds([replace(each, rate=each.rate / factor) for each in workloads]), 1e4)
    each = workloads[largest[0]]
    hint = f"Give {needed} GPUs (--gpus {needed})"
    if every is not None:
        hint += f", or let every rate be {1 / every:.0%} of what is asked"
    message = f"{each.model} and {len(workloads) - 1} others: {needed} GPUs {words}, and {have}"
    return Infeasible(message, hint=f"{hint}.")


def fits(workloads: Sequence[Workload], behaviours: Mapping[str, Behaviour], terms: Terms) -> bool:
    """Whether the greedy search finds a plan on the GPUs that there are."""
    from tritonkit.provision.packing import greedy, menu

    if any(fewest_replicas(behaviours[each.model], each, terms) is None for each in workloads):
        return False
    menus = {each.model: menu(each, behaviours[each.model], terms) for each in workloads}
    return terms.gpus is None or len(greedy(menus, terms)) <= terms.gpus


def _nearest(holds: Callable[[float], bool], most: float) -> float | None:
    """The smallest factor, above 1, with which it holds; None where not even the largest one does."""
    low, high = 1.0, 2.0
    while not holds(high):
        low, high = high, high * 4
        if high > most:
            return None
    while high / low > 1 + _CLOSE:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _hint(workload: Workload, rate: float | None, slo: float | None) -> str:
    ways = []
    if rate is not None:
        ways.append(f"a rate of {_floor(workload.rate / rate)}/s")
    if slo is not None:
        ways.append(f"a latency_p99 of {_ceil(workload.slo_ms * slo)}ms")
    return f"What would fit {workload.model}: {', or '.join(ways)}." if ways else "No nearby rate or SLO would fit."


def _floor(value: float) -> str:
    """With three digits, and never more than the value."""
    digits = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.floor(value / digits) * digits:.10g}"


def _ceil(value: float) -> str:
    digits = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / digits) * digits:.10g}"
