"""Rules on what a configuration says of inputs and outputs that its artifact says too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tritonkit.artifacts.signature import Tensor
from tritonkit.errors import nearest
from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.rules.rule import Found, Place, Rules, Subject, at
from tritonkit.modelconfig.rules.tensors import NO_TYPE

rules = Rules()


def _known(model: Subject, role: str) -> dict[str, Tensor]:
    if model.signature is None:
        return {}
    return {tensor.name: tensor for tensor in (model.signature.inputs if role == "input" else model.signature.outputs)}


def _pairs(model: Subject) -> Iterator[tuple[str, Any, Tensor, Place]]:
    """Each stated tensor with the artifact's own."""
    if model.signature is not None:
        known = {role: _known(model, role) for role in ("input", "output")}
        for role, tensor, place in model.tensors():
            if tensor.name in known[role]:
                yield role, tensor, known[role][tensor.name], place


@rules.rule(
    "ART01",
    "the artifact needs the input '{tensor}', which is not stated",
    triton="the model needs inputs that the configuration lacks: {tensor}",
    instead="input: {{{tensor}: \"{form}\"}}, or no 'input' at all: then it is read from the artifact",
)
def inputs_are_stated(model: Subject) -> Iterator[Found]:
    # Where a tensor is stated by half, tritonkit's own backend reads all from the artifact.
    half = any(not tensor.dims or tensor.data_type == NO_TYPE for _, tensor, _ in model.tensors())
    if model.machine.python_based and half:
        return
    stated = {tensor.name for tensor in model.config.input}
    for name, tensor in _known(model, "input").items():
        if stated and name not in stated:
            yield at("input", tensor=name, form=_form(model, tensor))


def _form(model: Subject, tensor: Tensor) -> str:
    if tensor.shape is None:
        return str(tensor)
    shape = tensor.shape[1:] if model.batches else tensor.shape
    return str(Tensor(tensor.name, tensor.data_type, shape))


@rules.rule(
    "ART02",
    "the artifact has no {role} '{tensor}'{nearest}",
    triton="the model has no {role} '{tensor}'",
    instead="the names that the artifact has: {names}",
)
def tensors_are_the_artifacts(model: Subject) -> Iterator[Found]:
    if model.signature is None:
        return
    for role, tensor, place in model.tensors():
        known = _known(model, role)
        if tensor.name and tensor.name not in known:
            names = ", ".join(known) or "none"
            yield at(*place, role=role, tensor=tensor.name, nearest=nearest(tensor.name, known), names=names)


@rules.rule(
    "ART03",
    "the {role} '{tensor}' is stated as {stated}, and is {found} in the artifact",
    triton="{tensor}: the configuration says {stated}, the model has {found}",
    instead="data_type: {found}",
)
def types_are_the_artifacts(model: Subject) -> Iterator[Found]:
    for role, tensor, own, place in _pairs(model):
        if tensor.data_type not in (NO_TYPE, protobuf.data_type(own.data_type)):
            stated = protobuf.data_type_name(tensor.data_type)
            yield at(*place, "data_type", role=role, tensor=tensor.name, stated=stated, found=own.data_type)


@rules.rule(
    "ART04",
    "max_batch_size is {size}, but the batch dimension of the artifact's {role} '{tensor}' is {found}",
    triton="{tensor}: the model's first dimension is fixed",
    instead="max_batch_size: 0, or export the artifact with a dynamic first dimension",
)
def artifacts_have_a_batch_dimension(model: Subject) -> Iterator[Found]:
    if not model.batches:
        return
    for role in ("input", "output"):
        stated = {tensor.name for tensor in getattr(model.config, role)}
        for name, own in _known(model, role).items():
            # What is not stated is read from the artifact, all of it or nothing.
            if (not stated or name in stated) and own.shape is not None and own.shape[:1] != (-1,):
                found = f"fixed at {own.shape[0]}" if own.shape else "missing"
                yield at("max_batch_size", size=model.config.max_batch_size, role=role, tensor=name, found=found)


@rules.rule(
    "ART05",
    "the {role} '{tensor}' is stated with dims {stated}, and has {found}{batch} in the artifact",
    triton="{tensor}: the configuration says",
    instead="dims: {found}, or -1 where they vary",
)
def dims_are_the_artifacts(model: Subject) -> Iterator[Found]:
    for role, tensor, own, place in _pairs(model):
        if own.shape is None or not tensor.dims or (model.batches and own.shape[:1] != (-1,)):
            continue
        shape = own.shape[1:] if model.batches else own.shape
        dims = tuple(tensor.reshape.shape) if tensor.HasField("reshape") else tuple(tensor.dims)
        if not _fit(dims, shape, loosely=bool(model.machine.python_based)):
            batch = " after the batch" if model.batches else ""
            if not model.batches and shape[:1] == (-1,) and _fit(dims, shape[1:], loosely=False):
                batch = " (max_batch_size is 0 or not stated: above 0, the first dimension is the batch)"
            words = {"stated": list(dims), "found": list(shape), "batch": batch}
            yield at(*place, "dims", role=role, tensor=tensor.name, **words)


def _fit(dims: Sequence[int], shape: Sequence[int], *, loosely: bool) -> bool:
    """Whether stated dims fit the artifact's; tritonkit's own backend also takes -1 for a fixed size."""
    return len(dims) == len(shape) and all(
        theirs in (-1, ours) or (loosely and ours == -1) for ours, theirs in zip(dims, shape, strict=True)
    )


@rules.rule(
    "ART06",
    "the artifact {why}",
    triton="Load model from",
    instead="the file that the training or the export wrote",
)
def artifacts_can_be_read(model: Subject) -> Iterator[Found]:
    if model.unreadable:
        yield at(why=model.unreadable)
