"""Parity: the figures, the questions, and that a wrong export does not pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exporting import IMAGE, Project, recipe, torch_spec
from onnx import numpy_helper

from tritonkit.artifacts import onnx_runner, torch_export
from tritonkit.artifacts.parity import compare, measure, tolerances
from tritonkit.artifacts.questions import batch_sizes, questions
from tritonkit.artifacts.recipes import Asking, Shapes, Tolerances, TorchRecipe
from tritonkit.artifacts.signature import Tensor
from tritonkit.errors import ExportFailed

TOKENS = (Tensor("input_ids", "TYPE_INT64", (-1, -1)), Tensor("attention_mask", "TYPE_INT64", (-1, -1)))


def export(folder: Path, made: TorchRecipe) -> torch_export.Exported:
    return torch_export.export(made, None, folder, lambda _stage, _share: None)


@pytest.mark.parametrize(
    ("expected", "found", "figures"),
    [
        ([1.0, 2.0], [1.0, 2.0], (0.0, 0.0, 1.0)),
        ([0.0, 0.0], [0.0, 0.0], (0.0, 0.0, 1.0)),
        ([0.0, 0.0], [0.0, 1.0], (1.0, math.inf, 0.0)),
        ([3.0, -4.0], [-3.0, 4.0], (8.0, 2.0, -1.0)),
        ([100.0, 0.0], [100.0, 1.0], (1.0, 1.0 / math.sqrt(5000.0), 0.99995)),
        ([math.nan, math.inf, 1.0], [math.nan, math.inf, 1.0], (0.0, 0.0, 1.0)),
        ([math.inf, 1.0], [-math.inf, 1.0], (math.inf, math.inf, 0.0)),
        ([1.0, 1.0], [math.nan, 1.0], (math.inf, math.inf, 0.0)),
        ([math.nan], [math.nan], (0.0, 0.0, 1.0)),
    ],
)
def test_measures(expected: list[float], found: list[float], figures: tuple[float, ...]) -> None:
    assert measure(np.array(expected), np.array(found)) == pytest.approx(figures, rel=1e-4)


def test_tolerances_follow_the_precision_and_can_be_set() -> None:
    known = [tolerances(precision, Tolerances()).relative or 0 for precision in ("FP32", "FP16", "BF16")]
    assert known == sorted(known)
    assert len(set(known)) == 3
    assert tolerances("FP16", Tolerances(relative=0.5)).relative == 0.5
    assert tolerances("FP16", Tolerances(relative=0.5)).cosine == tolerances("FP16", Tolerances()).cosine


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, (1,)), (2, (1, 2)), (4, (1, 3, 4)), (8, (1, 7, 8)), (64, (1, 7, 64))]
)
def test_batches_are_one_odd_and_the_largest(largest: int, sizes: tuple[int, ...]) -> None:
    assert batch_sizes(largest) == sizes
    asked = questions(IMAGE, Asking(largest))
    assert tuple(question.tensors["image"].shape[0] for question in asked) == sizes


def test_questions_are_reproducible_and_of_several_sizes() -> None:
    inputs = (Tensor("tokens", "TYPE_INT64", (-1, -1)), Tensor("image", "TYPE_UINT8", (-1, 3, -1, -1)))
    first, again, other = (questions(inputs, Asking(4, seed)) for seed in (3, 3, 4))
    assert all((a.tensors["image"] == b.tensors["image"]).all() for a, b in zip(first, again, strict=True))
    assert not all((a.tensors["image"] == b.tensors["image"]).all() for a, b in zip(first, other, strict=True))
    assert len({question.tensors["tokens"].shape[1] for question in first}) == 3
    assert all(question.tensors["image"].shape[2] != question.tensors["image"].shape[3] for question in first)
    assert first[0].tensors["tokens"].max() <= 1
    ranged = questions(inputs, Asking(4, ranges={"tokens": (5, 6)}))
    assert {*np.unique(ranged[2].tensors["tokens"])} == {5, 6}
    shapes = Shapes((1, 5), (2, 6), (4, 7))
    profiled = questions(inputs, Asking(4, profiles=({"tokens": shapes},)))
    assert [question.tensors["tokens"].shape for question in profiled] == [(1, 5), (3, 6), (4, 7)]


def test_given_values_fill_every_batch(tmp_path: Path) -> None:
    values = np.arange(2 * 768, dtype=np.float32).reshape(2, 3, 16, 16)
    np.savez(tmp_path / "values.npz", image=values)
    asked = questions(IMAGE, Asking(8, file=tmp_path / "values.npz"))
    np.testing.assert_array_equal(asked[1].tensors["image"], values[[0, 1, 0, 1, 0, 1, 0]])
    single = questions(IMAGE, Asking(2, samples={"image": values[0].tolist()}))
    np.testing.assert_array_equal(single[1].tensors["image"], values[[0, 0]])


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ({"image": [1.0]}, "has the shape"),
        ({"image": "no numbers"}, "cannot be used"),
        ({"image": [[1.0], [1.0, 2.0]]}, "cannot be used"),
    ],
)
def test_given_values_that_do_not_fit(samples: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ExportFailed, match=f"'image'.*{words}"):
        questions(IMAGE, Asking(8, samples=samples))


def test_npz_files_that_do_not_fit(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", picture=np.zeros(3))
    with pytest.raises(ExportFailed, match="the array 'picture', which is no input"):
        questions(IMAGE, Asking(8, file=tmp_path / "other.npz"))
    np.savez(tmp_path / "code.npz", image=np.array([{"a": 1}], dtype=object))
    (tmp_path / "broken.npz").write_bytes(b"PK nonsense")
    np.save(tmp_path / "single.npy", np.zeros(3))
    for name in ("code.npz", "broken.npz", "none.npz", "single.npy"):
        with pytest.raises(ExportFailed, match=name):
            questions(IMAGE, Asking(8, file=tmp_path / name))


def test_strings_need_values() -> None:
    text = (Tensor("text", "TYPE_STRING", (-1, 1)),)
    with pytest.raises(ExportFailed, match="no random strings for the input 'text'"):
        questions(text, Asking(2))
    assert questions(text, Asking(2, samples={"text": [["a"]]}))[1].tensors["text"].tolist() == [["a"], ["a"]]


@pytest.mark.parametrize("how", ["dropped activation", "transposed weight", "baked-in batch"])
def test_a_wrong_export_is_caught(tmp_path: Path, how: str) -> None:
    with pytest.raises(ExportFailed, match="does not compute what its source computes") as caught:
        export(tmp_path, recipe("wrong", arguments={"how": how}))
    lines = [line for line in str(caught.value).splitlines() if line.startswith("batch")]
    failed = {line.split()[1] for line in lines if "FAILED" in line}
    # A batch that is baked in shows only where there is more than one.
    assert failed == ({"7", "8"} if how == "baked-in batch" else {"1", "7", "8"})


def test_the_same_module_passes_when_nothing_is_wrong(tmp_path: Path) -> None:
    made = export(tmp_path, recipe("wrong", arguments={"how": "nothing"}))
    assert made.parity.passed
    assert made.parity.worst.relative < 1e-5


def drop_relu(model: Any) -> None:
    (node,) = [node for node in model.graph.node if node.op_type == "Relu"]
    node.op_type = "Identity"


def transpose_linear(model: Any) -> None:
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name.endswith("convolution.weight")]
    turned = numpy_helper.to_array(tensor).transpose(0, 1, 3, 2)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(turned), tensor.name))


def bake_batch(model: Any) -> None:
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 7


@pytest.mark.parametrize("change", [drop_relu, transpose_linear, bake_batch])
def test_a_damaged_file_is_caught(tmp_path: Path, change: Callable[[Any], None]) -> None:
    whole = export(tmp_path, recipe())
    model = onnx.load(str(whole.file))
    change(model)
    onnx.save(model, str(tmp_path / "damaged.onnx"))
    source, _ = onnx_runner.answering(whole.file)
    damaged, against = onnx_runner.answering(tmp_path / "damaged.onnx")
    parity = compare(source, damaged, questions(IMAGE, Asking(8)), tolerances("FP32", Tolerances()), against)
    assert not parity.passed
    assert "FAILED" in parity.table()


def test_precision_is_part_of_the_proof(tmp_path: Path) -> None:
    made = export(tmp_path, recipe(precision="FP16"))
    assert made.precision == "FP16"
    assert 1e-5 < made.parity.worst.relative < 2e-2
    with pytest.raises(ExportFailed, match="does not compute what its source computes"):
        export(tmp_path, recipe(precision="FP16", tolerances=Tolerances(absolute=0.0, relative=1e-6)))


# Added to weights of which FP16 then keeps few binary digits, or none.
FEW_DIGITS = 70.0
NO_DIGITS = 3000.0


def test_what_a_precision_costs_the_model_itself_is_tolerated(tmp_path: Path) -> None:
    """The module loses digits in FP16 whoever computes it, so its export may lose as many, and is no wrong one."""
    asked = recipe("wrong", arguments={"how": "nothing", "offset": FEW_DIGITS}, precision="FP16")
    made = export(tmp_path, asked)
    usual = tolerances("FP16")
    assert made.parity.worst.relative > (usual.relative or 0)
    assert made.parity.rounding
    assert (usual.relative or 0) < (made.parity.tolerances.relative or 0) <= 10 * (usual.relative or 0)
    assert "its precision alone" in made.parity.table()
    with pytest.raises(ExportFailed, match="does not compute what its source computes"):
        export(tmp_path, replace(asked, tolerances=Tolerances(relative=usual.relative)))


@pytest.mark.parametrize("offset", [0.0, FEW_DIGITS])
@pytest.mark.parametrize("how", ["dropped activation", "transposed weight", "baked-in batch"])
def test_a_wrong_export_is_caught_in_fp16_too(tmp_path: Path, how: str, offset: float) -> None:
    with pytest.raises(ExportFailed, match="does not compute what its source computes") as caught:
        export(tmp_path, recipe("wrong", arguments={"how": how, "offset": offset}, precision="FP16"))
    assert "loses too much" not in (caught.value.hint or "")


def test_a_model_that_a_precision_does_not_suit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match="its precision alone") as caught:
        export(tmp_path, recipe("wrong", arguments={"how": "nothing", "offset": NO_DIGITS}, precision="FP16"))
    assert "loses too much in that precision itself" in (caught.value.hint or "")


def test_bfloat16_is_proved_without_a_gpu(tmp_path: Path) -> None:
    made = export(tmp_path, recipe(precision="BF16"))
    assert made.precision == "BF16"
    assert "by definition" in made.parity.against
    assert 1e-4 < made.parity.worst.relative < 1e-1


@pytest.mark.parametrize("filename", ["model.pt", "model.pt2"])
def test_formats_of_pytorch(tmp_path: Path, filename: str) -> None:
    made = export(tmp_path, recipe(filename=filename))
    assert made.file.name == filename
    assert made.outputs == (Tensor("output__0", "TYPE_FP32", (-1, 10)),)
    if filename == "model.pt":
        import torch

        with pytest.warns(DeprecationWarning, match="torch.jit.load"):
            schema = torch.jit.load(str(made.file)).forward.schema
        assert [argument.name for argument in schema.arguments] == ["self", "image"]


def test_weights_outside_of_the_file(tmp_path: Path) -> None:
    made = export(tmp_path, recipe(external_data=True))
    assert made.parity.passed
    assert (tmp_path / "model.onnx.data").stat().st_size > 0


def test_the_table_counts_weights_outside_of_the_file(tmp_path: Path, cache: Path) -> None:
    project = Project(tmp_path, torch_spec(export="{external_data: true}"))
    (row,) = project.export()
    path = Path(row["path"])
    weights = path.with_name("model.onnx.data").stat().st_size
    assert weights > 0
    assert row["bytes"] == path.stat().st_size + weights


@pytest.mark.parametrize(
    ("how", "operator", "after"),
    [
        ("dropped activation", "ReduceMean", ["conv2d"]),
        ("transposed weight", "Gemm", ["mean"]),
        ("baked-in batch", "Slice", ["linear"]),
    ],
)
def test_bisect_names_the_first_node_that_departs(tmp_path: Path, how: str, operator: str, after: list[str]) -> None:
    made = recipe("wrong", arguments={"how": how})
    found = torch_export.departure(made, None, tmp_path, lambda _stage, _share: None)
    assert found is not None
    assert (found.operator, list(found.after)) == (operator, after)
    assert "batch 7" in found.question if how == "baked-in batch" else "batch 1" in found.question


def test_bisect_finds_nothing_where_nothing_is_wrong(tmp_path: Path) -> None:
    made = recipe(
        "transformer", inputs=TOKENS, asking=Asking(8, ranges={"input_ids": (0, 99), "attention_mask": (1, 1)})
    )
    assert torch_export.departure(made, None, tmp_path, lambda _stage, _share: None) is None


def test_a_failed_proof_publishes_nothing_and_leaves_the_old_artifact(tmp_path: Path, cache: Path) -> None:
    project = Project(tmp_path, torch_spec())
    assert project.run("build-repo", "spec.yaml").exit_code == 0
    entries = sorted(cache.glob("artifacts/*"))
    repository = {file: file.read_bytes() for file in (tmp_path / "model_repository").rglob("*") if file.is_file()}
    spec = torch_spec("wrong").replace('wrong"', 'wrong", arguments: {how: dropped activation}')
    project.write(spec)
    result = project.run("build-repo", "spec.yaml")
    assert result.exit_code == 4
    assert "net: does not compute what its source computes" in result.stderr
    assert "FAILED" in result.stderr
    assert sorted(cache.glob("artifacts/*")) == entries
    found = {file: file.read_bytes() for file in (tmp_path / "model_repository").rglob("*") if file.is_file()}
    assert found == repository
