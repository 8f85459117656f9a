"""The signature that is read without onnx agrees with what onnx itself reads."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import identity

from tritonkit.artifacts.onnx_file import read_signature
from tritonkit.artifacts.signature import Tensor, UnreadableArtifact

# ONNX's own names against Triton's.
TYPES = {
    "FLOAT": "FP32", "UINT8": "UINT8", "INT8": "INT8", "UINT16": "UINT16", "INT16": "INT16", "INT32": "INT32",
    "INT64": "INT64", "STRING": "STRING", "BOOL": "BOOL", "FLOAT16": "FP16", "DOUBLE": "FP64", "UINT32": "UINT32",
    "UINT64": "UINT64", "BFLOAT16": "BF16",
}  # fmt: skip


@pytest.mark.parametrize(("onnx_name", "triton_name"), TYPES.items())
def test_every_data_type(tmp_path: Path, onnx_name: str, triton_name: str) -> None:
    model = identity(tmp_path / "m.onnx", ("n", 3), data_type=TensorProto.DataType.Value(onnx_name))
    assert read_signature(model).inputs == (Tensor("input", f"TYPE_{triton_name}", (-1, 3)),)


def test_types_that_triton_lacks(tmp_path: Path) -> None:
    with pytest.raises(UnreadableArtifact, match="the input 'input' of ONNX type 14"):
        read_signature(identity(tmp_path / "m.onnx", data_type=TensorProto.COMPLEX64))


def test_sequences_are_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Identity", ["s"], ["t"])], "g", [value], [value])
    onnx.save(helper.make_model(graph), str(tmp_path / "m.onnx"))
    with pytest.raises(UnreadableArtifact, match="the input 's' that is no tensor"):
        read_signature(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("dims", "shape"), [(("n", 3, "w"), (-1, 3, -1)), ((), ()), (None, None), ((1, 0), (1, 0)), ((-1, 2), (-1, 2))]
)
def test_shapes(tmp_path: Path, dims: tuple[int | str, ...] | None, shape: tuple[int, ...] | None) -> None:
    assert read_signature(identity(tmp_path / "m.onnx", dims)).outputs[0].shape == shape


def test_initializers_are_no_inputs(tmp_path: Path) -> None:
    model = identity(tmp_path / "m.onnx", initializer_as_input=True)
    assert [tensor.name for tensor in read_signature(model).inputs] == ["input"]


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    first = read_signature(identity(tmp_path / "m.onnx", ("n", 3)))
    assert read_signature(identity(tmp_path / "m.onnx", ("n", 4, 5))) != first


def test_files_that_are_no_models(tmp_path: Path) -> None:
    whole = identity(tmp_path / "whole.onnx").read_bytes()
    file = tmp_path / "m.onnx"
    for content in (b"", b"not a model at all", b"\x89PNG\r\n\x1a\n" * 9, b"\0" * 64):
        file.write_bytes(content)
        with pytest.raises(UnreadableArtifact, match="is not an ONNX model"):
            read_signature(file)
    for length in range(1, len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(UnreadableArtifact, match="is not an ONNX model"):
            read_signature(file)
