"""``tritonkit autoscale`` on servers that share a GPU: on the fake daemon here, and with ``-m gpu`` on the real one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
import yaml
from asking import ask
from gpu_machine import gpu_machine
from serving import FREE_PORTS, deployment_of, left_of
from test_backends_onnxruntime import linear
from test_mps_gpu import ANYWHERE, PATIENT, X
from typer.testing import CliRunner, Result

from tritonkit import serve
from tritonkit.cli.app import app
from tritonkit.provision.profiles import Key, Row, write
from tritonkit.serve import control, gpus
from tritonkit.serve.changing import replanner
from tritonkit.serve.sharing import daemons
from tritonkit.spec.servers import Server

__all__ = ["gpu_machine"]
MODELS = ("large", "small")
BATCHES = (1, 2, 4, 8)
RATE = 20.0

pytestmark = pytest.mark.timeout(300)


def project(folder: Path, servers: Sequence[Server], *others: str) -> serve.Request:
    """A spec with objectives, the plan that serves it, and a profile in which an item takes 600 ms of one percent.

    ``others`` are models without an objective.
    """
    plain = {"backend": "onnxruntime", "max_batch_size": 8, "dynamic_batching": {}}
    objective = {"latency_p99": "900ms", "rate": f"{RATE:g}/s"}
    models = {**{name: {**plain, "slo": objective} for name in MODELS}, **dict.fromkeys(others, plain)}
    (folder / "spec.yaml").write_text(yaml.safe_dump({"version": 1, "models": models}))
    entries = [
        {
            "name": each.name,
            "models": list(each.models or ()),
            "gpus": list(each.gpus or ()),
            "thread_percentage": each.thread_percentage,
        }
        for each in servers
    ]
    (folder / "plan.yaml").write_text(yaml.safe_dump({"version": 1, "servers": entries}))
    rows = [
        Row(Key(name, percentage, batch), 600 * batch / percentage)
        for name in MODELS
        for percentage in (10.0, 30.0, 60.0, 100.0)
        for batch in BATCHES
    ]
    write(folder / "profiles.csv", rows)
    for name in models:
        linear(folder / "models", name, ANYWHERE)
    chosen = sorted({str(gpu) for each in servers for gpu in each.gpus or ()})
    return serve.Request(
        repository=folder / "models", project=folder, servers=tuple(servers), gpus=tuple(chosen), ports=FREE_PORTS,
        policy=PATIENT,
    )  # fmt: skip


@contextmanager
def up(request: serve.Request) -> Iterator[serve.Deployment]:
    """Serve, taking changes, and see that nothing is left of it."""
    host = serve.survey(request)
    with serve.up(serve.plan(request, host), replanner(request, host)) as deployment:
        yield deployment
    assert left_of(deployment.id) == []


@contextmanager
def load(deployment: serve.Deployment, model: str, rate: float) -> Iterator[Counter[str]]:
    """Requests to a model at a steady rate; counts how they end: ``answered`` or ``lost``.

    What a stall of the machine has kept back is not made up for but for a little: no look is told of much more.
    """
    over = threading.Event()
    ends: Counter[str] = Counter()

    def send() -> None:
        with triton.InferenceServerClient(deployment.grpc) as client:
            due = time.monotonic()
            while not over.is_set():
                due = max(due, time.monotonic() - 0.25) + 1 / rate
                time.sleep(max(due - time.monotonic(), 0))
                try:
                    ask(client, model, {"x": X})
                    ends["answered"] += 1
                except triton.InferenceServerException:
                    ends["lost"] += 1
                    time.sleep(0.05)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield ends
    finally:
        over.set()
        thread.join()


def followed(*options: str) -> Result:
    """``tritonkit autoscale`` in the working directory."""
    line = ["autoscale", "spec.yaml", "plan.yaml", "--interval", "2", "--rest", "0", *options]
    return CliRunner().invoke(app, line)


def growing(*options: str) -> list[Any]:
    """The looks of ``tritonkit autoscale``, all of which had something to change.

    Where a stall of the machine has left one of them with too little, they are had again.
    """
    for _ in range(5):
        done = followed("--interval", "4", "--json", *options)
        assert done.exit_code == 0, done.output
        looks = [json.loads(text) for text in done.stdout.splitlines()]
        if all(look["changes"] for look in looks):
            break
    return looks


def needed(rate: float) -> float:
    """The percentages that are busy all the time with a quarter more than this rate."""
    return 1.25 * rate * 600 / 1000


def state(folder: Path) -> dict[str, serve.ServerState]:
    return {server.name: server for server in deployment_of(folder).servers}


def test_percentages_follow_the_load(gpu_machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = project(tmp_path, [Server(name, number, (name,), (0,), 30) for number, name in enumerate(MODELS)])
    with up(request) as deployment, load(deployment, "small", 3 * RATE) as ends:
        before = state(tmp_path)
        dry = growing("--looks", "2", "--dry-run")
        assert {name: server.pid for name, server in state(tmp_path).items()} == {
            name: server.pid for name, server in before.items()
        }
        (done,) = growing("--looks", "1")
        after = state(tmp_path)
        (daemon,) = daemons(deployment_of(tmp_path))
        shares = {client.server: client.thread_percentage for client in daemon.clients}
    assert not ends["lost"], "a new process takes over from the one that runs"
    assert ends["answered"] > 0
    looks = [*dry, done]
    for look in looks:
        # A look without a change made finds the same again.
        assert look["rates"]["small"] < 3 * RATE * 1.25
        assert look["reasons"][0].startswith("small: ")
        (change,) = look["changes"]
        assert change.startswith("small on GPU 0: 30 % -> ")
    assert [look["applied"] for look in looks] == [False, False, True]
    percentage = float(change.removesuffix(" %").rpartition(" ")[2])
    least = needed(done["rates"]["small"])
    assert least < percentage < least + 20
    assert after["small"].thread_percentage == shares["small"] == percentage
    assert after["small"].pid != before["small"].pid
    assert (after["large"].pid, after["large"].thread_percentage) == (before["large"].pid, 30)
    assert all(server.phase == "ready" for server in after.values())


def test_replicas_lose_nothing_and_what_has_no_slo_gives_way(
    gpu_machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = gpus.inventory()
    if len(here) < 2:
        pytest.skip(f"needs two GPUs, and {len(here)} is here")
    monkeypatch.chdir(tmp_path)
    request = project(
        tmp_path,
        [
            Server("large", 0, ("large",), (here[1].uuid,), 30),
            Server("small", 1, ("small",), (0, 1), 10),
            Server("rest", 2, ("free",), (0,), 90),
        ],
        "free",
    )
    made: list[float] = []

    def timed(path: Path, request: Mapping[str, object]) -> Iterator[control.Answer]:
        yield from ask_supervisor(path, request)
        made.append(time.monotonic())

    ask_supervisor = control.ask
    monkeypatch.setattr(control, "ask", timed)
    with up(replace(request, gpus=("0", "1"))) as deployment, load(deployment, "small", 3 * RATE) as ends:
        done = followed("--looks", "2", "--interval", "6", "--rest", "60")
        since = time.monotonic() - made[-1]
        assert done.exit_code == 0, done.output
        time.sleep(1)
        after = state(tmp_path)
    assert not ends["lost"]
    assert ends["answered"] > 0
    given = {name: server.thread_percentage for name, server in after.items() if server.kind == "server"}
    first, second = (given[f"small-gpu{gpu}"] or 0 for gpu in (0, 1))
    lines = [line.strip() for line in done.stdout.splitlines()]
    rates = re.search(r" small: ([0-9.]+)/s", lines[0])
    assert rates is not None
    # Each has half of the requests; the second one has a neighbour with an objective.
    least = needed(float(rates[1]) / 2)
    assert least < first <= second < least + 20
    assert (given["large"], given["rest"]) == (30, 100 - first)
    assert lines[1:-1] == [
        f"changing rest on GPU 0: 90 % -> {100 - first:g} %",
        f"changing small on GPU 0: 10 % -> {first:g} %",
        f"changing small on GPU 1: 10 % -> {second:g} %",
    ]
    rests = re.search(r"small [0-9.]+/s: resting for ([0-9]+) s more$", lines[-1])
    # Since the last of three changes, each of which took seconds; in whole seconds.
    assert rests is not None
    assert int(rests[1]) >= 60 - since - 1


def test_what_somebody_else_restarts_meanwhile_is_waited_for(
    gpu_machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"large": ("large", 30), "small": ("small", 10), "rest": ("free", 60)}
    servers = [Server(name, number, (model,), (0,), at) for number, (name, (model, at)) in enumerate(names.items())]
    others: list[Iterator[control.Answer]] = []
    steps: list[str] = []

    def interrupted(path: Path, request: Mapping[str, object]) -> Iterator[control.Answer]:
        """Before the second of two changes somebody restarts another server; that is over when it is tried again."""
        if request["server"] == "small" and others:
            steps.extend(answer["step"] for answer in others[0])
        elif request["server"] == "small":
            others.append(ask_supervisor(path, {"command": "restart", "server": "large"}))
            next(others[0])
        return ask_supervisor(path, request)

    ask_supervisor = control.ask
    with up(project(tmp_path, servers, "free")) as deployment, load(deployment, "small", 2 * RATE) as ends:
        before = state(tmp_path)
        monkeypatch.setattr(control, "ask", interrupted)
        words = ""
        # A look that a stall of the machine has left with too little changes nothing.
        for _ in range(5):
            done = followed("--looks", "3", "--interval", "4")
            assert done.exit_code == 0, done.output
            words += " ".join(done.output.split())
            if steps:
                break
        assert steps[-1] == "the process before has ended"
        after = state(tmp_path)
    assert not ends["lost"]
    assert re.search("not changed yet: small on GPU 0: 10 % -> [0-9]+ %: another restart is under way", words)
    # The change before it was made once, and it was looked for again until it was made.
    assert words.count("changing rest on GPU 0: 60 % -> ") == 1
    # A later look may be told of more, and change it once more.
    tried = re.findall("changing small on GPU 0: ([0-9]+) % -> ([0-9]+) %", words)
    assert [before for before, _ in tried[:2]] == ["10", "10"]
    last = float(tried[-1][1])
    assert [after[name].thread_percentage for name in names] == [30, last, 70 - last]
    assert after["large"].pid != before["large"].pid


def test_following_ends_when_what_it_follows_does(
    gpu_machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    request = project(tmp_path, [Server(name, number, (name,), (0,), 30) for number, name in enumerate(MODELS)])
    line = [sys.executable, "-m", "tritonkit", "autoscale", "spec.yaml", "plan.yaml", "--interval", "0.5"]
    with up(request):
        following = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert following.stdout is not None
        assert "within the dead band" in following.stdout.readline()
        (tmp_path / "other.yaml").write_text((tmp_path / "plan.yaml").read_text().replace("small", "large", 1))
        refused = CliRunner().invoke(app, ["autoscale", "spec.yaml", "other.yaml"])
        assert refused.exit_code == 2, refused.output
    _, words = following.communicate(timeout=30)
    assert (following.returncode, "the deployment has ended" in words) == (5, True), words
