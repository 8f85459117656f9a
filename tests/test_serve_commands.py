"""``up``, ``status``, ``logs`` and ``down``, run as people run them, against the real tritonserver."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import textwrap
import time
from pathlib import Path

import pytest
from serving import (
    ANY_PORTS,
    ECHO,
    HANGS,
    PROGRAM,
    deployment_of,
    echo_repository,
    foreground,
    left_of,
    processes_naming,
    python_model,
    tritonkit,
    wait_for,
)

from tritonkit import serve
from tritonkit.client.endpoint import Endpoint
from tritonkit.serve import Deployment, running


def test_detach_status_logs_second_up_and_down(tmp_path: Path) -> None:
    repository = echo_repository(tmp_path / "models")
    started = tritonkit(tmp_path, "up", "models", "--detach", *ANY_PORTS)
    assert started.returncode == 0, started.stderr
    deployment = running(tmp_path)
    try:
        assert re.match(r"ready in \d+\.\d s\n", started.stdout)
        for words in (deployment.http, deployment.grpc, deployment.metrics, "tritonkit infer echo --input IN=@"):
            assert words in started.stdout
        assert started.stderr == ""
        assert Endpoint(deployment.http).ready()
        assert deployment.repository == repository
        assert os.getsid(deployment.pid) == deployment.pid, "a session of its own"

        table = tritonkit(tmp_path, "status")
        assert re.search(r"server +ready +\d+ s +\d+ +0 +-", table.stdout)
        assert re.search(r"echo +1 +READY", table.stdout)
        shown = json.loads(tritonkit(tmp_path, "status", "--json").stdout)
        assert (shown["pid"], shown["ready"], shown["servers"][0]["phase"]) == (deployment.pid, True, "ready")
        assert shown["models"] == [{"name": "echo", "version": "1", "state": "READY", "reason": "", "server": "server"}]

        again = tritonkit(tmp_path, "up", "models", *ANY_PORTS)
        assert again.returncode == 5
        assert f"is up already (process {deployment.pid}" in again.stderr
        assert "tritonkit down" in again.stderr
        assert running(tmp_path) == deployment

        assert len(tritonkit(tmp_path, "logs", "--tail", "2").stdout.splitlines()) == 2
        assert "server ready" in tritonkit(tmp_path, "logs", "supervisor").stdout
        missing = tritonkit(tmp_path, "logs", "nosuch")
        assert (missing.returncode, "server, supervisor" in missing.stderr) == (2, True)

        with subprocess.Popen(
            [PROGRAM, "logs", "--follow", "--tail", "1"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        ) as follower:
            assert follower.stdout is not None
            assert follower.stdout.readline(), "it is up, and follows"
            down = tritonkit(tmp_path, "down")
            assert "unloaded 'echo'" in follower.stdout.read(), "it follows to the end, and ends with the server"
        assert follower.returncode == 0
    finally:
        tritonkit(tmp_path, "down")
    assert (down.returncode, down.stderr) == (0, "")
    assert down.stdout == f"stopped server, serving {repository}\n"
    assert left_of(deployment.id) == []
    assert processes_naming(tmp_path) == []
    assert not (tmp_path / ".tritonkit/state.json").exists()
    last = tritonkit(tmp_path, "down")
    assert (last.returncode, last.stdout) == (0, "nothing is running here\n")
    for command in (("status",), ("status", "--json")):
        answer = tritonkit(tmp_path, *command)
        assert answer.returncode == 1
        assert "no server runs" in answer.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_stop_everything(tmp_path: Path, number: signal.Signals, code: int) -> None:
    echo_repository(tmp_path / "models")
    with foreground(tmp_path, "models", "--stop-timeout", "0") as process:
        deployment = running(tmp_path)
        process.send_signal(number)
        assert process.wait(60) == code
        assert left_of(deployment.id) == []
        assert process.stdout is not None
        assert process.stdout.read().endswith("stopped\n")
    assert not (tmp_path / ".tritonkit/state.json").exists()


def test_a_restart_is_told_in_the_foreground(tmp_path: Path) -> None:
    talks = ECHO + "    def initialize(self, args):\n        pb_utils.Logger.log_warn('a word of warning')\n"
    python_model(tmp_path / "models", "talks", talks)
    with foreground(tmp_path, "models", "--stop-timeout", "0") as process:
        (server,) = running(tmp_path).servers
        assert server.pid is not None
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line == "  stop     Ctrl-C\n":
                os.kill(server.pid, signal.SIGKILL)
            if "is ready again" in line:
                process.send_signal(signal.SIGINT)
        words = "".join(said)
    assert "  models   talks\n" in words
    assert "server was ended by signal 9; it is started again\nserver" in re.sub(r"(?m)^[EWF]\d.*\n", "", words)
    assert "server is ready again\n" in words
    assert "a word of warning" in words, "what the server complains about is shown"
    assert "CudaDriverHelper" not in words


def test_nobody_reads_what_up_says(tmp_path: Path) -> None:
    """As in `up | head -1`: what serves goes on."""
    echo_repository(tmp_path / "models")
    with subprocess.Popen(
        [PROGRAM, "up", "models", *ANY_PORTS, "--stop-timeout", "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        deployment = wait_for(lambda: running(tmp_path) if state_file(tmp_path).exists() else None)
        wait_for(lambda: deployment_of(tmp_path).ready)
        (server,) = deployment_of(tmp_path).servers
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: deployment_of(tmp_path).servers[0].restarts == 1 and deployment_of(tmp_path).ready)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        words = process.stderr.read()
        assert process.wait(60) == 130
    assert "is ready again" in words
    assert "Traceback" not in words
    assert left_of(deployment.id) == []


def test_ctrl_c_at_the_very_beginning_shows_no_traceback(tmp_path: Path) -> None:
    echo_repository(tmp_path / "models")
    package = Path(serve.__file__).parent.parent
    begins = str(package / "cli" / "__init__.py")
    for delay in (0.06, 0.1, 0.15, 0.2, 0.3):
        process = subprocess.Popen(
            [PROGRAM, "up", "models", *ANY_PORTS], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=60)
        # Until it has read the module of main(), the interpreter shows one of its own.
        assert "Traceback" not in words or f"{package}{os.sep}" not in words.replace(begins, "")
        assert process.returncode in {130, -signal.SIGINT, 1}


def test_up_says_first_that_it_is_up_and_builds_nothing(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    words = """
        version: 1
        models:
          echo:
            backend: python
            source: source/
            max_batch_size: 8
            input: {IN: "FP32[2]"}
            output: {OUT: "FP32[2]"}
            instance_group: [{count: 1, kind: KIND_CPU}]
    """
    spec.write_text(textwrap.dedent(words))
    (tmp_path / "source").mkdir()
    (tmp_path / "source/model.py").write_text(ECHO)
    with foreground(tmp_path, "--stop-timeout", "0", ready=False) as process:
        wait_for(lambda: state_file(tmp_path).exists() and deployment_of(tmp_path).ready)
        spec.write_text(spec.read_text().replace("max_batch_size: 8", "max_batch_size: 4"))
        again = tritonkit(tmp_path, "up", *ANY_PORTS)
        assert (again.returncode, "built" in again.stderr, "is up already" in again.stderr) == (5, False, True)
        assert "changed" not in tritonkit(tmp_path, "status").stdout
        assert tritonkit(tmp_path, "build-repo", "spec.yaml").returncode == 0
        told = tritonkit(tmp_path, "status")
        assert told.returncode == 0, "it serves what it has loaded"
        assert "the repository has changed since server loaded it" in told.stdout
        assert json.loads(tritonkit(tmp_path, "status", "--json").stdout)["outdated"] == ["server"]
        assert tritonkit(tmp_path, "restart", "server").returncode == 0
        assert "changed" not in tritonkit(tmp_path, "status").stdout
        process.send_signal(signal.SIGINT)
        process.wait(60)


def test_a_state_folder_that_is_removed_comes_back(tmp_path: Path) -> None:
    echo_repository(tmp_path / "models")
    with foreground(tmp_path, "models", "--stop-timeout", "0") as process:
        before = running(tmp_path)
        # At once: what is removed piece by piece is put back in the midst of it.
        shutil.rmtree((tmp_path / ".tritonkit").rename(tmp_path / "removed"))
        wait_for(lambda: state_file(tmp_path).exists())
        assert running(tmp_path) == before
        assert "is up already" in tritonkit(tmp_path, "up", "models", *ANY_PORTS).stderr
        assert before.servers[0].pid is not None
        os.kill(before.servers[0].pid, signal.SIGKILL)
        wait_for(lambda: deployment_of(tmp_path).servers[0].restarts == 1 and deployment_of(tmp_path).ready)
        assert tritonkit(tmp_path, "down").returncode == 0
        assert process.wait(60) == 143
    assert left_of(before.id) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("nosuchfolder/",),
        ("models", "--host", "no.such.host.invalid"),
        ("models", "--http-port", "9", "--grpc-port", "9"),
        ("models", "--server-arg", "--http-port=1"),
    ],
)
def test_mistakes_of_the_user_end_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    echo_repository(tmp_path / "models")
    answer = tritonkit(tmp_path, "up", *arguments)
    assert answer.returncode == 2, answer.stderr
    assert not (tmp_path / ".tritonkit").exists()


def state_file(project: Path) -> Path:
    return project / ".tritonkit/state.json"


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    slow = "class TritonPythonModel:\n    def execute(self, requests): ...\n"
    slow += "    def finalize(self):\n        import time\n        time.sleep(60)\n"
    python_model(tmp_path / "models", "slow", slow)
    with foreground(tmp_path, "models") as process:
        deployment = running(tmp_path)
        process.send_signal(signal.SIGINT)
        wait_for(lambda: deployment_of(tmp_path).servers[0].phase == "stopping")
        process.send_signal(signal.SIGINT)
        # Without it, this stop takes the whole timeout of 30 s and more.
        assert process.wait(25) == 130
    assert left_of(deployment.id) == []


def test_ctrl_c_while_starting(tmp_path: Path) -> None:
    python_model(tmp_path / "models", "hangs", HANGS)

    def started() -> Deployment | None:
        return running(tmp_path) if (tmp_path / ".tritonkit/state.json").exists() else None

    for arguments in ((), ("--detach",)):
        with foreground(tmp_path, "models", *arguments, ready=False) as process:
            deployment = wait_for(started)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        assert left_of(deployment.id) == []
        assert not (tmp_path / ".tritonkit/state.json").exists()


def test_a_model_that_does_not_load(tmp_path: Path) -> None:
    repository = echo_repository(tmp_path / "models")
    python_model(repository, "boom", "import nosuchthing\n")
    python_model(repository, "odd", config="garbage: [\n")
    python_model(repository, "alien", config='backend: "openvino"\n')
    (repository / "hollow/1").mkdir(parents=True)
    for arguments in ((), ("--detach",)):
        answer = tritonkit(tmp_path, "up", "models", *arguments, *ANY_PORTS)
        assert answer.returncode == 5
        assert answer.stdout == ""
        for words in (
            "model boom: Internal: ModuleNotFoundError: No module named 'nosuchthing'",
            "model odd: failed to read text proto from",
            'no field named "garbage"',
            "model alien: Invalid argument: unable to find backend library for backend 'openvino'",
            "model hollow: ",
            str(tmp_path / ".tritonkit/logs/server.log"),
        ):
            assert words in answer.stderr
        assert "model echo" not in answer.stderr
        assert "hint: Install what provides the module nosuchthing" in answer.stderr
        assert processes_naming(tmp_path) == []
        assert not (tmp_path / ".tritonkit/state.json").exists()
    assert "hint:" in answer.stderr


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    echo_repository(tmp_path / "models")
    answer = tritonkit(tmp_path, "up", "models", *ANY_PORTS, "--server-arg=--nosuchflag=1")
    assert answer.returncode == 5
    assert "server ended with exit code 1 before it was ready" in answer.stderr
    assert "nosuchflag" in answer.stderr
    assert processes_naming(tmp_path) == []


def test_dry_run_starts_nothing_and_shows_everything(tmp_path: Path) -> None:
    echo_repository(tmp_path / "models")
    table = tritonkit(tmp_path, "up", "models", "--dry-run", *ANY_PORTS, "--log-verbose", "2")
    assert "--log-verbose=2" in table.stdout
    plan = json.loads(
        tritonkit(tmp_path, "up", "models", "--dry-run", "--json", *ANY_PORTS, "--server-arg=--rate-limit=off").stdout
    )
    (process,) = plan["processes"]
    assert process["check"]["models"] == ["echo"]
    assert process["argv"][-1] == "--rate-limit=off"
    for service in ("http", "grpc", "metrics"):
        assert f"--{service}-address=127.0.0.1" in process["argv"]
        assert f"--{service}-port={plan['addresses'][service].rpartition(':')[2]}" in process["argv"]
    assert set(process["env"]) == {"PATH", "LD_LIBRARY_PATH", "TRITONKIT_DEPLOYMENT"}
    assert not (tmp_path / ".tritonkit").exists()
    assert tritonkit(tmp_path, "up", "models", "--json").returncode == 2
