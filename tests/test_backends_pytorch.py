"""The Python-based pytorch backend in the real tritonserver, against torch itself."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from asking import ask
from serving import plan, up
from tritonclient.utils import InferenceServerException

from tritonkit import serve
from tritonkit.errors import LaunchFailed

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

MAX_BATCH = 8
RANDOM = np.random.default_rng(7)
CPU = 'backend: "pytorch"\ninstance_group [{ count: 1 kind: KIND_CPU }]\n'
NUMBERED = (
    CPU + "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 2000 }\n"
    'input [{ name: "B__1" data_type: TYPE_FP32 dims: [1] }, { name: "A__0" data_type: TYPE_FP32 dims: [3] }]\n'
    'output [{ name: "D__1" data_type: TYPE_FP32 dims: [3] }, { name: "C__0" data_type: TYPE_FP32 dims: [2] }]\n'
)
MISNAMED = NUMBERED.replace("B__1", "shift").replace("A__0", "x").replace("D__1", "first").replace("C__0", "second")
NAMED = MISNAMED.replace("dims: [3] }, {", "dims: [2] }, {").replace("dims: [2] }]", "dims: [3] }]")


class Affine(torch.nn.Module):
    """``y = x W + b`` and ``z = x * shift``, with two inputs in an order of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x: Any, shift: Any) -> Any:
        return self.linear(x) + shift, x * shift


class Pooled(torch.nn.Module):
    """A row's answer depends on the whole batch: never to be padded."""

    def forward(self, x: Any) -> Any:
        return x - x.mean(dim=0, keepdim=True)


class Lookup(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(4, 1)

    def forward(self, index: Any) -> Any:
        return self.table(index)


def script(folder: Path, name: str, module: Any, inputs: tuple[Any, ...], config: str) -> Any:
    path = folder / name / "1" / "model.pt"
    path.parent.mkdir(parents=True)
    torch.jit.trace(module.eval(), inputs).save(str(path))
    (path.parents[1] / "config.pbtxt").write_text(config)
    return module


def program(folder: Path, name: str, module: Any, inputs: tuple[Any, ...], config: str | None) -> None:
    path = folder / name / "1" / "model.pt2"
    path.parent.mkdir(parents=True)
    batch = torch.export.Dim("batch", min=1, max=64)
    dynamic = tuple({0: batch} for _ in inputs)
    torch.export.save(torch.export.export(module.eval(), inputs, dynamic_shapes=dynamic), path)
    if config:
        (path.parents[1] / "config.pbtxt").write_text(config)


X, SHIFT = torch.ones(2, 3), torch.ones(2, 1)
BUCKETS = 'parameters { key: "batch_buckets" value { string_value: "4,8" } }\n'


@pytest.fixture(scope="module")
def affine() -> Affine:
    torch.manual_seed(1)
    made: Affine = Affine().eval()
    return made


@pytest.fixture(scope="module")
def client(affine: Affine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    folder = tmp_path_factory.mktemp("torch") / "models"
    script(folder, "numbered", affine, (X, SHIFT), NUMBERED)
    script(folder, "named", affine, (X, SHIFT), NAMED)
    script(folder, "padded", affine, (X, SHIFT), NUMBERED + BUCKETS)
    script(
        folder, "pooled", Pooled(), (X,),
        CPU + 'max_batch_size: 8\ninput [{ name: "x" data_type: TYPE_FP32 dims: [3] }]\n'
        'output [{ name: "y" data_type: TYPE_FP32 dims: [3] }]\n' + BUCKETS,
    )  # fmt: skip
    script(
        folder, "lookup", Lookup(), (torch.zeros(2, 1, dtype=torch.int64),),
        CPU + "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 200000 }\n"
        'input [{ name: "index" data_type: TYPE_INT64 dims: [1] }]\n'
        'output [{ name: "value" data_type: TYPE_FP32 dims: [1, 1] }]\n',
    )  # fmt: skip
    program(folder, "exported", affine, (X, SHIFT), CPU)
    with (
        up(folder.parent, folder, server_args=("--strict-readiness=true",)) as deployment,
        triton.InferenceServerClient(deployment.grpc) as opened,
    ):
        yield opened


def rows(batch: int) -> tuple[Any, Any]:
    return RANDOM.normal(size=(batch, 3)).astype(np.float32), RANDOM.normal(size=(batch, 1)).astype(np.float32)


def expected(affine: Affine, x: Any, shift: Any) -> tuple[Any, Any]:
    with torch.inference_mode():
        y, z = affine(torch.from_numpy(x), torch.from_numpy(shift))
    return y.numpy(), z.numpy()


NAMES = {
    "numbered": ("A__0", "B__1", "C__0", "D__1"),
    "padded": ("A__0", "B__1", "C__0", "D__1"),
    # By forward's argument names, whatever the order; outputs as the configuration lists them.
    "named": ("x", "shift", "first", "second"),
    "exported": ("x", "shift", "OUTPUT__0", "OUTPUT__1"),
}


@pytest.mark.parametrize("model", NAMES)
def test_every_batch_size_equals_torch(client: triton.InferenceServerClient, affine: Affine, model: str) -> None:
    a, b, c, d = NAMES[model]
    for batch in range(1, (4 if model == "exported" else MAX_BATCH) + 1):
        x, shift = rows(batch)
        answer = ask(client, model, {a: x, b: shift})
        y, z = expected(affine, x, shift)
        np.testing.assert_allclose(answer[c], y, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(answer[d], z)


def test_rows_that_influence_each_other_are_not_padded(client: triton.InferenceServerClient) -> None:
    for batch in (1, 3, 5):
        x, _ = rows(batch)
        answer = ask(client, "pooled", {"x": x})["y"]
        np.testing.assert_allclose(answer, x - x.mean(axis=0, keepdims=True), atol=1e-6)


def test_a_bad_request_does_not_hurt_the_others(client: triton.InferenceServerClient) -> None:
    def one(index: int) -> str:
        try:
            return str(ask(client, "lookup", {"index": np.array([[index]])}, "INT64")["value"].shape)
        except InferenceServerException as error:
            return str(error.message())

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, [0, 1, 99, 2, 3, 1, 1, 0]))
    assert [answer for place, answer in enumerate(answers) if place != 2] == ["(1, 1, 1)"] * 7
    assert "index out of range" in answers[2]


def test_what_it_cannot_serve_does_not_load(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    module = Affine()
    inputs = (X, SHIFT)
    bad = {
        "types": (
            NUMBERED.replace('"D__1" data_type: TYPE_FP32', '"D__1" data_type: TYPE_INT32'),
            "model gives float32",
        ),
        "shapes": (NUMBERED.replace("dims: [2]", "dims: [7]"), "C__0: the configuration says [2, 7]"),
        "order": (MISNAMED, "first: the configuration says [2, 3], the model gives [2, 2]"),
        "counts": (NUMBERED.replace('{ name: "B__1" data_type: TYPE_FP32 dims: [1] }, ', ""), "takes 2 inputs"),
        "silent": (CPU, "state input and output"),
        "switch": (
            NUMBERED + 'parameters { key: "INFERENCE_MODE" value { string_value: "maybe" } }\n',
            'INFERENCE_MODE: expected "true" or "false"',
        ),
    }
    for name, (config, _) in bad.items():
        script(folder, name, module, inputs, config)
    with pytest.raises(LaunchFailed) as caught, serve.up(plan(tmp_path, folder)):
        pass
    said = dict(part.partition(": ")[::2] for part in str(caught.value.args[0]).split("\nmodel ")[1:])
    assert set(said) == set(bad)
    for name, (_, words) in bad.items():
        assert words in said[name], name
