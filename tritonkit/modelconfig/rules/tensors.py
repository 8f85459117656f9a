"""Rules on inputs and outputs, and on the batch inputs and outputs that Triton computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.platforms import TENSORRT_PLAN
from tritonkit.modelconfig.rules.rule import Found, Place, Rules, Subject, at

rules = Rules()

NO_TYPE = 0
_BATCH_TYPES = frozenset({protobuf.data_type("TYPE_INT32"), protobuf.data_type("TYPE_FP32")})


@rules.rule(
    "IO001",
    "the {role} number {number} has no name",
    triton="model {role} must specify 'name' for {model}",
    instead="name: NAME",
)
def tensors_have_names(model: Subject) -> Iterator[Found]:
    for role, tensor, place in model.tensors():
        if not tensor.name:
            yield at(*place, role=role, number=int(place[1]) + 1)


@rules.rule(
    "IO002",
    "the {role} '{tensor}' has no data type",
    triton="model {role} '{tensor}' must specify 'data_type' for {model}",
    instead='data_type: TYPE_FP32, or in short {tensor}: "FP32[3,224,224]"',
)
def tensors_have_types(model: Subject) -> Iterator[Found]:
    for role, tensor, place in model.tensors():
        if tensor.data_type == NO_TYPE and not completed(model):
            yield at(*place, role=role, tensor=tensor.name)


@rules.rule(
    "IO003",
    "the {role} '{tensor}' has no dims",
    triton="model {role} '{tensor}' must specify 'dims' for {model}",
    instead="dims: [1] for one value, without the batch dimension; -1 for a dimension that varies",
)
def tensors_have_dims(model: Subject) -> Iterator[Found]:
    for role, tensor, place in model.tensors():
        if not tensor.dims and not completed(model):
            yield at(*place, role=role, tensor=tensor.name)


def completed(model: Subject) -> bool:
    """Whether the backend reads from the artifact, or asks the model, what the configuration leaves out."""
    if model.normal.backend == "python":
        return model.completes
    return model.normal.backend not in ("pytorch", "") and not model.is_ensemble


@rules.rule(
    "IO004",
    "the {role} '{tensor}' has the dimension {dim}",
    triton="model {role} '{tensor}' dimension must be integer >= 1, or -1 to indicate a variable-size dimension "
    "for {model}",
    instead="a size of 1 or more, or -1 for a dimension that varies",
)
def dims_are_sizes(model: Subject) -> Iterator[Found]:
    for role, tensor, place in model.tensors():
        for index, dim in enumerate(tensor.dims):
            if dim < 1 and dim != -1:
                yield at(*place, "dims", index, role=role, tensor=tensor.name, dim=dim)


@rules.rule(
    "IO005",
    "the {role} '{tensor}' is reshaped to nothing, and the model does not batch",
    triton="model {role} '{tensor}' cannot have empty reshape for non-batching model as scalar tensors are not "
    "supported for {model}",
    instead="max_batch_size: 1 or more, or a reshape to [1]",
)
def scalars_need_batches(model: Subject) -> Iterator[Found]:
    if model.config.max_batch_size != 0:
        return
    for role, tensor, place in model.tensors():
        if tensor.HasField("reshape") and not tensor.reshape.shape:
            yield at(*place, "reshape", role=role, tensor=tensor.name)


@rules.rule(
    "IO006",
    "the {role} '{tensor}' is reshaped to the dimension {dim}",
    triton="model {role} '{tensor}' reshape dimensions must be integer >= 1, or -1 to indicate a variable-size "
    "dimension for {model}",
    instead="sizes of 1 or more, or -1 where dims has -1",
)
def reshapes_are_sizes(model: Subject) -> Iterator[Found]:
    for role, tensor, place in model.tensors():
        for index, dim in enumerate(tensor.reshape.shape):
            if dim < 1 and dim != -1:
                yield at(*place, "reshape", "shape", index, role=role, tensor=tensor.name, dim=dim)


@rules.rule(
    "IO007",
    "the {role} '{tensor}' has dims {dims}, which cannot be reshaped to {shape}",
    triton="model {role} '{tensor}' has different size for dims and reshape for {model}",
    instead="a reshape with as many elements as dims, and as many between its -1",
)
def reshapes_keep_the_size(model: Subject) -> Iterator[Found]:
    for role, tensor, place in _reshaped(model):
        dims, shape = tensor.dims, tensor.reshape.shape
        if min(shape, default=1) < 1 and -1 not in shape:
            continue
        if _sizes_differ(dims, shape) or (_same_wildcards(dims, shape) and _trunks(dims) != _trunks(shape)):
            yield at(*place, "reshape", role=role, tensor=tensor.name, dims=list(dims), shape=list(shape))


@rules.rule(
    "IO008",
    "the {role} '{tensor}' has dims {dims} and is reshaped to {shape}: not as many dimensions vary",
    triton="model {role} '{tensor}' has different number of variable-size dimensions for dims and reshape for {model}",
    instead="one -1 in the reshape for each -1 in dims",
)
def reshapes_keep_what_varies(model: Subject) -> Iterator[Found]:
    for role, tensor, place in _reshaped(model):
        dims, shape = tensor.dims, tensor.reshape.shape
        if not _sizes_differ(dims, shape) and -1 in dims and not _same_wildcards(dims, shape):
            yield at(*place, "reshape", role=role, tensor=tensor.name, dims=list(dims), shape=list(shape))


def _reshaped(model: Subject) -> Iterator[tuple[str, Any, Place]]:
    for role, tensor, place in model.tensors():
        if tensor.HasField("reshape") and tensor.dims:
            yield role, tensor, place


def elements(dims: Sequence[int]) -> int:
    """How many values a shape holds: -1 where a dimension varies, 0 for no shape at all."""
    if -1 in dims:
        return -1
    return prod(dims) if dims else 0


def _sizes_differ(dims: Sequence[int], shape: Sequence[int]) -> bool:
    size, reshaped = elements(dims), elements(shape)
    # Reshaped to nothing, a tensor of one element becomes a scalar.
    return size != reshaped and not (reshaped == 0 and size == 1)


def _same_wildcards(dims: Sequence[int], shape: Sequence[int]) -> bool:
    return list(dims).count(-1) == list(shape).count(-1)


def _trunks(dims: Sequence[int]) -> list[int]:
    """The sizes between the dimensions that vary."""
    sizes = [1]
    for dim in dims:
        if dim == -1:
            sizes.append(1)
        else:
            sizes[-1] *= dim
    return sizes


@rules.rule(
    "IO009",
    "the input '{tensor}' has the format {format}, which means 3 dims, and it has {count}",
    triton="model input NHWC/NCHW require 3 dims for {model}",
    instead="leave 'format' out, or 3 dims",
)
def images_have_three_dims(model: Subject) -> Iterator[Found]:
    for index, tensor in enumerate(model.config.input):
        form = protobuf.enum_name(tensor, "format")
        if form in ("FORMAT_NHWC", "FORMAT_NCHW") and len(tensor.dims) != 3:
            yield at("input", index, "format", tensor=tensor.name, format=form, count=len(tensor.dims))


@rules.rule(
    "IO010",
    "the {role} '{tensor}' is a shape tensor, which only TensorRT has",
    triton="shape tensors are only supported for TensorRT platform for {model}",
    instead="leave 'is_shape_tensor' out",
)
def shape_tensors_are_tensorrt(model: Subject) -> Iterator[Found]:
    if model.normal.platform == TENSORRT_PLAN:
        return
    for role, tensor, place in model.tensors():
        if tensor.is_shape_tensor:
            yield at(*place, "is_shape_tensor", role=role, tensor=tensor.name)


@rules.rule(
    "IO011",
    "the {role} '{tensor}' has a non-linear format, which only TensorRT has",
    triton="Non-linear IO format is only supported for the TensorRT platform for {model}",
    instead="leave 'is_non_linear_format_io' out",
)
def non_linear_formats_are_tensorrt(model: Subject) -> Iterator[Found]:
    if model.normal.platform == TENSORRT_PLAN:
        return
    for role, tensor, place in model.tensors():
        if tensor.is_non_linear_format_io:
            yield at(*place, "is_non_linear_format_io", role=role, tensor=tensor.name)


@rules.rule(
    "IO012",
    "the {role} '{tensor}' has a non-linear format, which means 3 dims, and it has {count}",
    triton="Non-linear IO format {role} requires 3 dims for {model}",
    instead="3 dims",
    unseen="only a server with TensorRT comes that far",
)
def non_linear_formats_have_three_dims(model: Subject) -> Iterator[Found]:
    if model.normal.platform != TENSORRT_PLAN:
        return
    for role, tensor, place in model.tensors():
        if tensor.is_non_linear_format_io and len(tensor.dims) != 3:
            yield at(*place, "dims", role=role, tensor=tensor.name, count=len(tensor.dims))


@rules.rule(
    "BIO01",
    "a batch {role} of the kind {kind} takes one source input, and {count} are named",
    triton="batch {role} kind '{kind}' expects 1 source input, got {count} for {model}",
    instead="source_input: [NAME]",
)
def batch_tensors_have_one_source(model: Subject) -> Iterator[Found]:
    for role, tensor, place in _batch_tensors(model):
        if len(tensor.source_input) != 1:
            kind = protobuf.enum_name(tensor, "kind")
            yield at(*place, "source_input", role=role, kind=kind, count=len(tensor.source_input))


@rules.rule(
    "BIO02",
    "a batch input has the data type {type}",
    triton="{words}",
    instead="data_type: TYPE_INT32 or TYPE_FP32",
)
def batch_inputs_are_numbers(model: Subject) -> Iterator[Found]:
    for index, tensor in enumerate(model.config.batch_input):
        if tensor.data_type not in _BATCH_TYPES:
            words = "batch input data type must be TYPE_INT32 or TYPE_FP32"
            if tensor.data_type == NO_TYPE:
                words = "unexpected batch input data type 'TYPE_INVALID'"
            yield at("batch_input", index, "data_type", type=protobuf.data_type_name(tensor.data_type), words=words)


@rules.rule(
    "BIO03",
    "the batch {role} takes its values from '{source}', which is no input",
    triton="unknown source input name '{source}' for {model}",
    instead="the name of one of the model's inputs",
)
def batch_sources_are_inputs(model: Subject) -> Iterator[Found]:
    names = {tensor.name for tensor in model.config.input}
    for role, tensor, place in _batch_tensors(model):
        for index, source in enumerate(tensor.source_input):
            if source not in names and not _open(model):
                yield at(*place, "source_input", index, role=role, source=source)


@rules.rule(
    "BIO04",
    "the batch output writes to '{target}', which is no output",
    triton="unknown target output name '{target}' for {model}",
    instead="the name of one of the model's outputs",
)
def batch_targets_are_outputs(model: Subject) -> Iterator[Found]:
    names = {tensor.name for tensor in model.config.output}
    for place, target, _ in _targets(model):
        if target not in names and not _open(model):
            yield at(*place, target=target)


@rules.rule(
    "BIO05",
    "the batch output writes to '{target}' twice",
    triton="target output name '{target}' can only be specified once for {model}",
    instead="each output once",
)
def batch_targets_are_named_once(model: Subject) -> Iterator[Found]:
    for place, target, before in _targets(model):
        if target in before:
            yield at(*place, target=target)


@rules.rule(
    "BIO06",
    "the batch output writes to nothing, and the server crashes of that",
    triton="Signal (11) received.",
    instead="target_name: [NAME], the name of one of the model's outputs",
)
def batch_outputs_have_targets(model: Subject) -> Iterator[Found]:
    for index, tensor in enumerate(model.config.batch_output):
        if not tensor.target_name:
            yield at("batch_output", index)


def _open(model: Subject) -> bool:
    """Whether inputs and outputs are left to the backend, so that their names are not known here."""
    return completed(model) and not (model.config.input and model.config.output)


def _batch_tensors(model: Subject) -> Iterator[tuple[str, Any, Place]]:
    for role in ("input", "output"):
        for index, tensor in enumerate(getattr(model.config, f"batch_{role}")):
            yield role, tensor, (f"batch_{role}", index)


def _targets(model: Subject) -> Iterator[tuple[Place, str, Sequence[str]]]:
    for number, tensor in enumerate(model.config.batch_output):
        for index, target in enumerate(tensor.target_name):
            yield ("batch_output", number, "target_name", index), target, tensor.target_name[:index]
