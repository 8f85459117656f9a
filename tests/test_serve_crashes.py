"""Whatever dies, and however: what can go on goes on, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from serving import (
    ECHO,
    deployment_of,
    echo_repository,
    foreground,
    left_of,
    plan,
    python_model,
    stubs,
    tritonkit,
    up,
    wait_for,
)

from tritonkit import serve
from tritonkit.client.endpoint import Endpoint
from tritonkit.errors import LaunchFailed, RequestFailed
from tritonkit.serve import Deployment, Policy, running
from tritonkit.serve.procfs import is_running, start_ticks
from tritonkit.serve.state import Claim
from tritonkit.serve.warden import mark, members


def recovered(project: Path, before: int | None) -> Deployment | None:
    now = deployment_of(project)
    return now if now.ready and now.servers[0].pid != before else None


def test_kill_9_of_tritonserver_and_then_of_a_stub(tmp_path: Path) -> None:
    with up(tmp_path, echo_repository(tmp_path / "models")) as first:
        (stub,) = stubs(first)
        pid = first.servers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        second = wait_for(lambda: recovered(tmp_path, pid))
        assert second.servers[0].restarts == 1
        assert second.servers[0].reason == "was ended by signal 9"
        assert Endpoint(second.http).index()[0].state == "READY"
        assert second.http == first.http
        assert not is_running(stub, start_ticks(stub) or 0)

        (stub,) = stubs(second)
        os.kill(stub, signal.SIGKILL)
        third = wait_for(lambda: recovered(tmp_path, second.servers[0].pid))
        assert third.servers[0].restarts == 2
        assert third.servers[0].reason == f"lost its Python stub process {stub}"
        assert len(stubs(third)) == 1
        assert Endpoint(third.http).ready()
    assert left_of(first.id) == []


def test_kill_9_of_up_leaves_nothing(tmp_path: Path) -> None:
    echo_repository(tmp_path / "models")
    with foreground(tmp_path, "models") as process:
        deployment = running(tmp_path)
        assert len(left_of(deployment.id)) >= 3, "a server, a stub and its shared memory"
        process.kill()
        wait_for(lambda: not left_of(deployment.id))
    # Its state file is still there, and is known to be stale.
    assert deployment_of(tmp_path).pid == process.pid
    answer = tritonkit(tmp_path, "status")
    assert (answer.returncode, "no server runs" in answer.stderr) == (1, True)
    assert "nothing is running here" in tritonkit(tmp_path, "down").stdout
    with foreground(tmp_path, "models", "--stop-timeout", "0"):
        assert running(tmp_path).id != deployment.id


def test_kill_9_of_up_ends_a_stub_that_hangs(tmp_path: Path) -> None:
    """A stub looks for itself whether its server is there, but not when it is stuck, as a stopped one is."""
    echo_repository(tmp_path / "models")
    with foreground(tmp_path, "models") as process:
        deployment = running(tmp_path)
        (stub,) = stubs(deployment)
        os.kill(stub, signal.SIGSTOP)
        process.kill()
        wait_for(lambda: not left_of(deployment.id))


def test_what_a_killed_run_left_is_cleaned_up_by_the_next(tmp_path: Path) -> None:
    """With the warden killed before it, nobody is there to clean up but the next command."""
    echo_repository(tmp_path / "models")
    with foreground(tmp_path, "models") as process:
        deployment = running(tmp_path)
        (stub,) = stubs(deployment)
        os.kill(stub, signal.SIGSTOP)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (warden,) = [int(pid) for pid in children if b"warden.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(warden, signal.SIGKILL)
        process.kill()
        process.wait()
        wait_for(lambda: members(mark(deployment.id)) == [stub])
        answer = tritonkit(tmp_path, "down")
        assert answer.stdout == "ended 1 process that a killed run had left\n"
        assert left_of(deployment.id) == []


def test_gives_up_on_a_server_that_keeps_dying(tmp_path: Path) -> None:
    policy = Policy(start_timeout=60, stop_timeout=0, backoff=0.01, max_restarts=0)
    failure = pytest.raises(LaunchFailed)
    with failure as caught, up(tmp_path, echo_repository(tmp_path / "models"), policy=policy) as deployment:
        pid = deployment.servers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not left_of(deployment.id))
    assert "server was ended by signal 9" in str(caught.value)
    assert left_of(deployment.id) == []


def test_a_block_that_fails_because_the_server_gave_up_says_so(tmp_path: Path) -> None:
    policy = Policy(start_timeout=60, stop_timeout=0, backoff=0.01, max_restarts=0)
    failure = pytest.raises(LaunchFailed, match="server was ended by signal 9")
    with failure as caught, up(tmp_path, echo_repository(tmp_path / "models"), policy=policy) as deployment:
        pid = deployment.servers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not left_of(deployment.id))
        Endpoint(deployment.http).index()
    assert isinstance(caught.value.__cause__, RequestFailed)
    assert left_of(deployment.id) == []


def test_a_block_that_fails_by_itself_keeps_its_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), up(tmp_path, echo_repository(tmp_path / "models")) as deployment:
        _ = 1 / 0
    assert left_of(deployment.id) == []


def test_no_thread_for_the_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan(tmp_path, echo_repository(tmp_path / "models"))

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"), serve.up(planned):
        pass
    Claim(tmp_path).release()


def test_kill_9_of_the_command_that_waits_for_a_detached_start(tmp_path: Path) -> None:
    # It must not be ready before the command is killed.
    slow = f"{ECHO}    def initialize(self, args):\n        import time\n        time.sleep(3)\n"
    python_model(tmp_path / "models", "echo", slow)
    with foreground(tmp_path, "models", "--detach", ready=False) as process:
        deployment = wait_for(lambda: running(tmp_path) if (tmp_path / ".tritonkit/state.json").exists() else None)
        process.kill()
        process.wait()
        wait_for(lambda: not (tmp_path / ".tritonkit/state.json").exists())
    assert left_of(deployment.id) == []
    log = tmp_path / ".tritonkit/logs/supervisor.log"
    wait_for(lambda: "nobody waits" in log.read_text())
