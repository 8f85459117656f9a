"""From a torch module to a served model: what Triton answers is what torch answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_modules
from exporting import Project
from serving import up
from tritonclient import http

from tritonkit.modelconfig.text import parse
from tritonkit.serve import Deployment

SPEC = """\
version: 1
models:
  cnn:
    source: {torch: "torch_modules:cnn", arguments: {width: 6}}
    max_batch_size: 8
    dynamic_batching: {}
    input: {image: "FP32[3,16,16]"}
  transformer:
    source: {torch: "torch_modules:transformer"}
    max_batch_size: 8
    input: {input_ids: "INT64[-1]", attention_mask: "INT64[-1]"}
    output: {last_hidden_state: "FP32[-1,32]"}
    export: {ranges: {input_ids: [0, 99], attention_mask: [1, 1]}}
  two_by_two:
    source: {torch: "torch_modules:two_by_two"}
    max_batch_size: 4
    input: {left: "FP32[5]", right: "INT32[5]"}
  half:
    source: {torch: "torch_modules:cnn"}
    max_batch_size: 8
    input: {image: "FP16[3,16,16]"}
    export: {precision: FP16}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("served"), SPEC)
    result = project.run("build-repo", "spec.yaml")
    assert result.exit_code == 0, result.output
    return project


@pytest.fixture(scope="module")
def server(built: Project) -> Iterator[Deployment]:
    with up(built.folder, built.folder / "model_repository") as deployment:
        yield deployment


def ask(deployment: Deployment, model: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    names = {np.float32: "FP32", np.float16: "FP16", np.int64: "INT64", np.int32: "INT32"}
    tensors = []
    for name, value in inputs.items():
        tensor = http.InferInput(name, list(value.shape), names[value.dtype.type])
        tensor.set_data_from_numpy(value)
        tensors.append(tensor)
    with http.InferenceServerClient(deployment.http) as client:
        answer = client.infer(model, tensors)
        outputs = [output["name"] for output in answer.get_response()["outputs"]]
        return {name: answer.as_numpy(name) for name in outputs}


def random(*shape: int) -> Any:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_cnn(server: Deployment, batch: int) -> None:
    torch.manual_seed(0)
    module = torch_modules.cnn(width=6).eval()
    image = random(batch, 3, 16, 16)
    with torch.inference_mode():
        expected = module(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(ask(server, "cnn", {"image": image})["output"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("batch", "length"), [(1, 5), (3, 17), (8, 2)])
def test_a_transformer_with_two_dynamic_dimensions(server: Deployment, batch: int, length: int) -> None:
    torch.manual_seed(0)
    module = torch_modules.transformer().eval()
    generator = np.random.default_rng(5)
    tokens = generator.integers(0, 100, (batch, length), dtype=np.int64)
    mask = np.ones((batch, length), np.int64)
    mask[:, length // 2 + 1 :] = 0
    with torch.inference_mode():
        answer = module(input_ids=torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask))
    found = ask(server, "transformer", {"input_ids": tokens, "attention_mask": mask})
    assert list(found) == ["last_hidden_state"]
    np.testing.assert_allclose(found["last_hidden_state"], answer.last_hidden_state.numpy(), rtol=1e-3, atol=1e-5)


def test_two_inputs_and_two_outputs(server: Deployment) -> None:
    left, right = random(3, 5), np.arange(15, dtype=np.int32).reshape(3, 5)
    found = ask(server, "two_by_two", {"left": left, "right": right})
    np.testing.assert_array_equal(found["sum"], left + right.astype(np.float32))
    np.testing.assert_array_equal(found["largest"].ravel(), left.argmax(1))


def test_half_precision(server: Deployment) -> None:
    torch.manual_seed(0)
    module = torch_modules.cnn().eval()
    image = random(3, 3, 16, 16).astype(np.float16)
    with torch.inference_mode():
        expected = module(torch.from_numpy(image).float()).numpy()
    found = ask(server, "half", {"image": image})["output"]
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=2e-2, atol=2e-3)


def test_configurations_are_filled_from_what_was_made(built: Project) -> None:
    transformer = parse((built.folder / "model_repository/transformer/config.pbtxt").read_text())
    assert transformer.backend == "onnxruntime"
    assert [list(tensor.dims) for tensor in transformer.input] == [[-1], [-1]]
    two = parse((built.folder / "model_repository/two_by_two/config.pbtxt").read_text())
    assert [(tensor.name, list(tensor.dims)) for tensor in two.output] == [("sum", [5]), ("largest", [1])]
    assert two.output[1].HasField("reshape")


def test_the_repository_is_current_and_needs_no_torch_to_stay_so(
    built: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(built.folder, moved)
    monkeypatch.setenv("TRITONKIT_CACHE", str(tmp_path / "empty"))
    result = Project.at(moved).run("build-repo", "spec.yaml", "--json")
    assert '"unchanged": 12' in result.stdout, result.output
    assert not list((tmp_path / "empty").glob("artifacts/*"))
