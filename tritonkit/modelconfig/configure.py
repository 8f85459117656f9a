"""From a model of the spec to Triton's ModelConfig, short forms written out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tritonkit.artifacts.signature import Signature, Tensor
from tritonkit.errors import nearest
from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.values import fill, fill_field
from tritonkit.spec.faults import Faults, Path, shown
from tritonkit.spec.schema import OWN_KEYS, Model

_SHORT_TENSOR = re.compile(r"\s*(?P<type>\w+)\s*\[(?P<dims>[^\]]*)\]\s*\Z")
_TENSOR_FORM = 'expected a type and dims, as in "FP32[3,224,224]"'


def configure(
    name: str,
    model: Model,
    *,
    backend: str | None,
    signature: Signature | None,
    faults: Faults,
    path: Path | None = None,
) -> Any:
    """The ModelConfig of one model, as complete as the spec and the artifact allow; of a verbatim one, as it is said.

    Args:
        name: the model's name.
        model: what the spec says of it.
        backend: the backend to write where the spec names none.
        signature: what the artifact says of its inputs and outputs, or None where it does not say.
        faults: where everything that cannot be used is reported.
        path: where the model's fields stand in the spec; None for ``models.NAME``.

    Returns:
        An ``inference.ModelConfig`` message. It is whole only if no fault was added.
    """
    config = protobuf.empty()
    path = path or ("models", name)
    if not model.verbatim:
        config.name = name
    for key, value in model.fields.items():
        where = (*path, key)
        if key == "name" and not model.verbatim:
            if value == "":
                config.name = ""
            elif value != name:
                faults.add(where, f"the model's name is its key, '{name}'; leave 'name' out")
        elif key in ("input", "output") and isinstance(value, Mapping):
            for tensor, form in value.items():
                _fill_tensor(getattr(config, key).add(), tensor, form, (*where, tensor), faults)
        elif key == "instance_group" and isinstance(value, int) and not isinstance(value, bool):
            fill(config.instance_group.add(), {"count": value}, where, faults)
        elif key in protobuf.FIELDS:
            fill_field(config, key, value, where, faults)
        else:
            faults.add(where, f"unknown key{nearest(key, protobuf.FIELDS | OWN_KEYS)}")
    if model.ensemble is not None:
        _fill_ensemble(config, model, path, faults)
    elif not model.verbatim and not config.HasField("ensemble_scheduling"):
        _fill_defaults(config, model.fields, backend)
    if signature is not None and not model.verbatim:
        _complete(config, signature)
    return config


def _fill_defaults(config: Any, said: Mapping[str, Any], backend: str | None) -> None:
    """Fill in what the spec leaves unsaid. What it says to be empty stays so, and is left to Triton."""
    if "backend" not in said and not config.platform and backend:
        config.backend = backend
    if "instance_group" not in said:
        config.instance_group.add()
    groups = said.get("instance_group")
    for index, group in enumerate(config.instance_group):
        form = groups[index] if isinstance(groups, list) and index < len(groups) else groups
        # Triton's own default is 1, but some backends take a missing count as leave to choose.
        if group.count == 0 and not (isinstance(form, Mapping) and "count" in form):
            group.count = 1


def differing(model: Model, said: Mapping[str, Any]) -> Model:
    """The model with some fields said anew. Of fields that exclude each other, a new one takes an old one's place."""
    replaced = set(said)
    for group in protobuf.EXCLUSIVE:
        if group & replaced:
            replaced |= group
    kept = {key: value for key, value in model.fields.items() if key not in replaced}
    return model.model_copy(update={"fields": {**kept, **said}})


def _fill_tensor(message: Any, name: str, form: Any, path: Path, faults: Faults) -> None:
    if isinstance(form, str):
        match = _SHORT_TENSOR.match(form)
        if match is None:
            faults.add(path, f"{_TENSOR_FORM}, found {shown(form)}")
            return
        data_type = f"TYPE_{match['type']}"
        if data_type not in protobuf.DATA_TYPES:
            known = {known.removeprefix("TYPE_") for known in protobuf.DATA_TYPES}
            faults.add(path, f"unknown data type {match['type']}{nearest(match['type'], known)}")
            return
        try:
            dims = [int(dim) for dim in match["dims"].split(",")] if match["dims"].strip() else []
        except ValueError:
            faults.add(path, f"dims are whole numbers, -1 for one that varies; {_TENSOR_FORM}, found {shown(form)}")
            return
        form = {"data_type": data_type, "dims": dims}
    elif isinstance(form, Mapping) and form.get("name", name) != name:
        faults.add((*path, "name"), f"the tensor's name is its key, '{name}'; leave 'name' out")
    fill(message, form, path, faults)
    message.name = name


def _fill_ensemble(config: Any, model: Model, path: Path, faults: Faults) -> None:
    for key in ("backend", "platform", "ensemble_scheduling", "instance_group"):
        if key in model.fields:
            faults.add((*path, key), "an ensemble has steps and none of its own; leave it out")
    if model.source is not None:
        faults.add((*path, "source"), "an ensemble has steps and no artifact; leave it out")
    config.platform = "ensemble"
    for step in model.ensemble or ():
        message = config.ensemble_scheduling.step.add(model_name=step.model, model_version=step.model_version)
        message.input_map.update(step.input)
        message.output_map.update(step.output)


def _complete(config: Any, signature: Signature) -> None:
    """Fill what the spec leaves out from the artifact. What it states may be wrong: the rules tell."""
    for role, known in (("input", signature.inputs), ("output", signature.outputs)):
        stated = getattr(config, role)
        if not stated:
            for tensor in known:
                stated.add(name=tensor.name)
        by_name = {tensor.name: tensor for tensor in known}
        for message in stated:
            if message.name in by_name:
                _complete_tensor(message, by_name[message.name], batches=config.max_batch_size > 0)


def _complete_tensor(message: Any, tensor: Tensor, *, batches: bool) -> None:
    if message.data_type == 0:
        message.data_type = protobuf.data_type(tensor.data_type)
    if message.dims or tensor.shape is None or (batches and tensor.shape[:1] != (-1,)):
        return
    shape = tensor.shape[1:] if batches else tensor.shape
    if shape:
        message.dims.extend(shape)
    else:
        # Triton wants at least one dimension; a reshape gives the model its scalar.
        message.dims.append(1)
        message.reshape.SetInParent()
