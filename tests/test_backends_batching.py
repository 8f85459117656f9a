"""The batching core of the backends: padding, refusals, and Python models built on it, in the real tritonserver."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from asking import ask
from onnx import TensorProto, helper
from serving import deployment_of, plan, python_model, up, wait_for
from test_backends_onnxruntime import CPU, LINEAR, WEIGHT, linear, write
from tritonclient.utils import InferenceServerException

from tritonkit import serve
from tritonkit.backends.batching import configuration
from tritonkit.backends.batching.padding import harm
from tritonkit.errors import LaunchFailed

ROOT = Path(__file__).parent.parent
FLOAT = TensorProto.FLOAT
BUCKETS = 'parameters { key: "batch_buckets" value { string_value: "4,8" } }\n'
VECTOR = (
    CPU + 'max_batch_size: 8\ninput [{ name: "x" data_type: TYPE_FP32 dims: [3] }]\n'
    'output [{ name: "y" data_type: TYPE_FP32 dims: [3] }]\n'
)
DOUBLED = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tritonkit.backends.python_models import BatchedModel
class TritonPythonModel(BatchedModel):
    def compute(self, inputs):
        if any(value == b"bad" for value in inputs["IN"].reshape(-1)):
            raise ValueError("a bad one")
        return {{"OUT": inputs["IN"] + inputs["IN"]}}
"""
# Like a model whose GPU context is gone after a bad batch: all later ones fail as well.
ASTRAY = DOUBLED.replace(
    "    def compute",
    """    astray = False
    def lost(self):
        return "an illegal instruction was encountered" if self.astray else ""
    def compute""",
).replace("raise ValueError", "self.astray = True\n        if self.astray:\n            raise ValueError")
DOUBLED_CONFIG = """
backend: "python"
max_batch_size: 8
dynamic_batching { max_queue_delay_microseconds: 200000 }
input [{ name: "IN" data_type: TYPE_STRING dims: [1] }]
output [{ name: "OUT" data_type: TYPE_STRING dims: [1] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serve.Deployment]:
    folder = tmp_path_factory.mktemp("batching") / "models"
    linear(folder, "padded", LINEAR + BUCKETS)
    write(
        folder,
        "pooled",
        [helper.make_node("ReduceMean", ["x"], ["m"], axes=[0]), helper.make_node("Sub", ["x", "m"], ["y"])],
        [("x", FLOAT, ["batch", 3])],
        [("y", FLOAT, ["batch", 3])],
        config=VECTOR + BUCKETS,
    )
    write(
        folder,
        "dynamic",
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [("x", FLOAT, ["batch", "length"])],
        [("y", FLOAT, ["batch", "length"])],
        config=VECTOR.replace("[3]", "[-1]") + BUCKETS + "dynamic_batching { max_queue_delay_microseconds: 20000 }\n",
    )
    write(
        folder,
        "optional",
        [helper.make_node("Add", ["x", "shift"], ["y"])],
        [("x", FLOAT, ["batch", 3]), ("shift", FLOAT, [1, 3])],
        [("y", FLOAT, ["batch", 3])],
        weights={"shift": np.full((1, 3), 10, np.float32)},
        config=CPU + 'max_batch_size: 0\ninput [{ name: "x" data_type: TYPE_FP32 dims: [-1, 3] }, '
        '{ name: "shift" data_type: TYPE_FP32 dims: [1, 3] optional: true }]\n'
        'output [{ name: "y" data_type: TYPE_FP32 dims: [-1, 3] }]\n',
    )
    python_model(folder, "doubled", DOUBLED, DOUBLED_CONFIG)
    with up(folder.parent, folder) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def client(server: serve.Deployment) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc) as opened:
        yield opened


def numbers(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def test_padding_rows_never_reach_a_client(client: triton.InferenceServerClient) -> None:
    for batch in range(1, 9):
        x = numbers(batch, 3)
        answer = ask(client, "padded", {"x": x})
        np.testing.assert_allclose(answer["y"], x @ WEIGHT, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(answer["z"], x + x)


def test_rows_that_influence_each_other_are_not_padded(
    server: serve.Deployment, client: triton.InferenceServerClient
) -> None:
    for batch in (1, 3, 5):
        x = numbers(batch, 3)
        np.testing.assert_allclose(ask(client, "pooled", {"x": x})["y"], x - x.mean(axis=0), atol=1e-6)
    log = "".join(path.read_text() for path in (server.repository.parent / ".tritonkit" / "logs").iterdir())
    assert "pooled: batches are not padded: output y of one row depends on the other rows of its batch" in log
    assert "padded: batches are not padded" not in log


def test_requests_of_other_shapes_are_batches_of_their_own(client: triton.InferenceServerClient) -> None:
    def one(length: int) -> bool:
        x = numbers(1, length)
        return np.array_equal(ask(client, "dynamic", {"x": x})["y"], x + x)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, [3, 5, 3, 5, 3, 7, 5, 3]))


def test_an_optional_input_may_be_left_out(client: triton.InferenceServerClient) -> None:
    x, shift = numbers(1, 3), numbers(1, 3)
    np.testing.assert_array_equal(ask(client, "optional", {"x": x})["y"], x + 10)
    np.testing.assert_array_equal(ask(client, "optional", {"x": x, "shift": shift})["y"], x + shift)


def test_a_python_model_answers_whole_batches_and_keeps_a_bad_one_apart(client: triton.InferenceServerClient) -> None:
    def one(word: bytes) -> str:
        try:
            return str(ask(client, "doubled", {"IN": np.array([[word]], np.object_)}, "BYTES")["OUT"][0, 0])
        except InferenceServerException as error:
            return str(error.message())

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(one, [b"\xff", b"bad", b"a", b"b"]))
    assert answers == ["b'\\xff\\xff'", "a bad one", "b'aa'", "b'bb'"]


def test_what_it_cannot_do_is_refused_with_a_reason(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    bad = {
        "ragged": (LINEAR.replace("dims: [3] }]", "dims: [3] allow_ragged_batch: true }]", 1), "ragged batches"),
        "buckets": (LINEAR + BUCKETS.replace("4,8", "4,99"), "parameter batch_buckets: expected sizes from 1 to max"),
    }
    for name, (config, _) in bad.items():
        linear(folder, name, config)
    with pytest.raises(LaunchFailed) as caught, serve.up(plan(tmp_path, folder)):
        pass
    said = dict(part.partition(": ")[::2] for part in str(caught.value.args[0]).split("\nmodel ")[1:])
    for name, (_, words) in bad.items():
        assert words in said[name], name


def model(
    device: int | None = 0, *, kind: str = "TYPE_FP32", dims: tuple[int, ...] = (3,), **config: Any
) -> configuration.Model:
    stated = {"name": "m", "max_batch_size": 8, **config}
    x = configuration.Tensor("x", kind, dims)
    y = configuration.Tensor("y", "TYPE_FP32", (3,))
    return configuration.Model(stated, Path(), device, (x,), (y,))


@pytest.mark.parametrize(
    ("config", "device", "sizes"),
    [
        ({}, 0, (1, 2, 4, 8)),
        ({}, None, ()),
        ({"max_batch_size": 12}, 0, (1, 2, 4, 8, 12)),
        ({"dynamic_batching": {"preferred_batch_size": [4, 6]}}, 0, (1, 4, 6, 8)),
        ({"parameters": {"batch_buckets": {"string_value": "2, 4"}}}, None, (2, 4, 8)),
        ({"parameters": {"batch_buckets": {"string_value": "none"}}}, 0, ()),
        ({"max_batch_size": 0}, 0, ()),
    ],
)
def test_the_sizes_to_pad_to(config: Mapping[str, Any], device: int | None, sizes: Sequence[int]) -> None:
    assert configuration.batch_sizes(model(device, **config)) == sizes


class Function:
    """An engine that is a function of a batch."""

    reuses_outputs = False

    def lost(self) -> str:
        return ""

    def __init__(self, function: Any) -> None:
        self.function = function

    def allocate(self, size: int) -> Any:
        return np.empty(size, np.uint8)

    def run(self, feed: Mapping[str, Any], wanted: Sequence[str]) -> Sequence[Any]:
        return [self.function(feed["x"]) for _ in wanted]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x * 2, None),
        (lambda x: x - x.mean(axis=0), "depends on the other rows"),
        (lambda x: np.cumsum(x[::-1], axis=0)[::-1], "depends on the other rows"),
        (lambda x: x / len(x), "depends on the size of the batch"),
        (lambda x: x.sum(axis=0), "has shape"),
        (lambda x: np.where(x > 0, np.nan, x), None),
        (lambda _: 1 // 0, "do not run"),
    ],
)
def test_harm_of_padding_is_found(function: Any, words: str | None) -> None:
    found = harm(model(), Function(function), (4, 8))
    assert found is None if words is None else words in str(found)


def test_what_cannot_be_tried_is_not_padded() -> None:
    assert "no example" in str(harm(model(kind="TYPE_STRING"), Function(lambda x: x), (4, 8)))
    assert "other rows" in str(harm(model(dims=(-1,)), Function(lambda x: x - x.mean(axis=0)), (4, 8)))


def test_sizes_without_gaps_need_no_padding() -> None:
    assert harm(model(), Function(lambda x: x / len(x)), (1, 2, 3)) is None


def test_the_configuration_is_json_as_triton_gives_it() -> None:
    config = {"name": "m", "max_batch_size": 2, "input": [], "output": [], "batch_output": [{"kind": "X"}]}
    arguments = {
        "model_config": json.dumps(config), "model_instance_kind": "CPU", "model_instance_device_id": "0",
        "model_instance_name": "m_0_1", "model_repository": "/models/m", "model_version": "3",
    }  # fmt: skip
    with pytest.raises(ValueError, match="batch_output is not supported here"):
        configuration.read(arguments)
    read = configuration.read({**arguments, "model_config": json.dumps({**config, "batch_output": []})})
    assert (read.folder, read.device, read.instance) == (Path("/models/m/3"), None, "m_0_1")


def test_instances_divide_the_cores_that_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads(cores: int, instance: str, *groups: dict[str, Any]) -> int:
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
        stated = {"instance_group": [{"kind": "KIND_CPU", "host_policy": "", **group} for group in groups]}
        return configuration.cpu_threads(configuration.Model(stated, Path(), None, (), (), instance))

    four, two = {"name": "m_0", "count": 4}, {"name": "m_1", "count": 2}
    assert threads(8, "m_0_3", four) == 2
    assert threads(8, "m_1_0", four, {**two, "kind": "KIND_GPU"}) == 2
    assert threads(12, "m_0_0", four, two) == 2
    # Under policies of their own, each group has the cores of its policy to itself.
    assert threads(8, "m_0_0", {**four, "host_policy": "near"}, {**two, "host_policy": "far"}) == 2
    assert threads(8, "m_1_1", {**four, "host_policy": "near"}, {**two, "host_policy": "far"}) == 4
    assert threads(1, "m_0_0", four) == 1


def test_a_python_model_without_compute_says_so(tmp_path: Path) -> None:
    source = DOUBLED.replace("def compute", "def conpute")
    repository = python_model(tmp_path / "models", "m", source, DOUBLED_CONFIG)
    with pytest.raises(LaunchFailed, match=r"abstract method '?compute"), up(tmp_path, repository):
        pass


def test_a_process_that_can_answer_nothing_any_more_ends_and_is_started_anew(tmp_path: Path) -> None:
    repository = python_model(tmp_path / "models", "astray", ASTRAY, DOUBLED_CONFIG)
    with up(tmp_path, repository) as deployment, triton.InferenceServerClient(deployment.grpc) as client:
        before = deployment.servers[0].pid
        good, bad = (np.array([[word]], np.object_) for word in (b"good", b"bad"))
        assert ask(client, "astray", {"IN": good}, "BYTES")["OUT"].tolist() == [[b"goodgood"]]
        with pytest.raises(InferenceServerException, match="a bad one"):
            ask(client, "astray", {"IN": bad}, "BYTES")

        def again() -> serve.Deployment | None:
            now = deployment_of(tmp_path)
            return now if now.ready and now.servers[0].pid != before else None

        after = wait_for(again)
        with triton.InferenceServerClient(after.grpc) as anew:
            assert ask(anew, "astray", {"IN": good}, "BYTES")["OUT"].tolist() == [[b"goodgood"]]
    log = (tmp_path / ".tritonkit/logs/server.log").read_text()
    assert "astray: an illegal instruction was encountered; the process ends" in log
