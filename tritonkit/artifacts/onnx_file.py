"""Inputs and outputs of an ONNX file, read without the ``onnx`` package.

The base installation builds repositories of ONNX models, so it cannot ask for ``onnx``. The few messages below have the
field numbers of onnx.proto3; every field that is not named here, the weights among them, is skipped by protobuf.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from tritonkit.artifacts.signature import Signature, Tensor, UnreadableArtifact

_ELEMENT_TYPES = {
    1: "TYPE_FP32",
    2: "TYPE_UINT8",
    3: "TYPE_INT8",
    4: "TYPE_UINT16",
    5: "TYPE_INT16",
    6: "TYPE_INT32",
    7: "TYPE_INT64",
    8: "TYPE_STRING",
    9: "TYPE_BOOL",
    10: "TYPE_FP16",
    11: "TYPE_FP64",
    12: "TYPE_UINT32",
    13: "TYPE_UINT64",
    16: "TYPE_BF16",
}

_INT, _TEXT, _MESSAGE = (
    descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
)

# message: (field, number, type or message, repeated)
_SCHEMA: dict[str, list[tuple[str, int, int | str, bool]]] = {
    "Model": [("graph", 7, "Graph", False), ("opset_import", 8, "Opset", True)],
    "Opset": [("version", 2, _INT, False)],
    "Graph": [
        ("initializer", 5, "Named8", True),
        ("input", 11, "Value", True),
        ("output", 12, "Value", True),
    ],
    "Named8": [("name", 8, _TEXT, False), ("external_data", 13, "Entry", True)],
    "Entry": [("key", 1, _TEXT, False), ("value", 2, _TEXT, False)],
    "Value": [("name", 1, _TEXT, False), ("type", 2, "Type", False)],
    "Type": [("tensor_type", 1, "TensorType", False)],
    "TensorType": [("elem_type", 1, _INT, False), ("shape", 2, "Shape", False)],
    "Shape": [("dim", 1, "Dimension", True)],
    "Dimension": [("dim_value", 1, _INT, False)],
}


@lru_cache(maxsize=1)
def _model_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="tritonkit_onnx.proto", package="tritonkit.onnx", syntax="proto2")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = (
                descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
                if repeated
                else descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
            )
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type = _MESSAGE
                added.type_name = f".tritonkit.onnx.{kind}"
            else:
                added.type = kind  # type: ignore[assignment]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tritonkit.onnx.Model"))


def read_signature(path: Path) -> Signature:
    """The inputs (without those that are only initializers' defaults) and outputs of an ONNX model, and its data files.

    Raises:
        UnreadableArtifact: the file is no ONNX model, or has an input or output that Triton cannot carry.
        OSError: the file cannot be read.
    """
    stat = path.stat()
    return _read(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _read(path: Path, _size: int, _mtime: int) -> Signature:
    # Many models of one spec may share a file: size and time are in the key, so a changed file is read again.
    model = _model_class()()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        raise UnreadableArtifact("is not an ONNX model, or is cut short") from None
    if not model.HasField("graph") or not model.opset_import or not model.graph.output:
        raise UnreadableArtifact("is not an ONNX model, or is cut short: it has no operator set or no outputs")
    initialized = {initializer.name for initializer in model.graph.initializer}
    inputs = tuple(_tensor("input", value) for value in model.graph.input if value.name not in initialized)
    outputs = tuple(_tensor("output", value) for value in model.graph.output)
    entries = (entry for initializer in model.graph.initializer for entry in initializer.external_data)
    return Signature(inputs, outputs, tuple(dict.fromkeys(entry.value for entry in entries if entry.key == "location")))


def _tensor(role: str, value: Any) -> Tensor:
    if not value.type.HasField("tensor_type"):
        raise UnreadableArtifact(f"has the {role} '{value.name}' that is no tensor; Triton carries only tensors")
    tensor = value.type.tensor_type
    data_type = _ELEMENT_TYPES.get(tensor.elem_type)
    if data_type is None:
        raise UnreadableArtifact(f"has the {role} '{value.name}' of ONNX type {tensor.elem_type}, unknown to Triton")
    shape = None
    if tensor.HasField("shape"):
        # A named dimension ("batch") has no value: it is not fixed.
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else -1 for dim in tensor.shape.dim
        )
    return Tensor(value.name, data_type, shape)
