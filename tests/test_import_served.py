"""An imported repository, built again, is served by the real tritonserver and answers with the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_models import identity
from serving import up
from typer.testing import CliRunner

from tritonkit.cli.app import app
from tritonkit.modelconfig.text import parse

HEADER = """
import json

import numpy as np
import triton_python_backend_utils as pb_utils


def tensor(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def answer(name, value):
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, value)])
"""

# Each version multiplies by its own number.
SCALE = """
class TritonPythonModel:
    def initialize(self, args):
        self.factor = np.float32(args["model_version"])

    def execute(self, requests):
        return [answer("OUT", tensor(request, "IN") * self.factor) for request in requests]
"""

# A running sum for each sequence, with the correlation ID in front.
SUM = """
class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        responses = []
        for request in requests:
            sequence = int(tensor(request, "ID").flat[0])
            if tensor(request, "START").flat[0]:
                self.sums[sequence] = 0.0
            self.sums[sequence] += float(tensor(request, "IN").sum())
            responses.append(answer("OUT", np.array([[sequence, self.sums[sequence]]], np.float32)))
        return responses
"""

# Answers with the first request that it ever saw, which is the warmup's: no client's.
FIRST = """
class TritonPythonModel:
    first = None

    def execute(self, requests):
        if TritonPythonModel.first is None:
            TritonPythonModel.first = tensor(requests[0], "IN")
        return [answer("OUT", TritonPythonModel.first) for request in requests]
"""

# Answers with what lies in a file beside the versions, which its configuration names.
NOTE = """
class TritonPythonModel:
    def initialize(self, args):
        name = json.loads(args["model_config"])["parameters"]["note"]["string_value"]
        name = name.replace("$$TRITON_MODEL_DIRECTORY", args["model_repository"])
        with open(name, "rb") as note:
            self.note = np.array([[note.read()]], object)

    def execute(self, requests):
        return [answer("OUT", self.note) for request in requests]
"""

VECTOR = """
max_batch_size: 4
input [{ name: "IN" data_type: TYPE_FP32 dims: [ 4 ] }]
output [{ name: "OUT" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" }]
"""

STEP = """step [{{ model_name: "{model}" model_version: {version}
    input_map {{ key: "{i}" value: "{a}" }} output_map {{ key: "{o}" value: "{b}" }} }}]"""


def step(model: str, a: str, b: str, i: str = "IN", o: str = "OUT", version: int = -1) -> str:
    return STEP.format(model=model, a=a, b=b, i=i, o=o, version=version)


CONFIGS = {
    "scale": f"""name: "scale" backend: "python" {VECTOR}
        version_policy {{ specific {{ versions: [ 1, 5 ] }} }}
        dynamic_batching {{ preferred_batch_size: [ 2 ] max_queue_delay_microseconds: 100 }}
        instance_group [{{ count: 1 kind: KIND_CPU }}, {{ name: "more" count: 2 kind: KIND_CPU }}]""",
    "latest": f"""backend: "python" {VECTOR} version_policy {{ latest {{ num_versions: 2 }} }}
        instance_group [{{ kind: KIND_CPU count: 1 }}]""",
    "warm": f"""name: "warm" backend: "python" {VECTOR} instance_group [{{ count: 1 kind: KIND_CPU }}]
        model_warmup [{{ name: "file" batch_size: 1 inputs {{ key: "IN" value {{
          data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "first.bin" }} }} }}]""",
    "sum": """name: "sum" backend: "python" max_batch_size: 4
        input [{ name: "IN" data_type: TYPE_FP32 dims: [ 4 ] }]
        output [{ name: "OUT" data_type: TYPE_FP32 dims: [ 2 ] }]
        instance_group [{ count: 1 kind: KIND_CPU }]
        sequence_batching { max_sequence_idle_microseconds: 60000000 oldest { max_candidate_sequences: 8 }
          control_input [
            { name: "START" control [{ kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] }] },
            { name: "ID" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }] } ] }""",
    "note": """name: "note" backend: "python" max_batch_size: 1
        input [{ name: "IN" data_type: TYPE_FP32 dims: [ 1 ] }]
        output [{ name: "OUT" data_type: TYPE_STRING dims: [ 1 ] }]
        instance_group [{ count: 1 kind: KIND_CPU }]
        parameters { key: "note" value { string_value: "$$TRITON_MODEL_DIRECTORY/notes/.hidden" } }""",
    "onnx": """backend: "onnxruntime" max_batch_size: 4
        input { name: "input" data_type: TYPE_FP32 dims: 4 }
        output { name: "output" data_type: TYPE_FP32 dims: 4 }
        instance_group { count: 1 kind: KIND_CPU }""",
    "inner": f"""name: "inner" platform: "ensemble" {VECTOR} ensemble_scheduling {{
        {step("scale", "IN", "middle", version=5)} {step("onnx", "middle", "OUT", "input", "output")} }}""",
    "outer": f"""name: "outer" platform: "ensemble" {VECTOR} ensemble_scheduling {{
        {step("inner", "IN", "inside")} {step("scale", "inside", "OUT")} }}""",
}


def repository(root: Path) -> Path:
    for name, config in CONFIGS.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(config)
        (root / name / "labels.txt").write_text("".join(f"{name} {number}\n" for number in range(4)))
    sources = {"scale": SCALE, "latest": SCALE, "sum": SUM, "warm": FIRST, "note": NOTE}
    for name, source in sources.items():
        versions = {"scale": (1, 3, 5), "latest": (1, 2, 10)}.get(name, (1,))
        for version in versions:
            (root / name / str(version)).mkdir(exist_ok=True)
            (root / name / str(version) / "model.py").write_text(HEADER + source)
    identity(root / "onnx/1/model.onnx", ("batch", 4))
    (root / "warm/warmup").mkdir()
    (root / "warm/warmup/first.bin").write_bytes(np.array([9, 8, 7, 6], np.float32).tobytes())
    (root / "note/notes").mkdir()
    (root / "note/notes/.hidden").write_bytes(b"\xff\x00 as it was")
    (root / "scale/configs").mkdir()
    (root / "scale/configs/small.pbtxt").write_text(CONFIGS["scale"].replace("max_batch_size: 4", "max_batch_size: 2"))
    return root


def request(values: list[list[float]], name: str = "IN", **more: Any) -> dict[str, Any]:
    tensor = {"name": name, "shape": [len(values), len(values[0])], "datatype": "FP32", "data": values}
    return {"inputs": [tensor], **more}


def requests() -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Paths and bodies, in the order in which they are sent; without a body they are read."""
    one, two = [[1.5, 2, 3, 4]], [[1.0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4]]
    for name in CONFIGS:
        yield f"/v2/models/{name}/config", None
        yield f"/v2/models/{name}", None
    binary: dict[str, Any] = {"parameters": {"binary_data_output": True}}
    for name in ("scale", "latest", "warm", "inner", "outer"):
        yield f"/v2/models/{name}/infer", request(two)
        yield f"/v2/models/{name}/infer", request(one, **binary)
        classes = {"name": "OUT", "parameters": {"classification": 2}}
        yield f"/v2/models/{name}/infer", request(one, outputs=[classes])
    for version in range(1, 11):
        yield f"/v2/models/scale/versions/{version}/infer", request(one)
        yield f"/v2/models/latest/versions/{version}/infer", request(one)
    yield "/v2/models/onnx/infer", request(two, "input")
    yield "/v2/models/note/infer", request([[1.0]], **binary)
    yield "/v2/models/scale/infer", request([[1.0, 2, 3]])
    for number, (sequence, start) in enumerate([(7, True), (8, True), (7, False), (8, False), (7, False), (8, True)]):
        parameters = {"sequence_id": sequence, "sequence_start": start, "sequence_end": number > 3}
        yield "/v2/models/sum/infer", request([[number, 0.5, 0, 0]], parameters=parameters)


