"""``render compose`` and ``up --engine docker`` from the command line; no Docker engine is needed to see the plan."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from serving import PROGRAM, echo_repository
from system_packages import program

FAKES = Path(__file__).parent / "fake_mps"
SPEC = """
version: 1
models:
  echo:
    backend: python
    source: src/
    max_batch_size: 8
    input: {IN: "FP32[2]"}
    output: {OUT: "FP32[2]"}
    instance_group: [{count: 1, kind: KIND_CPU}]
servers:
  - {name: fast, thread_percentage: 60}
  - {name: spare, thread_percentage: 30, memory_limit: 8GiB}
"""
GPUS = [{"uuid": "GPU-aaaaaaaa-0"}, {"uuid": "GPU-bbbbbbbb-1"}]


def tritonkit(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``tritonkit`` on a machine that seems to have two GPUs."""
    file = project / "gpus.json"
    file.write_text(json.dumps(GPUS))
    return subprocess.run(
        [sys.executable, str(FAKES / "program.py"), *arguments],
        cwd=project,
        env={**os.environ, "FAKE_NVML": str(file), "PATH": f"{FAKES}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "model.py").write_text("class TritonPythonModel: ...\n")
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


def test_a_spec_with_servers_on_two_gpus_becomes_containers(project: Path) -> None:
    done = tritonkit(project, "render", "compose", "spec.yaml", "--gpus", "0,1", "--image", "registry/triton:test")
    assert done.returncode == 0, done.stderr
    names = ["mps-0", "mps-1", "fast-gpu0", "fast-gpu1", "spare-gpu0", "spare-gpu1", "gateway"]
    assert f"wrote compose/compose.yaml: {', '.join(names)}" in done.stdout
    file = project / "compose" / "compose.yaml"
    argv = [str(program("docker-compose")), "--file", str(file), "config", "--services"]
    accepted = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert sorted(accepted) == sorted(names)

    services = yaml.safe_load(file.read_text())["services"]
    spare = services["spare-gpu1"]
    assert spare["image"] == "registry/triton:test"
    assert spare["environment"]["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=8192M"
    assert spare["environment"]["CUDA_VISIBLE_DEVICES"] == "GPU-bbbbbbbb-1"
    # The ports are the same at every rendering, beside the public ones.
    ports = [word for word in spare["command"] if word.startswith(("--http-port", "--grpc-port", "--metrics-port"))]
    assert ports == ["--http-port=8130", "--grpc-port=8131", "--metrics-port=8132"]
    assert " 127.0.0.1:8130 " in (project / "compose" / "gateway" / "haproxy.cfg").read_text()
    before = file.read_bytes()
    assert tritonkit(
        project, "render", "compose", "spec.yaml", "--gpus", "0,1", "--image", "registry/triton:test"
    ).returncode == 0  # fmt: skip
    assert file.read_bytes() == before
    # What was planned natively is planned here: the same processes, models and limits.
    native = json.loads(tritonkit(project, "up", "--gpus", "0,1", "--dry-run", "--json").stdout)["processes"]
    limits = ("CUDA_VISIBLE_DEVICES", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT")
    assert [one["name"] for one in native] == list(services)
    for one in native:
        there = services[one["name"]]["environment"]
        assert [one["env"].get(name) for name in limits] == [there.get(name) for name in limits]


def test_the_dry_run_prints_and_writes_nothing(project: Path) -> None:
    before = sorted(project.rglob("*"))
    for command in (("render", "compose"), ("up", "--engine", "docker")):
        done = tritonkit(project, *command, "--gpus", "1", "--dry-run")
        assert done.returncode == 0, done.stderr
        services = yaml.safe_load(done.stdout)["services"]
        assert list(services) == ["mps-1", "fast", "spare", "gateway"]
    assert [path for path in sorted(project.rglob("*")) if path.name != "gpus.json"] == before


def test_a_fault_in_the_plan_is_found_before_anything_is_written(project: Path) -> None:
    (project / "spec.yaml").write_text(SPEC.replace("thread_percentage: 60", "thread_percentage: 101"))
    done = tritonkit(project, "render", "compose", "--gpus", "0")
    assert done.returncode == 2
    assert "thread_percentage" in done.stderr
    assert not (project / "compose").exists()
    done = tritonkit(project, "render", "compose", "--gpus", "7", "--dry-run")
    assert done.returncode == 2
    done = tritonkit(project, "up", "--engine", "docker", "--http-port", "0", "--dry-run")
    assert done.returncode == 2


def test_a_folder_of_somebody_else_is_left_alone(project: Path) -> None:
    (project / "compose").mkdir()
    (project / "compose" / "compose.yaml").write_text("services: {}\n")
    done = tritonkit(project, "render", "compose", "--gpus", "0")
    assert done.returncode == 1
    assert "tritonkit did not write compose.yaml" in done.stderr
    assert (project / "compose" / "compose.yaml").read_text() == "services: {}\n"


def test_tokens_and_certificates_are_mounted_and_not_copied(tmp_path: Path) -> None:
    repository = echo_repository(tmp_path / "model_repository")
    tokens = tmp_path / "tokens"
    tokens.write_text("0123456789abcdef\n")
    tokens.chmod(0o600)
    arguments = ("up", str(repository), "--engine", "docker", "--dry-run", "--tokens", str(tokens))
    done = tritonkit(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    gateway = yaml.safe_load(done.stdout)["services"]["gateway"]
    (mount,) = [volume for volume in gateway["volumes"] if volume["target"].startswith("/tritonkit/secrets/")]
    assert mount["source"] == str(tokens)
    assert mount["read_only"]
    assert gateway["user"] == "0:0"
    assert "0123456789abcdef" not in done.stdout
    described = json.loads(tritonkit(tmp_path, *arguments, "--json").stdout)
    assert mount["target"] in described["files"]["gateway/haproxy.cfg"]


def test_tokens_and_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    repository = echo_repository(tmp_path / "model_repository")
    file = tmp_path / "file"
    file.write_text("nothing\n")
    file.chmod(0o600)
    arguments = ("up", str(repository), "--engine", "docker", "--dry-run")
    for option, words in (("--tokens", "is no token of 16"), ("--tls-certificate", "no certificate with its key")):
        done = tritonkit(tmp_path, *arguments, option, str(file))
        assert (done.returncode, f"{option} {file}: " in done.stderr, words in done.stderr) == (1, True, True)


def test_image_goes_with_docker(project: Path) -> None:
    done = tritonkit(project, "up", "--image", "x", "--dry-run")
    assert done.returncode == 2
    assert "--engine docker" in done.stderr


def engine_answers() -> bool:
    docker = shutil.which("docker")
    return bool(docker) and subprocess.run([str(docker), "info"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(engine_answers(), reason="a Docker engine runs here")
def test_without_an_engine_up_says_so_before_anything(project: Path) -> None:
    before = sorted(project.rglob("*"))
    done = subprocess.run(
        [str(PROGRAM), "up", "--engine", "docker", "--detach"], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "docker" in done.stderr.lower()
    assert "hint:" in done.stderr
    assert sorted(project.rglob("*")) == before


@pytest.mark.skipif(engine_answers(), reason="a Docker engine runs here")
def test_down_does_not_forget_containers_that_it_cannot_stop(tmp_path: Path) -> None:
    file = tmp_path / ".tritonkit" / "compose" / "compose.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("services: {}\n")
    done = subprocess.run([str(PROGRAM), "down"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "docker" in done.stderr
    assert file.exists()


def test_without_the_docker_program_up_says_so(project: Path) -> None:
    done = subprocess.run(
        [str(PROGRAM), "up", "--engine", "docker"],
        cwd=project,
        env={**os.environ, "PATH": str(project)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "docker is not installed" in done.stderr
