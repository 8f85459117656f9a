"""Values for the fields of any protobuf message, led by its descriptor."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st


def scalars(field: Any) -> st.SearchStrategy[Any]:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return st.sampled_from(list(field.enum_type.values_by_name))
    return {
        FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
        FieldDescriptor.CPPTYPE_STRING: st.text(max_size=10),
        FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
        FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
        FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
        FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
        FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32, allow_nan=False, allow_infinity=False),
        FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
    }[kind]


@st.composite
def values(draw: st.DrawFn, descriptor: Any, depth: int = 0) -> dict[str, Any]:
    """A mapping that says some fields of a message, at most one of each oneof."""
    chosen: dict[str, Any] = {}
    taken = set()
    # Few fields at each level, or the messages grow without bound.
    fields = st.lists(st.sampled_from(list(descriptor.fields)), unique=True, max_size=4 if depth < 2 else 2)
    for field in draw(fields) if descriptor.fields else ():
        oneof = field.containing_oneof and field.containing_oneof.name
        if oneof in taken:
            continue
        taken.add(oneof)
        taken.discard(None)
        chosen[field.name] = draw(_field_values(field, depth))
    return chosen


def _field_values(field: Any, depth: int) -> st.SearchStrategy[Any]:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, item = message.fields_by_name["key"], message.fields_by_name["value"]
        held = scalars(item) if item.message_type is None else values(item.message_type, depth + 1)
        return st.dictionaries(scalars(key).map(str), held, max_size=2)
    one = scalars(field) if message is None else values(message, depth + 1)
    return st.lists(one, max_size=2) if field.is_repeated else one