@contextmanager
def served(root: Path, project: Path, *options: str) -> Iterator[HTTPConnection]:
    """A connection to a tritonserver that serves a repository."""
    project.mkdir()
    with up(project, root, server_args=options) as deployment:
        connection = HTTPConnection(deployment.http, timeout=30)
        yield connection
        connection.close()


def answers(connection: HTTPConnection) -> list[tuple[str, int, str | None, bytes]]:
    found = []
    for path, body in requests():
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        length = response.getheader("Inference-Header-Content-Length")
        found.append((path, response.status, length, response.read()))
    return found


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The old one, and the one that was built from its import."""
    folder = tmp_path_factory.mktemp("import")
    old, new = repository(folder / "old"), folder / "new"
    for argv in (
        ["import", old, "--output", folder / "spec.yaml"],
        # Nothing in it would be refused: it is built with all checks.
        ["build-repo", folder / "spec.yaml", "--output", new],
    ):
        done = CliRunner().invoke(app, [str(word) for word in argv])
        assert done.exit_code == 0, done.output
    return old, new


def test_an_imported_repository_answers_with_the_same_bytes(repositories: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = repositories
    for name in CONFIGS:
        assert parse((new / name / "config.pbtxt").read_text()) == parse((old / name / "config.pbtxt").read_text())
    with served(old, tmp_path / "old") as connection:
        before = answers(connection)
    with served(new, tmp_path / "new") as connection:
        after = answers(connection)
    assert after == before
    said = {(path, status): body for path, status, _, body in before}
    # What was asked meant something: versions, labels, warmup data, sequences and refusals are all in the answers.
    assert json.loads(said["/v2/models/scale/versions/5/infer", 200])["outputs"][0]["data"] == [7.5, 10, 15, 20]
    assert ("/v2/models/scale/versions/3/infer", 200) not in said
    assert ("/v2/models/latest/versions/1/infer", 200) not in said
    assert json.loads(said["/v2/models/latest/versions/2/infer", 200])["outputs"][0]["data"] == [3, 4, 6, 8]
    assert "outer 3" in json.loads(said["/v2/models/outer/infer", 200])["outputs"][0]["data"][0]
    assert b"\xff\x00 as it was" in said["/v2/models/note/infer", 200]
    warmed = next(body for path, _, _, body in before if path == "/v2/models/warm/infer")
    assert json.loads(warmed)["outputs"][0]["data"][:4] == [9, 8, 7, 6]
    sums = [json.loads(body)["outputs"][0]["data"] for path, _, _, body in before if path.endswith("/sum/infer")]
    assert sums == [[7, 0.5], [8, 1.5], [7, 3], [8, 5], [7, 7.5], [8, 5.5]]


def test_another_configuration_is_served_by_its_name(repositories: tuple[Path, Path], tmp_path: Path) -> None:
    _, new = repositories
    options = ("--model-config-name=small", "--model-control-mode=explicit", "--load-model=scale")
    with served(new, tmp_path / "small", *options) as connection:
        connection.request("GET", "/v2/models/scale/config")
        assert json.loads(connection.getresponse().read())["max_batch_size"] == 2
