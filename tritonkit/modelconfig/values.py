"""Plain YAML values into protobuf messages, led by the messages' own descriptors.

No field of ModelConfig is named here: a newer tritonclient brings its new fields along.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tritonkit.errors import nearest
from tritonkit.modelconfig.protobuf import PARAMETER
from tritonkit.spec.faults import Faults, Path, shown

# Half a character: what Python makes of bytes in the environment that are no UTF-8. A protobuf cannot hold it.
_SURROGATE = re.compile("[\ud800-\udfff]")

INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
"""The smallest and the largest number that each kind of field holds."""

_LARGEST = {
    FieldDescriptor.CPPTYPE_FLOAT: (2 - 2**-23) * 2.0**127,
    FieldDescriptor.CPPTYPE_DOUBLE: sys.float_info.max,
}


def fill(message: Message, value: Any, path: Path, faults: Faults) -> None:
    """Set the fields of ``message`` that ``value``, a mapping by field name, gives; a fault for each that cannot be."""
    if value is None:
        # `dynamic_batching:` with nothing after it: the message is there, with its defaults.
        message.SetInParent()
        return
    if not isinstance(value, Mapping):
        faults.add(path, f"expected a mapping of {message.DESCRIPTOR.name}'s fields, found {shown(value)}")
        return
    message.SetInParent()
    for key, item in value.items():
        fill_field(message, key, item, (*path, key), faults)


def fill_field(message: Message, name: str, value: Any, path: Path, faults: Faults) -> None:
    """Set one field of ``message``; a fault at ``path`` if it does not exist or cannot take ``value``."""
    field: Any = message.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        faults.add(path, f"unknown key{nearest(name, message.DESCRIPTOR.fields_by_name)}")
        return
    oneof = field.containing_oneof
    other = oneof and message.WhichOneof(oneof.name)
    if other and other != name:
        faults.add(path, f"'{other}' is given too; a {message.DESCRIPTOR.name} has one of the two")
    elif _is_map(field):
        _fill_map(message, field, value, path, faults)
    elif field.is_repeated:
        _fill_list(message, field, value, path, faults)
    elif field.message_type is not None:
        fill(getattr(message, name), value, path, faults)
    else:
        scalar = _scalar(field, value, path, faults)
        if scalar is not None:
            setattr(message, name, scalar)


def _is_map(field: Any) -> bool:
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


def _fill_map(message: Message, field: Any, value: Any, path: Path, faults: Faults) -> None:
    if not isinstance(value, Mapping):
        faults.add(path, f"expected a mapping, found {shown(value)}")
        return
    key_field = field.message_type.fields_by_name["key"]
    item_field = field.message_type.fields_by_name["value"]
    target = getattr(message, field.name)
    for word, item in value.items():
        where = (*path, word)
        key = _key(key_field, word, where, faults)
        if key is None:
            continue
        if item_field.message_type is None:
            scalar = _scalar(item_field, item, where, faults)
            if scalar is not None:
                target[key] = scalar
        elif item_field.message_type.full_name == PARAMETER and not isinstance(item, Mapping):
            _fill_parameter(target[key], item, where, faults)
        else:
            fill(target[key], item, where, faults)


def _fill_parameter(message: Message, value: Any, path: Path, faults: Faults) -> None:
    """``parameters: {NAME: value}`` stands for ``{NAME: {string_value: "value"}}``: Triton's parameters are strings."""
    if isinstance(value, bool):
        value = "true" if value else "false"
    if isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 2**64):
        fill_field(message, "string_value", str(value), path, faults)
    else:
        faults.add(path, f"expected a string, a number or {{string_value: ...}}, found {shown(value)}")


def _key(field: Any, word: str, path: Path, faults: Faults) -> Any:
    # YAML's keys are read as words; a map may be keyed by numbers.
    if field.cpp_type not in INTEGERS:
        return word
    try:
        number = int(word)
    except ValueError:
        faults.add(path, "the key must be a whole number")
        return None
    return _scalar(field, number, path, faults)


def _fill_list(message: Message, field: Any, value: Any, path: Path, faults: Faults) -> None:
    if not isinstance(value, list):
        faults.add(path, f"expected a list, found {shown(value)}")
        return
    target = getattr(message, field.name)
    for index, item in enumerate(value):
        where = (*path, index)
        if field.message_type is not None:
            fill(target.add(), item, where, faults)
        else:
            scalar = _scalar(field, item, where, faults)
            if scalar is not None:
                target.append(scalar)


def _scalar(field: Any, value: Any, path: Path, faults: Faults) -> Any:
    """The value as the field holds it, or None after reporting a fault."""
    kind = field.cpp_type
    expected = ""
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return _enum(field.enum_type, value, path, faults)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        if isinstance(value, bool):
            return value
        expected = "true or false"
    elif kind in INTEGERS:
        low, high = INTEGERS[kind]
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        expected = "a whole number" if not isinstance(value, int) else f"a whole number from {low} to {high}"
    elif kind in _LARGEST:
        expected = "a number"
        if isinstance(value, int | float) and not isinstance(value, bool):
            if abs(value) <= _LARGEST[kind] or value != value or value in (math.inf, -math.inf):  # noqa: PLR0124
                return float(value)
            expected = f"a number of at most {_LARGEST[kind]:.3g}"
    elif field.type == FieldDescriptor.TYPE_BYTES:
        if isinstance(value, str | bytes):
            return value.encode() if isinstance(value, str) else value
        expected = "a string"
    else:
        if isinstance(value, str) and not _SURROGATE.search(value):
            return value
        expected = "a string" if not isinstance(value, int | float) else f'a string: write "{value}" with quotes'
    faults.add(path, f"expected {expected}, found {shown(value)}")
    return None


def _enum(enum: Any, value: Any, path: Path, faults: Faults) -> int | None:
    known = enum.values_by_name.get(value) if isinstance(value, str) else None
    if known is not None:
        return int(known.number)
    if isinstance(value, int) and -(2**31) <= value < 2**31 and value not in enum.values_by_number:
        # A newer Triton may know a value that this protobuf has no name for.
        return value
    hint = nearest(value, enum.values_by_name) if isinstance(value, str) else nearest("", enum.values_by_name)
    faults.add(path, f"expected one of {enum.name}'s names, found {shown(value)}{hint}")
    return None
