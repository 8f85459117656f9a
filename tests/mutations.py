"""Inputs that nobody would write: known texts, cut, doubled, swapped, and sown with words that mean something."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml
from google.protobuf import json_format, text_format
from hypothesis import strategies as st
from message_values import values

from tritonkit.modelconfig.protobuf import FIELDS, empty
from tritonkit.spec.schema import OWN_KEYS

SPECS = (
    "version: 1\nmodels:\n  m: {source: m.onnx, max_batch_size: 8, dynamic_batching: {}}\n",
    "version: 1\nrepository: out\nmodels:\n  m:\n    backend: python\n    versions: {1: src, 3: src/model.py, 4: }\n"
    "    files: {a/b: l.txt, c: src}\n    configs: {big: {max_batch_size: 64}, other: l.txt}\n    verbatim: true\n",
    "version: 1\nmodels:\n  e:\n    ensemble:\n      - {model: m, input: {a: b}, output: {c: d}, model_version: 2}\n"
    "    input: {b: 'FP32[3,-1]'}\n    output: {d: {data_type: TYPE_FP32, dims: [1], label_filename: l.txt}}\n"
    "  m: {source: src, instance_group: [{count: 1, kind: KIND_CPU, gpus: [0]}],\n"
    "    parameters: {x: 1, y: {string_value: z}},\n"
    "    input: [{name: a, dims: [3]}], samples: {a: [1, 2]}}\n",
    "version: 1\nmodels:\n  m: &m\n    source: ${X:-m.onnx}\n    priority: $$\n  n:\n    <<: *m\n"
    "    sequence_batching: {oldest: {max_candidate_sequences: 4}, state: [{initial_state: [{data_file: l.txt}]}]}\n"
    "    model_warmup: [{inputs: {a: {input_data_file: l.txt, random_data: true}}}]\n"
    "    dynamic_batching: {priority_queue_policy: {1: {max_queue_size: 18446744073709551615}}}\n"
    "    model_metrics: {metric_control: [{histogram_options: {buckets: [0.1, .inf, .nan]}}]}\n"
    "    cc_model_filenames: {'7.5': m.onnx}\n    model_operations: {op_library_filename: [l.txt]}\n",
)

SPEC_WORDS = (
    "null", "~", "true", "no", "-1", "0x" + "f" * 6000, "1e999", "-.inf", ".nan", "1:30", "2020-01-01", "[]",
    "{}", "''", "''''", "!!python/object:os.system x", "!!binary aGk=", "!!set {a}", "!!float x", "&a", "*a",
    "<<: *m", "? [a]", "- ", ": ", "#", "|", ">", "%YAML 1.1", "---", "...", "${", "${X}", "${PATH:-}", "$$",
    "$", "\t", "\n", "\0", "\ufeff", "\x85", "\u2028", "é", "'\\ud800'", '"\\ud800"', '"\\x00"', "x" * 300,
    "source", "versions", "files", "configs", "ensemble", "verbatim", "input", "output", "name",
    "platform: ensemble", "backend: onnxruntime", "1", "00", "m", "m.onnx", "src", "l.txt", "broken.onnx",
    "none", "src/model.py", "FP32[1]", "FP32[99999999999999999999]", "[" * 120, "{a: " * 120,
)  # fmt: skip

CONFIGS = (
    'name: "m" backend: "python" max_batch_size: 8\ninput [{ name: "a" data_type: TYPE_FP32 dims: [ 3, -1 ] }]\n'
    'output { name: "b" data_type: TYPE_STRING dims: 1 label_filename: "l.txt" reshape { shape: [] } }\n'
    "instance_group [{ count: 2 kind: KIND_CPU }, { gpus: [ 0, 1 ] }] dynamic_batching { }\n",
    'name: "m" platform: "ensemble" ensemble_scheduling { step [{ model_name: "x" model_version: -1\n'
    '  input_map { key: "a" value: "b" } output_map { key: "c" value: "d" } }] }\n',
    'parameters { key: "dir" value { string_value: "${engine_dir}" } }\n'
    'cc_model_filenames { key: "7.5" value: "t4.plan" }\n'
    'model_warmup [{ name: "w" batch_size: 1 inputs { key: "a" value {\n'
    '  input_data_file: "w.bin" dims: 1 } } count: 1 }]\n'
    "version_policy: { specific: { versions: 1, versions: 3 } } optimization { priority: PRIORITY_MAX }\n"
    "sequence_batching { direct { minimum_slot_utilization: 0.1 } state [{ initial_state: { data_file: 's' } }] }\n",
)

CONFIG_WORDS = (
    "name", "input", "output", "dims: [", "]", "{", "}", "<", ">", ":", ";", ",", "-1", "1e999", "nan", "-inf",
    "inf", "0x7f", "010", "9999999999999999999999", "TYPE_FP32", "TYPE_FP33", "77", "KIND_CPU", "true", "t",
    "False", '"', "'", '"\\377"', '"\\0"', '"\\u2028"', '"é"', '"a" "b"', "${x}", "# ${y}\n", "#", "\n", "\0",
    "\ufeff", "\x85", "[foo.bar]", "[type.googleapis.com/inference.ModelConfig] {",
    "instance_group { kind: 77 }", "dynamic_batching {}", "sequence_batching {}", 'name: "other"',
    'platform: "ensemble"', 'label_filename: "../x"', "input { " * 40,
)  # fmt: skip


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(SPEC_WORDS)


def specs() -> st.SearchStrategy[bytes]:
    """The text of a spec whose keys are known and whose values are anything, or of one that was mutated."""
    keys = st.sampled_from([*sorted(FIELDS | OWN_KEYS), "name", "dims", "step", "string_value", "0", "1", "count"])
    values = st.recursive(
        _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=20
    )
    models = st.dictionaries(st.sampled_from(["m", "n", "e"]), st.dictionaries(keys, values, max_size=5), min_size=1)
    trees = models.map(lambda models: yaml.safe_dump({"version": 1, "models": models}).encode())
    return mutated(SPECS, SPEC_WORDS) | trees


def configs() -> st.SearchStrategy[bytes]:
    """The text of a config.pbtxt: of any ModelConfig at all, or one that was mutated."""
    return mutated(CONFIGS, CONFIG_WORDS) | values(empty().DESCRIPTOR).map(_text)


def _text(said: dict[str, Any]) -> bytes:
    message = json_format.ParseDict(said, empty())
    return text_format.MessageToString(message, as_utf8=True).encode()


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[str], words: Sequence[str]) -> bytes:
    """A seed after a few changes; seldom something that was none."""
    data = draw(st.sampled_from(seeds)).encode()
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 1, 2, 3, 6]))):
        # Mostly between words: what is still well formed gets further.
        edges = [match.start() for match in re.finditer(rb"\b|$", data)]
        start = draw(st.sampled_from(edges) if draw(st.integers(0, 2)) else st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 0, 1, 3, 20])))
        change = draw(st.integers(0, 5))
        if change == 0:
            data = data[:start] + data[end:]
        elif change == 1:
            data = data[:end] + data[start:]
        elif change == 2:
            data = data[:start] + draw(st.binary(max_size=3)) + data[end:]
        elif change == 3:
            other = draw(st.sampled_from(seeds)).encode()
            data = data[:start] + other[draw(st.integers(0, len(other))) :]
        else:
            data = data[:start] + draw(st.sampled_from(words)).encode() + data[end:]
    return data
