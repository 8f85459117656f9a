"""Spec to ModelConfig to text and back: nothing lost, nothing added, every fault at its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from hypothesis import given, settings
from message_values import values

from tritonkit.artifacts.signature import Signature, Tensor
from tritonkit.errors import SpecError
from tritonkit.modelconfig import protobuf, text
from tritonkit.modelconfig.configure import configure
from tritonkit.modelconfig.text import Renderer
from tritonkit.modelconfig.values import fill
from tritonkit.resources import CONFIG_TEMPLATE
from tritonkit.spec.faults import Faults
from tritonkit.spec.schema import Model

DIGITS = Signature((Tensor("input", "TYPE_FP32", (-1, 1, 8, 8)),), (Tensor("output", "TYPE_FP32", (-1, 10)),))


def configured(model: str, signature: Signature | None = None, backend: str | None = "onnxruntime") -> Any:
    faults = Faults("spec.yaml", {})
    raw = yaml.safe_load(model) or {}
    own = {key: raw.pop(key) for key in ("source", "ensemble") if key in raw}
    config = configure("m", Model(**own, fields=raw), backend=backend, signature=signature, faults=faults)
    faults.raise_if_any()
    return config


def as_dict(config: Any) -> dict[str, Any]:
    return json_format.MessageToDict(config, preserving_proto_field_name=True)


def faults(model: str, signature: Signature | None = None) -> list[str]:
    with pytest.raises(SpecError) as caught:
        configured(model, signature)
    return [f"{fault.path.removeprefix('models.m.')}: {fault.message}" for fault in caught.value.faults]


def test_short_forms_are_written_out() -> None:
    short = configured("{max_batch_size: 4, instance_group: 2, input: {x: 'FP32[3,-1]'}, output: {y: {dims: [2]}}}")
    assert as_dict(short) == {
        "name": "m",
        "backend": "onnxruntime",
        "max_batch_size": 4,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["3", "-1"]}],
        "output": [{"name": "y", "dims": ["2"]}],
        "instance_group": [{"count": 2}],
    }


def test_parameters_may_be_plain_values() -> None:
    parameters = configured("parameters: {a: x, b: 2, c: true, d: {string_value: y}}").parameters
    assert {key: value.string_value for key, value in parameters.items()} == {"a": "x", "b": "2", "c": "true", "d": "y"}


def test_a_count_is_always_written() -> None:
    assert [group.count for group in configured("{}").instance_group] == [1]
    assert [group.count for group in configured("instance_group: [{kind: KIND_CPU}, {count: 3}]").instance_group] == [
        1,
        3,
    ]


def test_a_message_without_fields_is_still_said() -> None:
    assert configured("dynamic_batching:").HasField("dynamic_batching")
    assert not configured("{}").HasField("dynamic_batching")


def test_an_ensemble() -> None:
    config = configured(
        "{max_batch_size: 2, ensemble: [{model: a, input: {i: x}, output: {o: y}}], input: {x: 'FP32[1]'}, "
        "output: {y: 'FP32[1]'}}"
    )
    assert config.platform == "ensemble"
    assert not config.backend
    assert not config.instance_group
    assert as_dict(config)["ensemble_scheduling"] == {
        "step": [{"model_name": "a", "model_version": "-1", "input_map": {"i": "x"}, "output_map": {"o": "y"}}]
    }


def test_an_ensemble_has_nothing_of_its_own() -> None:
    found = faults("{source: x, backend: python, instance_group: 1, ensemble: [{model: a, input: {}, output: {}}]}")
    assert [fault.split(":")[0] for fault in found] == ["backend", "instance_group", "source"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("{dynamic_baching: {}}", "dynamic_baching: unknown key; did you mean 'dynamic_batching'?"),
        ("{sourc: x}", "sourc: unknown key; did you mean 'source'?"),
        ("{dynamic_batching: {max_delay: 3}}", "dynamic_batching.max_delay: unknown key"),
        ("{max_batch_size: '8'}", "max_batch_size: expected a whole number, found '8'"),
        ("{max_batch_size: 1.5}", "max_batch_size: expected a whole number, found 1.5"),
        ("{max_batch_size: true}", "max_batch_size: expected a whole number from"),
        ("{max_batch_size: 99999999999}", "max_batch_size: expected a whole number from -2147483648 to 2147483647"),
        ("{backend: 3}", 'backend: expected a string: write "3" with quotes, found 3'),
        (
            "{instance_group: [{kind: KIND_GPUS}]}",
            "instance_group[0].kind: expected one of Kind's names, found 'KIND_GPUS'",
        ),
        ("{instance_group: [{gpus: 0}]}", "instance_group[0].gpus: expected a list, found 0"),
        ("{instance_group: {count: 1}}", "instance_group: expected a list, found a mapping"),
        (
            "{dynamic_batching: [1]}",
            "dynamic_batching: expected a mapping of ModelDynamicBatching's fields, found a list",
        ),
        ("{parameters: [a]}", "parameters: expected a mapping, found a list"),
        ("{parameters: {a: [1]}}", "parameters.a: expected a string, a number or"),
        ("{input: {x: FP32}}", "input.x: expected a type and dims, as in \"FP32[3,224,224]\", found 'FP32'"),
        ("{input: {x: 'FP31[1]'}}", "input.x: unknown data type FP31; did you mean 'FP32'?"),
        ("{input: {x: 'FP32[a]'}}", "input.x: dims are whole numbers"),
        ("{input: {x: 3}}", "input.x: expected a mapping of ModelInput's fields, found 3"),
        ("{input: {x: {name: y, dims: [1]}}}", "input.x.name: the tensor's name is its key, 'x'"),
        ("{name: other}", "name: the model's name is its key, 'm'"),
        ("{version_policy: {latest: {num_versions: 1}, all: {}}}", "version_policy.all: 'latest' is given too"),
        (
            "{dynamic_batching: {priority_queue_policy: {x: {}}}}",
            "dynamic_batching.priority_queue_policy.x: the key must be",
        ),
        ("{optimization: {priority: 0}}", "optimization.priority: expected one of ModelPriority's names, found 0"),
        ("{response_cache: {enable: 1}}", "response_cache.enable: expected true or false, found 1"),
    ],
)
def test_values_that_are_refused(model: str, expected: str) -> None:
    (found,) = faults(model)
    assert found.startswith(expected)


def test_the_artifact_fills_what_is_not_stated() -> None:
    config = configured("{max_batch_size: 4, output: {output: {label_filename: l.txt}}}", DIGITS)
    assert as_dict(config)["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": ["1", "8", "8"]}]
    assert as_dict(config)["output"] == [
        {"name": "output", "data_type": "TYPE_FP32", "dims": ["10"], "label_filename": "l.txt"}
    ]
    assert list(configured("{}", DIGITS).input[0].dims) == [-1, 1, 8, 8]


def test_a_tensor_without_dims_is_reshaped() -> None:
    scalar = Signature((Tensor("x", "TYPE_INT64", (-1,)),), (Tensor("y", "TYPE_INT64", None),))
    config = configured("{max_batch_size: 4, output: {y: 'INT64[7]'}}", scalar)
    assert list(config.input[0].dims) == [1]
    assert config.input[0].HasField("reshape")
    assert not config.input[0].reshape.shape


def test_a_stated_shape_may_narrow_the_artifact() -> None:
    dynamic = Signature((Tensor("x", "TYPE_FP32", (-1, -1, 3)),), (Tensor("y", "TYPE_FP32", (-1, 2)),))
    assert list(configured("{max_batch_size: 1, input: {x: 'FP32[7,3]'}}", dynamic).input[0].dims) == [7, 3]


@settings(max_examples=400)
@given(value=values(protobuf.empty().DESCRIPTOR))
def test_whatever_the_protobuf_can_say_survives(value: dict[str, Any]) -> None:
    """As protobuf's own JSON reader understands it, and through text and back."""
    faults = Faults("spec.yaml", {})
    message = protobuf.empty()
    fill(message, value, (), faults)
    faults.raise_if_any()
    assert message == json_format.ParseDict(value, protobuf.empty())
    assert text.parse(Renderer("in a test").render(message)) == message


def overridden(folder: Path, monkeypatch: pytest.MonkeyPatch, template: str) -> Renderer:
    (folder / CONFIG_TEMPLATE).write_text(template)
    monkeypatch.setattr(text, "templates_directory", lambda: folder)
    return Renderer("in a test")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("name: 'other'", "says something else than the spec in: name, backend, dynamic_batching, instance_group"),
        ("{% for f in fields if f.name != 'dynamic_batching' %}{% endfor %}name: 'm'", "dynamic_batching"),
        ("nonsense {", "is no ModelConfig"),
        ("{{ nothing }}", "the template fails: 'nothing' is undefined"),
    ],
)
def test_a_template_cannot_say_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, words: str
) -> None:
    renderer = overridden(tmp_path, monkeypatch, template)
    with pytest.raises(SpecError, match=words):
        renderer.render(configured("dynamic_batching: {}"))
