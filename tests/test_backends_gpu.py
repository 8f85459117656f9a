"""The backends on a real GPU: ``pytest -m gpu``, with onnxruntime-gpu and a CUDA build of torch."""

from __future__ import annotations

import base64
import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import tritonclient.grpc as triton
from asking import ask
from onnx import TensorProto, helper
from serving import deployment_of, up, wait_for
from test_backends_onnxruntime import LINEAR, WEIGHT, linear, write
from test_backends_pytorch import NAMES, NUMBERED, SHIFT, Affine, X, expected, program, rows, script
from tritonclient.utils import InferenceServerException

from tritonkit import serve

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")]

MAX_BATCH = 8
GPU = "instance_group [{ count: 1 kind: KIND_GPU gpus: [0] }]\n"
BATCHES = "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 500 }\n"
RANDOM = np.random.default_rng(3)
FILTER = RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32)
FLOAT = TensorProto.FLOAT
IMAGES = (
    GPU + BATCHES + 'input [{ name: "x" data_type: TYPE_FP32 dims: [3, 16, 16] }]\n'
    'output [{ name: "y" data_type: TYPE_FP32 dims: [4, 14, 14] }]\n'
)
TORCH = GPU + 'backend: "pytorch"\n'
FORCED = 'parameters { key: "batch_buckets" value { string_value: "1,4,8" } }\n'
UNPADDED = 'parameters { key: "batch_buckets" value { string_value: "none" } }\n'
LITTLE = 'parameters { key: "gpu_mem_limit" value { string_value: "67108864" } }\n'


def convolution() -> Any:
    """What the ONNX model ``conv`` computes."""
    layer = torch.nn.Conv2d(3, 4, 3, bias=False)
    layer.load_state_dict({"weight": torch.from_numpy(FILTER)})
    return torch.nn.Sequential(layer, torch.nn.ReLU())


def conv(folder: Path, name: str, config: str | None) -> Path:
    return write(
        folder,
        name,
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
        [("x", FLOAT, ["batch", 3, 16, 16])],
        [("y", FLOAT, ["batch", 4, 14, 14])],
        weights={"w": FILTER},
        config=config,
    )


@pytest.fixture(scope="module")
def affine() -> Affine:
    torch.manual_seed(1)
    made: Affine = Affine().eval()
    return made


@pytest.fixture(scope="module")
def server(affine: Affine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[serve.Deployment]:
    folder = tmp_path_factory.mktemp("gpu") / "models"
    linear(folder, "linear", GPU + "max_batch_size: 8\n")
    conv(folder, "conv", IMAGES)
    conv(folder, "conv_buckets", IMAGES + FORCED)
    conv(folder, "conv_unpadded", IMAGES + UNPADDED)
    write(
        folder,
        "sum",
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [("a", FLOAT, ["batch", "length"]), ("b", FLOAT, ["batch", "length"])],
        [("y", FLOAT, ["batch", "length"])],
        config=GPU + BATCHES,
    )
    write(
        folder,
        "hungry",
        [
            helper.make_node("MatMul", ["column", "row"], ["square"]),
            helper.make_node("ReduceSum", ["square"], ["y"], keepdims=1),
        ],
        [("column", FLOAT, ["length", 1]), ("row", FLOAT, [1, "length"])],
        [("y", FLOAT, [1, 1])],
        config=GPU + LITTLE + 'max_batch_size: 0\ninput [{ name: "column" data_type: TYPE_FP32 dims: [-1, 1] }, '
        '{ name: "row" data_type: TYPE_FP32 dims: [1, -1] }]\n'
        'output [{ name: "y" data_type: TYPE_FP32 dims: [1, 1] }]\n',
    )
    on_gpu = NUMBERED.replace("{ count: 1 kind: KIND_CPU }", "{ count: 1 kind: KIND_GPU gpus: [0] }")
    script(folder, "numbered", affine, (X, SHIFT), on_gpu)
    program(folder, "exported", affine, (X, SHIFT), TORCH)
    script(
        folder, "torch_conv", convolution(), (torch.ones(2, 3, 16, 16),),
        TORCH + BATCHES + 'input [{ name: "x__0" data_type: TYPE_FP32 dims: [3, 16, 16] }]\n'
        'output [{ name: "y__0" data_type: TYPE_FP32 dims: [4, 14, 14] }]\n',
    )  # fmt: skip
    with up(folder.parent, folder, policy=serve.Policy(start_timeout=110, stop_timeout=5)) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def client(server: serve.Deployment) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc) as opened:
        yield opened


