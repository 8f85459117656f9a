"""Configurations against what their artifacts say: tritonkit and the real server with its onnxruntime backend agree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from judging import foretold, inspect
from onnx_models import identity
from oracle import Oracle, oracle

from tritonkit.artifacts.signature import Signature, Tensor
from tritonkit.modelconfig.checking import RULES, check
from tritonkit.modelconfig.rules.rule import Subject
from tritonkit.modelconfig.text import parse

DYNAMIC = ("batch", 1, 8, 8)
FIXED = (2, 1, 8, 8)


@pytest.fixture(scope="module")
def judge() -> Iterator[Oracle]:
    with oracle() as asked:
        yield asked


@pytest.mark.parametrize(
    ("code", "dims", "said"),
    [
        ("", DYNAMIC, ""),
        ("", DYNAMIC, "max_batch_size: 4"),
        ("", DYNAMIC, 'max_batch_size: 4 input [{ name: "input" data_type: TYPE_FP32 dims: [1, 8, 8] }]'),
        ("", DYNAMIC, 'max_batch_size: 4 input [{ name: "input" data_type: TYPE_FP32 dims: [-1, 8, 8] }]'),
        ("", FIXED, 'input [{ name: "input" data_type: TYPE_FP32 dims: [2, 1, 8, 8] }]'),
        ("ART02", DYNAMIC, 'max_batch_size: 4 output [{ name: "ouput" data_type: TYPE_FP32 dims: [1, 8, 8] }]'),
        ("ART03", DYNAMIC, 'max_batch_size: 4 input [{ name: "input" data_type: TYPE_FP16 dims: [1, 8, 8] }]'),
        ("ART04", FIXED, "max_batch_size: 2"),
        ("ART05", DYNAMIC, 'max_batch_size: 4 input [{ name: "input" data_type: TYPE_FP32 dims: [1, 8, 9] }]'),
        ("BND01", DYNAMIC, 'max_batch_size: 4 sequence_batching { state [{ input_name: "a" output_name: "b" }] }'),
        (
            "BND02",
            DYNAMIC,
            'optimization { execution_accelerators { gpu_execution_accelerator [{ name: "tensorrt" }] } }',
        ),
        ("BND03", DYNAMIC, 'parameters { key: "intra_op_thread_count" value { string_value: "two" } }'),
        ("BND04", DYNAMIC, 'parameters { key: "own_process" value { string_value: "perhaps" } }'),
        ("", DYNAMIC, 'parameters { key: "intra_op_thread_count" value { string_value: "2" } }'),
        ("ART05", DYNAMIC, 'input [{ name: "input" data_type: TYPE_FP32 dims: [1, 8, 8] }]'),
    ],
)
def test_the_server_agrees(judge: Oracle, tmp_path: Path, code: str, dims: tuple[int | str, ...], said: str) -> None:
    artifact = identity(tmp_path / "model.onnx", dims).read_bytes()
    files: dict[str, str | bytes] = {"m/config.pbtxt": f'backend: "onnxruntime" {said}', "m/1/model.onnx": artifact}
    found = inspect(files)
    verdict = judge.ask(files, "m")
    assert {finding.code for finding in found.errors} == ({code} if code else set())
    assert verdict.loads == (not code), verdict.said
    assert not code or foretold(found, verdict), verdict.said


def test_an_input_left_out(judge: Oracle, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "add", tensors[:2], tensors[2:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, str(tmp_path / "model.onnx"))
    said = (
        'max_batch_size: 4 input [{ name: "a" data_type: TYPE_FP32 dims: [2] }] '
        'output [{ name: "c" data_type: TYPE_FP32 dims: [2] }]'
    )
    files: dict[str, str | bytes] = {
        "m/config.pbtxt": f'backend: "onnxruntime" {said}',
        "m/1/model.onnx": (tmp_path / "model.onnx").read_bytes(),
    }
    found, verdict = inspect(files), judge.ask(files, "m")
    assert [finding.code for finding in found.errors] == ["ART01"]
    assert not verdict.loads
    assert foretold(found, verdict), verdict.said


def test_dims_that_fit_but_for_the_batch_name_max_batch_size(tmp_path: Path) -> None:
    artifact = identity(tmp_path / "model.onnx", DYNAMIC).read_bytes()
    for dims, named in (("1, 8, 8", True), ("1, 8, 9", False)):
        said = f'backend: "onnxruntime" input [{{ name: "input" data_type: TYPE_FP32 dims: [{dims}] }}]'
        (finding,) = inspect({"m/config.pbtxt": said, "m/1/model.onnx": artifact}).errors
        assert finding.code == "ART05"
        assert ("max_batch_size is 0 or not stated" in finding.message) == named


def test_an_artifact_that_is_none(judge: Oracle) -> None:
    files: dict[str, str | bytes] = {
        "m/config.pbtxt": 'backend: "onnxruntime" max_batch_size: 4',
        "m/1/model.onnx": b"no model",
    }
    found = inspect(files)
    verdict = judge.ask(files, "m")
    assert [finding.code for finding in found.errors] == ["ART06"]
    assert not verdict.loads
    assert foretold(found, verdict), verdict.said


def test_a_missing_batch_dimension_is_no_dimension_at_all() -> None:
    signature = Signature((Tensor("x", "TYPE_FP32", (1, 3)),), (Tensor("y", "TYPE_FP32", ()),))
    config = parse(
        'backend: "onnxruntime" max_batch_size: 4 '
        'input [{ name: "x" data_type: TYPE_FP32 dims: [3] }] output [{ name: "y" data_type: TYPE_FP32 dims: [1] }]'
    )
    found = check([Subject("m", config, signature=signature)])
    assert [finding.message.split("artifact's ")[1] for finding in found] == [
        "input 'x' is fixed at 1",
        "output 'y' is missing",
    ]


def test_every_rule_has_a_case() -> None:
    told = {rule.code for rule in RULES if rule.code.startswith(("ART", "BND"))}
    assert told == {"ART01", "ART02", "ART03", "ART04", "ART05", "ART06", "BND01", "BND02", "BND03", "BND04"}


def test_triton_makes_two_instances_where_no_count_is_said(judge: Oracle, tmp_path: Path) -> None:
    artifact = identity(tmp_path / "model.onnx", DYNAMIC).read_bytes()
    said = 'backend: "onnxruntime" instance_group [{ kind: KIND_CPU }]'
    files: dict[str, str | bytes] = {"m/config.pbtxt": said, "m/1/model.onnx": artifact}
    (found,) = inspect(files).findings
    assert (found.code, found.severity.value) == ("INS07", "info")
    assert judge.ask(files, "m").loads
    assert sorted(re.findall(r"m_0_\d(?=: runs inside tritonserver)", judge.log)) == ["m_0_0", "m_0_1"]
