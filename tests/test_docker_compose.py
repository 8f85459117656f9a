"""A plan as containers: what the real Compose and the real HAProxy say of the files, and what is written where."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from container_plans import UUID, plan
from serving import wait_for
from system_packages import program

from tritonkit.errors import RepositoryConflict
from tritonkit.serve.composition_files import write
from tritonkit.serve.containers import GATEWAY_IMAGE, TRITON_IMAGE, Composition, Images, compose, render
from tritonkit.serve.processes import Plan
from tritonkit.serve.runtime import runtime_directory

SHAPES: dict[str, dict[str, Any]] = {
    "two servers on a GPU": {"gpus": 1},
    "four servers on two GPUs": {"gpus": 2},
    "without MPS": {"gpus": 2, "mps": "off"},
    "replicas on the CPU": {"gpus": 0, "replicas": 2},
    "one server on the CPU": {"gpus": 0, "replicas": 1},
}


def validator() -> list[str]:
    """The real Compose: Docker's plugin, else the program of its own that Debian has."""
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    return [str(program("docker-compose"))]


def understood(folder: Path) -> dict[str, Any]:
    """The compose file of a folder, as the real Compose understands it."""
    argv = [*validator(), "--file", str(folder / "compose.yaml"), "config"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # What it prints is a compose file again, in which a dollar is two.
    parsed: dict[str, Any] = yaml.safe_load(done.stdout.replace("$$", "$"))
    return parsed


def written(made: Plan, *, folder: Path | None = None) -> tuple[Composition, Path]:
    folder = folder or made.project / "compose"
    composition = compose(made, folder, Images())
    write(composition, folder)
    return composition, folder


def there(made: Plan, text: str) -> str:
    """A text of the plan with the folders of the containers."""
    text = text.replace(str(made.project / ".tritonkit"), "/tritonkit").replace(str(made.repository), "/models")
    return text.replace(str(runtime_directory(made.deployment)), "/run/tritonkit")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose path holds what YAML, a shell or Compose could trip over."""
    folder = tmp_path / 'it\'s $HOME: a #1 "project"'
    folder.mkdir()
    return folder


@pytest.mark.parametrize("shape", SHAPES)
def test_compose_understands_every_process_of_the_plan(project: Path, shape: str) -> None:
    made = plan(project, **SHAPES[shape])
    _, folder = written(made)
    services = understood(folder)["services"]
    assert list(services) == sorted(process.name for process in made.processes)
    for process in made.processes:
        service = services[process.name]
        assert service["image"] == (GATEWAY_IMAGE if process.kind == "gateway" else TRITON_IMAGE)
        assert service["network_mode"] == "host"
        assert service["restart"] == "unless-stopped"
        assert service["stop_grace_period"] == "35s"
        # No argument and no variable is lost or added, and none names a folder of this machine.
        under_mps = process.kind == "mps" or bool(process.needs)
        script = ["sh", f"/tritonkit/scripts/mps_{'daemon' if process.kind == 'mps' else 'client'}.sh"]
        assert service["command"] == [*(script if under_mps else []), *(there(made, word) for word in process.argv)]
        assert service["environment"] == {name: there(made, value) for name, value in process.env.items()}
        assert str(made.project) not in json.dumps([service["command"], service["environment"]])
        assert set(service.get("depends_on", {})) == {*process.needs, *process.after}
        assert all(of["condition"] == "service_healthy" for of in service.get("depends_on", {}).values())


def test_a_server_has_one_gpu_and_meets_its_daemon(project: Path) -> None:
    _, folder = written(plan(project, gpus=2))
    services = understood(folder)["services"]
    for gpu in (0, 1):
        daemon, server = services[f"mps-{gpu}"], services[f"at30-gpu{gpu}"]
        for one in (daemon, server):
            (device,) = one["deploy"]["resources"]["reservations"]["devices"]
            assert device["device_ids"] == [UUID.format(gpu)]
            assert device["driver"] == "nvidia"
            assert one["ipc"] == "host"
            assert one["environment"]["CUDA_VISIBLE_DEVICES"] == UUID.format(gpu)
            assert one["environment"]["CUDA_MPS_PIPE_DIRECTORY"] == f"/run/tritonkit/mps-{gpu}/pipe"
            meeting = [volume for volume in one["volumes"] if volume["target"] == f"/run/tritonkit/mps-{gpu}"]
            assert [(volume["type"], volume["source"]) for volume in meeting] == [("volume", f"mps-{gpu}")]
        assert server["environment"]["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "30"
        assert "shm_size" not in server
        assert daemon["command"][-2:] == ["nvidia-cuda-mps-control", "-f"]


def test_without_a_daemon_a_server_has_memory_of_its_own(project: Path) -> None:
    _, folder = written(plan(project, gpus=1, mps="off"))
    server = understood(folder)["services"]["one"]
    assert "ipc" not in server
    assert server["shm_size"] in ("1gb", "1073741824")
    # Nor does it find a daemon of somebody else's.
    assert server["environment"]["CUDA_MPS_PIPE_DIRECTORY"] == "/run/tritonkit/no-mps"
    (device,) = server["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == [UUID.format(0)]
    _, folder = written(plan(project, gpus=0, replicas=1))
    assert "deploy" not in understood(folder)["services"]["server"]


def test_folders_are_mounted_read_only_where_the_processes_look_for_them(project: Path) -> None:
    made = plan(project, gpus=1)
    _, folder = written(made)
    service = understood(folder)["services"]["at30"]
    mounts = {volume["target"]: volume for volume in service["volumes"] if volume["type"] == "bind"}
    assert all(volume["read_only"] for volume in mounts.values())
    assert Path(mounts["/models"]["source"]) == project / "model_repository"
    (served,) = [word for word in service["command"] if word.startswith("--model-repository=")]
    view = mounts[served.partition("=")[2]]
    model = Path(view["source"]) / "echo"
    # The link leads nowhere here; in the container it leads into the repository.
    assert os.readlink(model / "1") == "/models/echo/1"
    assert (model / "config.pbtxt").read_text() == (project / "model_repository/echo/config.pbtxt").read_text()


def test_paths_are_relative_within_the_project_and_absolute_outside(project: Path, tmp_path: Path) -> None:
    made = plan(project, gpus=0, replicas=1)
    inside, outside = project / "a" / "b", tmp_path / "elsewhere"
    assert compose(made, inside, Images()).services[0].mounts[0].source == "../../model_repository"
    assert compose(made, project, Images()).services[0].mounts[0].source == "./model_repository"
    assert compose(made, outside, Images()).services[0].mounts[0].source == str(project / "model_repository")


def test_haproxy_accepts_the_gateway_of_the_containers(tmp_path: Path) -> None:
    composition, folder = written(plan(tmp_path, gpus=0, replicas=3))
    config = folder / "gateway" / "haproxy.cfg"
    text = config.read_text()
    assert str(tmp_path) not in text
    assert "/run/tritonkit/http.sock" in text
    gateway = composition.services[-1]
    assert gateway.command[-1] == "/tritonkit/gateway/haproxy.cfg"
    assert gateway.tmpfs == ("/run/tritonkit:mode=1777",)
    config.write_text(text.replace("/tritonkit/gateway", str(config.parent)))
    done = subprocess.run([program("haproxy"), "-c", "-f", config], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_health_check_without_curl_asks_the_gateway(tmp_path: Path, echo_server: Any) -> None:
    composition = compose(plan(tmp_path, gpus=0, replicas=2), tmp_path, Images())
    kind, *command = composition.services[-1].health
    assert kind == "CMD"
    host, _, port = echo_server.http.rpartition(":")
    there = [word.replace("/dev/tcp/127.0.0.1/8000", f"/dev/tcp/{host}/{port}") for word in command]
    assert there != command
    assert subprocess.run(there, check=False, timeout=10).returncode == 0
    nobody = [word.replace("/dev/tcp/127.0.0.1/8000", "/dev/tcp/127.0.0.1/9") for word in command]
    assert subprocess.run(nobody, check=False, timeout=10, capture_output=True).returncode != 0


def test_a_second_writing_replaces_the_first_and_leaves_the_rest(project: Path) -> None:
    folder = project / "compose"
    written(plan(project, gpus=2), folder=folder)
    mine = folder / "views" / "notes.txt"
    mine.write_text("mine")
    composition, _ = written(plan(project, gpus=0, replicas=2), folder=folder)
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    ours = {"compose.yaml", ".tritonkit-compose.json", *composition.files, *composition.links}
    assert left == {*ours, "views/notes.txt"}
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")}
    written(plan(project, gpus=0, replicas=2), folder=folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")} == before


def test_files_that_tritonkit_did_not_write_stay(project: Path) -> None:
    folder = project / "compose"
    folder.mkdir()
    (folder / "compose.yaml").write_text("services: {}\n")
    with pytest.raises(RepositoryConflict, match=r"tritonkit did not write compose\.yaml"):
        written(plan(project), folder=folder)
    assert [path.name for path in folder.iterdir()] == ["compose.yaml"]
    (folder / "compose.yaml").unlink()
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    (folder / "gateway").symlink_to(elsewhere)
    with pytest.raises(RepositoryConflict, match="is a link"):
        written(plan(project), folder=folder)
    assert list(elsewhere.iterdir()) == []


def test_a_record_that_leads_out_of_the_folder_removes_nothing(project: Path) -> None:
    folder = project / "compose"
    folder.mkdir()
    precious = project / "precious"
    precious.write_text("")
    (folder / ".tritonkit-compose.json").write_text(json.dumps({"files": ["../precious"]}))
    with pytest.raises(RepositoryConflict, match="no record"):
        written(plan(project), folder=folder)
    assert precious.exists()


def test_equal_plans_render_equally(project: Path) -> None:
    folder = project / "compose"
    assert render(compose(plan(project), folder, Images())) == render(compose(plan(project), folder, Images()))


# The scripts that daemons and servers run under. The control program stands in for the one of the driver.
CONTROL = """#!/bin/sh
pidfile="$CUDA_MPS_PIPE_DIRECTORY/pid"
if [ "${1-}" = -f ]; then
  echo $$ > "$pidfile"
  exec sleep 1000
fi
read -r question
if [ "$question" = get_default_active_thread_percentage ] && kill -0 "$(cat "$pidfile" 2>/dev/null)" 2>/dev/null; then
  echo 100.0
else
  echo "Cannot find MPS control daemon process"
  exit 1
fi
"""


class Meeting:
    """A daemon and a client as their containers run them, in one pipe directory."""

    def __init__(self, folder: Path) -> None:
        programs = folder / "programs"
        programs.mkdir()
        control = programs / "nvidia-cuda-mps-control"
        control.write_text(CONTROL)
        control.chmod(0o755)
        self.pipe = folder / "mps" / "pipe"
        self._folder = folder
        self._env = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "CUDA_MPS_PIPE_DIRECTORY": str(self.pipe),
            "CUDA_MPS_LOG_DIRECTORY": str(folder / "mps" / "log"),
        }
        composition = compose(plan(folder, gpus=1), folder, Images())
        write(composition, folder / "compose")
        self._commands = {service.name: service.command for service in composition.services}
        self.children: list[subprocess.Popen[str]] = []

    def start(self, name: str, *instead: str) -> subprocess.Popen[str]:
        """The command of a service; ``instead`` of the program that it would run, another."""
        shell, script, *command = self._commands[name]
        there = self._folder / "compose" / "scripts" / Path(script).name
        child = subprocess.Popen(
            [shell, str(there), *(instead or command)],
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.children.append(child)
        return child

    def health(self) -> int:
        """What the daemon's health check says, as its container asks it."""
        (daemon,) = [
            service
            for service in compose(plan(self._folder, gpus=1), self._folder, Images()).services
            if service.name == "mps-0"
        ]
        kind, line = daemon.health
        assert kind == "CMD-SHELL"
        return subprocess.run(["sh", "-c", line], env=self._env, check=False, capture_output=True).returncode


@contextmanager
def _ended(meeting: Meeting) -> Iterator[Meeting]:
    try:
        yield meeting
    finally:
        for child in meeting.children:
            child.kill()
            child.communicate()


@pytest.fixture
def meeting(tmp_path: Path) -> Iterator[Meeting]:
    with _ended(Meeting(tmp_path)) as one:
        yield one


def test_a_client_waits_for_its_daemon_and_ends_with_it(meeting: Meeting, tmp_path: Path) -> None:
    started = tmp_path / "started"
    client = meeting.start("at30", "sh", "-c", f'touch "{started}"; exec sleep 1000')
    assert client.stdout is not None
    assert "waiting for the MPS daemon" in client.stdout.readline()
    assert not started.exists()
    assert meeting.health() != 0
    daemon = meeting.start("mps-0")
    wait_for(started.exists)
    assert meeting.health() == 0
    daemon.kill()
    daemon.wait()
    assert client.wait(timeout=20) == 1
    assert "to be started again" in client.stdout.read()


def test_a_client_ends_when_its_daemon_was_replaced_unseen(meeting: Meeting, tmp_path: Path) -> None:
    meeting.start("mps-0")
    wait_for(lambda: meeting.health() == 0)
    client = meeting.start("at30", "sh", "-c", f'touch "{tmp_path / "started"}"; exec sleep 1000')
    wait_for((tmp_path / "started").exists)
    meeting.start("mps-0")
    assert client.wait(timeout=20) == 1


def test_a_client_that_is_stopped_or_ends_passes_that_on(meeting: Meeting) -> None:
    meeting.start("mps-0")
    wait_for(lambda: meeting.health() == 0)
    ending = meeting.start("at30", "sh", "-c", "exit 7")
    assert ending.wait(timeout=20) == 7
    script = "trap 'echo drained; exit 3' TERM; echo up; while :; do sleep 0.1; done"
    stopping = meeting.start("at60", "sh", "-c", script)
    assert stopping.stdout is not None
    assert stopping.stdout.readline() == "up\n"
    stopping.send_signal(signal.SIGTERM)
    assert stopping.wait(timeout=20) == 3
    assert stopping.stdout.read() == "drained\n"


def test_the_images_are_built_from_files_that_their_context_has() -> None:
    """What a Dockerfile copies must be committed, and let in by .dockerignore."""
    root = Path(__file__).parent.parent
    let_in = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for dockerfile in ("Dockerfile.cpu", "Dockerfile.ngc"):
        lines = (root / "docker" / dockerfile).read_text().splitlines()
        copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
        copied = {word for words in copies for word in words}
        assert copied == let_in
        assert all((root / name).exists() for name in copied)
        default = next(line for line in lines if line.startswith("ARG BASE="))
        assert dockerfile == "Dockerfile.cpu" or default.endswith(TRITON_IMAGE)
