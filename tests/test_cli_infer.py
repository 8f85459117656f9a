"""``tritonkit infer`` against a real server."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from measured import png
from serving import tritonkit

from tritonkit.serve import Deployment
from tritonkit.serve.state import Claim, began
from tritonkit.tools.perf_analyzer import PerfAnalyzer


def test_values_as_a_table_from_the_projects_own_server(measured_server: Deployment) -> None:
    done = tritonkit(measured_server.project, "infer", "add", "-i", "X=[1, 2, 3, 4]")
    assert (done.returncode, done.stderr) == (0, "")
    header, _, row = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert header == ["output", "datatype", "shape", "values"]
    assert row == ["Y", "FP32", "1x4", "2,", "3,", "4,", "5"]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_batch_of_image_files_as_json(measured_server: Deployment, tmp_path: Path, protocol: str) -> None:
    for index, width in enumerate((3, 5)):
        png(tmp_path / f"{index}.png", width, 2)
    address = ("--url", measured_server.http, "--grpc-url", measured_server.grpc, "--protocol", protocol)
    done = tritonkit(tmp_path, "infer", "image", "-i", "IMAGE=@*.png", "--json", *address)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "model": "image",
        "outputs": [{"name": "SIZE", "datatype": "INT32", "shape": [2, 2], "values": [[3, 2], [5, 2]]}],
    }


def test_classes(measured_server: Deployment) -> None:
    done = tritonkit(measured_server.project, "infer", "add", "-i", "X=[1, 9, 3, 4]", "--classes", "2")
    title, header, _, *rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert (title, header) == (["Y"], ["index", "label", "score"])
    assert rows == [["1", "one", "10"], ["3", "three", "5"]]
    as_json = tritonkit(measured_server.project, "infer", "add", "-i", "X=[1, 9, 3, 4]", "-c", "1", "--json")
    assert json.loads(as_json.stdout)["outputs"][0]["classes"] == [[{"index": 1, "label": "one", "score": 10.0}]]


def test_long_answers_are_abbreviated(measured_server: Deployment) -> None:
    batch = json.dumps([[0, 1, 2, 3]] * 8)
    done = tritonkit(measured_server.project, "infer", "add", "-i", f"X={batch}")
    assert "1, 2, 3, 4, 1, 2, 3, 4, ... (32 in all)" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("ad",), 2, "did you mean 'add'?"),
        (("add",), 2, "input X: no value is given, and the model needs it (FP32[4])"),
        (("add", "-i", "Y=[1]"), 2, "input Y: the model has no such input; known: X"),
        (("add", "-i", "X=[1, 2]"), 2, "got FP32[2], and the model takes FP32[4]"),
        (("add", "-i", "X"), 2, "expected NAME=@file or NAME=json, got 'X'"),
        (("image", "-i", "IMAGE=hello"), 1, "refused the request: not an image"),
        (("image", "-i", "IMAGE=@nothing.png"), 2, "no such file: nothing.png"),
        (("moody", "-i", "X=[-4]", "--timeout", "0.001"), 1, "no answer"),
        (("add", "-i", "X=[1]", "--url", "nowhere:port"), 2, "is not the address of a server"),
    ],
)
def test_faults(measured_server: Deployment, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = tritonkit(measured_server.project, "infer", *arguments)
    assert done.returncode == code
    assert said in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_no_server(tmp_path: Path) -> None:
    done = tritonkit(tmp_path, "infer", "add", "-i", "X=[1]")
    assert done.returncode == 1
    assert "no server runs in" in done.stderr
    assert "tritonkit up" in done.stderr


@pytest.mark.parametrize("arguments", [("infer", "add", "-i", "X=[1]"), ("bench", "add")])
def test_a_deployment_that_is_starting(
    measured_server: Deployment, perf_analyzer: PerfAnalyzer, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        starting = replace(
            measured_server,
            http=f"127.0.0.1:{taken.getsockname()[1]}",
            project=tmp_path,
            pid=os.getpid(),
            began=began(os.getpid()),
            ready=False,
            servers=(replace(measured_server.servers[0], phase="starting"),),
        )
        claim = Claim(tmp_path)
        claim.write(starting)
        try:
            done = tritonkit(tmp_path, *arguments)
        finally:
            claim.release()
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert f"the deployment of {tmp_path} is still starting (server: starting)" in said
    assert "tritonkit status" in said
