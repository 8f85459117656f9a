"""Single processes are started again at somebody's request, from another terminal, and under load."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from chaos import Load
from serving import (
    FREE_PORTS,
    QUICK,
    deployment_of,
    echo_repository,
    foreground,
    left_of,
    plan,
    python_model,
    tritonkit,
    up,
    wait_for,
)

from tritonkit import serve
from tritonkit.errors import CommandFailed, LaunchFailed, TritonkitError, UsageError
from tritonkit.serve import Deployment, condition, control
from tritonkit.serve.control import ControlServer, ask
from tritonkit.serve.processes import Change, Plan, shown
from tritonkit.serve.restarts import Restarts
from tritonkit.serve.state import Claim
from tritonkit.serve.supervisor import Supervisor
from tritonkit.spec.servers import Server, is_of

# What is not read to its end is cut.
CUT = "connection reset"


def replicas(project: Path, **changes: object) -> Plan:
    return plan(project, echo_repository(project / "models"), servers=(Server("echo", replicas=2),), **changes)


def restart(deployment: Deployment, name: str) -> list[tuple[str, str]]:
    steps = ask(deployment.control, {"command": "restart", "server": name})
    return [(str(step["server"]), str(step["step"])) for step in steps]


def test_a_restart_from_another_terminal(tmp_path: Path) -> None:
    echo_repository(tmp_path / "models")
    with foreground(tmp_path, "models", "--stop-timeout", "0"):
        before = serve.running(tmp_path)
        done = tritonkit(tmp_path, "restart", "server")
        assert (done.returncode, done.stderr) == (0, "")
        assert [line.split()[2:4] for line in done.stdout.splitlines() if " s " in line] == [
            ["server", "restarting"],
            ["server", "ready"],
        ]
        after = serve.running(tmp_path)
        assert (after.servers[0].restarts, after.servers[0].reason, after.ready) == (1, "", True)
        assert after.servers[0].pid != before.servers[0].pid
        steps = json.loads(tritonkit(tmp_path, "restart", "server", "--json").stdout)
        assert [step["step"] for step in steps] == ["restarting", "ready"]
        missing = tritonkit(tmp_path, "restart", "sever")
        assert missing.returncode == 2
        assert "no process 'sever' runs here; did you mean 'server'?" in missing.stderr
        for request, words in (
            ({"command": "set", "server": "server", "percentage": 30}, "one server, on no GPU"),
            ({"command": "set", "server": "server", "percentage": "x"}, "'x' is no percentage"),
            ({"command": "restrat"}, "did you mean 'restart'?"),
        ):
            with pytest.raises(UsageError, match=words):
                list(ask(after.control, request))
    gone = tritonkit(tmp_path, "restart", "server")
    assert (gone.returncode, "no server runs" in gone.stderr) == (1, True)


def test_a_restart_that_fails_says_why(tmp_path: Path) -> None:
    repository = echo_repository(tmp_path / "models")
    with up(tmp_path, repository, policy=replace(QUICK, backoff=0.5)) as deployment:
        model = repository / "echo/1/model.py"
        good = model.read_text()
        model.write_text("import nosuchthing\n")
        with pytest.raises(LaunchFailed, match="No module named 'nosuchthing'") as caught:
            restart(deployment, "server")
        assert caught.value.exit_code == 5
        assert "Install what provides the module nosuchthing" in str(caught.value.hint)
        model.write_text(good)
        wait_for(lambda: deployment_of(tmp_path).ready)


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[tuple[Deployment, Load]]:
    """Two replicas behind the gateway, and four clients."""
    with serve.up(replicas(tmp_path, policy=replace(QUICK, stop_timeout=5))) as deployment:
        load = Load(deployment.http, deployment.grpc, 4, protocols=("http",))
        with load.running():
            wait_for(lambda: load.answered(0) > 50)
            yield deployment, load


def test_a_restart_behind_the_gateway_loses_no_request(tmp_path: Path, loaded: tuple[Deployment, Load]) -> None:
    deployment, load = loaded
    for name in ("echo-r0", "echo-r1"):
        assert restart(deployment, name) == [
            (name, "draining"), (name, "drained"), (name, "restarting"), (name, "ready"),
        ]  # fmt: skip
    assert restart(deployment, "gateway") == [("gateway", "reloaded")]
    assert [name for name, step in restart(deployment, "echo") if step == "ready"] == ["echo-r0", "echo-r1"]
    with pytest.raises(UsageError, match="no process 'nobody' runs here; known: echo-r0, echo-r1, gateway"):
        restart(deployment, "nobody")
    many = load.answered(0)
    wait_for(lambda: load.answered(0) > many + 50)
    assert load.failed(0) == []
    now = deployment_of(tmp_path)
    assert [server.restarts for server in now.servers] == [2, 2, 0]


def test_one_that_was_given_up_leaves_the_deployment_degraded_and_can_be_started_again(tmp_path: Path) -> None:
    planned = replicas(tmp_path, policy=replace(QUICK, max_restarts=0))
    with serve.up(planned) as first:
        pid = first.servers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        now = wait_for(lambda: degraded(tmp_path))
        assert (now.servers[0].phase, now.servers[1].phase, now.state) == ("failed", "ready", "degraded")
        assert all(held.release.alive for held in planned.held), "nobody else gets its ports meanwhile"
        shown = tritonkit(tmp_path, "status")
        assert shown.returncode == 1
        assert shown.stdout.startswith("degraded: echo-r0 was given up\n")
        assert restart(now, "echo-r0")[-1] == ("echo-r0", "ready")
        wait_for(lambda: deployment_of(tmp_path).state == "ready")
        assert tritonkit(tmp_path, "status").returncode == 0
    assert left_of(first.id) == []
    assert not any(held.release.alive for held in planned.held), "its ports are for others again"


def degraded(project: Path) -> Deployment | None:
    deployment = deployment_of(project)
    return deployment if deployment.servers[0].phase == "failed" else None


def test_a_change_that_fails_is_taken_back(tmp_path: Path) -> None:
    repository = echo_repository(tmp_path / "models")
    request = serve.Request(repository=repository, project=tmp_path, ports=FREE_PORTS, policy=QUICK)
    host = serve.survey(request)

    def replan(change: Change) -> Plan:
        # The percentage stands for what a machine without a GPU can change, too.
        assert change.thread_percentage is not None
        if change.thread_percentage < 50:
            return serve.plan(replace(request, log_verbose=1), host)
        return serve.plan(replace(request, server_args=("--nosuchflag=1",)), host)

    with serve.up(serve.plan(request, host), replan) as deployment:
        before = deployment.servers[0].pid
        list(ask(deployment.control, {"command": "set", "server": "server", "percentage": 30}))
        changed = deployment_of(tmp_path)
        assert changed.ready
        assert changed.servers[0].pid != before
        assert command(changed).count("--log-verbose=1") == 1
        with pytest.raises(LaunchFailed, match="server runs as before") as caught:
            list(ask(deployment.control, {"command": "set", "server": "server", "percentage": 60}))
        assert "nosuchflag" in str(caught.value)
        back = deployment_of(tmp_path)
        assert back.ready
        assert command(back).count("--log-verbose=1") == 1


def command(deployment: Deployment) -> list[str]:
    return Path(f"/proc/{deployment.servers[0].pid}/cmdline").read_text().split("\0")


@pytest.mark.parametrize(
    ("process", "entry", "meant"),
    [
        ("a", "a", True),
        ("a+", "a", True),
        ("a-r0", "a", True),
        ("a-gpu1", "a", True),
        ("a-gpu1-r12+", "a", True),
        ("a-gpu1-r12", "a-gpu1", True),
        ("a-ranker", "a", False),
        ("a-r", "a", False),
        ("a-gpus", "a", False),
        ("a-r0-gpu1", "a", False),
        ("ab", "a", False),
        ("b-r0", "a", False),
    ],
)
def test_the_processes_of_an_entry(process: str, entry: str, meant: bool) -> None:
    assert is_of(shown(process), entry) is meant


def test_a_server_whose_name_begins_like_another_ones_is_left_alone(tmp_path: Path) -> None:
    repository = python_model(echo_repository(tmp_path / "models"), "other")
    servers = (Server("a", models=("echo",), replicas=2), Server("a-ranker", models=("other",)))
    with serve.up(plan(tmp_path, repository, servers=servers)) as deployment:
        assert {name for name, _ in restart(deployment, "a")} == {"a-r0", "a-r1"}


def test_one_request_at_a_time(tmp_path: Path) -> None:
    with up(tmp_path, echo_repository(tmp_path / "models")) as deployment:
        first = ask(deployment.control, {"command": "restart", "server": "server"})
        assert next(first)["step"] == "restarting"
        with pytest.raises(UsageError, match="another restart is under way"):
            restart(deployment, "server")
        assert [step["step"] for step in first] == ["ready"]


def test_what_was_asked_for_is_done_though_nobody_waits(tmp_path: Path) -> None:
    with up(tmp_path, echo_repository(tmp_path / "models")) as deployment:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(deployment.control))
            connection.sendall(b'{"command": "restart", "server": "server"}\n')
        wait_for(lambda: deployment_of(tmp_path).servers[0].restarts == 1 and deployment_of(tmp_path).ready)
        assert condition.faults(deployment_of(tmp_path)) == {}


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Path]:
    def answer(request: object) -> Iterator[dict[str, object]]:
        yield {"said": request}
        raise TritonkitError("no", hint="yes")

    path = tmp_path / "s"
    server = ControlServer(path, answer)
    yield path
    server.close()
    with pytest.raises(TritonkitError, match="cannot be reached"):
        list(ask(path, {}))


def test_the_socket_is_for_its_user_alone(answering: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answering.stat().st_mode & 0o777 == 0o600
    answers = ask(answering, {"a": 1})
    assert next(answers) == {"said": {"a": 1}}
    with pytest.raises(TritonkitError, match="no") as caught:
        next(answers)
    assert caught.value.hint == "yes"
    for line in (b"", b"{\n", b"[]\n", b"\xff\n", b"x" * 100_000 + b"\n"):
        assert raw(answering, line).startswith(('{"error": "no request', CUT))
    # Another user's processes get no answer, and get none from us.
    monkeypatch.setattr(control, "peer", lambda _: 12345)
    with pytest.raises(TritonkitError, match="another user"):
        list(ask(answering, {}))
    assert raw(answering, b"{}\n") in {"", CUT}


OUT_OF_FILES = """
import os, resource, socket, sys, time
from pathlib import Path
from tritonkit.serve.control import ControlServer
server = ControlServer(Path("s"), lambda request: iter([{"said": request}]))
with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as connection:
    connection.settimeout(20)
    os.close(lowest := os.open(os.devnull, os.O_RDONLY))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    # The kernel has set a file aside for the first who comes, and has none for the second.
    silent.connect("s")
    connection.connect("s")
    connection.sendall(b'{"a": 1}' + bytes([10]))
    time.sleep(0.5)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    print(connection.makefile().readline())
