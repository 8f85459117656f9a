"""From Triton's ModelConfig to the fields of a spec's model, in their short forms: the way back of ``configure``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.text import literal

# What a reader looks for first; the others follow in the protobuf's order.
_FIRST = ("name", "platform", "backend", "runtime", "default_model_filename", "max_batch_size", "input", "output")

_STEP = frozenset({"model_name", "model_version", "input_map", "output_map"})


def describe(config: Message) -> dict[str, Any]:
    """The fields of a ModelConfig as a spec says them: plain values, nothing that is not set."""
    said = _describe_message(config)
    for role in ("input", "output"):
        if role in said:
            said[role] = _tensors(said[role])
    if "instance_group" in said and len(said["instance_group"]) == 1 and said["instance_group"][0].keys() == {"count"}:
        said["instance_group"] = said["instance_group"][0]["count"]
    order = [name for name in _FIRST if name in said]
    return {name: said[name] for name in [*order, *(name for name in said if name not in order)]}


def describe_steps(config: Any) -> list[dict[str, Any]] | None:
    """The steps of an ensemble in their short form; None where that cannot say what the configuration says."""
    steps = config.ensemble_scheduling.step
    if config.platform != "ensemble" or config.instance_group or config.backend or not steps:
        return None
    if {field.name for field, _ in config.ensemble_scheduling.ListFields()} != {"step"}:
        return None
    if any({field.name for field, _ in step.ListFields()} - _STEP for step in steps):
        return None
    return [
        {
            "model": step.model_name,
            **({} if step.model_version == -1 else {"model_version": step.model_version}),
            "input": dict(sorted(step.input_map.items())),
            "output": dict(sorted(step.output_map.items())),
        }
        for step in steps
    ]


def _describe_message(message: Message) -> dict[str, Any]:
    return {field.name: _describe_field(field, value) for field, value in message.ListFields()}


def _describe_field(field: Any, value: Any) -> Any:
    message_type = field.message_type
    if message_type is not None and message_type.GetOptions().map_entry:
        item = message_type.fields_by_name["value"]
        return {key: _describe_one(item, value[key]) for key in sorted(value)}
    if field.is_repeated:
        return [_describe_one(field, item) for item in value]
    return _describe_one(field, value)


def _describe_one(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        if field.message_type.full_name == protobuf.PARAMETER:
            return value.string_value
        return _describe_message(value)
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        name = field.enum_type.values_by_number.get(value)
        return value if name is None else name.name
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        # The shortest number that is the same in 32 bits: 0.1, not 0.10000000149011612.
        return float(literal(field, value))
    return value


def _tensors(tensors: list[dict[str, Any]]) -> Any:
    names = [tensor.get("name", "") for tensor in tensors]
    if not all(names) or len(set(names)) < len(names):
        return tensors
    return {name: _tensor(tensor) for name, tensor in zip(names, tensors, strict=True)}


def _tensor(tensor: dict[str, Any]) -> Any:
    rest = {key: value for key, value in tensor.items() if key != "name"}
    if rest.keys() == {"data_type", "dims"} and isinstance(rest["data_type"], str):
        return f"{rest['data_type'].removeprefix('TYPE_')}[{_joined(rest['dims'])}]"
    return rest


def _joined(dims: Iterable[int]) -> str:
    return ",".join(map(str, dims))
