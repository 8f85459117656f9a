"""What runs: servers on GPUs, what each model has there, and which rates that holds. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tritonkit.errors import UsageError
from tritonkit.provision.choices import WHOLE, Choice, Terms, Workload, choices
from tritonkit.provision.controller import NO_RATE
from tritonkit.provision.prediction import Behaviour, predict
from tritonkit.spec.servers import Server, is_of

# Halvings in the search for a rate: it is then known to a millionth of what a model can serve at most.
_HALVINGS = 20
HINT = "Give the spec together with the plan that is served: tritonkit autoscale spec.yaml plan.yaml"


@dataclass(frozen=True)
class Place:
    """One server process.

    Attributes:
        server: its name.
        gpu: the index of its GPU; None on the CPU.
        thread_percentage: what it has of it; None is no limit.
        models: those that its requests name; the members of its ensembles are loaded beside them.
        uuid: its GPU's UUID.
        asked: the percentage that the spec or the plan gives it.
    """

    server: str
    gpu: int | str | None
    thread_percentage: float | None
    models: tuple[str, ...]
    uuid: str | None = None
    asked: float | None = None


@dataclass(frozen=True)
class Share:
    """What one GPU's planned models have.

    Attributes:
        gpu: the GPU.
        choices: each of these models, with what it runs with.
        places: the server of each.
        others: the servers there with a percentage and without a planned model.
    """

    gpu: int | str
    choices: tuple[Choice, ...]
    places: tuple[Place, ...]
    others: tuple[Place, ...] = ()


Fleet = tuple[Share, ...]


def placed(servers: Sequence[Place], entries: Sequence[Server], planned: Sequence[str]) -> tuple[Place, ...]:
    """The servers that run, held against those of the spec and its plan; each with what it is given there.

    Of the models that a server has loaded, it has those that the spec gives it: the gateway sends requests for others
    elsewhere, and what an ensemble asks of its members is part of the ensemble's rate. On the CPU a server has the
    GPUs and percentages that it would have: what would be done can be tried there.

    Args:
        servers: all that run.
        entries: those of the spec.
        planned: the models to be followed.

    Raises:
        UsageError: they are not the same.
    """
    served = {model for entry in entries if entry.gpus for model in entry.models or ()}
    if missing := sorted(set(planned) - served):
        raise UsageError(f"the spec has no server with a GPU for {', '.join(missing)}", hint=HINT)
    found: list[Place] = []
    for server in servers:
        entry = _entry(server.server, entries)
        if entry is None:
            raise UsageError(f"{server.server} runs here, and neither spec nor plan has such a server", hint=HINT)
        if not set(entry.models or ()) <= set(server.models):
            models = f"{', '.join(server.models)} here, and {', '.join(entry.models or ())} in the plan"
            raise UsageError(f"{server.server} serves {models}", hint=HINT)
        place = replace(server, models=entry.models or server.models)
        if place.gpu is None:
            words = entry.gpus or ()
            found += [replace(place, gpu=word, thread_percentage=entry.thread_percentage) for word in words]
        elif entry.gpus is not None and not any(_means(word, place) for word in entry.gpus):
            where = ", ".join(map(str, entry.gpus))
            raise UsageError(f"{place.server} runs on GPU {place.gpu}, and on {where} in the plan", hint=HINT)
        else:
            found.append(replace(place, asked=entry.thread_percentage))
    for entry in entries:
        there = sum(_entry(place.server, entries) == entry for place in found)
        if there < len(entry.gpus or ()) * entry.replicas:
            raise UsageError(f"the plan has {entry.name} on more GPUs than it runs on here", hint=HINT)
    return tuple(found)


def fleet(places: Sequence[Place], workloads: Sequence[Workload], behaviours: Mapping[str, Behaviour]) -> Fleet:
    """What each GPU gives the models that are planned for; each of these has the largest batch that it takes.

    Raises:
        UsageError: two of these models share a server, or one has two on one GPU: no plan is like that.
    """
    wanted = {each.model: each for each in workloads}
    planned = [place for place in places if place.gpu is not None and set(place.models) & set(wanted)]
    count = Counter(model for place in planned for model in place.models)
    gpus: dict[int | str, list[tuple[Choice, Place]]] = {}
    for place in sorted(planned, key=lambda each: each.server):
        models = [model for model in place.models if model in wanted]
        if len(models) > 1:
            raise UsageError(f"{place.server} serves {' and '.join(models)}: one percentage cannot follow both")
        (model,) = models
        there = gpus.setdefault(place.gpu if place.gpu is not None else "", [])
        if any(choice.workload.model == model for choice, _ in there):
            raise UsageError(f"{model} has two servers on GPU {place.gpu}: give it one, with what both have")
        most = behaviours[model].curve.extent.batches[1]
        batch = min(wanted[model].largest_batch or most, most)
        percentage = int(place.thread_percentage or WHOLE)
        there.append((Choice(behaviours[model], wanted[model], count[model], percentage, batch, 0.0, 0.0), place))
    return tuple(
        Share(
            gpu,
            tuple(choice for choice, _ in there),
            tuple(place for _, place in there),
            tuple(
                place
                for place in places
                if place.gpu == gpu and place.thread_percentage is not None and not set(place.models) & set(wanted)
            ),
        )
        for gpu, there in sorted(gpus.items(), key=lambda each: str(each[0]))
    )


def rated(current: Fleet, rates: Mapping[str, float]) -> Fleet:
    """The same with other rates."""
    return tuple(
        replace(
            share,
            choices=tuple(
                replace(choice, workload=replace(choice.workload, rate=rates[choice.workload.model]))
                for choice in share.choices
            ),
        )
        for share in current
    )


def held(current: Fleet, terms: Terms) -> dict[str, float]:
    """For each model the highest rate that holds its objective with what it has, beside all its neighbours.

    It is ``NO_RATE`` where none does.
    """
    rates: dict[str, float] = {}
    for share in current:
        pressure = sum(choice.pressure for choice in share.choices)
        for choice in share.choices:
            rate = _held(choice, pressure - choice.pressure, len(share.choices) - 1, terms)
            rates[choice.workload.model] = min(rate, rates.get(choice.workload.model, rate))
    return rates


def menu(choice: Choice, workload: Workload, terms: Terms) -> tuple[Choice, ...]:
    """The percentages, ascending, at which a replica holds this workload alone, with the batch that it has."""
    return choices(choice.behaviour, workload, choice.replicas, terms.execution_share, only_batch=choice.batch_size)


def _held(choice: Choice, pressure: float, neighbours: int, terms: Terms) -> float:
    def holds(rate: float) -> bool:
        return any(
            each.thread_percentage <= choice.thread_percentage and each.bears(pressure, neighbours)
            for each in menu(choice, replace(choice.workload, rate=rate), terms)
        )

    run = predict(choice.behaviour, choice.batch_size, choice.thread_percentage)
    low, high = NO_RATE, run.capacity * choice.replicas
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _entry(server: str, entries: Sequence[Server]) -> Server | None:
    """The entry of which a process is one: it bears its name, with the GPU and the replica where there are several."""
    meant = [entry for entry in entries if is_of(server, entry.name)]
    return max(meant, key=lambda entry: len(entry.name), default=None)


def _means(word: int | str, place: Place) -> bool:
    if isinstance(word, int):
        return word == place.gpu
    return (place.uuid or "").lower().removeprefix("gpu-").startswith(word.lower().removeprefix("gpu-"))
