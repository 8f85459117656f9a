"""A plan as an overlay of the spec: its servers, and the batches that it counts on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tritonkit.errors import Infeasible
from tritonkit.provision.choices import WHOLE
from tritonkit.provision.objectives import unplanned
from tritonkit.provision.observing import SUMMARIES
from tritonkit.provision.packing import Packing
from tritonkit.spec import overlay
from tritonkit.spec.faults import dotted
from tritonkit.spec.loading import LoadedSpec
from tritonkit.spec.schema import RESERVED
from tritonkit.spec.writing import dump

# What a plan begins with; the rest of the line is the command that made it.
MADE_BY = "# Made by: "
_NAME_LENGTH = 63


def text(packing: Packing, loaded: LoadedSpec, command: str, assignments: Sequence[str] = ()) -> str:
    """The YAML of an overlay that makes the spec serve a plan.

    Args:
        packing: the plan.
        loaded: the spec that it is for.
        command: how it was made, for the comment at its head.
        assignments: what is to be set beside the spec when it is served.
    """
    count = gpus(packing, loaded)
    head = [
        f"{MADE_BY.removeprefix('# ')}{command}",
        f"{count} GPU{'s' if count > 1 else ''}. Serve it with, FILE being this one: "
        + serving(loaded.files, Path("FILE"), assignments),
    ]
    # What was set may have several lines.
    comments = [f"# {line}" for part in head for line in part.splitlines()]
    return "\n".join([*comments, dump(document(packing, loaded))])


def serving(files: Sequence[Path], plan: Path, assignments: Sequence[str]) -> str:
    """The command that serves a plan, with the latencies in Triton's metrics that ``autoscale`` looks at."""
    stated = (word for option in assignments for word in ("--set", option))
    return shlex.join(["tritonkit", "up", *map(str, files), str(plan), *stated, SUMMARIES])


def document(packing: Packing, loaded: LoadedSpec) -> dict[str, Any]:
    """The overlay as plain values. Lists of the spec are replaced by it, mappings are merged."""
    batches = _batches(packing)
    models = {name: changes for name, batch in batches.items() if (changes := _changes(loaded, name, batch))}
    models |= _ensembles(loaded, {name: fields["max_batch_size"] for name, fields in models.items()
                                  if "max_batch_size" in fields})  # fmt: skip
    return {"version": 1, **({"models": models} if models else {}), "servers": servers(packing, unplanned(loaded))}


def remaining(
    packing: Packing, loaded: LoadedSpec, assignments: Sequence[str], environment: Mapping[str, str]
) -> tuple[str, ...]:
    """What is still to be set beside a spec and its plan, of what was set for planning: ``--set`` goes before a plan.

    Args:
        packing: the plan.
        loaded: the spec that it is for, with everything set.
        assignments: ``PATH=VALUE`` options.
        environment: where ``${NAME}`` is looked up.
    """
    planned = set(_leaves(document(packing, loaded)))
    return tuple(
        option
        for option in assignments
        if not all(
            any(path[:length] in planned for length in range(1, len(path) + 1))
            for path in _leaves(overlay.assignment(option, environment).value)
        )
    )


def departures(packing: Packing, loaded: LoadedSpec) -> tuple[str, ...]:
    """The dotted paths at which a spec, its plan among its files, is not what the plan counts on."""
    found = []
    for name, changes in document(packing, loaded).get("models", {}).items():
        fields = loaded.spec.models[name].fields
        found += [
            dotted(("models", name, field))
            for field, value in changes.items()
            if field != "max_batch_size" or fields[field] != value
        ]
    return tuple(found)