"""


def test_who_asks_while_there_are_too_many_open_files_is_answered_later(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", OUT_OF_FILES]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ('{"said": {"a": 1}}', "")


def test_what_failed_keeps_its_exit_code(tmp_path: Path) -> None:
    def answer(_request: object) -> Iterator[dict[str, object]]:
        yield {}
        raise CommandFailed(["haproxy", "-c"], 1, "unknown keyword")

    server = ControlServer(tmp_path / "s", answer)
    with pytest.raises(TritonkitError, match="haproxy -c ended with exit code 1") as caught:
        list(ask(tmp_path / "s", {}))
    server.close()
    assert caught.value.exit_code == CommandFailed.exit_code


def raw(path: Path, line: bytes) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        try:
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
            return connection.makefile().read()
        except OSError:
            return CUT


def test_a_restart_that_waits_ends_with_a_supervisor_that_fails(tmp_path: Path) -> None:
    planned = plan(tmp_path, echo_repository(tmp_path / "models"))
    claim, armed, ready = Claim(tmp_path), threading.Event(), threading.Event()
    supervisor = Supervisor(planned, claim)
    failures: list[BaseException] = []

    def on_change(deployment: Deployment) -> None:
        if armed.is_set():
            raise ZeroDivisionError("the supervisor's loop")
        if deployment.ready:
            ready.set()

    def run() -> None:
        try:
            supervisor.run(on_change)
        except ZeroDivisionError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(60)
        armed.set()
        with pytest.raises(LaunchFailed, match="the deployment has ended meanwhile"):
            list(Restarts(supervisor).answer({"command": "restart", "server": "server"}))
    finally:
        supervisor.stop(at_once=True)
        thread.join(60)
        claim.release()
    assert len(failures) == 1
    assert left_of(planned.deployment) == []
