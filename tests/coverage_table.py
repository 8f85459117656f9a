"""What a spec can say of ModelConfig, tried out: a table of every field path, made by building and importing each.

    python tests/coverage_table.py > docs/modelconfig.md

The paths come from the protobuf's descriptors, as tritonclient ships them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.field_descriptions import describe_field
from tritonkit.modelconfig.text import parse
from tritonkit.repository import build
from tritonkit.repository.changes import apply
from tritonkit.repository.importing import import_repository

_TYPES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_DOUBLE: "double",
}


@dataclass(frozen=True)
class FieldPath:
    """A field, and the fields above it; a map's values stand for any of them.

    Attributes:
        fields: from ModelConfig's own field down to the field itself.
    """

    fields: tuple[Any, ...]

    def __str__(self) -> str:
        return "".join(f"{field.name}{'.*.' if is_map(field) else '.'}" for field in self.fields[:-1]) + self.name

    @property
    def name(self) -> str:
        return str(self.fields[-1].name)

    @property
    def type(self) -> str:
        field = self.fields[-1]
        if is_map(field):
            key, item = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
            return f"map of {_TYPES[key.type]} to {_type(item)}"
        return f"list of {_type(field)}" if field.is_repeated else _type(field)

    def said(self, value: Any = None) -> dict[str, Any]:
        """A mapping that sets the field, and nothing that it can do without."""
        said = _example(self.fields[-1]) if value is None else _wrapped(self.fields[-1], value)
        for field, below in zip(reversed(self.fields[:-1]), reversed(self.fields[1:]), strict=True):
            said = _wrapped(field, {below.name: said})
        return {self.fields[0].name: said}

    def values(self, config: Any) -> list[Any]:
        """What the field holds, in every message that has it."""
        messages = [config]
        for field in self.fields[:-1]:
            held = [getattr(message, field.name) for message in messages]
            if is_map(field):
                messages = [one for items in held for _, one in sorted(items.items())]
            else:
                messages = [one for items in held for one in items] if field.is_repeated else held
        field = self.fields[-1]
        return [getattr(message, field.name) for message in messages if _is_set(message, field)]


def field_paths() -> list[FieldPath]:
    """Every path of ModelConfig, in the protobuf's order."""
    return list(_below(protobuf.empty().DESCRIPTOR, ()))


def is_map(field: Any) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def tried(paths: list[FieldPath]) -> list[tuple[bool, bool]]:
    """For each path, whether a spec that sets it builds a configuration that holds it, and whether an import of that
    repository, built again, gives an equal one.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models: dict[str, Any] = {}
        for number, path in enumerate(paths):
            model = f"model_{number}"
            said = {"name": model} if str(path) == "name" else path.said()
            models[model] = {"backend": "python", "versions": {1: None}, **said}
            if "platform" in said:
                del models[model]["backend"]
        (folder / "spec.yaml").write_text(yaml.safe_dump({"version": 1, "models": models}))
        apply(build.compare([folder / "spec.yaml"], [], {}, folder / "first", check=False))
        import_repository(folder / "first", folder / "imported.yaml")
        apply(build.compare([folder / "imported.yaml"], [], {}, folder / "second", check=False))
        results = []
        for number, path in enumerate(paths):
            first, second = (
                parse((folder / which / f"model_{number}/config.pbtxt").read_text()) for which in ("first", "second")
            )
            said = {"name": f"model_{number}"} if str(path) == "name" else path.said()
            wanted = json_format.ParseDict(said, protobuf.empty())
            results.append((_holds(path, first, wanted), first == second))
        return results


def table() -> str:
    """The Markdown page."""
    paths = field_paths()
    lines = [
        "# What a spec can say of Triton's ModelConfig",
        "",
        "Made by `python tests/coverage_table.py > docs/modelconfig.md`; do not edit.",
        "",
        f"All {len(paths)} field paths of the protobuf that tritonclient ships. In a path, `*` stands for any key of a",
        "map. *Built*: a spec that sets the field gives a `config.pbtxt` that holds it. *Imported*: a spec made from",
        "that repository gives an equal configuration again.",
        "",
        "| field | type | built | imported | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    words = {True: "yes", False: "**no**"}
    for path, (built, imported) in zip(paths, tried(paths), strict=True):
        field = path.fields[-1]
        meaning = describe_field(field.containing_type.full_name, field.name).replace("|", "\\|")
        lines.append(f"| `{path}` | {path.type} | {words[built]} | {words[imported]} | {meaning} |")
    return "\n".join(lines) + "\n"


def _below(message: Any, above: tuple[Any, ...]) -> Iterator[FieldPath]:
    for field in message.fields:
        yield FieldPath((*above, field))
        below = field.message_type.fields_by_name["value"].message_type if is_map(field) else field.message_type
        if below is not None:
            yield from _below(below, (*above, field))


def _type(field: Any) -> str:
    if field.message_type is not None:
        return str(field.message_type.name)
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return ", ".join(f"`{name}`" for name in field.enum_type.values_by_name)
    return _TYPES[field.type]


def _example(field: Any) -> Any:
    item = field.message_type.fields_by_name["value"] if is_map(field) else field
    if item.message_type is not None:
        value: Any = {}
    elif item.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        value = list(item.enum_type.values_by_name)[-1]
    else:
        value = {
            FieldDescriptor.CPPTYPE_STRING: "x",
            FieldDescriptor.CPPTYPE_BOOL: True,
            FieldDescriptor.CPPTYPE_FLOAT: 0.1,
            FieldDescriptor.CPPTYPE_DOUBLE: 0.1,
        }.get(item.cpp_type, 3)
    return _wrapped(field, value)


def _wrapped(field: Any, value: Any) -> Any:
    if is_map(field):
        return {"x" if field.message_type.fields_by_name["key"].type == FieldDescriptor.TYPE_STRING else "7": value}
    return [value] if field.is_repeated else value


def _holds(path: FieldPath, config: Any, wanted: Any) -> bool:
    held, meant = path.values(config), path.values(wanted)
    if path.fields[-1].message_type is not None and not is_map(path.fields[-1]):
        # The message is there; a build may fill in what it leaves open, as an instance group's count.
        return len(held) == len(meant) > 0
    return held == meant != []


def _is_set(message: Any, field: Any) -> bool:
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM and len(field.enum_type.values) == 1:
        # The one value that it has is the one that it has unsaid.
        return True
    return any(known.name == field.name for known, _ in message.ListFields())


if __name__ == "__main__":
    sys.stdout.write(table())
