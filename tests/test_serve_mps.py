"""The client of the MPS daemon, on the fake one: its words are read, since it ends with 0 whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from gpu_machine import FAKE, UUIDS, pretend
from serving import wait_for

from tritonkit.errors import CommandFailed
from tritonkit.serve import mps, procfs, warden, witness
from tritonkit.serve.mps import Daemon
from tritonkit.serve.processes import ProcessSpec, ServerCheck, Share, environment

PROGRAM = FAKE / mps.PROGRAM
GIB = 2**30


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pretend(monkeypatch, tmp_path)
    folder = tmp_path / "pipe"
    folder.mkdir()
    return folder


@pytest.fixture
def daemon(pipe: Path) -> Iterator[Daemon]:
    process = subprocess.Popen(
        [PROGRAM, "-f"], env={**os.environ, mps.PIPE_VARIABLE: str(pipe)}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        assert process.stdout.readline().startswith("To connect CUDA applications to this daemon, set env ")
        yield Daemon(PROGRAM, pipe)
        process.terminate()
        assert process.wait(10) == 0


def client(pipe: Path, mark: str) -> subprocess.Popen[bytes]:
    """A process that the fake daemon takes for a tritonserver: it goes by the name."""
    program = pipe.parent / "tritonserver"
    if not program.exists():
        program.write_text("#!/bin/sh\nread line\n")
        program.chmod(0o755)
    env = {**os.environ, mps.PIPE_VARIABLE: str(pipe), warden.MARK: mark}
    return subprocess.Popen([program], env=env, stdin=subprocess.PIPE)


def server(
    pipe: Path, mark: str, percentage: float | None, memory: int | None = None, env: Mapping[str, str] | None = None
) -> ProcessSpec:
    share = Share(0, UUIDS[0], pipe, percentage, memory, 132)
    return ProcessSpec(
        name="s",
        argv=(),
        env=environment({**os.environ, mps.PIPE_VARIABLE: str(pipe), **(env or {})}, mark),
        cwd=pipe,
        log=pipe / "log",
        mark=mark,
        check=ServerCheck("127.0.0.1:1", "id", (), share),
    )


def test_what_the_daemon_answers(daemon: Daemon, pipe: Path) -> None:
    assert daemon.answers()
    assert (daemon.servers(), daemon.clients()) == ((), ())
    with client(pipe, "m.") as process:
        try:
            wait_for(daemon.client_pids)
            (one,) = daemon.clients()
            assert daemon.client_pids() == (process.pid,)
            assert (one.pid, one.server, one.command) == (process.pid, daemon.servers()[0], "tritonserver")
            assert daemon.ask(f"get_server_status {one.server}") == "ACTIVE"
            daemon.terminate(one.server, one.pid)
            with pytest.raises(CommandFailed, match="Client 1 not found"):
                daemon.terminate(one.server, 1)
        finally:
            process.kill()


def test_the_work_of_a_server_is_ended_before_it_is_killed(pipe: Path) -> None:
    mark = f"{os.getpid():08x}.t."
    with (
        subprocess.Popen(
            [PROGRAM, "-f"], env={**os.environ, mps.PIPE_VARIABLE: str(pipe)}, stdout=subprocess.PIPE, text=True
        ) as process,
        client(pipe, mark) as ours,
        client(pipe, "another.") as theirs,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        try:
            wait_for(lambda: len(Daemon(PROGRAM, pipe).client_pids()) == 2)
            mps.let_go(server(pipe, mark, None), patience=30)
            process.terminate()
            assert process.stdout.read() == f"terminated {ours.pid}\n", "nobody else"
            mps.let_go(server(pipe, mark, None))
        finally:
            for one in (ours, theirs, process):
                one.kill()


@pytest.mark.parametrize(
    ("command", "words"),
    [("no_such_thing", 'Unknown command "no_such_thing"'), ("get_client_list 1", "Server 1 not found")],
)
def test_words_that_mean_a_failure(daemon: Daemon, command: str, words: str) -> None:
    told = subprocess.run(
        [PROGRAM], input=f"{command}\n", env={**os.environ, mps.PIPE_VARIABLE: str(daemon._pipe_directory)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (told.returncode, told.stdout.strip()) == (0, words), "as the real one"
    with pytest.raises(CommandFailed, match=words):
        daemon.ask(command)


def test_a_second_daemon_is_refused(daemon: Daemon, pipe: Path) -> None:
    again = subprocess.run(
        [PROGRAM, "-f"], env={**os.environ, mps.PIPE_VARIABLE: str(pipe)}, capture_output=True, text=True, check=False
    )
    assert (again.returncode, again.stdout.strip()) == (1, "An instance of this daemon is already running")


def test_no_daemon(pipe: Path) -> None:
    assert not mps.answers(PROGRAM, pipe)
    assert not mps.answers(pipe / "no-such-program", pipe)
    spec = server(pipe, "m.", 30)
    assert "cannot be verified: " in str(mps.attachment(spec, os.getpid(), patience=0))


def test_attachment(daemon: Daemon, pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = f"{os.getpid():08x}.s."
    thirty = {mps.PERCENTAGE_VARIABLE: "30", mps.MEMORY_VARIABLE: "0=8192M"}
    with client(pipe, mark) as process, client(pipe.parent, mark) as stub:
        try:
            wait_for(daemon.client_pids)
            # The second one is in no list, and computes on no GPU.
            assert mps.attachment(server(pipe, mark, 30, 8 * GIB, env=thirty), process.pid) is None
            assert mps.attachment(server(pipe, mark, None), process.pid) is None
            said = mps.attachment(server(pipe, mark, 60, env=thirty), process.pid)
            assert said is not None
            assert "sees 38 SMs, where 60% of 132 is 79" in said
            said = mps.attachment(server(pipe, mark, 30, 4 * GIB, env=thirty), process.pid)
            assert said is not None
            assert "may take 8,196,718,592 bytes of the GPU's memory, where its limit is 4,294,967,296" in said
            # Now the driver sees it compute, and another's process that is none of ours.
            computing = [[stub.pid, 1], [process.pid, 1], [os.getpid(), 1]]
            Path(os.environ["FAKE_NVML"]).write_text(json.dumps([{"uuid": UUIDS[0], "processes": computing}]))
            said = mps.attachment(server(pipe, mark, 30, env=thirty), process.pid, patience=0)
            assert said is not None
            assert f"runs without MPS and without limits: the daemon in {pipe} has no client {stub.pid} (" in said
            # In a container the driver's numbers mean others.
            with monkeypatch.context() as contained:
                contained.setattr(procfs, "FIRST_NAMESPACE", 0)
                assert mps.attachment(server(pipe, mark, 30, env=thirty), process.pid, patience=0) is None
            said = mps.attachment(server(pipe, mark, 30, env=thirty), stub.pid, patience=0)
            assert f"has no client {stub.pid} (" in str(said)
        finally:
            process.kill()
            stub.kill()


def test_a_daemon_that_refuses_a_question_is_asked_again(daemon: Daemon, pipe: Path, tmp_path: Path) -> None:
    """As NVIDIA's own does now and then while another one asks."""
    busy = tmp_path / "busy" / mps.PROGRAM
    busy.parent.mkdir()
    refusal = "Cannot send command to MPS control daemon process"
    busy.write_text(
        f'#!/bin/sh\nif mkdir "$0-asked" 2>/dev/null; then echo {refusal}; exit 1; fi\nexec {PROGRAM} "$@"\n'
    )
    busy.chmod(0o755)
    mark = f"{os.getpid():08x}.s."
    thirty = {mps.PERCENTAGE_VARIABLE: "30", "PATH": f"{busy.parent}:{os.environ['PATH']}"}
    with client(pipe, mark) as process:
        try:
            wait_for(daemon.client_pids)
            refused = mps.attachment(server(pipe, mark, 30, env=thirty), process.pid, patience=0)
            assert refused == f"cannot be verified: {busy} ended with exit code 1:\n{refusal}"
            busy.with_name(f"{busy.name}-asked").rmdir()
            assert mps.attachment(server(pipe, mark, 30, env=thirty), process.pid) is None
        finally:
            process.kill()


def test_the_witness_without_a_driver() -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("a driver runs here")
    told = subprocess.run([sys.executable, "-I", "-S", witness.__file__], capture_output=True, text=True, check=True)
    assert told.stdout.startswith('{"error": "libcuda.so.1: cannot open shared object file')
