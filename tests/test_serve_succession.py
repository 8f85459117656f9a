"""A server behind the gateway that has no replica is started again, or changed, without a lost request.

It is on a GPU (made up, see ``fake_mps``) under an MPS daemon, with two models: one is asked by HTTP, one by gRPC.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import onnx_models
import pytest
from chaos import Load, Request
from gpu_machine import PROGRAM, UUIDS, pretend
from serving import ANY_PORTS, ECHO, FREE_PORTS, deployment_of, left_of, python_model, wait_for
from test_backends_onnxruntime import OWN_PROCESS
from test_chaos import IDENTITY_CONFIG

from tritonkit import serve
from tritonkit.errors import LaunchFailed, RequestFailed, UsageError
from tritonkit.serve import Deployment, Policy, condition, procfs, sharing
from tritonkit.serve.changing import replanner
from tritonkit.serve.control import ask
from tritonkit.serve.haproxy import HaproxySocket
from tritonkit.serve.phases import Phase, Process, State, put
from tritonkit.serve.restarts import Restarts
from tritonkit.serve.room import lack
from tritonkit.serve.runtime import runtime_directory
from tritonkit.serve.state import Claim
from tritonkit.serve.succession import took_over
from tritonkit.serve.supervisor import Supervisor
from tritonkit.serve.warden import mark, members
from tritonkit.spec.servers import Server

# A start that lasts long enough to be struck in the middle, and an answer that takes its time.
SLOW = ECHO.replace(
    "class TritonPythonModel:\n",
    "import time\nclass TritonPythonModel:\n    def initialize(self, _):\n        time.sleep(0.5)\n",
).replace("    def execute(self, requests):\n", "    def execute(self, requests):\n        time.sleep(0.02)\n")
PATIENT = Policy(start_timeout=60, stop_timeout=5, backoff=0.05, backoff_limit=0.2)
SERVERS = (
    Server("a", 0, ("echo", "identity"), (0,), 60),
    Server("b", 1, ("other",), (0,), 40),
)
SPEC = """
version: 1
models:
  echo:
    backend: python
    source: models/echo/1
    max_batch_size: 8
    input: {IN: "FP32[2]"}
    output: {OUT: "FP32[2]"}
    instance_group: [{count: 1, kind: KIND_CPU}]
  other:
    backend: python
    source: models/other/1
    max_batch_size: 8
    input: {IN: "FP32[2]"}
    output: {OUT: "FP32[2]"}
    instance_group: [{count: 1, kind: KIND_CPU}]
servers:
  - {name: a, models: [echo], gpus: [0], thread_percentage: 60}
  - {name: b, models: [other], gpus: [0], thread_percentage: 40}