def _leaves(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where values stand that a merge replaces as a whole."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key)


def servers(packing: Packing, others: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One server for each model and percentage, on every GPU where the model has that percentage.

    Models that are not planned for share one more server, with what is left for them.

    Raises:
        Infeasible: nothing is left for them.
    """
    places: dict[tuple[str, int], list[int]] = {}
    for number, seat in packing.seats:
        places.setdefault((seat.model, seat.choice.thread_percentage), []).append(number)
    names: set[str] = set()
    found = []
    for (model, percentage), numbers in places.items():
        name = _name(model, names)
        names.add(name)
        found.append({"name": name, "models": [model], "gpus": sorted(numbers), "thread_percentage": percentage})
    if others:
        gpu, percentage = left(packing)
        if not percentage:
            raise Infeasible(
                f"{', '.join(others)}: no slo is asked for, and no GPU has anything left to serve them with",
                hint=f"Give one more GPU (--gpus {len(packing.gpus) + 1}), or leave these models out of the spec.",
            )
        name = _name("rest", names)
        found.append({"name": name, "models": list(others), "gpus": [gpu], "thread_percentage": percentage})
    return found


def left(packing: Packing) -> tuple[int, int]:
    """Where models go that are not planned for: a GPU and its percentage, which is 0 where there is no room.

    It is the GPU of which most is left, and one more where nothing is left of any, and there is one more.
    """
    rests = [int(WHOLE) - sum(seat.choice.thread_percentage for seat in placed) for placed in packing.gpus]
    most = max(rests)
    if not most and (packing.available is None or packing.available > len(rests)):
        return len(rests), int(WHOLE)
    return rests.index(most), most


def gpus(packing: Packing, loaded: LoadedSpec) -> int:
    """How many GPUs a plan is served on, with the models that it does not plan for."""
    return max(len(packing.gpus), left(packing)[0] + 1 if unplanned(loaded) else 0)


def notes(packing: Packing, loaded: LoadedSpec) -> tuple[tuple[str, str], ...]:
    """What clients notice of an overlay: the models with requests that were taken without it, and what of them."""
    changed = document(packing, loaded).get("models", {})
    found = []
    for name, fields in sorted(changed.items()):
        before = loaded.spec.models[name].fields.get("max_batch_size")
        size = fields.get("max_batch_size", before)
        if size != before:
            words = f"requests with more than {size} item{'s' if size > 1 else ''} are refused; the spec takes {before}"
            found.append((name, words))
    return tuple(found)


def unhurried(loaded: LoadedSpec, names: Sequence[str]) -> dict[str, Any]:
    """The overlay with which models are measured: as in a plan, no batch waits for more requests."""
    models = {
        name: {"dynamic_batching": delay}
        for name in names
        if (delay := _without_delay(loaded.spec.models[name].fields.get("dynamic_batching")))
    }
    return {"version": 1, **({"models": models} if models else {})}


def _without_delay(batching: Any) -> dict[str, Any]:
    if isinstance(batching, Mapping) and batching.get("max_queue_delay_microseconds"):
        return {"max_queue_delay_microseconds": 0}
    return {}


def _batches(packing: Packing) -> dict[str, int]:
    return {seat.model: seat.choice.batch_size for _, seat in packing.seats}


def _ensembles(loaded: LoadedSpec, batches: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """The ensembles that take larger batches than a member with these: Triton refuses such ones, through all levels."""
    known = dict(batches)
    found: dict[str, dict[str, Any]] = {}
    # An ensemble may be a step of another one: as often as there are models, all have been reached.
    for _ in loaded.spec.models:
        for name, model in loaded.spec.models.items():
            own = found.get(name, {}).get("max_batch_size", model.fields.get("max_batch_size"))
            least = min((known[step.model] for step in model.ensemble or () if step.model in known), default=None)
            if isinstance(own, int) and least is not None and own > least:
                found[name] = {"max_batch_size": least}
                known[name] = least
    return found


def _changes(loaded: LoadedSpec, name: str, batch: int) -> dict[str, Any]:
    """The fields that a plan needs to be other than they are, and the batch, which it needs to stay.

    An ensemble's batches are its members' business.
    """
    model = loaded.spec.models[name]
    fields: Mapping[str, Any] = model.fields
    if model.ensemble is not None or not fields.get("max_batch_size"):
        return {}
    changes: dict[str, Any] = {"max_batch_size": batch}
    stated = (fields.get("parameters") or {}).get("batch_buckets")
    if (
        isinstance(stated, str)
        and (sizes := [int(size) for size in re.findall("[0-9]+", stated)])
        and max(sizes) > batch
    ):
        smaller = [size for size in sizes if size < batch]
        changes["parameters"] = {"batch_buckets": ",".join(map(str, [*smaller, batch]))}
    warm_ups = fields.get("model_warmup")
    if isinstance(warm_ups, Sequence) and any(_size(sample) > batch for sample in warm_ups):
        changes["model_warmup"] = [
            {**sample, "batch_size": batch} if _size(sample) > batch else sample for sample in warm_ups
        ]
    batching = fields.get("dynamic_batching")
    if "dynamic_batching" not in fields:
        # A batch is whatever waits when the one before ends.
        return {**changes, **({"dynamic_batching": {}} if batch > 1 else {})}
    if isinstance(batching, Mapping):
        fitting = _without_delay(batching)
        preferred = batching.get("preferred_batch_size")
        if preferred and any(size > batch for size in preferred):
            fitting["preferred_batch_size"] = [size for size in preferred if size <= batch]
        changes |= {"dynamic_batching": fitting} if fitting else {}
    return changes


def _size(sample: Any) -> int:
    size = sample.get("batch_size") if isinstance(sample, Mapping) else None
    return size if isinstance(size, int) else 0


def _name(model: str, taken: set[str]) -> str:
    """A server's name after its model's: it has fewer letters to choose from."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", model)[: _NAME_LENGTH - 3].lstrip("-") or "server"
    if plain in RESERVED or re.fullmatch(r"mps-[0-9]+", plain):
        plain = f"{plain}_"
    number, name = 2, plain
    while name in taken:
        name = f"{plain}-{number}"
        number += 1
    return name
