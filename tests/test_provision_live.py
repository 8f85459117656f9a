"""``tritonkit autoscale`` on servers that share a GPU: on the fake daemon here, and with ``-m gpu`` on the real one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tritonclient.grpc as triton
import yaml
from asking import ask
from gpu_machine import gpu_machine
from serving import FREE_PORTS, deployment_of, left_of
from test_backends_onnxruntime import linear
from test_mps_gpu import ANYWHERE, PATIENT, X
from typer.testing import CliRunner

from tritonkit import serve
from tritonkit.cli.app import app
from tritonkit.provision.profiles import Key, Row, write
from tritonkit.serve.changing import replanner
from tritonkit.serve.sharing import daemons
from tritonkit.spec.servers import Server

__all__ = ["gpu_machine"]
MODELS = ("large", "small")
BATCHES = (1, 2, 4, 8)
RATE = 20.0

pytestmark = pytest.mark.timeout(300)


def project(folder: Path) -> None:
    """A spec with objectives, the plan that serves it, and a profile in which an item takes 600 ms of one percent."""
    models = {
        name: {
            "backend": "onnxruntime",
            "max_batch_size": 8,
            "dynamic_batching": {},
            "slo": {"latency_p99": "900ms", "rate": f"{RATE:g}/s"},
        }
        for name in MODELS
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump({"version": 1, "models": models}))
    servers = [{"name": name, "models": [name], "gpus": [0], "thread_percentage": 30} for name in MODELS]
    (folder / "plan.yaml").write_text(yaml.safe_dump({"version": 1, "servers": servers}))
    rows = [
        Row(Key(name, percentage, batch), 600 * batch / percentage)
        for name in MODELS
        for percentage in (10.0, 30.0, 60.0, 100.0)
        for batch in BATCHES
    ]
    write(folder / "profiles.csv", rows)


@contextmanager
def load(deployment: serve.Deployment, model: str, rate: float) -> Iterator[None]:
    """Requests to a model at a steady rate; those that meet a server that starts again are lost."""
    over = threading.Event()

    def send() -> None:
        with triton.InferenceServerClient(deployment.grpc) as client:
            due = time.monotonic()
            while not over.is_set():
                due += 1 / rate
                time.sleep(max(due - time.monotonic(), 0))
                try:
                    ask(client, model, {"x": X})
                except triton.InferenceServerException:
                    time.sleep(0.05)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_percentages_follow_the_load(gpu_machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project(tmp_path)
    repository = tmp_path / "models"
    for name in MODELS:
        linear(repository, name, ANYWHERE)
    servers = tuple(Server(name, number, (name,), (0,), 30) for number, name in enumerate(MODELS))
    request = serve.Request(
        repository=repository, project=tmp_path, servers=servers, gpus=("0",), ports=FREE_PORTS, policy=PATIENT
    )
    host = serve.survey(request)
    line = ["autoscale", "spec.yaml", "plan.yaml", "--interval", "2", "--rest", "0", "--looks", "2", "--json"]
    with (
        serve.up(serve.plan(request, host), replanner(request, host)) as deployment,
        load(deployment, "small", 3 * RATE),
    ):
        before = {server.name: server.pid for server in deployment.servers}
        dry = CliRunner().invoke(app, [*line, "--dry-run"])
        assert dry.exit_code == 0, dry.output
        assert {server.name: server.pid for server in deployment_of(tmp_path).servers} == before
        done = CliRunner().invoke(app, line)
        assert done.exit_code == 0, done.output
        after = {server.name: server for server in deployment_of(tmp_path).servers}
        (daemon,) = daemons(deployment_of(tmp_path))
        shares = {client.server: client.thread_percentage for client in daemon.clients}
    assert left_of(deployment.id) == []
    for result, applied in ((dry, False), (done, True)):
        first = json.loads(result.stdout.splitlines()[0])
        assert first["rates"]["small"] == pytest.approx(3 * RATE, rel=0.25)
        assert first["reasons"][0].startswith("small: ")
        (change,) = first["changes"]
        assert change.startswith("small on GPU 0: 30 % -> ")
        assert first["applied"] is applied
    # 60 requests a second and a quarter more are 450 percent milliseconds each: more than half of the GPU.
    percentage = float(change.removesuffix(" %").rpartition(" ")[2])
    assert 50 <= percentage <= 70
    assert after["small"].thread_percentage == shares["small"] == percentage
    assert after["small"].pid != before["small"]
    assert (after["large"].pid, after["large"].thread_percentage) == (before["large"], 30)
    assert all(server.phase == "ready" for server in after.values())
