"""Every kind of process is killed and stopped under load: the deployment recovers each time, and loses next to nothing.

Two servers, each on a GPU of its own under an MPS daemon of its own (the GPUs are made up, see ``fake_mps``), serve
the same two models behind the gateway. What may be lost is what was in flight on a process when it ended, or was sent
to one that a signal had stopped before that was noticed; of each client, which has one request at a time, one at most.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import onnx_models
import pytest
from chaos import KINDS, SIGNALS, Ends, Load, Request, victim, wardens
from gpu_machine import pretend
from serving import ECHO, FREE_PORTS, deployment_of, left_of, python_model, wait_for

from tritonkit import serve
from tritonkit.errors import RequestFailed
from tritonkit.serve import Deployment, Policy, condition, haproxy, health
from tritonkit.serve.procfs import is_running, start_ticks
from tritonkit.serve.runtime import runtime_directory
from tritonkit.serve.warden import mark, members

CLIENTS = 6
# Seconds that may pass until this test learns of an end.
MARGIN = 0.5
# Seconds in which a process that was stopped is noticed: until then it is sent requests, and answers none.
NOTICED = 1.0
IDENTITY_CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "input" data_type: TYPE_FP32 dims: [2] }]
output [{ name: "output" data_type: TYPE_FP32 dims: [2] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""
SLOW_ECHO = ECHO.replace(
    "    def execute(self, requests):\n", "    def execute(self, requests):\n        time.sleep(0.01)\n"
)
PATIENT = Policy(start_timeout=60, stop_timeout=5, backoff=0.05, backoff_limit=0.2, max_restarts=10_000)


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, tmp_path)


def planned(project: Path) -> serve.Plan:
    repository = python_model(project / "models", "echo", f"import time\n{SLOW_ECHO}")
    (repository / "identity/1").mkdir(parents=True)
    (repository / "identity/config.pbtxt").write_text(IDENTITY_CONFIG)
    onnx_models.identity(repository / "identity/1/model.onnx", ("batch", 2))
    request = serve.Request(
        repository=repository, project=project, ports=FREE_PORTS, gpus=("0", "1"), mps="on", policy=PATIENT
    )
    return serve.plan(request, serve.survey(request))


def well(project: Path, restarts: int) -> Deployment | None:
    """The deployment, when all of it serves and its processes were restarted so often."""
    deployment = deployment_of(project)
    if not deployment.ready or restarts_of(deployment) < restarts or condition.faults(deployment):
        return None
    (gateway,) = (server for server in deployment.servers if server.kind == "gateway")
    assert gateway.control is not None
    try:
        states = haproxy.HaproxySocket(gateway.control).states()
    except RequestFailed:
        return None
    return deployment if set(states.values()) == {"UP"} else None


def restarts_of(deployment: Deployment) -> int:
    return sum(server.restarts for server in deployment.servers)


@pytest.mark.alone
def test_every_kind_of_process_is_struck(tmp_path: Path, two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is stopped is left alone for less time than people are granted.
    monkeypatch.setattr(health, "STOPPED", 0.3)
    chance = random.Random(6)  # noqa: S311
    strikes = [(kind, number) for kind in KINDS for number in SIGNALS]
    chance.shuffle(strikes)
    endure(tmp_path, strikes, chance)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_a_hundred_strikes(tmp_path: Path, two_gpus: None) -> None:
    seed = int(os.environ.get("CHAOS_SEED", time.time()))
    print(f"CHAOS_SEED={seed}")
    chance = random.Random(seed)  # noqa: S311
    endure(tmp_path, [(chance.choice(KINDS), chance.choice(SIGNALS)) for _ in range(100)], chance)


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_every_kind_of_process_is_struck_on_two_gpus(tmp_path: Path) -> None:
    """The same with the real MPS daemons and tritonservers as their clients; needs two GPUs and HAProxy."""
    chance = random.Random(6)  # noqa: S311
    strikes = [(kind, number) for kind in KINDS for number in SIGNALS]
    endure(tmp_path, strikes, chance)


def endure(project: Path, strikes: list[tuple[str, signal.Signals]], chance: random.Random) -> None:
    plan = planned(project)
    lost: Counter[str] = Counter()
    with serve.up(plan) as first:
        load = Load(first.http, first.grpc, CLIENTS)
        with load.running():
            wait_for(lambda: load.answered(0) > 100)
            for number, (kind, how) in enumerate(strikes):
                failed = strike(project, load, kind, how, chance, f"{number + 1:3}")
                lost[f"{kind} {how.name}"] += len(failed)
    answered = load.answered(0)
    print(f"{len(strikes)} strikes, {answered} requests answered, {sum(lost.values())} lost: {dict(lost)}")
    assert load.wrong == []
    assert left_of(plan.deployment) == []
    assert not runtime_directory(plan.deployment).exists()


def strike(
    project: Path, load: Load, kind: str, how: signal.Signals, chance: random.Random, number: str
) -> list[Request]:
    """Strike at one process, and wait until all is well again; the requests that were lost meanwhile."""
    deployment = wait_for(lambda: well(project, 0), seconds=60)
    restarts = restarts_of(deployment) + (kind != "warden")
    pid = victim(kind, deployment, os.getpid(), chance)
    ticks = start_ticks(pid) or 0
    time.sleep(chance.uniform(0.1, 0.5))
    with Ends(members(mark(deployment.id))) as ends:
        struck = time.monotonic()
        os.kill(pid, how)
        wait_for(lambda: not is_running(pid, ticks), seconds=60)
        gone = time.monotonic()
        wait_for(lambda: well(project, restarts), seconds=60)
        wait_for(lambda: wardens(os.getpid()))
        recovered = time.monotonic()
        wait_for(lambda: load.answered(recovered) > 2 * CLIENTS)
    lost = load.failed(struck)
    print(
        f"{number} {kind} {how.name}: gone in {gone - struck:.1f} s, well in {recovered - struck:.1f} s,",
        f"{len(lost)} lost",
        sorted(Counter(request.fault[:90] for request in lost).items()),
        [(request.client, round(request.start - struck, 3), round(request.end - struck, 3)) for request in lost],
        sorted({round(end - struck, 3) for end in ends.times}),
        flush=True,
    )
    for request in lost:
        in_flight = [end for end in ends.times if request.start - MARGIN <= end <= request.end + MARGIN]
        unnoticed = how is signal.SIGSTOP and request.start <= struck + NOTICED
        assert in_flight or unnoticed, f"{request} was not in flight when a process ended, {ends.times}"
    assert len({request.client for request in lost}) == len(lost), "somebody lost more than was in flight"
    return lost
