"""The onnxruntime backend in the real tritonserver, inside it and in Python stubs, against onnxruntime itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.grpc as triton
from asking import ask, counted
from onnx import TensorProto, helper, numpy_helper
from serving import plan, stubs, up
from tritonclient.utils import InferenceServerException

from tritonkit import serve
from tritonkit.backends.batching import configuration
from tritonkit.errors import LaunchFailed

MAX_BATCH = 8
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
RANDOM = np.random.default_rng(7)
WEIGHT = RANDOM.normal(size=(3, 2)).astype(np.float32)
TABLE = np.arange(4, dtype=np.float32)

Tensors = Sequence[tuple[str, int, Sequence[int | str]]]


def write(
    repository: Path,
    name: str,
    nodes: Sequence[Any],
    inputs: Tensors,
    outputs: Tensors,
    *,
    config: str | None = None,
    weights: Mapping[str, Any] | None = None,
    filename: str = "model.onnx",
) -> Path:
    """Add an ONNX model to a repository; the path of its file."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(*tensor) for tensor in inputs],
        [helper.make_tensor_value_info(*tensor) for tensor in outputs],
        [numpy_helper.from_array(value, key) for key, value in (weights or {}).items()],
    )
    path = repository / name / "1" / filename
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    if config is not None:
        (path.parents[1] / "config.pbtxt").write_text(f'backend: "onnxruntime"\n{config}')
    return path


def linear(repository: Path, name: str = "linear", config: str | None = None, **options: Any) -> Path:
    """Two outputs: ``y = x W`` and ``z = x + x``."""
    return write(
        repository,
        name,
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Add", ["x", "x"], ["z"])],
        [("x", FLOAT, ["batch", 3])],
        [("y", FLOAT, ["batch", 2]), ("z", FLOAT, ["batch", 3])],
        weights={"w": WEIGHT},
        config=config,
        **options,
    )


CPU = "instance_group [{ count: 1 kind: KIND_CPU }]\n"
LINEAR = CPU + (
    "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 2000 }\n"
    'input [{ name: "x" data_type: TYPE_FP32 dims: [3] }]\n'
    'output [{ name: "y" data_type: TYPE_FP32 dims: [2] }, { name: "z" data_type: TYPE_FP32 dims: [3] }]\n'
)


def threads(count: int) -> str:
    return f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{count}" }} }}\n'


OWN_PROCESS = 'parameters { key: "own_process" value { string_value: "true" } }\n'


@pytest.fixture(scope="module", params=["", OWN_PROCESS], ids=["inside", "own_process"])
def where(request: pytest.FixtureRequest) -> str:
    """What a configuration says for its instances to run inside tritonserver, or in stubs."""
    return str(request.param)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, where: str) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "models"
    for name in ("linear", "shared"):
        linear(folder, name, where + LINEAR + threads(1))
    # No config.pbtxt at all: the backend follows from the file's name, the rest from the model.
    linear(folder, "automatic", where or None)
    linear(
        folder,
        "named",
        where + CPU + threads(5) + 'default_model_filename: "other.onnx"\nmax_batch_size: 2\n',
        filename="other.onnx",
    )
    write(
        folder,
        "whole",
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=1)],
        [("x", FLOAT, ["rows", 3])],
        [("y", FLOAT, [1, 1])],
        config=where + CPU + 'max_batch_size: 0\ninput [{ name: "x" data_type: TYPE_FP32 dims: [-1, 3] }]\n'
        'output [{ name: "y" data_type: TYPE_FP32 dims: [1, 1] }]\n',
    )
    write(
        folder,
        "scalars",
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", FLOAT, ["batch"])],
        [("y", FLOAT, ["batch"])],
        config=where
        + CPU
        + 'max_batch_size: 8\ninput [{ name: "x" data_type: TYPE_FP32 dims: [1] reshape { shape: [] } }]\n'
        'output [{ name: "y" data_type: TYPE_FP32 dims: [1] reshape { shape: [] } }]\n',
    )
    write(
        folder,
        "lookup",
        [helper.make_node("Gather", ["table", "index"], ["value"])],
        [("index", INT64, ["batch", 1])],
        [("value", FLOAT, ["batch", 1])],
        weights={"table": TABLE},
        config=where + CPU + "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 200000 }\n",
    )
    write(
        folder,
        "text",
        [helper.make_node("Identity", ["said"], ["heard"])],
        [("said", STRING, ["batch", 2])],
        [("heard", STRING, ["batch", 2])],
        config=where + CPU + "max_batch_size: 8\n",
    )
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[serve.Deployment]:
    with up(repository.parent, repository) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def client(server: serve.Deployment) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc) as opened:
        yield opened


