"""Where the tensors of instances inside tritonserver lie: aliases, shared memory, alignment; and what comes back."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http
from asking import ask
from onnx import helper
from serving import stubs, up, wait_for
from test_backends_native import BATCHED, numbers, region
from test_backends_onnxruntime import CPU, FLOAT, INT64, threads, write
from tritonclient.utils import InferenceServerException

from tritonkit import serve

WIDTH = 64


def tensors(side: str, stated: Mapping[str, tuple[str, list[int]]]) -> str:
    each = (f'{{ name: "{name}" data_type: TYPE_{kind} dims: {dims} }}' for name, (kind, dims) in stated.items())
    return f"{side} [{', '.join(each)}]\n"


def returned(repository: Path) -> None:
    """Gives back its input as an output, beside ``y = x + x``."""
    stated = {"y": ("FP32", [WIDTH]), "x": ("FP32", [WIDTH])}
    write(
        repository,
        "returned",
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [("x", FLOAT, ["batch", WIDTH])],
        [("x", FLOAT, ["batch", WIDTH]), ("y", FLOAT, ["batch", WIDTH])],
        config=CPU + BATCHED + tensors("input", {"x": ("FP32", [WIDTH])}) + tensors("output", stated),
    )


def aliases(repository: Path) -> None:
    """Outputs that an optimizer can make one: ``a``, ``b``, ``c`` are ``x``; ``y`` is ``x``, or ``2 x`` below 0."""
    then = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["kept"])],
        "then",
        [],
        [helper.make_tensor_value_info("kept", FLOAT, ["batch", WIDTH])],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["doubled"], ["taken"])],
        "other",
        [],
        [helper.make_tensor_value_info("taken", FLOAT, ["batch", WIDTH])],
    )
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Dropout", ["x"], ["c"]),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["above"]),
        helper.make_node("Add", ["x", "x"], ["doubled"]),
        helper.make_node("If", ["above"], ["y"], then_branch=then, else_branch=other),
    ]
    stated = {name: ("FP32", [WIDTH]) for name in "abcy"}
    write(
        repository,
        "aliases",
        nodes,
        [("x", FLOAT, ["batch", WIDTH])],
        [(name, FLOAT, ["batch", WIDTH]) for name in stated],
        weights={"zero": np.array(0, np.float32)},
        config=CPU + BATCHED + tensors("input", {"x": ("FP32", [WIDTH])}) + tensors("output", stated),
    )


def constant(repository: Path) -> None:
    """Gives back its own weights ``w``, beside ``y = x + w``."""
    write(
        repository,
        "constant",
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [("x", FLOAT, [3])],
        [("w", FLOAT, [3]), ("y", FLOAT, [3])],
        weights={"w": np.arange(3, dtype=np.float32)},
        config=CPU
        + "max_batch_size: 0\n"
        + tensors("input", {"x": ("FP32", [3])})
        + tensors("output", {"w": ("FP32", [3]), "y": ("FP32", [3])}),
    )


def seen(repository: Path, name: str = "seen", config: str = "") -> None:
    """``y`` is computed; ``m`` and ``n`` are means of it and of ``x``, added in an order that suits where each lies."""
    write(
        repository,
        name,
        [
            helper.make_node("Conv", ["x", "kernel"], ["felt"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["felt"], ["y"]),
            helper.make_node("ReduceMean", ["y"], ["m"], axes=[2, 3], keepdims=0),
            helper.make_node("ReduceMean", ["x"], ["n"], axes=[2, 3], keepdims=0),
        ],
        [("x", FLOAT, ["batch", 8, 16, 16])],
        [("y", FLOAT, ["batch", 16, 16, 16]), ("m", FLOAT, ["batch", 16]), ("n", FLOAT, ["batch", 8])],
        weights={"kernel": numbers(16, 8, 3, 3)},
        config=config
        + CPU
        + BATCHED
        + threads(1)
        + tensors("input", {"x": ("FP32", [8, 16, 16])})
        + tensors("output", {"y": ("FP32", [16, 16, 16]), "m": ("FP32", [16]), "n": ("FP32", [8])}),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serve.Deployment]:
    folder = tmp_path_factory.mktemp("memory") / "models"
    returned(folder)
    aliases(folder)
    constant(folder)
    seen(folder)
    with up(folder.parent, folder) as deployment:
        assert not stubs(deployment)
        yield deployment


@pytest.fixture(scope="module")
def client(server: serve.Deployment) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc) as opened:
        yield opened


def test_an_output_that_is_an_input(server: serve.Deployment, client: triton.InferenceServerClient) -> None:
    def one(batch: int) -> None:
        x = numbers(batch, WIDTH)
        given = tritonclient.http.InferInput("x", x.shape, "FP32")
        given.set_data_from_numpy(x)
        with tritonclient.http.InferenceServerClient(server.http) as opened:
            wanted = [tritonclient.http.InferRequestedOutput(name) for name in "xy"]
            over_http = opened.infer("returned", [given], outputs=wanted)
        for found in (ask(client, "returned", {"x": x}), {name: over_http.as_numpy(name) for name in "xy"}):
            np.testing.assert_array_equal(found["x"], x)
            np.testing.assert_array_equal(found["y"], x + x)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, [1, 8, 3, 8, 1, 5, 2, 8]))


def test_an_output_that_is_an_input_which_another_output_is_written_over(client: triton.InferenceServerClient) -> None:
    x = numbers(2, WIDTH)
    with region(client, 1 << 16) as memory:
        memory[: x.nbytes] = x.tobytes()
        given = triton.InferInput("x", x.shape, "FP32")
        given.set_shared_memory("region", x.nbytes)
        wanted = [triton.InferRequestedOutput(name) for name in "yx"]
        for output, offset in zip(wanted, (0, 1 << 15), strict=True):
            output.set_shared_memory("region", x.nbytes, offset)
        client.infer("returned", [given], outputs=wanted)
        for found, offset in ((x + x, 0), (x, 1 << 15)):
            assert bytes(memory[offset : offset + x.nbytes]) == found.tobytes()


def test_outputs_that_are_one_tensor(client: triton.InferenceServerClient) -> None:
    for sign in (1, -1):
        x = sign * np.abs(numbers(4, WIDTH))
        answer = ask(client, "aliases", {"x": x})
        for name in "abc":
            np.testing.assert_array_equal(answer[name], x)
        np.testing.assert_array_equal(answer["y"], x if sign > 0 else x + x)


def test_an_output_that_is_a_weight(client: triton.InferenceServerClient) -> None:
    w = np.arange(3, dtype=np.float32)
    for _ in range(3):
        x = numbers(3)
        answer = ask(client, "constant", {"x": x})
        np.testing.assert_array_equal(answer["w"], w)
        np.testing.assert_array_equal(answer["y"], x + w)


@pytest.mark.parametrize("offset", [0, 1, 4, 16])
def test_numbers_do_not_depend_on_where_tensors_lie(client: triton.InferenceServerClient, offset: int) -> None:
    x, starts = numbers(3, 8, 16, 16), {"y": 1 << 18, "m": 1 << 19, "n": 3 << 18}
    wanted = [triton.InferRequestedOutput(name) for name in starts]
    expected = ask(client, "seen", {"x": x})
    with region(client, 1 << 20) as memory:
        memory[offset : offset + x.nbytes] = x.tobytes()
        given = triton.InferInput("x", x.shape, "FP32")
        given.set_shared_memory("region", x.nbytes, offset)
        for output in wanted:
            name = output.name()
            output.set_shared_memory("region", expected[name].nbytes, starts[name] + offset)
        client.infer("seen", [given], outputs=wanted)
        for name, start in starts.items():
            found = bytes(memory[start + offset : start + offset + expected[name].nbytes])
            assert found == expected[name].tobytes(), name


def test_the_memory_of_a_model_comes_back_when_it_is_unloaded(tmp_path: Path) -> None:
    """160 MB in tensors of 4 MB, which malloc keeps if nobody tells it not to: 100 MB more with each load."""
    layers, width, folder = 40, 1000, tmp_path / "models"
    names = ["x", *(f"h{layer}" for layer in range(1, layers)), "y"]
    write(
        folder,
        "large",
        [
            helper.make_node(
                "MatMul",
                [
                    names[layer],
                    f"w{layer}",
                ],
                [names[layer + 1]],
            )
            for layer in range(layers)
        ],
        [("x", FLOAT, ["batch", width])],
        [("y", FLOAT, ["batch", width])],
        weights={f"w{layer}": numbers(width, width) for layer in range(layers)},
        config=CPU + BATCHED + tensors("input", {"x": ("FP32", [width])}) + tensors("output", {"y": ("FP32", [width])}),
    )
    flags = ("--model-control-mode=explicit",)
    with up(tmp_path, folder, server_args=flags) as deployment, triton.InferenceServerClient(deployment.grpc) as client:

        def resident() -> int:
            status = Path(f"/proc/{deployment.servers[0].pid}/status").read_text()
            return int(status.partition("VmRSS:")[2].split()[0]) // 1024

        before = resident()
        for _ in range(10):
            client.load_model("large")
            ask(client, "large", {"x": numbers(1, width)})
            assert resident() > before + 150, "the model is in this process"
            client.unload_model("large")
            wait_for(lambda: not client.is_model_ready("large"))
        wait_for(lambda: resident() < before + 200)


def test_a_client_that_changes_its_shared_memory_meanwhile_does_not_harm_the_server(tmp_path: Path) -> None:
    folder, count = tmp_path / "models", 200_000
    write(
        folder,
        "gathered",
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [("x", INT64, ["batch", count])],
        [("y", FLOAT, ["batch", count])],
        weights={"table": np.zeros(4, np.float32)},
        config=CPU
        + BATCHED
        + tensors("input", {"x": ("INT64", [count])})
        + tensors("output", {"y": ("FP32", [count])}),
    )
    given, wanted = triton.InferInput("x", [4, count], "INT64"), triton.InferRequestedOutput("y")
    given.set_shared_memory("region", 4 * count * 8)
    wanted.set_shared_memory("region", 4 * count * 4, 1 << 24)
    done = threading.Event()

    def change(memory: memoryview) -> None:
        indices = np.frombuffer(memory, np.int64, 4 * count)
        while not done.is_set():
            indices[-1] = 1 << 40
            indices[-1] = 0

    with up(tmp_path, folder) as deployment, triton.InferenceServerClient(deployment.grpc) as client:
        assert not stubs(deployment)
        with region(client, 1 << 25) as memory, ThreadPoolExecutor(1) as pool:
            changing = pool.submit(change, memory)
            try:
                for _ in range(60):
                    with suppress(InferenceServerException):
                        client.infer("gathered", [given], outputs=[wanted], client_timeout=20)
            finally:
                done.set()
            changing.result()
            assert client.is_server_live()
            memory[: 4 * count * 8] = bytes(4 * count * 8)
            client.infer("gathered", [given], outputs=[wanted])
