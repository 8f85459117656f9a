"""Why objectives cannot be met: which model, by how much, and the nearest rate or SLO that would fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tritonkit.errors import Infeasible
from tritonkit.provision.choices import (
    MOST_REPLICAS,
    STEP,
    WHOLE,
    Terms,
    Workload,
    batches,
    fewest_replicas,
    least_share,
    percentages,
)
from tritonkit.provision.nearby import LONGEST, SLOWEST, ceil, floor, longer, nearest, slower
from tritonkit.provision.prediction import Behaviour, predict

# Of how many models it is asked what a smaller rate would do; the largest ones first.
_ASKED = 6
# How much slower what does not fit beside others is asked to be at most.
_EVERY = 1e4
# So many more GPUs are tried than one search needs.
_MORE = 2


def alone(
    short: Sequence[Workload], workloads: Sequence[Workload], behaviours: Mapping[str, Behaviour], terms: Terms
) -> Infeasible:
    """The error of all models that cannot meet their objectives on GPUs of their own: a line for each of them.

    Where the number of GPUs is given, what is told to fit does so beside all other models.
    """
    reasons = {each.model: _reason(each, behaviours[each.model], terms) for each in short}
    hints = [hint for _, hint in reasons.values() if hint]
    hints += _ways(
        [each for each in short if not reasons[each.model][1]],
        [each for each in workloads if each not in short],
        behaviours,
        terms,
    )
    count = None if terms.gpus is None else _enough(workloads, behaviours, terms, terms.gpus + 1)
    if count is not None:
        hints.append(f"With {count} GPUs all of them fit as they are (--gpus {count}).")
    return Infeasible("\n".join(message for message, _ in reasons.values()), hint="\n".join(dict.fromkeys(hints)))


def _ways(
    short: Sequence[Workload], others: Sequence[Workload], behaviours: Mapping[str, Behaviour], terms: Terms
) -> list[str]:
    """For each model that cannot meet its objective alone the rate and the SLO that would fit.

    Where the number of GPUs is given they hold beside the others. Of several models then one way is told of each: all
    of these hold together, and are as many times easier than what is asked.
    """

    def by_itself(changed: Workload) -> bool:
        return fewest_replicas(behaviours[changed.model], changed, terms) is not None

    def beside(changed: Workload) -> bool:
        return fits([*others, changed], behaviours, terms)

    def hint(workload: Workload, holds: Callable[[Workload], bool], where: str) -> str:
        return _hint(workload, slower(workload, holds, SLOWEST), longer(workload, holds), where)

    if terms.gpus is None or len(short) + len(others) <= 1:
        return [hint(each, by_itself, "") for each in short]
    if not short or not fits(others, behaviours, terms):
        return [hint(each, by_itself, " on GPUs of its own") for each in short]
    if len(short) == 1:
        return [hint(short[0], beside, " beside the others")]
    by_rate = {each.model for each in short if _rather_slower(each, by_itself)}

    def easier(factor: float) -> list[Workload]:
        return [
            replace(each, rate=floor(each.rate / factor))
            if each.model in by_rate
            else replace(each, slo_ms=ceil(each.slo_ms * min(factor, LONGEST)))
            for each in short
        ]

    factor = nearest(lambda factor: fits([*others, *easier(factor)], behaviours, terms), SLOWEST)
    if factor is None:
        return [hint(each, by_itself, " on GPUs of its own") for each in short]
    return [
        _hint(
            each,
            each.rate if each.model in by_rate else None,
            None if each.model in by_rate else each.slo_ms,
            " beside all others",
        )
        for each in easier(factor)
    ]


def _rather_slower(workload: Workload, holds: Callable[[Workload], bool]) -> bool:
    """Whether less has to be taken off the rate than added to the SLO."""
    rate, slo = slower(workload, holds, SLOWEST), longer(workload, holds)
    return rate is not None and (slo is None or workload.rate / rate <= slo / workload.slo_ms)


def _reason(workload: Workload, behaviour: Behaviour, terms: Terms) -> tuple[str, str]:
    """Why a model cannot meet its objective alone; and where no other objective would help, what would."""
    name = workload.model
    if terms.memory_mib is not None and behaviour.memory_mib > terms.memory_mib:
        return (
            f"{name}: its server takes {behaviour.memory_mib:.0f} MiB, and a GPU has {terms.memory_mib:.0f} MiB",
            "Give GPUs with more memory (--gpu-memory), or a smaller model.",
        )
    offered = percentages(behaviour)
    if not offered:
        low, high = behaviour.curve.extent.percentages
        return (
            f"{name}: plans give percentages that are multiples of {STEP} or were measured and are whole, and its "
            f"profile has none from {low:g} to {high:g} %",
            f"Measure it at a multiple of {STEP}: tritonkit profile --percentages",
        )

    def holds(changed: Workload) -> bool:
        return fewest_replicas(behaviour, changed, terms) is not None

    rate = nearest(lambda factor: holds(replace(workload, rate=workload.rate / factor)), SLOWEST)
    if rate is None:
        fastest = min(
            predict(behaviour, batch, offered[-1], (), workload.rate / SLOWEST).latency_p99_ms
            for batch in batches(behaviour, workload)
        )
        at = f"{offered[-1]} %{', the largest that was profiled,' if offered[-1] < WHOLE else ''}"
        message = (
            f"{name}: an SLO of {workload.slo_ms:g} ms cannot be met at any rate: alone at {at} a request takes "
            f"{fastest:.3g} ms at best, 99 times of 100"
        )
        if fastest > workload.slo_ms:
            message += f", which is {fastest - workload.slo_ms:.3g} ms too much"
        elif terms.execution_share is not None:
            message += f"; it may take {terms.execution_share:.0%} of the SLO, and wait the rest"
        return message, ""
    count = terms.most_replicas
    where = f"{count} GPU{'s' if count > 1 else ''} of its own{'' if terms.gpus else ', as many as a plan may have'}"
    message = f"{name}: {workload.rate:g}/s cannot be served within {workload.slo_ms:g} ms, not with {where}"
    return f"{message}: {workload.rate - workload.rate / rate:.4g}/s too much", ""


def together(
    workloads: Sequence[Workload],
    behaviours: Mapping[str, Behaviour],
    terms: Terms,
    needed: int,
    *,
    proven: bool,
    room: bool,
) -> Infeasible:
    """The error of models that do not fit on the GPUs together, or leave none of them where there has to be room."""
    words = "are needed" if proven else "were needed by the best plan found"
    if not room:
        words += ", one of them for the models without an slo"
    short = f"{needed} GPUs {words}, and there {'is' if terms.gpus == 1 else 'are'} {terms.gpus}"
    scarce, larger = _scarce(workloads, behaviours, terms)

    def holds(changed: Sequence[Workload]) -> bool:
        return fits(changed, behaviours, terms)

    sizes = {index: least_share(behaviours[each.model], each, terms) for index, each in enumerate(workloads)}
    largest = sorted(sizes, key=lambda index: (-sizes[index], workloads[index].model))[:_ASKED]
    found = []
    for index in largest:
        each, others = workloads[index], [*workloads[:index], *workloads[index + 1 :]]
        if others and not holds(others):
            continue

        def beside(changed: Workload, others: Sequence[Workload] = tuple(others)) -> bool:
            return holds([*others, changed])

        rate, slo = slower(each, beside, _EVERY), longer(each, beside)
        factors = [each.rate / rate if rate else math.inf, slo / each.slo_ms if slo else math.inf]
        if min(factors) < math.inf:
            found.append((min(factors), index, rate, slo))
    give = f"Give {needed} GPUs (--gpus {needed})"
    if found and not scarce:
        _, index, rate, slo = min(found)
        each = workloads[index]
        most = f", which is {each.rate - rate:.4g}/s too much" if rate is not None else ""
        return Infeasible(f"{each.model}: {short}; it asks for {each.rate:g}/s{most}", hint=_hint(each, rate, slo))
    others_count = len(workloads) - 1
    names = workloads[largest[0]].model
    if others_count:
        names += f" and {others_count} other{'s' if others_count > 1 else ''}"
    if scarce:
        hint = f"{give}{larger}."
        if found:
            _, index, rate, slo = min(found)
            hint += "\n" + _hint(workloads[index], rate, slo)
        return Infeasible(f"{names}: {short}: {scarce}", hint=hint)

    def at(part: float) -> bool:
        return holds([replace(each, rate=each.rate * part) for each in workloads])

    factor = nearest(lambda factor: at(1 / factor), _EVERY)
    if factor is not None and at(floor(1 / factor)):
        give += f", or let every rate be {100 * floor(1 / factor):.10g} % of what is asked"
    return Infeasible(f"{names}: {short}", hint=f"{give}.")


def _scarce(workloads: Sequence[Workload], behaviours: Mapping[str, Behaviour], terms: Terms) -> tuple[str, str]:
    """What the GPUs have too little of beside their SMs, and what else would help; nothing where it is the SMs."""
    known = [behaviours[each.model] for each in workloads]
    if terms.memory_mib is not None and fits(workloads, behaviours, replace(terms, memory_mib=None)):
        sizes = [each.memory_mib for each in known]
        return (
            f"their memory is too small: the models' servers take {sum(sizes):.0f} MiB, the largest {max(sizes):.0f} "
            f"MiB, and a GPU has {terms.memory_mib:.0f} MiB",
            ", or larger ones (--gpu-memory)",
        )
    clients = sum(each.clients for each in known)
    if fits(workloads, behaviours, replace(terms, clients=clients * terms.most_replicas)):
        return f"the models' servers are {clients} MPS clients, and a GPU has {terms.clients}", ""
    return "", ""


def fits(workloads: Sequence[Workload], behaviours: Mapping[str, Behaviour], terms: Terms) -> bool:
    """Whether the greedy search finds a plan on the GPUs that there are."""
    from tritonkit.provision.packing import greedy, menu, room

    if any(fewest_replicas(behaviours[each.model], each, terms) is None for each in workloads):
        return False
    menus = {each.model: menu(each, behaviours[each.model], terms) for each in workloads}
    if terms.gpus is None:
        return True
    plan = greedy(menus, terms) if menus else []
    return len(plan) <= terms.gpus and room(plan, terms)


def _enough(workloads: Sequence[Workload], behaviours: Mapping[str, Behaviour], terms: Terms, least: int) -> int | None:
    """A number of GPUs from ``least`` on with which all objectives hold; None where none does."""
    from tritonkit.provision.packing import greedy, menu

    unlimited = replace(terms, gpus=None)
    if any(fewest_replicas(behaviours[each.model], each, unlimited) is None for each in workloads):
        return None
    count = len(greedy({each.model: menu(each, behaviours[each.model], unlimited) for each in workloads}, unlimited))
    tried = range(max(count, least), min(max(count, least) + _MORE, MOST_REPLICAS) + 1)
    return next((gpus for gpus in tried if fits(workloads, behaviours, replace(terms, gpus=gpus))), None)


def _hint(workload: Workload, rate: float | None, slo: float | None, where: str = "") -> str:
    ways = []
    if rate is not None:
        ways.append(f"a rate of {rate:.10g}/s")
    if slo is not None:
        ways.append(f"a latency_p99 of {slo:.10g}ms")
    if not ways:
        return f"No nearby rate or SLO would fit {workload.model}{where}."
    return f"What would fit {workload.model}{where}: {', or '.join(ways)}."
