"""Rules on warmup samples."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.rules.rule import Found, Place, Rules, Subject, at

rules = Rules(needs="model_warmup")

_SIZES = {
    "TYPE_BOOL": 1, "TYPE_UINT8": 1, "TYPE_INT8": 1, "TYPE_UINT16": 2, "TYPE_INT16": 2, "TYPE_FP16": 2,
    "TYPE_BF16": 2, "TYPE_UINT32": 4, "TYPE_INT32": 4, "TYPE_FP32": 4, "TYPE_UINT64": 8, "TYPE_INT64": 8,
    "TYPE_FP64": 8,
}  # fmt: skip
# Strings have no size of their own; Triton reckons with the four bytes of an empty one.
_OTHERWISE = 4

FOLDER = "warmup"


def byte_size(data_type: int, dims: Any) -> int:
    """How many bytes Triton reckons for a tensor of fixed dims."""
    return prod(dims) * _SIZES.get(protobuf.data_type_name(data_type), _OTHERWISE) if dims else 0


def samples(model: Subject) -> Iterator[tuple[Any, Place]]:
    """The samples that Triton makes: one with batch_size 0 is skipped."""
    for index, sample in enumerate(model.config.model_warmup):
        if sample.batch_size and not model.is_ensemble:
            yield sample, ("model_warmup", index)


def sample_inputs(model: Subject) -> Iterator[tuple[Any, str, Any, Place]]:
    """Each sample's inputs, by name."""
    for sample, place in samples(model):
        for name in sorted(sample.inputs):
            yield sample, name, sample.inputs[name], (*place, "inputs", name)


@rules.rule(
    "WRM01",
    "the warmup input '{input}' has a dimension that varies",
    triton="warmup setting expects all variable-size dimensions are specified for input '{input}'",
    instead="dims with sizes, without the batch dimension",
)
def warmup_dims_are_fixed(model: Subject) -> Iterator[Found]:
    for _, name, value, place in sample_inputs(model):
        if -1 in value.dims:
            yield at(*place, "dims", input=name)


@rules.rule(
    "WRM02",
    "the warmup input '{input}' has no data",
    triton="warmup setting expects input '{input}' to have input_data_type set",
    instead="zero_data: true, random_data: true, or input_data_file: NAME",
)
def warmup_inputs_have_data(model: Subject) -> Iterator[Found]:
    for _, name, value, place in sample_inputs(model):
        if value.WhichOneof("input_data_type") is None:
            yield at(*place, input=name)


@rules.rule(
    "WRM03",
    "the warmup file '{file}' is not in the model's folder '{folder}'",
    triton="failed to open text file",
    instead="a file in the folder 'warmup' of the model",
)
def warmup_files_are_there(model: Subject) -> Iterator[Found]:
    for _, name, value, place in sample_inputs(model):
        file = value.input_data_file
        if value.HasField("input_data_file") and model.files is not None and f"{FOLDER}/{file}" not in model.files:
            yield at(*place, "input_data_file", file=file, folder=FOLDER, input=name)


@rules.rule(
    "WRM04",
    "the warmup input '{input}' needs {size} bytes, and '{file}' has {found}",
    triton="warmup setting expects {size} bytes, but the data provided from {file}only has {found} bytes",
    instead="a file of {size} bytes, or dims that fit it",
)
def warmup_files_are_long_enough(model: Subject) -> Iterator[Found]:
    for _, name, value, place in sample_inputs(model):
        file = value.input_data_file
        found = (model.files or {}).get(f"{FOLDER}/{file}")
        size = byte_size(value.data_type, value.dims)
        if value.data_type != protobuf.data_type("TYPE_STRING") and found is not None and size > found:
            yield at(*place, "input_data_file", input=name, size=size, found=found, file=file)


def _unsuited(model: Subject) -> Iterator[tuple[Any, Any, Any, Place]]:
    """Samples in which nothing else is wrong, each input with the model's own."""
    own = {tensor.name: tensor for tensor in model.config.input}
    for sample, name, value, place in sample_inputs(model):
        if name in own:
            yield sample, own[name], value, place


@rules.rule(
    "WRM05",
    "the warmup sample '{sample}' lacks the input '{input}'",
    triton="expected {count} inputs but got",
    instead="every input that is not optional, with dims and data",
)
def warmup_has_every_input(model: Subject) -> Iterator[Found]:
    for sample, place in samples(model):
        for tensor in model.config.input:
            if not tensor.optional and tensor.name not in sample.inputs:
                yield at(*place, sample=sample.name, input=tensor.name, count=len(model.config.input))


@rules.rule(
    "WRM06",
    "the warmup input '{input}' is {found}, and the model's own {own}",
    triton="inference input '{input}' data-type is",
    instead="data_type: {own}",
)
def warmup_has_the_types(model: Subject) -> Iterator[Found]:
    for _, tensor, value, place in _unsuited(model):
        if tensor.data_type != value.data_type:
            found, own = (protobuf.data_type_name(each.data_type) for each in (value, tensor))
            yield at(*place, "data_type", input=tensor.name, found=found, own=own)


@rules.rule(
    "WRM07",
    "the warmup input '{input}' has dims {found}, and the model's own {own}",
    triton="unexpected shape for input '{input}' for model '{model}'",
    instead="dims that fit {own}, without the batch dimension",
)
def warmup_has_the_dims(model: Subject) -> Iterator[Found]:
    for _, tensor, value, place in _unsuited(model):
        fits = len(tensor.dims) == len(value.dims) and all(
            own in (-1, found) for own, found in zip(tensor.dims, value.dims, strict=True)
        )
        if not fits and -1 not in value.dims:
            yield at(*place, "dims", input=tensor.name, found=list(value.dims), own=list(tensor.dims))
