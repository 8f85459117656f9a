"""The whole surface of ModelConfig: every field path and every enum value is said, built, imported and explained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from coverage_table import field_paths, table
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st
from message_values import values
from typer.testing import CliRunner

from tritonkit.cli.app import app
from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.field_descriptions import DESCRIPTIONS, describe_field
from tritonkit.modelconfig.json_schema import spec_schema
from tritonkit.modelconfig.text import Renderer, parse
from tritonkit.modelconfig.values import fill
from tritonkit.spec.faults import Faults

ROOT = Path(__file__).parent.parent
SCHEMA = spec_schema()


def accepted(value: Any, schema: dict[str, Any] | bool = SCHEMA) -> bool:
    """Whether a value fits a schema, of which the words are known that ours uses."""
    if isinstance(schema, bool):
        return schema
    known = {
        "$schema", "$defs", "title", "description", "default", "$ref", "allOf", "anyOf", "type", "enum", "const",
        "minimum", "maximum", "minLength", "minItems", "maxItems", "minProperties", "pattern", "items", "properties",
        "required", "propertyNames", "additionalProperties",
    }  # fmt: skip
    assert schema.keys() <= known
    if "$ref" in schema:
        return accepted(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")])
    types = schema.get("type", [])
    if types and not any(_is_a(value, kind) for kind in ([types] if isinstance(types, str) else types)):
        return False
    if isinstance(value, dict):
        named = schema.get("properties", {})
        rest = schema.get("additionalProperties", True)
        if not all(accepted(item, named.get(key, rest)) for key, item in value.items()):
            return False
        if not all(accepted(key, schema.get("propertyNames", True)) for key in value):
            return False
        if set(schema.get("required", ())) - value.keys() or len(value) < schema.get("minProperties", 0):
            return False
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            return False
        if not all(accepted(item, schema.get("items", True)) for item in value):
            return False
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        return False
    if isinstance(value, str) and len(value) < schema.get("minLength", 0):
        return False
    if _is_a(value, "number") and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return False
    return (
        all(accepted(value, one) for one in schema.get("allOf", ()))
        and ("anyOf" not in schema or any(accepted(value, one) for one in schema["anyOf"]))
        and ("enum" not in schema or value in schema["enum"])
        and ("const" not in schema or value == schema["const"])
    )


def _is_a(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
    return value is None if kind == "null" else isinstance(value, kinds.get(kind, ()))


def spec(model: Any) -> dict[str, Any]:
    return {"version": 1, "models": {"m": model}}


def test_the_table_is_current_and_every_field_path_survives() -> None:
    page = table()
    assert page.count("\n| `") == len(field_paths()) >= 173
    assert "**no**" not in page
    assert page == (ROOT / "docs/modelconfig.md").read_text(), "python tests/coverage_table.py > docs/modelconfig.md"


@pytest.mark.parametrize(
    "path", [path for path in field_paths() if path.fields[-1].cpp_type == FieldDescriptor.CPPTYPE_ENUM], ids=str
)
def test_every_enum_value_is_said(path: Any) -> None:
    for name, value in path.fields[-1].enum_type.values_by_name.items():
        message, faults = protobuf.empty(), Faults("spec.yaml", {})
        fill(message, path.said(name), (), faults)
        faults.raise_if_any()
        assert message == json_format.ParseDict(path.said(name), protobuf.empty())
        text = Renderer("in a test").render(message)
        assert parse(text) == message
        # The first value is what the field holds unsaid.
        assert (name in text) is (value.number != 0)
        assert accepted(spec(path.said(name)))


def test_every_field_is_explained() -> None:
    for path in field_paths():
        field = path.fields[-1]
        message = field.containing_type.full_name
        assert field.name in DESCRIPTIONS[message.removeprefix("inference.")]
        assert describe_field(message, field.name).endswith((".", "..."))
    assert describe_field("inference.ModelConfig", "brand_new") == "Field 'brand_new' of Triton's ModelConfig."


def test_no_explanation_is_left_over() -> None:
    known = {(path.fields[-1].containing_type.full_name, path.name) for path in field_paths()}
    said = {(f"inference.{message}", field) for message, fields in DESCRIPTIONS.items() for field in fields}
    assert said == known


def test_the_committed_schema_is_current() -> None:
    printed = CliRunner().invoke(app, ["schema"]).stdout
    assert json.loads(printed) == SCHEMA
    assert printed == (ROOT / "docs/spec.schema.json").read_text(), "tritonkit schema > docs/spec.schema.json"


def test_the_schema_takes_every_field_path() -> None:
    for path in field_paths():
        assert accepted(spec(path.said())), str(path)


@pytest.mark.parametrize("file", sorted(ROOT.glob("templates/starters/*/spec.yaml")), ids=lambda file: file.parent.name)
def test_the_schema_takes_the_starters(file: Path) -> None:
    assert accepted(yaml.safe_load(file.read_text()))


@pytest.mark.parametrize(
    "model",
    [
        "{source: m.onnx, instance_group: 2, input: {a: 'FP32[3,-1]', b: {dims: [1]}}, parameters: {a: 1, b: true}}",
        "{versions: {'1': a, '20': null}, files: {a/b: c}, configs: {h100: {max_batch_size: 9}, a100: x.pbtxt}}",
        "{ensemble: [{model: a, input: {x: y}, output: {z: w}}], dynamic_batching: null, samples: {a: [1, {b: 2}]}}",
        "{verbatim: true, dynamic_batching: {priority_queue_policy: {'7': {max_queue_size: 18446744}}}}",
    ],
)
def test_the_schema_takes_the_short_forms(model: str) -> None:
    assert accepted(spec(yaml.safe_load(model)))


@pytest.mark.parametrize(
    "model",
    [
        "{sourc: m.onnx}", "{source: ''}", "{source: 3}", "{versions: {'01': a}}", "{versions: {one: a}}",
        "{instance_group: many}", "{instance_group: [{kind: KIND_TPU}]}", "{input: {a: FP32}}", "{input: 3}",
        "{max_batch_size: 3000000000}", "{max_batch_size: '8'}", "{dynamic_batching: {delay: 3}}", "{ensemble: []}",
        "{ensemble: [{model: a}]}", "{dynamic_batching: {max_queue_delay_microseconds: -1}}", "{verbatim: 1}",
        "{dynamic_batching: {priority_queue_policy: {x: {}}}}", "{configs: {a: {max_batch: 3}}}", "[]",
    ],
)  # fmt: skip
def test_the_schema_refuses(model: str) -> None:
    assert not accepted(spec(yaml.safe_load(model)))


def test_the_schema_refuses_what_is_no_spec() -> None:
    assert accepted({"version": 1, "models": {"m": {}}, "repository": "here"})
    for bad in (
        {},
        {"version": 2, "models": {"m": {}}},
        {"version": 1, "models": {}},
        {"version": 1, "models": {"a/b": {}}},
    ):
        assert not accepted(bad)


@settings(max_examples=200)
@given(said=values(protobuf.empty().DESCRIPTOR), key=st.text(max_size=5))
def test_the_schema_agrees_with_the_loader(said: dict[str, Any], key: str) -> None:
    assert accepted(spec(said))
    unknown = {**said, f"no field {key}": 1}
    faults = Faults("spec.yaml", {})
    fill(protobuf.empty(), unknown, (), faults)
    assert len(faults) == 1
    assert not accepted(spec(unknown))
