from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonkit.errors import LaunchFailed, TritonkitError, UsageError
from tritonkit.serve import Deployment, ServerState, down, logs, running, warden
from tritonkit.serve.deployment import Stopped
from tritonkit.serve.logs import Follower, files
from tritonkit.serve.procfs import dead_children, is_running, start_ticks
from tritonkit.serve.state import Claim, began, recorded
from tritonkit.serve.warden import MARK, SHARED_MEMORY, clean, mark, members, shared_memory_prefix

# Marks reach across the whole machine: another run of these tests, beside this one, has deployments of its own.
OURS, OTHERS = f"{os.getpid():08x}", f"{os.getpid() + 0xBAD00000:08x}"


def deployment(project: Path, pid: int, ticks: int) -> Deployment:
    return Deployment(
        id=OURS,
        pid=pid,
        began=ticks,
        started=1.5,
        project=project,
        repository=project / "models",
        spec=project / "spec.yaml",
        http="127.0.0.1:1",
        grpc="127.0.0.1:2",
        metrics="127.0.0.1:3",
        stop_timeout=2.5,
        state="ready",
        ready=True,
        control=project / "control.sock",
        servers=(
            ServerState(
                name="server",
                phase="ready",
                pid=7,
                restarts=0,
                since=1.5,
                reason="",
                log=project / ".tritonkit/logs/server.log",
                addresses={"http": "127.0.0.1:1"},
                models=("m",),
            ),
        ),
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
    with subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: mark(OURS, "server")}) as left:
        (region := SHARED_MEMORY / f"{shared_memory_prefix(mark(OURS, 'server'))}x").write_text("")
        next_claim = Claim(tmp_path)
        assert next_claim.leftover == 1
        assert left.wait(30) == -9
    assert not region.exists()
    next_claim.release()


def test_the_copy_of_a_project_does_not_end_what_runs_in_the_project(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "project")
    claim.write(deployment(tmp_path / "project", os.getpid(), began(os.getpid())))
    shutil.copytree(tmp_path / "project", tmp_path / "copy")
    with subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: mark(OURS, "server")}) as server:
        assert down(tmp_path / "copy") == Stopped(None, killed=False, leftover=0)
        Claim(tmp_path / "copy").release()
        assert server.poll() is None
        server.kill()
    assert running(tmp_path / "project").id == OURS
    claim.release()


@pytest.mark.parametrize(
    "change",
    [
        {"id": "*"},
        {"id": ""},
        {"id": "FEEDBEEF"},
        {"id": "feedbeef\n"},
        {"pid": 0},
        {"pid": -1},
        {"pid": "7"},
        {"stop_timeout": None},
    ],
)
def test_a_state_file_that_names_what_is_not_ours_is_no_deployment(tmp_path: Path, change: dict[str, object]) -> None:
    """The folder may come with a project from anywhere: what it says must not reach another deployment."""
    claim = Claim(tmp_path)
    claim.write(deployment(tmp_path, os.getpid(), began(os.getpid())))
    claim.release(forget=False)
    assert recorded(tmp_path) is not None
    path = tmp_path / ".tritonkit/state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    other = SHARED_MEMORY / f"{shared_memory_prefix(mark(OTHERS, 'server'))}x"
    other.write_text("")
    try:
        assert recorded(tmp_path) is None
        assert down(tmp_path) == Stopped(None, killed=False, leftover=0)
        assert other.exists()
    finally:
        other.unlink()


def test_shared_memory_of_others_stays(tmp_path: Path) -> None:
    other = SHARED_MEMORY / f"{shared_memory_prefix(mark(OTHERS, 'server'))}x"
    other.write_text("")
    try:
        for marked in ("*", "????????.", f"[a-z]{OTHERS[1:]}."):
            clean(marked)
        assert other.exists()
    finally:
        other.unlink()


@pytest.mark.parametrize("name", ["", "logs", "run"])
def test_a_folder_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "server").mkdir()
    place = tmp_path / "project/.tritonkit" / name
    place.parent.mkdir(parents=True)
    place.symlink_to(elsewhere)
    with pytest.raises(TritonkitError, match="is a link") as caught:
        Claim(tmp_path / "project")
    assert str(place) in str(caught.value)
    assert [path.name for path in elsewhere.iterdir()] == ["server"]


@pytest.mark.parametrize("name", [".gitignore", ".state.json.new", "state.json", "lock"])
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".tritonkit").mkdir()
    (tmp_path / ".tritonkit" / name).symlink_to(tmp_path / "precious")
    if name == "lock":
        with pytest.raises(TritonkitError, match="cannot be written to"):
            Claim(tmp_path)
    else:
        claim = Claim(tmp_path)
        claim.write(deployment(tmp_path, os.getpid(), began(os.getpid())))
        assert running(tmp_path).id == OURS
        claim.release()
    assert (tmp_path / "precious").read_text() == "mine"


def test_what_stands_in_the_gitignore_stays(tmp_path: Path) -> None:
    Claim(tmp_path).release()
    (tmp_path / ".tritonkit/.gitignore").write_text("*\n!logs\n")
    Claim(tmp_path).release()
    assert (tmp_path / ".tritonkit/.gitignore").read_text() == "*\n!logs\n"


