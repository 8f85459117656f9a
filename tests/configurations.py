"""Random ModelConfigs over the whole surface: hypothesis strategies driven by the protobuf's own descriptors.

A configuration is drawn from a sound one by a few random edits, each of any field at any depth; values come from small
pools, so that names meet and limits are hit. What would only cost time is kept small: counts, sizes, repetitions.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st
from oracle import PYTHON_MODEL

from tritonkit.modelconfig import protobuf

# Not known to the server of the tests.
NEWER = frozenset({"model_metrics", "max_inflight_requests"})

_NAMES = ("x", "y", "z", "m", "")
_NUMBERS: dict[str, tuple[int, ...]] = {
    "max_batch_size": (0, 1, 4, 8, -1),
    "dims": (1, 2, 3, -1, 0, -2),
    "shape": (1, 2, 3, 6, -1, 0),
    "dim": (1, 2, -1, 0),
    "count": (1, 2, 0, -1),
    "gpus": (0, 1, -1),
    "device_id": (0, 1),
    "batch_size": (1, 2, 0),
    "preferred_batch_size": (1, 2, 4, 8, 0, -1),
    "max_candidate_sequences": (0, 1, 4, -1),
    "priority_levels": (0, 1, 2, 3),
    "default_priority_level": (0, 1, 2, 3),
    "versions": (1, 2, 3, -1),
    "num_versions": (0, 1, 2),
    "model_version": (-1, 1, 2),
    "int32_false_true": (0, 1),
    "bool_false_true": (0, 1),
}
_WORDS: dict[str, tuple[str, ...]] = {
    "name": _NAMES,
    "source_input": _NAMES,
    "target_name": _NAMES,
    "input_name": _NAMES,
    "output_name": _NAMES,
    "platform": ("", "ensemble", "onnxruntime_onnx", "tensorflow_graphdef", "tensorflow_savedmodel", "other"),
    "backend": ("python", "", "onnxruntime", "other", "tensorflow"),
    "default_model_filename": ("", "model.py", "other.py"),
    "label_filename": ("", "labels.txt", "missing.txt"),
    "input_data_file": ("data", "short", "missing"),
    "data_file": ("data", "short", "missing"),
    "profile": ("0", "1", "x"),
    "model_name": ("m", "n", ""),
    "runtime": ("", "", "", "other"),
    "host_policy": ("", "a"),
    "key": ("x", "y", "z"),
}
_MEMBER = (
    'backend: "python" max_batch_size: 4 '
    'input [{ name: "x" data_type: TYPE_FP32 dims: [2] }] output [{ name: "y" data_type: TYPE_FP32 dims: [2] }]'
)
_FILES: dict[str, str | bytes] = {
    "m/1/model.py": PYTHON_MODEL,
    "m/1/other.py": PYTHON_MODEL,
    "n/1/model.py": PYTHON_MODEL,
    "n/config.pbtxt": _MEMBER,
    "m/labels.txt": b"one\ntwo\n",
    "m/warmup/data": bytes(4096),
    "m/warmup/short": bytes(2),
    "m/initial_state/data": bytes(4096),
    "m/initial_state/short": bytes(2),
}


def files() -> dict[str, str | bytes]:
    """The files that the configurations may name, and a second model, ``n``."""
    return dict(_FILES)


def _scalar(draw: Any, field: Any) -> Any:
    if field.enum_type is not None:
        return draw(st.sampled_from([value.number for value in field.enum_type.values]))
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return draw(st.booleans())
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return draw(st.sampled_from(_WORDS.get(field.name, ("a", "", "x"))))
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return draw(st.sampled_from((0.0, 0.5, 1.0, -0.5, 1.5)))
    pool = _NUMBERS.get(field.name, (0, 1, 2, 1000))
    if kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        pool = tuple(number for number in pool if number >= 0)
    return draw(st.sampled_from(pool))


def _set(draw: Any, message: Message, field: Any, depth: int) -> None:
    """Give a field a new value."""
    message_type = field.message_type
    if message_type is not None and message_type.GetOptions().map_entry:
        target = getattr(message, field.name)
        key_field, item_field = message_type.fields_by_name["key"], message_type.fields_by_name["value"]
        key = _scalar(draw, key_field)
        if item_field.message_type is None:
            target[key] = draw(st.sampled_from(_NAMES[:3]))
        else:
            _fill(draw, target[key], depth + 1)
    elif field.is_repeated:
        target = getattr(message, field.name)
        if message_type is None:
            del target[:]
            target.extend(_scalar(draw, field) for _ in range(draw(st.integers(0, 3))))
        else:
            if len(target) > 2 or draw(st.integers(0, 3)) == 0:
                del target[:]
            _fill(draw, target.add(), depth + 1)
    elif message_type is not None:
        getattr(message, field.name).SetInParent()
        _fill(draw, getattr(message, field.name), depth + 1)
    else:
        setattr(message, field.name, _scalar(draw, field))


def _fill(draw: Any, message: Message, depth: int) -> None:
    known = [field for field in message.DESCRIPTOR.fields if field.name not in NEWER]
    for field in known:
        # The deeper, the fuller: an empty message says little.
        if draw(st.integers(0, 2 + 2 * (depth > 3))) != 0:
            _set(draw, message, field, depth)


def _edit(draw: Any, message: Message) -> None:
    """Change one thing somewhere in a message: clear it, set it, or go into it."""
    known = [field for field in message.DESCRIPTOR.fields if field.name not in NEWER]
    if not known:
        # Such as version_policy.all, which says all by being there.
        return
    field = draw(st.sampled_from(known))
    nested = field.message_type is not None and not field.message_type.GetOptions().map_entry
    inside: list[Message] = []
    if nested:
        value = getattr(message, field.name)
        inside = list(value) if field.is_repeated else [value] if message.HasField(field.name) else []
    if inside and draw(st.integers(0, 3)) != 0:
        _edit(draw, draw(st.sampled_from(inside)))
    elif inside and draw(st.booleans()):
        message.ClearField(field.name)
    else:
        _set(draw, message, field, 0)


SOUND = (
    'backend: "python" max_batch_size: 4 '
    'input [{ name: "x" data_type: TYPE_FP32 dims: [2] }] output [{ name: "y" data_type: TYPE_FP32 dims: [2] }]',
    'backend: "python" input [{ name: "x" data_type: TYPE_INT64 dims: [-1, 2] reshape { shape: [-1, 1, 2] } }] '
    'output [{ name: "y" data_type: TYPE_STRING dims: [1] label_filename: "labels.txt" }] '
    'batch_input [{ kind: BATCH_ITEM_SHAPE data_type: TYPE_INT32 target_name: "z" source_input: "x" }] '
    'batch_output [{ kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "y" source_input: "x" }]',
    'backend: "python" max_batch_size: 8 '
    'input [{ name: "x" data_type: TYPE_FP32 dims: [2, 3] }] output [{ name: "y" data_type: TYPE_FP32 dims: [6] }] '
    "dynamic_batching { preferred_batch_size: [2, 4] max_queue_delay_microseconds: 100 priority_levels: 2 "
    "default_priority_level: 1 priority_queue_policy { key: 1 value { default_timeout_microseconds: 5 } } }",
    'backend: "python" max_batch_size: 4 '
    'input [{ name: "x" data_type: TYPE_FP32 dims: [2] }] output [{ name: "y" data_type: TYPE_FP32 dims: [2] }] '
    'sequence_batching { control_input [{ name: "START" control [{ kind: CONTROL_SEQUENCE_START '
    'fp32_false_true: [0, 1] }] }, { name: "ID" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }] }] '
    "oldest { max_candidate_sequences: 4 preferred_batch_size: [2] } "
    'state [{ input_name: "x" output_name: "y" data_type: TYPE_FP32 dims: [2] '
    'initial_state { name: "s" data_type: TYPE_FP32 dims: [2] data_file: "data" } }] }',
    'backend: "python" max_batch_size: 2 '
    'input [{ name: "x" data_type: TYPE_FP32 dims: [2] }] output [{ name: "y" data_type: TYPE_FP32 dims: [2] }] '
    'model_warmup [{ name: "w" batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 dims: [2] '
    "zero_data: true } } }] instance_group [{ count: 1 kind: KIND_CPU }]",
    'platform: "ensemble" max_batch_size: 4 '
    'input [{ name: "x" data_type: TYPE_FP32 dims: [2] }] output [{ name: "y" data_type: TYPE_FP32 dims: [2] }] '
    'ensemble_scheduling { step [{ model_name: "n" model_version: -1 input_map { key: "x" value: "x" } '
    'output_map { key: "y" value: "y" } }] }',
)


def _without_crashes(config: Any) -> Any:
    """The configuration without what ends the server itself, and so would take most of the time."""
    names = [tensor.name for tensor in config.input if tensor.name]
    for output in config.batch_output:
        output.source_input[:] = names[:1]
        output.target_name[:] = output.target_name or ["y"]
    if not names:
        del config.batch_output[:]
    if not config.model_repository_agents.agents:
        config.ClearField("model_repository_agents")
    return config


@st.composite
def configurations(draw: Any) -> Any:
    """A ModelConfig of the model ``m``, sound or not: an edited one, or now and then nothing but random fields."""
    if draw(st.integers(0, 5)) == 0:
        return _without_crashes(draw(_whole()))
    from tritonkit.modelconfig.text import parse

    config = parse(draw(st.sampled_from(SOUND)))
    for _ in range(draw(st.integers(0, 3))):
        _edit(draw, config)
    return _without_crashes(config)


@st.composite
def _whole(draw: Any) -> Any:
    config = protobuf.empty()
    _fill(draw, config, 0)
    config.backend = "python"
    config.platform = ""
    config.name = ""
    return config
