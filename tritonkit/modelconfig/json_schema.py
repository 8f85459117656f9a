"""The JSON Schema of a spec, for completion and explanations in editors: tritonkit's own keys, and all of Triton's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.field_descriptions import describe_field
from tritonkit.modelconfig.values import INTEGERS
from tritonkit.spec.schema import NAME_PATTERN, VERSION_PATTERN, Spec

_DRAFT = "http://json-schema.org/draft-07/schema#"
_TENSOR_FORM = r"^\s*[A-Z0-9]+\s*\[[-0-9, ]*\]\s*$"


def spec_schema() -> dict[str, Any]:
    """The schema of a whole spec. It accepts all that is well formed; a build finds more to say than a schema can."""
    schema = _without_titles(Spec.model_json_schema())
    root = protobuf.empty().DESCRIPTOR
    messages = {_short(message): _message(message) for message in _messages(root)}
    config = messages[_short(root)]
    model = schema["$defs"]["Model"]
    del model["properties"]["fields"]
    model["properties"] = {**model["properties"], **config["properties"]}
    model["type"] = "object"
    _versions(model)["propertyNames"] = {"pattern": VERSION_PATTERN}
    variants = model["properties"]["configs"]
    variants["propertyNames"] = {"pattern": NAME_PATTERN}
    variants["additionalProperties"] = {"anyOf": [{"type": "string", "minLength": 1}, _reference(root)]}
    schema["properties"]["models"]["propertyNames"] = {"pattern": NAME_PATTERN}
    schema["$defs"].update(messages)
    return {"$schema": _DRAFT, "title": "tritonkit spec", **schema}


def _versions(model: dict[str, Any]) -> dict[str, Any]:
    forms: list[dict[str, Any]] = model["properties"]["versions"]["anyOf"]
    return next(form for form in forms if form["type"] == "object")


def _without_titles(value: Any) -> Any:
    # pydantic repeats every key's name as its title. A title is a string; a property of that name is a mapping.
    if isinstance(value, dict):
        return {
            key: _without_titles(item)
            for key, item in value.items()
            if not (key == "title" and isinstance(item, str)) and not (key == "default" and item is None)
        }
    return [_without_titles(item) for item in value] if isinstance(value, list) else value


def _messages(root: Any) -> Iterator[Any]:
    """A message's descriptor, and those of all messages that can stand below it, each once."""
    seen: dict[str, Any] = {}
    waiting = [root]
    while waiting:
        message = waiting.pop()
        if message.full_name in seen:
            continue
        seen[message.full_name] = message
        for field in message.fields:
            below = field.message_type
            if below is not None and below.GetOptions().map_entry:
                below = below.fields_by_name["value"].message_type
            if below is not None:
                waiting.append(below)
    return iter(sorted(seen.values(), key=lambda message: str(message.full_name)))


def _short(message: Any) -> str:
    return str(message.full_name).partition(".")[2]


def _reference(message: Any) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{_short(message)}"}


def _message(message: Any) -> dict[str, Any]:
    return {
        # `dynamic_batching:` with nothing after it stands for the message with its defaults.
        "type": ["object", "null"],
        "properties": {
            field.name: {"description": describe_field(message.full_name, field.name), **_field(field)}
            for field in message.fields
        },
        "additionalProperties": False,
    }


def _field(field: Any) -> dict[str, Any]:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, item = message.fields_by_name["key"], message.fields_by_name["value"]
        names = {"propertyNames": {"pattern": "^-?[0-9]+$"}} if key.cpp_type in INTEGERS else {}
        one = _one(item)
        if item.message_type is not None and item.message_type.full_name == protobuf.PARAMETER:
            one = {"anyOf": [{"type": ["string", "number", "boolean"]}, one]}
        return {"type": "object", **names, "additionalProperties": one}
    if not field.is_repeated:
        # Beside a reference, draft 7 ignores every other word: so the description stands beside a list of one.
        return _one(field) if message is None else {"allOf": [_one(field)]}
    listed = {"type": "array", "items": _one(field)}
    if field.containing_type.full_name != protobuf.empty().DESCRIPTOR.full_name:
        return listed
    if field.name in ("input", "output"):
        short = {"type": "string", "pattern": _TENSOR_FORM}
        named = {"type": "object", "additionalProperties": {"anyOf": [short, _one(field)]}}
        return {"anyOf": [named, listed]}
    return {"anyOf": [{"type": "integer"}, listed]} if field.name == "instance_group" else listed


def _one(field: Any) -> dict[str, Any]:
    """The schema of one value of a field."""
    if field.message_type is not None:
        return _reference(field.message_type)
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return {"enum": list(field.enum_type.values_by_name)}
    if kind in INTEGERS:
        low, high = INTEGERS[kind]
        return {"type": "integer", "minimum": low, "maximum": high}
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return {"type": "boolean"}
    number = kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)
    return {"type": "number" if number else "string"}
