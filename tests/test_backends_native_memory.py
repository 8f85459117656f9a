"""Where the tensors of instances inside tritonserver lie: aliases, shared memory, alignment; and what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http
from asking import ask
from onnx import helper
from serving import stubs, up, wait_for
from test_backends_native import BATCHED, numbers, unregistered
from test_backends_onnxruntime import CPU, FLOAT, write

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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serve.Deployment]:
    folder = tmp_path_factory.mktemp("memory") / "models"
    returned(folder)
    aliases(folder)
    constant(folder)
    with up(folder.parent, folder) as deployment:
        assert not stubs(deployment)
        yield deployment


@pytest.fixture(scope="module")
def client(server: serve.Deployment) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc) as opened:
        yield opened


@contextmanager
def region(client: triton.InferenceServerClient, size: int) -> Iterator[memoryview]:
    """Shared memory that the server knows as ``region``."""
    shared = SharedMemory(create=True, size=size)
    try:
        assert shared.buf is not None
        client.register_system_shared_memory("region", f"/{shared.name}", size)
        try:
            yield shared.buf
        finally:
            wait_for(lambda: unregistered(client, "region"))
    finally:
        shared.close()
        shared.unlink()


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
