"""A plan as an overlay of the spec: its servers, and the batches that it counts on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tritonkit.errors import Infeasible
from tritonkit.provision.choices import WHOLE
from tritonkit.provision.objectives import unplanned
from tritonkit.provision.packing import Packing
from tritonkit.spec.loading import LoadedSpec
from tritonkit.spec.schema import RESERVED
from tritonkit.spec.writing import dump

_NAME_LENGTH = 63


def text(packing: Packing, loaded: LoadedSpec, command: str) -> str:
    """The YAML of an overlay that makes the spec serve a plan.

    Args:
        packing: the plan.
        loaded: the spec that it is for.
        command: how it was made, for the comment at its head.
    """
    first = loaded.files[0].name
    lines = [
        f"# Made by: {command}",
        f"# {len(packing.gpus)} GPU{'s' if len(packing.gpus) > 1 else ''}. Serve it with: tritonkit up {first} FILE, "
        "FILE being this one.",
    ]
    return "\n".join([*lines, dump(document(packing, loaded))])


def document(packing: Packing, loaded: LoadedSpec) -> dict[str, Any]:
    """The overlay as plain values. Lists of the spec are replaced by it, mappings are merged."""
    models = {name: changes for name, batch in _batches(packing).items() if (changes := _changes(loaded, name, batch))}
    return {"version": 1, **({"models": models} if models else {}), "servers": servers(packing, unplanned(loaded))}


def servers(packing: Packing, others: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One server for each model and percentage, on every GPU where the model has that percentage.

    Models that are not planned for share one more server, with what is left of the GPU that has most left.

    Raises:
        Infeasible: nothing is left for them.
    """
    gpus: dict[tuple[str, int], list[int]] = {}
    for number, seat in packing.seats:
        gpus.setdefault((seat.model, seat.choice.thread_percentage), []).append(number)
    names: set[str] = set()
    found = []
    for (model, percentage), numbers in gpus.items():
        name = _name(model, names)
        names.add(name)
        found.append({"name": name, "models": [model], "gpus": sorted(numbers), "thread_percentage": percentage})
    if others:
        gpu, percentage = left(packing)
        if not percentage:
            raise Infeasible(
                f"{', '.join(others)}: no slo is asked for, and no GPU has anything left to serve them with",
                hint="Give GPUs more, or leave these models out of the spec.",
            )
        name = _name("rest", names)
        found.append({"name": name, "models": list(others), "gpus": [gpu], "thread_percentage": percentage})
    return found


def left(packing: Packing) -> tuple[int, int]:
    """The GPU of which most is left, and its percentage."""
    rests = [int(WHOLE) - sum(seat.choice.thread_percentage for seat in placed) for placed in packing.gpus]
    most = max(rests)
    return rests.index(most), most


def _batches(packing: Packing) -> dict[str, int]:
    return {seat.model: seat.choice.batch_size for _, seat in packing.seats}


def _changes(loaded: LoadedSpec, name: str, batch: int) -> dict[str, Any]:
    """The fields that a plan needs to be other than they are; an ensemble's batches are its members' business."""
    model = loaded.spec.models[name]
    fields: Mapping[str, Any] = model.fields
    if model.ensemble is not None or not fields.get("max_batch_size"):
        return {}
    changes: dict[str, Any] = {}
    if fields["max_batch_size"] != batch:
        changes["max_batch_size"] = batch
    stated = (fields.get("parameters") or {}).get("batch_buckets")
    if isinstance(stated, str) and (sizes := [int(size) for size in re.findall(r"\d+", stated)]) and max(sizes) > batch:
        smaller = [size for size in sizes if size < batch]
        changes["parameters"] = {"batch_buckets": ",".join(map(str, [*smaller, batch]))}
    batching = fields.get("dynamic_batching")
    if "dynamic_batching" not in fields:
        # A batch is whatever waits when the one before ends.
        return {**changes, **({"dynamic_batching": {}} if batch > 1 and "sequence_batching" not in fields else {})}
    if isinstance(batching, Mapping):
        fitting: dict[str, Any] = {}
        if batching.get("max_queue_delay_microseconds"):
            fitting["max_queue_delay_microseconds"] = 0
        preferred = batching.get("preferred_batch_size")
        if preferred and any(size > batch for size in preferred):
            fitting["preferred_batch_size"] = [size for size in preferred if size <= batch]
        changes |= {"dynamic_batching": fitting} if fitting else {}
    return changes


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