def images(batch: int) -> Any:
    return RANDOM.normal(size=(batch, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What onnxruntime on the CPU answers."""
    path = conv(tmp_path_factory.mktemp("cpu"), "conv", None)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"x": image})[0]


@pytest.mark.parametrize("batch", range(1, MAX_BATCH + 1))
def test_every_batch_size_of_onnxruntime_equals_the_cpu(
    client: triton.InferenceServerClient, told: Any, batch: int
) -> None:
    x = RANDOM.normal(size=(batch, 3)).astype(np.float32)
    np.testing.assert_allclose(ask(client, "linear", {"x": x})["y"], x @ WEIGHT, atol=1e-2)
    image = images(batch)
    right = told(image)
    for model in ("conv", "conv_buckets", "conv_unpadded"):
        answer = ask(client, model, {"x": image})["y"]
        np.testing.assert_allclose(answer, right, atol=2e-3 * float(np.abs(right).max()), err_msg=model)
    a, b = (RANDOM.normal(size=(batch, 3 + batch)).astype(np.float32) for _ in range(2))
    np.testing.assert_array_equal(ask(client, "sum", {"a": a, "b": b})["y"], a + b)


@pytest.mark.parametrize("batch", range(1, MAX_BATCH + 1))
def test_every_batch_size_of_pytorch_equals_the_cpu(
    client: triton.InferenceServerClient, affine: Affine, told: Any, batch: int
) -> None:
    for model in ("numbered", "exported"):
        if model == "exported" and batch > 4:
            continue
        a, b, c, d = NAMES[model]
        x, shift = rows(batch)
        answer = ask(client, model, {a: x, b: shift})
        y, z = expected(affine, x, shift)
        np.testing.assert_allclose(answer[c], y, atol=1e-2, err_msg=model)
        np.testing.assert_allclose(answer[d], z, rtol=1e-6, err_msg=model)
    image = images(batch)
    right = told(image)
    answer = ask(client, "torch_conv", {"x__0": image})["y__0"]
    np.testing.assert_allclose(answer, right, atol=2e-3 * float(np.abs(right).max()))


@pytest.mark.parametrize(("model", "into", "out"), [("conv", "x", "y"), ("torch_conv", "x__0", "y__0")])
def test_concurrent_requests_of_mixed_sizes_each_get_their_own(
    server: serve.Deployment, told: Any, model: str, into: str, out: str
) -> None:
    batches = [images(number % MAX_BATCH + 1) for number in range(200)]

    def one(image: Any) -> Any:
        with triton.InferenceServerClient(server.grpc) as own:
            return ask(own, model, {into: image})[out]

    with ThreadPoolExecutor(16) as pool:
        for image, answer in zip(batches, pool.map(one, batches), strict=True):
            right = told(image)
            np.testing.assert_allclose(answer, right, atol=2e-3 * float(np.abs(right).max()))


def test_a_request_that_does_not_fit_itself_gets_an_error(client: triton.InferenceServerClient) -> None:
    a = np.ones((2, 5), np.float32)
    with pytest.raises(InferenceServerException, match=r"sum|Add|shape|broadcast"):
        ask(client, "sum", {"a": a, "b": np.ones((2, 6), np.float32)})
    np.testing.assert_array_equal(ask(client, "sum", {"a": a, "b": a})["y"], a + a)


def test_memory_that_runs_out_is_an_error_and_the_backend_lives(client: triton.InferenceServerClient) -> None:
    def square(length: int) -> Any:
        ones = np.ones(length, np.float32)
        return ask(client, "hungry", {"column": ones.reshape(-1, 1), "row": ones.reshape(1, -1)})["y"].item()

    assert square(64) == pytest.approx(64 * 64)
    with pytest.raises(InferenceServerException, match=r"(?i)memory|alloc"):
        square(16_000)
    assert square(64) == pytest.approx(64 * 64)


class Lookup(torch.nn.Module):  # type: ignore[misc]
    """Rows of a table; a number outside it makes CUDA's kernel stop with an assertion, which ends the context."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The rows of these numbers."""
        return self.table(x)


def test_a_context_that_is_lost_ends_the_process_and_the_model_comes_back(tmp_path: Path) -> None:
    config = (
        TORCH + 'max_batch_size: 8\ninput [{ name: "x__0" data_type: TYPE_INT64 dims: [2] }]\n'
        'output [{ name: "y__0" data_type: TYPE_FP32 dims: [2, 1] }]\n'
    )
    folder = tmp_path / "models"
    script(folder, "lookup", Lookup(), (torch.tensor([[0, 3]]),), config)
    good, astray = np.array([[0, 3]]), np.array([[0, 1_000_000]])
    with up(tmp_path, folder) as deployment:
        before = deployment.servers[0].pid
        with triton.InferenceServerClient(deployment.grpc) as client:
            first = ask(client, "lookup", {"x__0": good}, "INT64")["y__0"]
            with pytest.raises(InferenceServerException):
                ask(client, "lookup", {"x__0": astray}, "INT64")

        def again() -> serve.Deployment | None:
            now = deployment_of(tmp_path)
            return now if now.ready and now.servers[0].pid != before else None

        with triton.InferenceServerClient(wait_for(again, seconds=60).grpc) as client:
            assert np.array_equal(ask(client, "lookup", {"x__0": good}, "INT64")["y__0"], first)
    assert "the process ends" in (tmp_path / ".tritonkit/logs/server.log").read_text()


class Region:
    """Memory of the first GPU that a server may open: CUDA shared memory."""

    def __init__(self, size: int) -> None:
        self.runtime = ctypes.CDLL(f"libcudart.so.{str(torch.version.cuda).split('.')[0]}")
        self.size = size
        self.place = ctypes.c_void_p()
        self.check(self.runtime.cudaMalloc(ctypes.byref(self.place), ctypes.c_size_t(size)))

    def check(self, code: int) -> None:
        assert code == 0, f"CUDA's runtime answers {code}"

    def copy(self, to: Any, origin: Any, size: int) -> None:
        """Between the host and the region, whichever is which."""
        self.check(self.runtime.cudaMemcpy(to, origin, ctypes.c_size_t(size), 4))

    @property
    def handle(self) -> bytes:
        """What another process opens it with."""
        made = (ctypes.c_char * 64)()
        self.check(self.runtime.cudaIpcGetMemHandle(made, self.place))
        return base64.b64encode(bytes(made))


def test_an_instance_on_the_cpu_reads_and_writes_memory_of_a_gpu(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    linear(folder, "linear", LINEAR)
    torch.zeros(1, device="cuda")
    x = RANDOM.normal(size=(4, 3)).astype(np.float32)
    y = np.zeros((4, 2), np.float32)
    into, out = Region(x.nbytes), Region(y.nbytes)
    with up(tmp_path, folder) as deployment, triton.InferenceServerClient(deployment.grpc) as client:
        for name, region in (("into", into), ("out", out)):
            client.register_cuda_shared_memory(name, region.handle, 0, region.size)
        given, wanted = triton.InferInput("x", list(x.shape), "FP32"), triton.InferRequestedOutput("y")
        given.set_shared_memory("into", x.nbytes)
        wanted.set_shared_memory("out", y.nbytes)
        for _ in range(20):
            x = RANDOM.normal(size=x.shape).astype(np.float32)
            into.copy(into.place, x.ctypes.data_as(ctypes.c_void_p), x.nbytes)
            client.infer("linear", [given], outputs=[wanted])
            out.copy(y.ctypes.data_as(ctypes.c_void_p), out.place, y.nbytes)
            np.testing.assert_allclose(y, x @ WEIGHT, atol=1e-5)
    assert "linear_0_0: runs inside tritonserver" in (tmp_path / ".tritonkit/logs/server.log").read_text()
