"""Rules that only native backends enforce, from what their public sources say."""

from __future__ import annotations

from collections.abc import Iterator

from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.rules.rule import Found, Rules, Subject, at

rules = Rules()

_PYTORCH = "needs the native pytorch backend"
_TENSORRT = "needs the native tensorrt backend and a GPU"

_TORCH_LACKS = frozenset({"TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64"})
_TENSORRT_LACKS = frozenset({"TYPE_STRING", "TYPE_FP64", "TYPE_INT16", *_TORCH_LACKS})


def _torchscript(model: Subject) -> bool:
    """Whether libtorch runs the model; the backend has other runtimes, which read more from the artifact."""
    return model.normal.backend == "pytorch" and model.config.runtime in ("", "libtriton_pytorch.so")


@rules.rule(
    "PYT01",
    "a TorchScript file does not say its {role}s, and neither does the configuration",
    triton="model configuration must contain at least one {role}, none were specified.",
    instead='{role}: {{NAME__0: "FP32[3,224,224]"}}',
    unseen=_PYTORCH,
)
def torchscript_needs_tensors(model: Subject) -> Iterator[Found]:
    if _torchscript(model):
        for role in ("input", "output"):
            if not getattr(model.config, role):
                yield at(role, role=role)


@rules.rule(
    "PYT02",
    "the {role} '{tensor}' is {type}, which libtorch has not",
    triton="unsupported datatype {type} for {role} '{tensor}' for model '{model}'",
    instead="data_type: TYPE_INT64, or another type that PyTorch has",
    unseen=_PYTORCH,
)
def torchscript_has_these_types(model: Subject) -> Iterator[Found]:
    if _torchscript(model):
        for role, tensor, place in model.tensors():
            name = protobuf.data_type_name(tensor.data_type)
            if name in _TORCH_LACKS:
                yield at(*place, "data_type", role=role, tensor=tensor.name, type=name)


@rules.rule(
    "PYT03",
    "the {role} '{tensor}' has strings in more than one dimension, with that of the batch",
    triton="Triton only supports 1 dimensional List of String as {role} for '{tensor}' for model '{model}'",
    instead="one dimension and max_batch_size: 0",
    unseen=_PYTORCH,
)
def torchscript_lists_strings(model: Subject) -> Iterator[Found]:
    if not _torchscript(model):
        return
    for role, tensor, place in model.tensors():
        dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
        strings = tensor.data_type == protobuf.data_type("TYPE_STRING")
        if strings and len(dims) + model.batches > 1:
            yield at(*place, "dims", role=role, tensor=tensor.name)


@rules.rule(
    "TRT01",
    "the {role} '{tensor}' is {type}, which TensorRT has not",
    triton="unexpected datatype",
    instead="a type that the engine has: TYPE_FP32, TYPE_FP16, TYPE_INT8, TYPE_INT32, TYPE_INT64, ...",
    unseen=_TENSORRT,
)
def tensorrt_has_these_types(model: Subject) -> Iterator[Found]:
    if model.normal.backend == "tensorrt":
        for role, tensor, place in model.tensors():
            name = protobuf.data_type_name(tensor.data_type)
            if name in _TENSORRT_LACKS:
                yield at(*place, "data_type", role=role, tensor=tensor.name, type=name)
