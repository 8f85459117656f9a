"""The backends on a real GPU: ``pytest -m gpu``, with onnxruntime-gpu and a CUDA build of torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton
from asking import ask
from onnx import TensorProto, helper
from serving import up
from test_backends_onnxruntime import WEIGHT, linear, write

pytestmark = pytest.mark.gpu

GPU = "instance_group [{ count: 1 kind: KIND_GPU gpus: [0] }]\n"
RANDOM = np.random.default_rng(3)
FILTER = RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32)
IMAGES = (
    GPU + "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 500 }\n"
    'input [{ name: "x" data_type: TYPE_FP32 dims: [3, 16, 16] }]\n'
    'output [{ name: "y" data_type: TYPE_FP32 dims: [4, 14, 14] }]\n'
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    folder = tmp_path_factory.mktemp("gpu") / "models"
    linear(folder, "linear", GPU + "max_batch_size: 8\n")
    write(
        folder,
        "conv",
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [("y", TensorProto.FLOAT, ["batch", 4, 14, 14])],
        weights={"w": FILTER},
        config=IMAGES,
    )
    with up(folder.parent, folder) as deployment, triton.InferenceServerClient(deployment.grpc) as opened:
        yield opened


@pytest.mark.parametrize("batch", range(1, 9))
def test_every_batch_size_equals_the_cpu(client: triton.InferenceServerClient, batch: int, tmp_path: Path) -> None:
    x = RANDOM.normal(size=(batch, 3)).astype(np.float32)
    np.testing.assert_allclose(ask(client, "linear", {"x": x})["y"], x @ WEIGHT, atol=1e-2)
    image = RANDOM.normal(size=(batch, 3, 16, 16)).astype(np.float32)
    path = write(
        tmp_path,
        "conv",
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [("y", TensorProto.FLOAT, ["batch", 4, 14, 14])],
        weights={"w": FILTER},
    )
    (told,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": image})
    np.testing.assert_allclose(ask(client, "conv", {"x": image})["y"], told, atol=2e-2 * float(np.abs(told).max()))
