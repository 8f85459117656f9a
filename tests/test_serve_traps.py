"""What makes a tritonserver hang, or serve something else than was asked for."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from serving import (
    ANY_PORTS,
    ECHO,
    ECHO_CONFIG,
    FREE_PORTS,
    HANGS,
    QUICK,
    echo_repository,
    foreground,
    left_of,
    plan,
    processes_naming,
    python_model,
    tritonkit,
)

from tritonkit import serve
from tritonkit.client.endpoint import Endpoint
from tritonkit.errors import LaunchFailed, ToolMissing
from tritonkit.serve import health
from tritonkit.tools import tritonserver


def test_another_python3_on_path_and_a_model_py_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stub takes its packages from the first python3 on PATH, and a model.py from its working directory."""
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "python3").symlink_to("/usr/bin/env")
    monkeypatch.setenv("PATH", f"{fake}:/usr/bin:/bin")
    for folder in (tmp_path, tmp_path / ".tritonkit/run/server"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.py").write_text("raise RuntimeError('the wrong model.py')")
    repository = tmp_path / "models"
    python_model(repository, "imports", "import hypothesis, onnxruntime\n" + ECHO)
    with foreground(tmp_path, "models", "--stop-timeout", "0"):
        deployment = serve.running(tmp_path)
        assert [model.state for model in Endpoint(deployment.http).index()] == ["READY"]
        assert not (tmp_path / ".tritonkit/run/server/model.py").exists()


def test_a_space_in_a_path_is_refused_at_once(tmp_path: Path) -> None:
    echo_repository(tmp_path / "my models")
    answer = tritonkit(tmp_path, "up", "my models", *ANY_PORTS)
    assert answer.returncode == 2
    assert "the model repository has a space" in answer.stderr
    assert not (tmp_path / ".tritonkit").exists()


def test_a_letter_that_the_stub_cannot_read_is_refused_at_once(tmp_path: Path) -> None:
    project = tmp_path / "größe"
    echo_repository(project / "models")
    answer = tritonkit(project, "up", "models", *ANY_PORTS)
    assert answer.returncode == 2
    assert "a letter that is not ASCII in its path" in answer.stderr
    assert not (project / ".tritonkit").exists()


def test_a_project_with_such_a_letter_is_fine_where_the_repository_has_none(tmp_path: Path) -> None:
    project = tmp_path / "größe"
    project.mkdir()
    echo_repository(tmp_path / "models")
    with foreground(project, "../models", "--stop-timeout", "0"):
        assert serve.running(project).repository == tmp_path / "models"


def test_a_folder_of_other_things_is_no_repository(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"folder-{number}").mkdir()
    echo_repository(tmp_path)
    answer = tritonkit(tmp_path, "up", ".", *ANY_PORTS)
    assert answer.returncode == 2
    assert "no model is in folder-0, folder-1, folder-2, folder-3, folder-4 and 4 more (a model's" in answer.stderr
    assert not (tmp_path / ".tritonkit").exists()


def test_a_project_with_a_space_is_fine(tmp_path: Path) -> None:
    project = tmp_path / "my project"
    project.mkdir()
    echo_repository(tmp_path / "models")
    with foreground(project, "../models", "--stop-timeout", "0"):
        assert serve.running(project).repository == tmp_path / "models"


def test_a_stub_lost_while_starting_does_not_hang_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's name reaches the shell that starts the stub; tritonserver then waits for ever."""
    monkeypatch.setattr(health, "LOST_WHILE_STARTING", 1.0)
    python_model(tmp_path / "models", "lost", config=ECHO_CONFIG + 'default_model_filename: "my model.py"\n')
    (tmp_path / "models/lost/1/model.py").rename(tmp_path / "models/lost/1/my model.py")
    planned = plan(tmp_path, tmp_path / "models")
    with pytest.raises(LaunchFailed, match="server lost its Python stub process") as caught, serve.up(planned):
        pass
    assert "terminate called" in str(caught.value), "what the stub said is shown"
    assert caught.value.log == tmp_path / ".tritonkit/logs/server.log"
    assert left_of(planned.deployment) == []


def test_a_start_that_takes_too_long(tmp_path: Path) -> None:
    python_model(tmp_path / "models", "hangs", HANGS)
    began = time.monotonic()
    answer = tritonkit(tmp_path, "up", "models", *ANY_PORTS, "--start-timeout", "0.7")
    assert answer.returncode == 5
    assert time.monotonic() - began < 45, "the model would take a minute"
    assert "server was not ready within 0.7 s" in answer.stderr
    assert processes_naming(tmp_path) == []


def test_no_tritonserver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tritonserver, "_native", lambda: None)
    monkeypatch.setattr(tritonserver, "_bundled", lambda: None)
    with pytest.raises(ToolMissing) as caught:
        plan(tmp_path, echo_repository(tmp_path / "models"))
    assert caught.value.exit_code == 3


def test_another_server_on_the_port_is_not_taken_for_ours(tmp_path: Path, echo_server: serve.Deployment) -> None:
    """Between the look at the port and the start another program may take it."""
    repository = echo_repository(tmp_path / "models")
    request = serve.Request(repository=repository, project=tmp_path, ports=FREE_PORTS, policy=QUICK)
    host = serve.survey(request)
    taken = {**host.ports, "http": int(echo_server.http.rpartition(":")[2])}
    planned = serve.plan(request, replace(host, ports=taken))
    with pytest.raises(LaunchFailed, match="already in use") as caught, serve.up(planned):
        pass
    assert "took the port at that moment" in str(caught.value.hint)
    assert left_of(planned.deployment) == []
    assert Endpoint(echo_server.http).ready()
