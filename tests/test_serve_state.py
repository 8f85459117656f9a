from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tritonkit.errors import LaunchFailed, TritonkitError
from tritonkit.serve import Deployment, ServerState, running
from tritonkit.serve.logs import Follower, files
from tritonkit.serve.procfs import dead_children, is_running, start_ticks
from tritonkit.serve.state import Claim, began, recorded
from tritonkit.serve.warden import MARK, SHARED_MEMORY, clean, mark, members, shared_memory_prefix


def deployment(project: Path, pid: int, ticks: int) -> Deployment:
    return Deployment(
        id="feedbeef",
        pid=pid,
        began=ticks,
        started=1.5,
        project=project,
        repository=project / "models",
        spec=project / "spec.yaml",
        http="127.0.0.1:1",
        grpc="127.0.0.1:2",
        metrics="127.0.0.1:3",
        ready=True,
        servers=(ServerState("server", "ready", 7, 0, 1.5, "", "127.0.0.1:1", project / ".tritonkit/logs/server.log"),),
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    claim = Claim(tmp_path)
    ours = deployment(tmp_path, os.getpid(), began(os.getpid()))
    claim.write(ours)
    assert running(tmp_path) == ours
    assert (tmp_path / ".tritonkit/.gitignore").read_text() == "*\n"
    claim.release()
    assert recorded(tmp_path) is None
    with pytest.raises(TritonkitError, match="no server runs") as caught:
        running(tmp_path)
    assert "tritonkit up" in str(caught.value.hint)


def test_a_pid_that_another_process_has_now_is_not_ours(tmp_path: Path) -> None:
    claim = Claim(tmp_path)
    claim.write(deployment(tmp_path, os.getpid(), began(os.getpid()) - 1))
    with pytest.raises(TritonkitError, match="no server runs"):
        running(tmp_path)
    claim.release()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 1}', '{"servers": [{}]}', "\0"])
def test_a_damaged_state_file_is_no_deployment(tmp_path: Path, text: str) -> None:
    (tmp_path / ".tritonkit").mkdir()
    (tmp_path / ".tritonkit/state.json").write_text(text)
    assert recorded(tmp_path) is None
    Claim(tmp_path).release()
    assert not (tmp_path / ".tritonkit/state.json").exists()


def test_one_claim_at_a_time(tmp_path: Path) -> None:
    first = Claim(tmp_path)
    with pytest.raises(LaunchFailed, match="is up already"):
        Claim(tmp_path)
    first.release()
    Claim(tmp_path).release()


def test_a_claim_ends_what_a_killed_run_left(tmp_path: Path) -> None:
    claim = Claim(tmp_path)
    claim.write(deployment(tmp_path, 1, 1))
    claim.release(forget=False)
    with subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: mark("feedbeef", "server")}) as left:
        (region := SHARED_MEMORY / f"{shared_memory_prefix(mark('feedbeef', 'server'))}x").write_text("")
        next_claim = Claim(tmp_path)
        assert next_claim.leftover == 1
        assert left.wait(5) == -9
    assert not region.exists()
    next_claim.release()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / ".tritonkit").write_text("a file stands there")
    with pytest.raises(TritonkitError, match="cannot be written to"):
        Claim(tmp_path)


def test_marks_do_not_run_into_each_other() -> None:
    with subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: mark("0badcafe", "server10")}) as other:
        assert members(mark("0badcafe")) == [other.pid]
        assert members(mark("0badcafe", "server1")) == []
        assert members(mark("0badcaf")) == []
        assert clean(mark("0badcafe", "server1")) == 0
        assert clean(mark("0badcafe")) == 1


def test_what_proc_says() -> None:
    with subprocess.Popen(["true"]) as child:
        ticks = start_ticks(child.pid)
        assert ticks is not None
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert child.pid in dead_children(os.getpid())
        assert not is_running(child.pid, ticks), "a zombie does not run"
        child.wait()
        assert child.pid not in dead_children(os.getpid())
    assert start_ticks(child.pid) is None
    assert is_running(os.getpid(), began(os.getpid()))
    assert not is_running(os.getpid(), 0)


def test_following_a_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    follower = Follower(log)
    assert follower.read() == []
    log.write_text("one\ntwo\nthr")
    assert Follower(log, last=1).read() == ["two"]
    assert Follower(log, last=0).read() == []
    assert follower.read() == ["one", "two"]
    with log.open("a") as file:
        file.write("ee\n")
    assert follower.read() == ["three"]
    log.rename(tmp_path / "server.log.1")
    log.write_text("new\n")
    assert follower.read() == ["new"]


def test_which_logs(tmp_path: Path) -> None:
    with pytest.raises(TritonkitError, match="no logs"):
        files(tmp_path, None)
    folder = tmp_path / ".tritonkit/logs"
    folder.mkdir(parents=True)
    for name in ("server.log", "server.log.1", "supervisor.log"):
        (folder / name).write_text(json.dumps(name))
    assert list(files(tmp_path, None)) == ["server"]
    assert list(files(tmp_path, "supervisor")) == ["supervisor"]
