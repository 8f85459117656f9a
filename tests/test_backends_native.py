"""Instances of the onnxruntime backend that run inside tritonserver: answers, figures and errors as in stubs."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton
import tritonclient.http
from asking import ask, counted
from onnx import TensorProto, helper
from serving import plan, stubs, up, wait_for
from test_backends_onnxruntime import CPU, FLOAT, INT64, LINEAR, OWN_PROCESS, STRING, TABLE, linear, threads, write
from test_tools_c_compiler import compiler_for_another_machine
from tritonclient.utils import InferenceServerException

from tritonkit import serve
from tritonkit.errors import LaunchFailed
from tritonkit.serve import backend_directory, native_backend
from tritonkit.tools import tritonserver

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
RANDOM = np.random.default_rng(11)
TYPES = {
    "BOOL": (TensorProto.BOOL, np.bool_),
    "UINT8": (TensorProto.UINT8, np.uint8),
    "UINT16": (TensorProto.UINT16, np.uint16),
    "UINT32": (TensorProto.UINT32, np.uint32),
    "UINT64": (TensorProto.UINT64, np.uint64),
    "INT8": (TensorProto.INT8, np.int8),
    "INT16": (TensorProto.INT16, np.int16),
    "INT32": (TensorProto.INT32, np.int32),
    "INT64": (TensorProto.INT64, np.int64),
    "FP16": (TensorProto.FLOAT16, np.float16),
    "FP32": (TensorProto.FLOAT, np.float32),
    "FP64": (TensorProto.DOUBLE, np.float64),
}
PATIENT = "dynamic_batching { max_queue_delay_microseconds: 200000 }\n"
BATCHED = "max_batch_size: 8\n"
STATELESS = LINEAR.replace("dynamic_batching { max_queue_delay_microseconds: 2000 }\n", "")


def parameter(name: str, value: str) -> str:
    return f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}\n'


def vectors(kind: str, dims: str, result: str = "") -> str:
    return (
        f'input [{{ name: "x" data_type: TYPE_{kind} dims: {dims} }}]\n'
        f'output [{{ name: "y" data_type: TYPE_{kind} dims: {result or dims} }}]\n'
    )


def convolution(repository: Path, name: str, config: str) -> Path:
    weights = {
        "kernel": RANDOM.normal(size=(16, 3, 3, 3)).astype(np.float32),
        "matrix": RANDOM.normal(size=(16, 10)).astype(np.float32),
        "shift": RANDOM.normal(size=10).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["felt"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["felt"], ["kept"]),
        helper.make_node("GlobalAveragePool", ["kept"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix", "shift"], ["scored"]),
        helper.make_node("Softmax", ["scored"], ["y"]),
    ]
    return write(
        repository,
        name,
        nodes,
        [("x", FLOAT, ["batch", 3, 16, 16])],
        [("y", FLOAT, ["batch", 10])],
        config=config + vectors("FP32", "[3,16,16]", "[10]"),
        weights=weights,
    )


def twice(repository: Path, name: str, kind: str, config: str, width: int | str = 3) -> Path:
    """``y`` is ``x`` twice, side by side."""
    element, wide = TYPES[kind][0], 2 * width if isinstance(width, int) else "wide"
    return write(
        repository,
        name,
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=1)],
        [("x", element, ["batch", width])],
        [("y", element, ["batch", wide])],
        config=config + vectors(kind, f"[{width if width != 'width' else -1}]", f"[{wide if wide != 'wide' else -1}]"),
    )


def lookup(repository: Path, name: str, config: str) -> Path:
    """``y = table[x]`` in 4 rows; another ``x`` is an error."""
    return write(
        repository,
        name,
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [("x", INT64, ["batch", 1])],
        [("y", FLOAT, ["batch", 1])],
        weights={"table": TABLE},
        config=CPU + BATCHED + config,
    )


def chosen(repository: Path, name: str, config: str = "") -> Path:
    """``y``: the rows of ``x`` whose first number is above 0, whatever their number; the model says: all."""
    nodes = [
        helper.make_node("Gather", ["x", "first"], ["column"], axis=1),
        helper.make_node("Greater", ["column", "zero"], ["above"]),
        helper.make_node("Compress", ["x", "above"], ["y"], axis=0),
    ]
    weights = {"first": np.array(0, np.int64), "zero": np.array(0, np.float32)}
    return write(
        repository,
        name,
        nodes,
        [("x", FLOAT, ["batch", 3])],
        [("y", FLOAT, ["batch", 3])],
        weights=weights,
        config=config + CPU + BATCHED + vectors("FP32", "[3]"),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serve.Deployment]:
    folder = tmp_path_factory.mktemp("native") / "models"
    for name in ("convolution", "shared"):
        convolution(folder, name, CPU + BATCHED + PATIENT + threads(1))
    kernel, factors = numbers(16, 3, 3, 3), numbers(1, 16, 1, 1)
    for name, how in (("scaled", ""), ("scaled_as_it_is", "optimization { graph { level: 2 } }\n")):
        write(
            folder,
            name,
            [helper.make_node("Conv", ["x", "kernel"], ["felt"]), helper.make_node("Mul", ["felt", "factors"], ["y"])],
            [("x", FLOAT, ["batch", 3, 16, 16])],
            [("y", FLOAT, ["batch", 16, 14, 14])],
            weights={"kernel": kernel, "factors": factors},
            config=how + CPU + BATCHED + threads(1) + vectors("FP32", "[3,16,16]", "[16,14,14]"),
        )
    for kind in TYPES:
        twice(folder, f"twice_{kind}", kind, CPU + BATCHED)
    twice(folder, "open", "FP32", CPU + BATCHED + PATIENT, width="width")
    twice(folder, "large", "UINT8", CPU + BATCHED + PATIENT, width=200_000)
    for name, where in (("inside", ""), ("beside", OWN_PROCESS)):
        lookup(folder, f"lookup_{name}", PATIENT + where)
        chosen(folder, f"chosen_{name}", where)
    write(
        folder,
        "whole",
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
        [("x", FLOAT, ["rows", 3])],
        [("y", FLOAT, [3])],
        weights={"axes": np.zeros(1, np.int64)},
        config=CPU + "max_batch_size: 0\n" + 'input [{ name: "x" data_type: TYPE_FP32 dims: [-1, 3] }]\n'
        'output [{ name: "y" data_type: TYPE_FP32 dims: [3] }]\n',
    )
    linear(folder, "sequence", STATELESS + "sequence_batching { direct {} }\n")
    linear(folder, "oldest", STATELESS + "sequence_batching { oldest { max_candidate_sequences: 4 } }\n")
    linear(folder, "cached", LINEAR + "response_cache { enable: true }\n")
    warm_up = 'key: "x" value { data_type: TYPE_FP32 dims: [3] random_data: true }'
    linear(folder, "warm", LINEAR + f'model_warmup [{{ name: "w" batch_size: 2 count: 3 inputs {{ {warm_up} }} }}]\n')
    first = linear(folder, "several", LINEAR.replace("count: 1", "count: 3") + "version_policy { all {} }\n")
    shutil.copytree(first.parent, first.parent.with_name("2"))
    with up(folder.parent, folder, server_args=("--cache-config=local,size=1048576",)) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def client(server: serve.Deployment) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc) as opened:
        yield opened


def log(deployment: serve.Deployment) -> str:
    return (deployment.project / ".tritonkit/logs/server.log").read_text()


def numbers(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype(np.float32)


def in_process(server: serve.Deployment, model: str, x: Any, level: int = 99) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(level)
    options.intra_op_num_threads = 1
    path = server.repository / model / "1" / "model.onnx"
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_what_asks_for_nothing_special_runs_inside(server: serve.Deployment) -> None:
    said = log(server)
    inside = set(re.findall(r'"(\S+)_0_\d: runs inside tritonserver"', said))
    assert inside == {path.name for path in server.repository.iterdir() if "beside" not in path.name}
    assert len(re.findall(r'"several_0_\d: runs inside', said)) == 6, "three of each version"
    assert set(re.findall(r'"(\S+): runs in a process of its own: (.*)"', said)) == {
        ("chosen_beside_0_0", "the parameter own_process"),
        ("lookup_beside_0_0", "the parameter own_process"),
    }
    assert len(stubs(server)) == 2


def test_answers_equal_those_in_process_bit_for_bit(
    server: serve.Deployment, client: triton.InferenceServerClient
) -> None:
    for batch in range(1, 9):
        x = numbers(batch, 3, 16, 16)
        np.testing.assert_array_equal(ask(client, "convolution", {"x": x})["y"], in_process(server, "convolution", x))


def test_a_graph_is_optimized_as_the_configuration_says(
    server: serve.Deployment, client: triton.InferenceServerClient
) -> None:
    x = numbers(4, 3, 16, 16)
    optimized, as_it_is = (in_process(server, "scaled", x, level) for level in (99, 0))
    assert not np.array_equal(optimized, as_it_is), "what is fused rounds elsewhere"
    np.testing.assert_array_equal(ask(client, "scaled", {"x": x})["y"], optimized)
    np.testing.assert_array_equal(ask(client, "scaled_as_it_is", {"x": x})["y"], as_it_is)


def test_requests_in_a_batch_get_their_own_answers(
    server: serve.Deployment, client: triton.InferenceServerClient
) -> None:
    def one(number: int) -> None:
        x = numbers(number % 3 + 1, 3, 16, 16)
        answer = ask(client, "shared", {"x": x})["y"]
        np.testing.assert_allclose(answer, in_process(server, "shared", x), rtol=1e-5)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(40)))
    rows = sum(number % 3 + 1 for number in range(40))
    after = counts(client, "shared", rows)
    assert after["inferences"] == rows
    assert after["executions"] < 40, "requests were batched together"


@pytest.mark.parametrize("kind", TYPES)
def test_every_numeric_type(client: triton.InferenceServerClient, kind: str) -> None:
    x = RANDOM.integers(0, 2, size=(2, 3)).astype(TYPES[kind][1])
    answer = ask(client, f"twice_{kind}", {"x": x}, kind)["y"]
    np.testing.assert_array_equal(answer, np.concatenate([x, x], axis=1), strict=True)


def test_shapes_that_vary_are_batches_of_their_own_and_may_be_empty(client: triton.InferenceServerClient) -> None:
    def one(width: int) -> None:
        x = numbers(2, width)
        np.testing.assert_array_equal(ask(client, "open", {"x": x})["y"], np.concatenate([x, x], axis=1), strict=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, [3, 5, 0, 3, 0, 7, 5, 3]))


def test_large_inputs_over_http(server: serve.Deployment) -> None:
    def one(rows: int) -> None:
        x = RANDOM.integers(0, 255, size=(rows, 200_000)).astype(np.uint8)
        given = tritonclient.http.InferInput("x", x.shape, "UINT8")
        given.set_data_from_numpy(x)
        with tritonclient.http.InferenceServerClient(server.http) as opened:
            answer = opened.infer("large", [given]).as_numpy("y")
        np.testing.assert_array_equal(answer, np.concatenate([x, x], axis=1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, [1, 3, 1, 2]))


def unregistered(client: triton.InferenceServerClient, region: str) -> bool:
    """A region is in use until its request is released, which may be after the client has the answer."""
    try:
        client.unregister_system_shared_memory(region)
    except InferenceServerException as error:
        if "currently in use" not in error.message():
            raise
        return False
    return True


@pytest.mark.parametrize("size", [1000, 70_000])
def test_an_input_that_comes_in_pieces(server: serve.Deployment, size: int) -> None:
    """tritonserver keeps the chunks of an HTTP body as they came, and hands each of them on."""
    x = RANDOM.integers(0, 255, size=(2, 200_000)).astype(np.uint8)
    given = {
        "name": "x",
        "shape": x.shape,
        "datatype": "UINT8",
        "parameters": {"binary_data_size": x.nbytes},
    }
    wanted = {"name": "y", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [given], "outputs": [wanted]}).encode()
    body = head + x.tobytes()
    connection = http.client.HTTPConnection(server.http)
    connection.request(
        "POST",
        "/v2/models/large/infer",
        body=(body[start : start + size] for start in range(0, len(body), size)),
        headers={"Inference-Header-Content-Length": str(len(head)), "Transfer-Encoding": "chunked"},
        encode_chunked=True,
    )
    answer = connection.getresponse().read()
    connection.close()
    assert answer[-2 * x.nbytes :] == np.concatenate([x, x], axis=1).tobytes(), answer[:200]


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


def test_shared_memory_in_and_out_and_too_little_of_it(client: triton.InferenceServerClient) -> None:
    x = numbers(2, 3)
    given, wanted = triton.InferInput("x", x.shape, "FP32"), triton.InferRequestedOutput("y")
    given.set_shared_memory("region", x.nbytes)
    with region(client, 4096) as memory:
        memory[: x.nbytes] = x.tobytes()
        wanted.set_shared_memory("region", 48, 1024)
        client.infer("twice_FP32", [given], outputs=[wanted])
        found = np.frombuffer(bytes(memory[1024 : 1024 + 48]), np.float32).reshape(2, 6)
        np.testing.assert_array_equal(found, np.concatenate([x, x], axis=1))
        wanted.set_shared_memory("region", 20, 1024)
        with pytest.raises(InferenceServerException, match="should be at least 48 bytes"):
            client.infer("twice_FP32", [given], outputs=[wanted])


def test_one_region_may_hold_the_input_and_then_the_output(client: triton.InferenceServerClient) -> None:
    x = numbers(4, 3)
    given, wanted = triton.InferInput("x", x.shape, "FP32"), triton.InferRequestedOutput("y")
    given.set_shared_memory("region", x.nbytes)
    wanted.set_shared_memory("region", 2 * x.nbytes)
    with region(client, 4096) as memory:
        memory[: x.nbytes] = x.tobytes()
        client.infer("twice_FP32", [given], outputs=[wanted])
        found = np.frombuffer(bytes(memory[: 2 * x.nbytes]), np.float32).reshape(4, 6)
        np.testing.assert_array_equal(found, np.concatenate([x, x], axis=1))


def test_a_model_that_does_not_batch_gets_its_tensors_as_they_are(client: triton.InferenceServerClient) -> None:
    for rows in (1, 5):
        x = numbers(rows, 3)
        np.testing.assert_allclose(ask(client, "whole", {"x": x})["y"], x.sum(axis=0), rtol=1e-5)


def test_several_instances_and_versions_answer(client: triton.InferenceServerClient) -> None:
    def one(number: int) -> None:
        x = numbers(1, 3)
        given = triton.InferInput("x", [1, 3], "FP32")
        given.set_data_from_numpy(x)
        answer = client.infer("several", [given], model_version=str(number % 2 + 1)).as_numpy("z")
        np.testing.assert_array_equal(answer, x + x)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(64)))


@pytest.mark.parametrize("model", ["sequence", "oldest"])
def test_a_sequence_goes_through_the_scheduler(client: triton.InferenceServerClient, model: str) -> None:
    for step in range(3):
        x = numbers(1, 3)
        given = triton.InferInput("x", [1, 3], "FP32")
        given.set_data_from_numpy(x)
        answer = client.infer(model, [given], sequence_id=7, sequence_start=step == 0, sequence_end=step == 2)
        np.testing.assert_array_equal(answer.as_numpy("z"), x + x)


def test_a_warm_up_runs_before_the_model_is_ready(client: triton.InferenceServerClient) -> None:
    assert counts(client, "warm")["batches"] == {2: 3}
    x = numbers(1, 3)
    np.testing.assert_array_equal(ask(client, "warm", {"x": x})["z"], x + x)


def test_answers_come_from_the_response_cache(client: triton.InferenceServerClient) -> None:
    x = numbers(2, 3)
    answers = [ask(client, "cached", {"x": x}) for _ in range(3)]
    for answer in answers:
        np.testing.assert_array_equal(answer["z"], x + x)
        np.testing.assert_array_equal(answer["y"], answers[0]["y"])

    def hits() -> int:
        return int(counted(client, "cached").inference_stats.cache_hit.count)

    wait_for(lambda: hits() >= 2)
    assert hits() == 2
    assert counts(client, "cached", 2)["executions"] == 1


def counts(client: triton.InferenceServerClient, model: str, rows: int = 0) -> dict[str, Any]:
    found = counted(client, model, rows)
    spent = found.inference_stats
    return {
        "inferences": found.inference_count,
        "executions": found.execution_count,
        "success": spent.success.count,
        "fail": spent.fail.count,
        "input": spent.compute_input.count,
        "infer": spent.compute_infer.count,
        "output": spent.compute_output.count,
        "batches": {each.batch_size: each.compute_infer.count for each in found.batch_stats},
    }


def metrics(server: serve.Deployment, model: str) -> dict[str, float]:
    text = urllib.request.urlopen(f"http://{server.metrics}/metrics").read().decode()
    lines = [line for line in text.splitlines() if f'model="{model}"' in line and "_us{" not in line]
    return {line.partition(" ")[0].replace(model, ""): float(line.rpartition(" ")[2]) for line in lines}


def test_statistics_and_metrics_are_those_of_a_stub(
    server: serve.Deployment, client: triton.InferenceServerClient
) -> None:
    for model in ("lookup_inside", "lookup_beside"):
        for batch in (1, 2, 2, 8):
            ask(client, model, {"x": np.ones((batch, 1), np.int64)}, "INT64")

    def executions(model: str) -> float:
        return metrics(server, model)['nv_inference_exec_count{model="",version="1"}']

    # What is counted last.
    wait_for(lambda: executions("lookup_inside") >= 4 and executions("lookup_beside") >= 4)
    inside, beside = (counts(client, f"lookup_{where}") for where in ("inside", "beside"))
    assert inside == beside
    assert (inside["success"], inside["executions"], inside["batches"]) == (4, 4, {1: 1, 2: 2, 8: 1})
    assert metrics(server, "lookup_inside") == metrics(server, "lookup_beside")
    spent = client.get_inference_statistics("lookup_inside").model_stats[0].inference_stats
    assert 0 < spent.compute_infer.ns < spent.success.ns
    assert 0 < spent.compute_output.ns < spent.success.ns


def test_errors_are_in_the_words_of_a_stub_and_count_as_failures(
    server: serve.Deployment, client: triton.InferenceServerClient
) -> None:
    said = []
    before = counts(client, "lookup_inside")
    for model in ("lookup_inside", "lookup_beside"):
        with pytest.raises(InferenceServerException) as caught:
            ask(client, model, {"x": np.full((2, 1), 99)}, "INT64")
        said.append(str(caught.value.message()))
    # onnxruntime's words; Python puts its own name and number before them.
    assert "idx=99" in said[0]
    assert said[1].endswith(said[0])
    # As with Triton's own backend. The Python backend calls every request that a stub has answered a success.
    failures = 'nv_inference_request_failure{model="",reason="BACKEND",version="1"}'
    assert wait_for(lambda: metrics(server, "lookup_inside")[failures]) == 1
    after = counts(client, "lookup_inside")
    assert {**after, "fail": 0} == {**before, "fail": 0}
    assert after["fail"] == before["fail"] + 1


def test_a_bad_request_in_a_batch_does_not_hurt_the_others(client: triton.InferenceServerClient) -> None:
    def one(index: int) -> float | str:
        try:
            return float(ask(client, "lookup_inside", {"x": np.array([[index]])}, "INT64")["y"][0, 0])
        except InferenceServerException as error:
            return str(error.message())

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, [0, 1, 99, 2, 3, -99, 1, 0]))
    assert [answers[place] for place in (0, 1, 3, 4, 6, 7)] == [0, 1, 2, 3, 1, 0]
    assert "idx=99" in str(answers[2])
    assert "idx=-99" in str(answers[5])


@pytest.mark.parametrize("where", ["inside", "beside"])
def test_a_model_that_says_its_shapes_wrongly(client: triton.InferenceServerClient, where: str) -> None:
    kept, dropped = np.ones((1, 3), np.float32), np.full((1, 3), -1, np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(ask(client, f"chosen_{where}", {"x": kept})["y"], kept)
        with pytest.raises(InferenceServerException) as caught:
            ask(client, f"chosen_{where}", {"x": np.concatenate([kept, dropped])})
        assert caught.value.message() == (
            "output y: shape [1, 3] for a batch of 2; the model does not batch along the first dimension "
            "(max_batch_size: 0 serves it as it is)"
        )


def test_memory_stays_what_it_is(
    server: serve.Deployment, client: triton.InferenceServerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100,000 requests, half of them over shared memory; one page a hundred of them would be 4 MB."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from clients import GrpcConnection
    from tritonclient.grpc import service_pb2

    def resident() -> int:
        status = Path(f"/proc/{server.servers[0].pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    inside, shared = (service_pb2.ModelInferRequest(model_name="twice_FP32") for _ in range(2))
    inside.inputs.add(name="x", datatype="FP32", shape=[8, 3])
    inside.raw_input_contents.append(numbers(8, 3).tobytes())
    for tensor, size in (
        (shared.inputs.add(name="x", datatype="FP32", shape=[8, 3]), 96),
        (shared.outputs.add(name="y"), 192),
    ):
        tensor.parameters["shared_memory_region"].string_param = "region"
        tensor.parameters["shared_memory_byte_size"].int64_param = size

    def ask_often(message: Any, requests: int) -> None:
        connection = GrpcConnection(server.grpc, message.SerializeToString())
        for _ in range(requests):
            assert connection.ask(), "an answer without a message is an error"
        connection.close()

    def all_at_once(requests: int) -> int:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask_often, [inside, shared] * 4, [requests // 8] * 8))
        return resident()

    with region(client, 4096):
        before = all_at_once(20_000)
        assert all_at_once(100_000) - before < 4_000


# By model: its configuration, and why it does not run inside tritonserver.
SERVED_BESIDE: Mapping[str, tuple[str, str]] = {
    "own_process": (LINEAR + OWN_PROCESS, "the parameter own_process"),
    "kind": (LINEAR.replace("KIND_CPU", "KIND_MODEL"), "it is not KIND_CPU"),
    "unknown": (LINEAR + parameter("whatever", "1"), "the parameter whatever"),
    "buckets": (LINEAR + parameter("batch_buckets", "4,8"), "the parameter batch_buckets"),
    "optional": (LINEAR.replace("dims: [3] }]", "dims: [3] optional: true }]", 1), "a tensor's field optional"),
    "operations": (LINEAR + 'model_operations { op_library_filename: ["nothing.so"] }\n', "model_operations"),
}
# The same of what the Python-based backend refuses, with its words.
REFUSED: Mapping[str, tuple[str, str, str]] = {
    "accelerated": (
        LINEAR + 'optimization { execution_accelerators { cpu_execution_accelerator [{ name: "openvino" }] } }\n',
        "execution_accelerators",
        "execution accelerators are not supported here: openvino",
    ),
    "ragged": (
        LINEAR.replace("dims: [3] }]", "dims: [3] allow_ragged_batch: true }]", 1),
        "a tensor's field allow_ragged_batch",
        "ragged batches",
    ),
    "stateful": (
        STATELESS
        + 'sequence_batching { state [{ input_name: "s" output_name: "t" data_type: TYPE_FP32 dims: [1] }] }\n',
        "sequence_batching.state",
        "implicit state",
    ),
    "half": (
        LINEAR.replace("FP32 dims: [3] }]", "BF16 dims: [3] }]", 1),
        "x is TYPE_BF16",
        "Triton's Python stub cannot carry TYPE_BF16",
    ),
    "types": (
        LINEAR.replace("FP32 dims: [3] }]", "INT32 dims: [3] }]", 1),
        "its configuration does not fit the model file",
        "x: the configuration says TYPE_INT32",
    ),
    "shapes": (
        LINEAR.replace("dims: [2]", "dims: [7]"),
        "its configuration does not fit the model file",
        "y: the configuration says [-1, 7]",
    ),
    "names": (
        LINEAR.replace('"z"', '"nosuch"'),
        "its configuration does not fit the model file",
        "the model has no output 'nosuch'",
    ),
    "gone": (LINEAR + 'default_model_filename: "gone.onnx"\n', "there is no model file", "gone.onnx"),
    "words": (
        LINEAR + parameter("intra_op_thread_count", "many"),
        "the parameter intra_op_thread_count is no whole number",
        "parameter intra_op_thread_count: expected a whole number",
    ),
    "switch": (
        LINEAR + parameter("own_process", "perhaps"),
        "the parameter own_process",
        "parameter own_process: expected",
    ),
}


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serve.Deployment]:
    folder = tmp_path_factory.mktemp("beside") / "models"
    for name, (config, *_) in {**SERVED_BESIDE, **REFUSED}.items():
        linear(folder, name, config)
    write(
        folder,
        "text",
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", STRING, ["batch", 1])],
        [("y", STRING, ["batch", 1])],
        config=CPU + BATCHED,
    )
    # Only the models that load are waited for.
    with serve.up(plan(folder.parent, folder, server_args=("--model-control-mode=explicit",))) as deployment:
        yield deployment


def load(deployment: serve.Deployment, model: str) -> triton.InferenceServerClient:
    client = triton.InferenceServerClient(deployment.grpc)
    client.load_model(model)
    return client


@pytest.mark.parametrize("name", SERVED_BESIDE)
def test_what_asks_for_more_runs_beside_and_says_why(beside: serve.Deployment, name: str) -> None:
    with load(beside, name) as client:
        x = numbers(2, 3)
        np.testing.assert_array_equal(ask(client, name, {"x": x})["z"], x + x)
        assert f'"{name}_0_0: runs in a process of its own: {SERVED_BESIDE[name][1]}"' in log(beside)
        client.unload_model(name)


def test_text_runs_beside(beside: serve.Deployment) -> None:
    with load(beside, "text") as client:
        assert ask(client, "text", {"x": np.array([[b"a"]], np.object_)}, "BYTES")["y"].tolist() == [[b"a"]]
        assert '"text_0_0: runs in a process of its own: x is TYPE_STRING"' in log(beside)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_refused_in_the_words_of_the_stub(beside: serve.Deployment, name: str) -> None:
    _, why, words = REFUSED[name]
    with pytest.raises(InferenceServerException) as caught, load(beside, name):
        pass
    assert words in str(caught.value.message())
    assert f'"{name}_0_0: runs in a process of its own: {why}"' in log(beside)


def server_threads(deployment: serve.Deployment) -> dict[str, str]:
    """Where each thread may run, by its number; without those of gRPC, which have other names, and come and go."""
    found = {}
    for task in Path(f"/proc/{deployment.servers[0].pid}/task").iterdir():
        try:
            fields = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields["Name"] == "tritonserver":
            found[task.name] = fields["Cpus_allowed_list"]
    return found


def settled(deployment: serve.Deployment, most: int = 1000) -> dict[str, str]:
    """``server_threads`` when they stay, and are so few: one that has been joined is still there for a moment."""

    def found() -> dict[str, str] | None:
        earlier = server_threads(deployment)
        time.sleep(0.3)
        now = server_threads(deployment)
        return now if now == earlier and len(now) <= most else None

    return wait_for(found)


def test_a_model_is_unloaded_and_loaded_again(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    linear(folder, "m", LINEAR + threads(4))
    with up(tmp_path, folder, server_args=("--model-control-mode=explicit",)) as deployment:
        most_loaded = most_unloaded = 1000
        for number in range(8):
            with load(deployment, "m") as client:
                np.testing.assert_array_equal(ask(client, "m", {"x": np.ones((1, 3), np.float32)})["z"], [[2, 2, 2]])
                loaded = len(settled(deployment, most_loaded))
                client.unload_model("m")
                wait_for(lambda: not client.is_model_ready("m"))
                unloaded = len(settled(deployment, min(most_unloaded, loaded - 3)))
            if number == 1:
                # The first one starts threads that tritonserver keeps. One more each is six.
                most_loaded, most_unloaded = loaded + 2, unloaded + 2
        assert not stubs(deployment)


def test_a_model_is_unloaded_while_clients_ask_it(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    linear(folder, "m", LINEAR.replace("count: 1", "count: 2"))
    done, x, refusals = threading.Event(), numbers(4, 3), set[str]()

    answered = [0] * 4

    def ask_until_done(number: int) -> None:
        with triton.InferenceServerClient(deployment.grpc) as own:
            while not done.is_set():
                try:
                    np.testing.assert_array_equal(ask(own, "m", {"x": x})["z"], x + x)
                    answered[number] += 1
                except InferenceServerException as error:
                    refusals.add(str(error.message()))

    def everybody_was_answered(before: tuple[int, ...]) -> bool:
        return all(now > earlier + 2 for now, earlier in zip(answered, before, strict=True))

    with up(tmp_path, folder, server_args=("--model-control-mode=explicit",)) as deployment, ThreadPoolExecutor(4) as p:
        try:
            with load(deployment, "m") as client:
                asking = [p.submit(ask_until_done, number) for number in range(4)]
                for _ in range(5):
                    wait_for(partial(everybody_was_answered, tuple(answered)))
                    client.unload_model("m")
                    wait_for(lambda: not client.is_model_ready("m"))
                    client.load_model("m")
        finally:
            done.set()
        for each in asking:
            each.result()
        assert not stubs(deployment)
    known = re.compile("unknown model|no available versions|not ready|unloading")
    assert [words for words in refusals if not known.search(words)] == []


def test_thread_counts_and_cores_are_those_of_the_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    core = min(os.sched_getaffinity(0))
    for name in ("first", "one"):
        linear(folder, name, LINEAR + threads(1))
    linear(folder, "five", LINEAR.replace("count: 1", 'count: 1 host_policy: "bound"') + threads(5))
    parallel = parameter("execution_mode", "1") + parameter("inter_op_thread_count", "4")
    linear(folder, "parallel", LINEAR + threads(1) + parallel)
    flags = ("--model-control-mode=explicit", f"--host-policy=bound,cpu-cores={core}-{core}")
    with up(tmp_path, folder, server_args=flags) as deployment:
        added = {}
        # The first one starts threads that tritonserver keeps.
        with load(deployment, "first"):
            before = settled(deployment)
        for model in ("one", "five", "parallel"):
            with load(deployment, model):
                now = settled(deployment)
            added[model] = [cores for name, cores in now.items() if name not in before]
            before = now
        # With five threads, the instance's own computes as well as four of onnxruntime's.
        assert added["five"].count(str(core)) >= 5
        assert len(added["five"]) - len(added["one"]) == 4
        assert len(added["parallel"]) - len(added["one"]) == 3


def test_threads_do_not_spin_between_requests(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    convolution(folder, "m", CPU + BATCHED + threads(2))
    with up(tmp_path, folder) as deployment, triton.InferenceServerClient(deployment.grpc) as client:
        # More of it than of the instance's own thread would be spun away between requests.
        x, fields = numbers(8, 3, 16, 16), Path(f"/proc/{deployment.servers[0].pid}/stat")

        def spent() -> float:
            used = fields.read_text().rpartition(")")[2].split()
            return (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")

        ask(client, "m", {"x": x})
        before = spent()
        for _ in range(100):
            ask(client, "m", {"x": x})
            time.sleep(0.01)
        assert spent() - before < 0.5


def log_of_unbuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: str) -> str:
    """The log of a server whose backend directory was assembled under these variables; its model must answer."""
    monkeypatch.setenv("TRITONKIT_CACHE", str(tmp_path / "cache"))
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "models"
    linear(folder, "m", LINEAR)
    with up(tmp_path, folder) as deployment, triton.InferenceServerClient(deployment.grpc) as client:
        np.testing.assert_array_equal(ask(client, "m", {"x": np.ones((1, 3), np.float32)})["z"], [[2, 2, 2]])
        assert len(stubs(deployment)) == 1
        return log(deployment)


def test_without_a_compiler_it_runs_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = log_of_unbuilt(tmp_path, monkeypatch, CC="/no/such/cc")
    assert "m: runs in a process of its own: CC names a C compiler that is not here: /no/such/cc. Install" in said
    # As soon as there is one, the next start has the library.
    monkeypatch.delenv("CC")
    (tmp_path / "models" / "m" / "config.pbtxt").touch()
    with up(tmp_path, tmp_path / "models") as deployment:
        assert not stubs(deployment)
        assert '"m_0_0: runs inside tritonserver"' in log(deployment)


def test_with_a_compiler_that_fails_it_runs_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = log_of_unbuilt(tmp_path, monkeypatch, CC="cc --no-such-flag")
    assert re.search("m: runs in a process of its own: .*cc does not compile it: .*--no-such-flag.* Install a C", said)


def test_without_the_python_backend_nothing_loads_and_the_server_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITONKIT_CACHE", str(tmp_path / "cache"))
    place = backend_directory.assemble(tritonserver.find())
    (place / "python" / backend_directory.LIBRARY).write_bytes(b"broken")
    linear(tmp_path / "models", "m", LINEAR)
    with (
        pytest.raises(LaunchFailed, match=r"Triton's Python backend does not load: .*file too short"),
        up(tmp_path, tmp_path / "models"),
    ):
        pass
    said = (tmp_path / ".tritonkit/logs/server.log").read_text()
    assert "failed to load all models" in said
    assert "Signal (11)" not in said


def test_with_a_compiler_for_another_machine_it_runs_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = log_of_unbuilt(tmp_path, monkeypatch, CC=compiler_for_another_machine(tmp_path))
    assert re.search(r"m: runs in a process of its own: .* what it has made does not load: .* Install a C", said)


def test_without_the_library_of_onnxruntime_it_runs_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_backend, "ONNXRUNTIME", "libnothing.so")
    said = log_of_unbuilt(tmp_path, monkeypatch)
    assert "m: runs in a process of its own: the installed onnxruntime brings no libnothing.so" in said


def test_where_the_library_of_onnxruntime_is_gone_it_runs_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITONKIT_CACHE", str(tmp_path / "cache"))
    place = backend_directory.assemble(tritonserver.find())
    (place / "onnxruntime" / native_backend.ONNXRUNTIME).unlink()
    said = log_of_unbuilt(tmp_path, monkeypatch)
    assert "m_0_0: runs in a process of its own: there is no libonnxruntime.so" in said