def test_a_stop_that_takes_its_time_is_not_cut_short(tmp_path: Path) -> None:
    """``down`` waits for as long as the deployment was allowed to take, and only then kills."""
    slow = "import signal, time; signal.signal(15, lambda *_: [time.sleep({}), exit()])\nprint('ready', flush=True)\n"
    for stop_timeout, takes, killed in ((60.0, 1, False), (0.0, 3600, True)):
        claim = Claim(tmp_path)
        argv = [sys.executable, "-c", slow.format(takes) + "while True: signal.pause()"]
        # It holds the project, as a supervisor does.
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, pass_fds=[claim._lock]) as supervisor:
            assert supervisor.stdout is not None
            assert supervisor.stdout.readline() == "ready\n"
            state = deployment(tmp_path, supervisor.pid, began(supervisor.pid))
            claim.write(replace(state, stop_timeout=stop_timeout))
            claim.release(forget=False)
            assert down(tmp_path, margin=2).killed == killed
            assert supervisor.wait(30) == (-9 if killed else 0)


def test_a_process_that_holds_no_project_is_not_stopped(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        claim = Claim(tmp_path)
        claim.write(deployment(tmp_path, other.pid, began(other.pid)))
        claim.release(forget=False)
        assert down(tmp_path) == Stopped(None, killed=False, leftover=0)
        assert other.poll() is None
        other.kill()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / ".tritonkit").write_text("a file stands there")
    with pytest.raises(TritonkitError, match="cannot be written to"):
        Claim(tmp_path)


def test_marks_do_not_run_into_each_other() -> None:
    with subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: mark(OTHERS, "server10")}) as other:
        assert members(mark(OTHERS)) == [other.pid]
        assert members(mark(OTHERS, "server1")) == []
        assert members(mark(OTHERS[:-1])) == []
        assert clean(mark(OTHERS, "server1")) == 0
        assert clean(mark(OTHERS)) == 1


def test_a_process_in_the_middle_of_its_exec_is_a_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel shows a process's environment only a moment after ``Popen`` has returned."""
    monkeypatch.setattr(warden, "PROC", tmp_path)
    monkeypatch.setattr(warden, "_EXEC_SECONDS", 30.0)
    for _ in range(100):
        with subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: mark(OTHERS)}) as one:
            (entry := tmp_path / str(one.pid)).symlink_to(f"/proc/{one.pid}")
            found = members(mark(OTHERS))
            one.kill()
        entry.unlink()
        assert found == [one.pid]


def test_processes_without_an_environment_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def waited(_: float) -> None:
        pytest.fail("waited")

    monkeypatch.setattr(warden, "PROC", tmp_path)
    with subprocess.Popen(["sleep", "60"], env={}) as bare, subprocess.Popen(["true"]) as dead:
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        for pid in (bare.pid, dead.pid):
            (tmp_path / str(pid)).symlink_to(f"/proc/{pid}")
        members(mark(OTHERS))
        monkeypatch.setattr("time.sleep", waited)
        assert members(mark(OTHERS)) == []
        bare.kill()


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
    assert Follower(log, last=0).read() == []
    assert follower.read() == ["one", "two"]
    with log.open("a") as file:
        file.write("ee\n")
    assert follower.read() == ["three"]
    log.rename(tmp_path / "server.log.1")
    log.write_text("new\n")
    assert follower.read() == ["new"]


def test_what_a_crash_left_unended_is_read_at_the_end(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("one\nlast wor")
    follower = Follower(log)
    assert (follower.read(), follower.rest(), follower.rest()) == (["one"], ["last wor"], [])
    follower = Follower(log)
    assert follower.read() == ["one"]
    log.rename(tmp_path / "server.log.1")
    log.write_text("new\n")
    assert follower.read() == ["last wor", "new"]


@given(st.lists(st.text("a\n", max_size=5)), st.integers(0, 12), st.integers(1, 9))
def test_the_last_lines(parts: list[str], last: int, block: int) -> None:
    text = "".join(parts)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_BLOCK", block)
        log = Path(folder) / "server.log"
        log.write_text(text)
        follower = Follower(log, last=last)
        lines = text.removesuffix("\n").split("\n") if text else []
        assert [*follower.read(), *follower.rest()] == (lines[-last:] if last else [])


def test_the_end_of_a_long_log_is_found_without_reading_it_all(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with log.open("w") as file:
        # A hole: it takes no room, and reading it all would take minutes.
        file.truncate(2**36)
        file.seek(0, os.SEEK_END)
        file.write("\none\ntwo\n")
    assert Follower(log, last=2).read() == ["one", "two"]


def test_which_logs(tmp_path: Path) -> None:
    with pytest.raises(TritonkitError, match="no logs"):
        files(tmp_path, None)
    folder = tmp_path / ".tritonkit/logs"
    folder.mkdir(parents=True)
    for name in ("server.log", "server.log.1", "supervisor.log"):
        (folder / name).write_text(json.dumps(name))
    assert list(files(tmp_path, None)) == ["server"]
    assert list(files(tmp_path, "supervisor")) == ["supervisor"]
    with pytest.raises(UsageError, match="no log of 'nobody'; there is: server, supervisor"):
        files(tmp_path, "nobody")