"""
TAKEN_OVER = ["starting another process", "ready", "taking the requests", "the process before has ended"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pretend(monkeypatch, tmp_path)
    repository = python_model(tmp_path / "models", "echo", SLOW)
    python_model(repository, "other")
    (repository / "identity/1").mkdir(parents=True)
    (repository / "identity/config.pbtxt").write_text(IDENTITY_CONFIG + OWN_PROCESS)
    onnx_models.identity(repository / "identity/1/model.onnx", ("batch", 2))
    return tmp_path


def request(project: Path, **changes: object) -> serve.Request:
    asked = serve.Request(
        repository=project / "models", project=project, ports=FREE_PORTS, servers=SERVERS, mps="on", policy=PATIENT
    )
    return replace(asked, **changes)  # type: ignore[arg-type]


@contextmanager
def loaded(asked: serve.Request) -> Iterator[tuple[Deployment, Load]]:
    """The servers of a request, and four clients."""
    host = serve.survey(asked)
    with serve.up(serve.plan(asked, host), replanner(asked, host)) as deployment:
        load = Load(deployment.http, deployment.grpc, 4)
        with load.running():
            goes_on(load)
            yield deployment, load
    assert left_of(deployment.id) == []


def goes_on(load: Load) -> None:
    """Wait until each protocol is answered again."""
    now, several = time.monotonic(), 5
    for client in range(load.clients):
        wait_for(lambda: sum(one.client == client and not one.fault for one in since(load, now)) > several)  # noqa: B023


def since(load: Load, start: float) -> list[Request]:
    return [one for one in list(load.requests) if one.start >= start]


def told(deployment: Deployment, command: str, server: str, **more: object) -> list[str]:
    steps = ask(deployment.control, {"command": command, "server": server, **more})
    return [str(step["step"]) for step in steps]


def of(project: Path, name: str = "a") -> serve.state.ServerState:
    return next(server for server in deployment_of(project).servers if server.name == name)


def test_no_request_is_lost(project: Path) -> None:
    with loaded(request(project)) as (deployment, load), ExitStack() as kept:
        # Connections that are kept open, one of them in silence.
        silent = kept.enter_context(closing(HTTPConnection(deployment.http)))
        busy = kept.enter_context(asking_without_a_pause(deployment.http))
        assert answered(silent)
        before = of(project)
        steps = ask(deployment.control, {"command": "restart", "server": "a"})
        assert [next(steps)["step"] for _ in TAKEN_OVER[:3]] == TAKEN_OVER[:3]
        goes_on(load)
        # What it may still send is waited for.
        assert answered(silent)
        assert [step["step"] for step in steps] == TAKEN_OVER[3:]
        second = of(project)
        goes_on(load)
        # The percentages of what runs for a while sum to 160.
        assert told(deployment, "set", "a", percentage=20) == TAKEN_OVER
        third = of(project)
        goes_on(load)
        assert [(one.restarts, one.thread_percentage) for one in (before, second, third)] == [(0, 60), (1, 60), (2, 20)]
        assert len({one.pid for one in (before, second, third)}) == 3
        assert len({one.http for one in (before, second, third)}) == 3
        (daemon,) = sharing.daemons(deployment_of(project))
        clients = {(one.server, one.model, one.thread_percentage) for one in daemon.clients}
        named = {("a", ""): 20, ("a", "echo"): 20, ("a", "identity"): 20, ("b", ""): 40, ("b", "other"): 40}
        assert clients == {(*names, share) for names, share in named.items()}
        # What its environment says is what the daemon goes by.
        assert {percentage(pid) for pid in members(mark(deployment.id, "a"))} == {"20"}
        assert condition.faults(deployment_of(project)) == {}
        assert load.failed(0) == []
        assert load.wrong == []
        assert (busy.count(True) > 50, busy.count(False)) == (True, 0)


def answered(connection: HTTPConnection) -> bool:
    """Whether a request is answered by a connection as it is; one that has been closed without a word loses it."""
    body = {"inputs": [{"name": "IN", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    try:
        connection.request("POST", "/v2/models/echo/infer", json.dumps(body))
        answer = connection.getresponse()
        answer.read()
    except (OSError, HTTPException):
        connection.close()
        return False
    return answer.status == 200


@contextmanager
def asking_without_a_pause(address: str) -> Iterator[list[bool]]:
    """A client that uses one connection for as long as it is let, for the time of a block; whether it was answered."""
    found: list[bool] = []
    ended = threading.Event()

    def ask_on() -> None:
        with closing(HTTPConnection(address)) as connection:
            while not ended.is_set():
                found.append(answered(connection))

    thread = threading.Thread(target=ask_on)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def test_one_that_does_not_start_leaves_the_server_as_it_is(project: Path) -> None:
    model = project / "models/echo/1/model.py"
    good = model.read_text()
    with loaded(request(project)) as (deployment, load):
        before = of(project)
        model.write_text("import nosuchthing\n")
        for command, more in (("restart", {}), ("set", {"percentage": 20})):
            with pytest.raises(LaunchFailed, match="No module named 'nosuchthing'") as caught:
                told(deployment, command, "a", **more)
            assert str(caught.value.args[0]).endswith("\na runs as before.")
        model.write_text(good)
        goes_on(load)
        after = of(project)
        assert (after.pid, after.restarts, after.thread_percentage) == (before.pid, 0, 60)
        assert members(mark(deployment.id, "a+")) == []
        # Nothing of it is in the way of the next one.
        assert told(deployment, "set", "a", percentage=20) == TAKEN_OVER
        goes_on(load)
        assert load.failed(0) == []


@pytest.mark.parametrize("name", ["a+", "a"])
def test_one_of_both_is_killed_while_the_second_one_starts(project: Path, name: str) -> None:
    """The second one is given up, and the first one goes on; the first one is taken over from all the sooner."""
    with loaded(request(project)) as (deployment, load):
        before = of(project)
        steps = ask(deployment.control, {"command": "set", "server": "a", "percentage": 20})
        next(steps)
        pid = wait_for(lambda: server_process(deployment, name))
        struck = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        if name == "a":
            assert [step["step"] for step in steps] == TAKEN_OVER[1:]
        else:
            with pytest.raises(LaunchFailed, match=r"was ended by signal 9 before it was ready[^$]*runs as before"):
                list(steps)
            assert of(project).pid == before.pid
        goes_on(load)
        assert of(project).thread_percentage == (20 if name == "a" else 60)
        assert condition.faults(deployment_of(project)) == {}
        lost = [one for one in load.failed(0) if one.start < struck or name == "a+"]
        # What the killed one worked on: of each client one request.
        assert len(lost) <= (load.clients if name == "a" else 0), lost


def test_the_new_one_is_killed_once_it_has_taken_over(project: Path) -> None:
    with loaded(request(project)) as (deployment, load):
        steps = ask(deployment.control, {"command": "restart", "server": "a"})
        assert [next(steps)["step"] for _ in TAKEN_OVER[:3]] == TAKEN_OVER[:3]
        os.kill(wait_for(lambda: server_process(deployment, "a+")), signal.SIGKILL)
        assert [step["step"] for step in steps] == TAKEN_OVER[3:]
        wait_for(lambda: deployment_of(project).ready)
        assert (of(project).restarts, of(project).reason) == (2, "was ended by signal 9")
        goes_on(load)


def test_the_gateway_is_killed_meanwhile(project: Path) -> None:
    """It comes back with what it knew last, be it before the change or after it."""
    with loaded(request(project)) as (deployment, load):
        for step in (0, 2):
            steps = ask(deployment.control, {"command": "restart", "server": "a"})
            assert [next(steps)["step"] for _ in TAKEN_OVER[: step + 1]] == TAKEN_OVER[: step + 1]
            gateway = of(project, "gateway").pid
            assert gateway is not None
            os.kill(gateway, signal.SIGKILL)
            wait_for(lambda: of(project, "gateway").pid not in {None, gateway} and deployment_of(project).ready)  # noqa: B023
            goes_on(load)
            with suppress(LaunchFailed):
                list(steps)
            goes_on(load)
            assert condition.faults(deployment_of(project)) == {}


@pytest.mark.parametrize("step", [0, 2])
def test_kill_9_of_up_in_the_middle_leaves_nothing(project: Path, step: int) -> None:
    (project / "spec.yaml").write_text(SPEC)
    started = subprocess.Popen(
        [*PROGRAM, "up", "--mps", "on", *ANY_PORTS], cwd=project, stdout=subprocess.PIPE, text=True
    )
    with started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline().startswith("ready in")
            deployment = deployment_of(project)
            steps = ask(deployment.control, {"command": "restart", "server": "a"})
            assert [next(steps)["step"] for _ in range(step + 1)] == TAKEN_OVER[: step + 1]
            # The process before may have ended by the last step.
            wait_for(lambda: server_process(deployment, "a+") and (step == 2 or server_process(deployment, "a")))
        finally:
            started.kill()
    wait_for(lambda: not left_of(deployment.id))
    wait_for(lambda: not runtime_directory(deployment.id).exists())


def test_without_room_for_both_it_is_restarted_as_ever(project: Path) -> None:
    large = (replace(SERVERS[0], memory_limit=80 * 2**30), SERVERS[1])
    with loaded(request(project, servers=large)) as (deployment, _):
        before = of(project)
        steps = list(ask(deployment.control, {"command": "restart", "server": "a"}))
        said = [str(step["step"]) for step in steps]
        assert said == ["no room for another process", "draining", "drained", "restarting", "ready"]
        assert "GPU 0 has 140.4 GiB of memory, less than the limits on it: a 80GiB, a 80GiB" in str(steps[0]["reason"])
        assert of(project).http == before.http


def test_without_memory_for_both_it_is_restarted_as_ever(project: Path) -> None:
    asked = request(project)
    host = serve.survey(asked)
    planned = serve.plan(asked, host)
    (spec,) = (spec for spec in planned.processes if spec.name == "a")

    def fill(used: int, held: int | None) -> None:
        processes = [[pid, held and held * 2**30] for pid in members(spec.mark)[:3]]
        gpu = {"uuid": UUIDS[0], "total": 140 * 2**30, "used": used * 2**30, "processes": processes}
        (project / "gpus.json").write_text(json.dumps([gpu, {"uuid": UUIDS[1]}]))

    with serve.up(planned, replanner(asked, host)) as deployment:
        for used, held in ((90, 15), (90, None), (20, 40)):
            fill(used, held)
            assert lack(spec) == ""
        fill(90, 20)
        steps = list(ask(deployment.control, {"command": "set", "server": "a", "percentage": 20}))
        said = [str(step["step"]) for step in steps]
        assert said == ["no room for another process", "draining", "drained", "restarting", "ready"]
        assert steps[0]["reason"] == "GPU 0 has 50.0 GiB of memory left, and a holds 60.0 GiB of it"


def test_a_change_that_cannot_be_planned_ends_as_any_other_mistake(project: Path) -> None:
    with loaded(request(project)) as (deployment, _):
        with pytest.raises(UsageError, match="sum to 110, above 100") as caught:
            told(deployment, "set", "a", percentage=70)
        assert caught.value.exit_code == 2


def test_replicas_that_do_not_serve_are_changed_first(project: Path) -> None:
    """The one that serves is the only one: without it the models are away."""
    patient = replace(PATIENT, backoff=60, backoff_limit=60)
    asked = request(project, servers=(Server("a", 0, replicas=2, gpus=(0,), thread_percentage=30),), policy=patient)
    with loaded(asked) as (deployment, load):
        os.kill(of(project, "a-r0").pid or 0, signal.SIGKILL)
        wait_for(lambda: of(project, "a-r0").phase == "backoff")
        goes_on(load)
        steps = list(ask(deployment.control, {"command": "set", "server": "a", "percentage": 20}))
        again = [step["server"] for step in steps if step["step"] == "ready"]
        assert again == ["a-r0", "a-r1"]
        os.kill(of(project, "a-r1").pid or 0, signal.SIGKILL)
        wait_for(lambda: of(project, "a-r1").phase == "backoff")
        goes_on(load)
        began = time.monotonic()
        steps = list(ask(deployment.control, {"command": "set", "server": "a", "percentage": 30}))
        again = [step["server"] for step in steps if step["step"] == "ready"]
        assert again == ["a-r1", "a-r0"]
        goes_on(load)
        assert load.failed(began) == []


@contextmanager
def supervised(asked: serve.Request) -> Iterator[Supervisor]:
    """The servers of a request, once they are ready, under a supervisor of our own; ended at the end of the block."""
    host = serve.survey(asked)
    planned, claim, ready = serve.plan(asked, host), Claim(asked.project), threading.Event()
    supervisor = Supervisor(planned, claim, replanner(asked, host))

    def on_change(deployment: Deployment) -> None:
        if deployment.ready:
            ready.set()

    thread = threading.Thread(target=supervisor.run, args=(on_change,))
    thread.start()
    try:
        assert ready.wait(60)
        yield supervisor
    finally:
        supervisor.stop()
        thread.join(60)
        claim.release()
    assert left_of(planned.deployment) == []


def test_a_stop_in_the_middle_of_a_change_over(project: Path) -> None:
    """The gateway, once it is asked to end, starts no new worker, be it forth or back."""
    with supervised(request(project)) as supervisor, closing(HTTPConnection(supervisor.deployment.http)) as silent:
        assert answered(silent)
        steps = Restarts(supervisor).answer({"command": "restart", "server": "a"})
        assert [next(steps)["step"] for _ in TAKEN_OVER[:2]] == TAKEN_OVER[:2]
        supervisor.stop()
        supervisor.wait(lambda state: state.stopping)
        with pytest.raises(LaunchFailed, match="a: the deployment is stopping"):
            list(steps)
    log = supervisor.spec("gateway").log.read_text()
    assert log.count("New worker") == 1, log


def test_a_stop_does_not_wait_for_clients_that_are_silent(project: Path) -> None:
    with supervised(request(project, policy=replace(PATIENT, stop_timeout=60))) as supervisor:
        silent = HTTPConnection(supervisor.deployment.http)
        assert answered(silent)
        began = time.monotonic()
        supervisor.stop()
        supervisor.wait(lambda state: state.process("gateway").phase is Phase.STOPPED)
        assert time.monotonic() - began < 40, "the client is silent for a minute and more"
        silent.close()


def test_a_gateway_that_does_not_answer_for_a_moment_is_asked_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, may_follow = [], HaproxySocket.may_follow

    def fails_at_first(gateway: HaproxySocket, *arguments: Any, **more: Any) -> bool:
        asked.append(arguments)
        if len(asked) < 3:
            raise RequestFailed("no answer in time")
        return may_follow(gateway, *arguments, **more)

    monkeypatch.setattr(HaproxySocket, "may_follow", fails_at_first)
    with supervised(request(project)) as supervisor, closing(HTTPConnection(supervisor.deployment.http)) as silent:
        assert answered(silent)
        before = supervisor.state.process("a").pid
        told: list[str] = []
        steps = Restarts(supervisor).answer({"command": "restart", "server": "a"})
        thread = threading.Thread(target=lambda: told.extend(str(step["step"]) for step in steps))
        thread.start()
        wait_for(lambda: len(asked) > 5)
        assert before is not None
        assert procfs.start_ticks(before) is not None
        assert answered(silent)
        thread.join(60)
        assert told == TAKEN_OVER
        # Nothing of the old process is left over.
        assert {path.name for path in (project / ".tritonkit/views").iterdir()} == {"a+", "b"}


@pytest.mark.parametrize("phase", [Phase.READY, Phase.BACKOFF, Phase.FAILED])
def test_one_that_has_taken_over_has_done_so_whatever_becomes_of_it(phase: Phase) -> None:
    second = Process("a+", 0, phase=phase)
    state = State((second,), PATIENT)
    assert took_over("a+", state) == second
    assert took_over("a+", put(state, replace(second, aside=True))) == (
        replace(second, aside=True) if phase is Phase.FAILED else None
    )


def server_process(deployment: Deployment, name: str) -> int | None:
    """The tritonserver under that one of a server's two names."""
    found = members(mark(deployment.id, name))
    return next((pid for pid in found if (procfs.arguments(pid) or [""])[0].endswith("/tritonserver")), None)


def percentage(pid: int) -> str:
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(one.split("=", 1) for one in variables if one)["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"]