def numbers(batch: int) -> Any:
    return RANDOM.normal(size=(batch, 3)).astype(np.float32)


def test_every_batch_size_equals_onnxruntime(repository: Path, client: triton.InferenceServerClient) -> None:
    session = onnxruntime.InferenceSession(repository / "linear/1/model.onnx", providers=["CPUExecutionProvider"])
    for batch in range(1, MAX_BATCH + 1):
        x = numbers(batch)
        answer = ask(client, "linear", {"x": x})
        assert list(answer) == ["y", "z"]
        for name, expected in zip(("y", "z"), session.run(["y", "z"], {"x": x}), strict=True):
            np.testing.assert_allclose(answer[name], expected, rtol=1e-6)


def test_concurrent_requests_of_mixed_sizes_each_get_their_own(
    server: serve.Deployment, client: triton.InferenceServerClient
) -> None:
    def one(number: int) -> None:
        x = numbers(number % MAX_BATCH + 1)
        outputs = (("y",), ("z",), ())[number % 3]
        answer = ask(client, "shared", {"x": x}, outputs=outputs)
        assert tuple(answer) == (outputs or ("y", "z"))
        if "y" in answer:
            np.testing.assert_allclose(answer["y"], x @ WEIGHT, rtol=1e-5, atol=1e-6)
        if "z" in answer:
            np.testing.assert_array_equal(answer["z"], x + x)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(200)))
    rows = sum(number % MAX_BATCH + 1 for number in range(200))
    stats = counted(client, "shared", rows)
    assert stats.inference_count == rows
    assert stats.execution_count < 200, "requests were batched together, so splitting them was tested"


def test_a_bad_request_does_not_hurt_the_others(client: triton.InferenceServerClient) -> None:
    def one(index: int) -> float | str:
        try:
            value = ask(client, "lookup", {"index": np.array([[index]])}, "INT64")["value"]
        except InferenceServerException as error:
            return str(error.message())
        return float(value[0, 0])

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, [0, 1, 99, 2, 3, -99, 1, 0]))
    assert [answers[i] for i in (0, 1, 3, 4, 6, 7)] == [0, 1, 2, 3, 1, 0]
    for position, index in ((2, 99), (5, -99)):
        assert f"idx={index}" in str(answers[position])


def test_strings_go_in_and_out(client: triton.InferenceServerClient) -> None:
    said = np.array([["grün", ""], ["a\0b", "x" * 5000]], dtype=np.object_)
    heard = ask(client, "text", {"said": said}, "BYTES")["heard"]
    assert [[value.decode() for value in row] for row in heard] == said.tolist()
    with pytest.raises(InferenceServerException, match="input said: the model takes UTF-8 text only"):
        ask(client, "text", {"said": np.array([[b"\xff", b""]], dtype=np.object_)}, "BYTES")


def test_without_batching_a_model_gets_its_tensors_as_they_are(client: triton.InferenceServerClient) -> None:
    for rows in (1, 5):
        x = numbers(rows)
        np.testing.assert_allclose(ask(client, "whole", {"x": x})["y"], [[x.sum()]], rtol=1e-5, atol=1e-5)


def test_a_reshape_is_done_before_and_after_the_model(client: triton.InferenceServerClient) -> None:
    x = numbers(4)[:, :1].copy()
    np.testing.assert_array_equal(ask(client, "scalars", {"x": x})["y"], x)


