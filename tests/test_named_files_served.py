"""The real tritonserver finds every named file where a build puts it, and misses it anywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from oracle import PYTHON_MODEL, Oracle, oracle
from typer.testing import CliRunner

from tritonkit.cli.app import app

SPEC = """\
version: 1
models:
  m:
    backend: python
    source: model.py
    max_batch_size: 1
    input: {a: "FP32[1]"}
    output: {b: {data_type: TYPE_FP32, dims: [1], label_filename: data/labels}}
    instance_group: [{kind: KIND_CPU, count: 1}]
    model_warmup:
      - {name: w, batch_size: 1, inputs: {a: {data_type: TYPE_FP32, dims: [1], input_data_file: data/warm}}}
    sequence_batching:
      control_input: [{name: S, control: [{kind: CONTROL_SEQUENCE_START, fp32_false_true: [0, 1]}]}]
      state:
        - input_name: i
          output_name: o
          data_type: TYPE_FP32
          dims: [1]
          initial_state: [{name: n, data_type: TYPE_FP32, dims: [1], data_file: data/state}]
"""

ENSEMBLE = """platform: "ensemble" input { name: "a" data_type: TYPE_FP32 dims: 1 }
output { name: "b" data_type: TYPE_FP32 dims: 1 } ensemble_scheduling { step { model_name: "m" model_version: -1
input_map { key: "a" value: "a" } output_map { key: "b" value: "b" } } }"""
MEMBER = """backend: "python" input { name: "a" data_type: TYPE_FP32 dims: 1 }
output { name: "b" data_type: TYPE_FP32 dims: 1 } instance_group { kind: KIND_CPU count: 1 }"""


@pytest.fixture(scope="module")
def judge() -> Iterator[Oracle]:
    with oracle() as judge:
        yield judge


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("named")
    (folder / "spec.yaml").write_text(SPEC)
    (folder / "model.py").write_text(PYTHON_MODEL)
    (folder / "data").mkdir()
    for name in ("labels", "warm", "state"):
        (folder / "data" / name).write_bytes(b"\0\0\0\0")
    # Without the check: implicit state is loaded here, and then answers wrongly.
    done = CliRunner().invoke(app, ["build-repo", str(folder / "spec.yaml"), "--no-check"])
    assert done.exit_code == 0, done.output
    root = folder / "model_repository"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.glob("m/**/*") if path.is_file()}


def test_every_file_is_found(judge: Oracle, built: dict[str, bytes]) -> None:
    assert judge.ask(built, "m").loads


@pytest.mark.parametrize("path", ["m/labels", "m/warmup/warm", "m/initial_state/state"])
def test_a_file_is_missed_anywhere_else(judge: Oracle, built: dict[str, bytes], path: str) -> None:
    elsewhere = {**built, f"m/elsewhere/{Path(path).name}": built[path]}
    del elsewhere[path]
    verdict = judge.ask(elsewhere, "m")
    assert not verdict.loads
    assert f"/{path}: No such file or directory" in verdict.said


@pytest.mark.parametrize(
    ("folder", "loads"), [("1", True), ("0", True), ("2_old", True), ("-1", True), ("old", False), ("01", False)]
)
def test_which_folders_are_versions(judge: Oracle, folder: str, loads: bool) -> None:
    files = {"m/config.pbtxt": MEMBER, "m/1/model.py": PYTHON_MODEL, "e/config.pbtxt": ENSEMBLE, f"e/{folder}/": ""}
    verdict = judge.ask(files, "e")
    assert verdict.loads is loads, verdict.said