def test_what_the_configuration_leaves_out_is_read_from_the_model(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("automatic", as_json=True)["config"]
    assert config["max_batch_size"] == 4
    assert "dynamic_batching" not in config
    assert [(tensor["name"], tensor["data_type"], tensor["dims"]) for tensor in config["input"]] == [
        ("x", "TYPE_FP32", ["3"])
    ]
    assert [tensor["name"] for tensor in config["output"]] == ["y", "z"]
    assert client.get_model_config("named", as_json=True)["config"]["max_batch_size"] == 2
    for model in ("automatic", "named"):
        x = numbers(2)
        np.testing.assert_allclose(ask(client, model, {"x": x})["y"], x @ WEIGHT, rtol=1e-5, atol=1e-6)


def test_thread_counts_are_those_of_the_configuration(server: serve.Deployment, where: str) -> None:
    counts = {}
    for pid in stubs(server):
        words = Path(f"/proc/{pid}/cmdline").read_text()
        status = Path(f"/proc/{pid}/status").read_text()
        for model in ("linear", "named"):
            if f"/{model}/1/" in words:
                counts[model] = int(status.partition("Threads:")[2].split()[0])
    # Those of sessions inside tritonserver are counted in tests/test_backends_native.py.
    assert (counts["named"] - counts["linear"] == 4) if where else not counts


BAD = {
    "gpu": ("instance_group [{ count: 1 kind: KIND_GPU gpus: [0] }]\n", ""),
    "types": (LINEAR.replace("FP32 dims: [3] }]", "INT32 dims: [3] }]", 1), "x: the configuration says TYPE_INT32"),
    "shapes": (LINEAR.replace("dims: [2]", "dims: [7]"), "y: the configuration says [-1, 7], the model has [-1, 2]"),
    "names": (LINEAR.replace('"z"', '"nosuch"'), "the model has no output 'nosuch'; it has: y, z"),
    "missing": (LINEAR + 'default_model_filename: "gone.onnx"\n', "gone.onnx"),
    "words": (LINEAR + threads(1).replace('"1"', '"many"'), "parameter intra_op_thread_count: expected a whole number"),
    "accelerated": (
        LINEAR + 'optimization { execution_accelerators { cpu_execution_accelerator [{ name: "openvino" }] } }\n',
        "execution accelerators are not supported here: openvino",
    ),
    "stateful": (
        LINEAR.replace("dynamic_batching { max_queue_delay_microseconds: 2000 }", "")
        + 'sequence_batching { state [{ input_name: "s" output_name: "t" data_type: TYPE_FP32 dims: [1] }] }\n',
        "implicit state",
    ),
}  # fmt: skip


def test_what_it_cannot_serve_does_not_load(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    for name, (config, _) in BAD.items():
        linear(folder, name, config)
    write(
        folder,
        "frozen",
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", FLOAT, [2, 3])],
        [("y", FLOAT, [2, 3])],
        config=CPU + 'max_batch_size: 4\ninput [{ name: "x" data_type: TYPE_FP32 dims: [3] }]\n'
        'output [{ name: "y" data_type: TYPE_FP32 dims: [3] }]\n',
    )
    (folder / "broken" / "1").mkdir(parents=True)
    (folder / "broken" / "1" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(LaunchFailed) as caught, serve.up(plan(tmp_path, folder)):
        pass
    said = dict(part.partition(": ")[::2] for part in str(caught.value.args[0]).split("\nmodel ")[1:])
    assert set(said) == {*BAD, "frozen", "broken"}
    for name, (_, words) in BAD.items():
        assert words in said[name], name
    assert "x: the model's first dimension is fixed at 2" in said["frozen"]
    assert "Protobuf parsing failed" in said["broken"]


def test_threads_of_a_cpu_instance_do_not_spin(backend: Any) -> None:
    for device, said in ((None, True), (0, False)):
        options = backend._options(configuration.Model({}, Path(), device, (), ()))
        if said:
            assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        else:
            with pytest.raises(RuntimeError):
                options.get_session_config_entry("session.intra_op.allow_spinning")


def test_a_gpu_instance_never_runs_on_the_cpu(tmp_path: Path, backend: Any) -> None:
    """Outside the server, which refuses KIND_GPU before it where there is no GPU."""
    linear(tmp_path, "m")
    config = {"name": "m", "max_batch_size": 8, "input": [], "output": []}
    instance = backend.TritonPythonModel()
    with pytest.raises(RuntimeError, match="KIND_GPU, but this onnxruntime has no CUDA provider"):
        instance.initialize(
            {
                "model_config": json.dumps(config),
                "model_instance_kind": "GPU",
                "model_instance_name": "m_0_0",
                "model_instance_device_id": "0",
                "model_repository": str(tmp_path / "m"),
                "model_version": "1",
            }
        )
