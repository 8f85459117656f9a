"""The images of docker/ are built, and the CPU one serves: with buildah, where no Docker engine is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from images import base, build, buildah, run, settings
from serving import PROGRAM, tritonkit, wait_for

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

# Brings the loopback of an empty network namespace up, then becomes another program.
WITH_LOOPBACK = """
import fcntl, os, socket, struct, sys
SET_FLAGS, UP_AND_RUNNING = 0x8914, 0x41
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh", b"lo", UP_AND_RUNNING))
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(scope="module")
def base_image() -> str:
    if os.geteuid() != 0:
        pytest.skip("debootstrap, and buildah's isolation by chroot, need root")
    return base()


@pytest.fixture(scope="module")
def cpu_image(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    tag = "localhost/tritonkit-test:cpu"
    return build("Dockerfile.cpu", tag, image=base_image, folder=tmp_path_factory.mktemp("cpu"))


@contextmanager
def container(image: str) -> Iterator[str]:
    name = buildah("from", image)
    try:
        yield name
    finally:
        buildah("rm", name)


class Running:
    """The command of an image, in a network and with processes of its own, as an engine would run it."""

    def __init__(self, image: str, name: str, project: Path, output: Path) -> None:
        self.config = settings(image)
        self._project = project
        command = [*self.config["Entrypoint"], *self.config["Cmd"]]
        self.output = output
        with output.open("wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
                 sys.executable, "-c", WITH_LOOPBACK, *run(name, command, "--volume", f"{project}:/project")],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self._first = wait_for(lambda: children.read_text().split())[0]

    def beside(self, *command: str, processes: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command in its network, and among its processes where that is asked for."""
        spaces = ("--net", "--pid") if processes else ("--net",)
        return subprocess.run(
            ["nsenter", "--target", self._first, *spaces, *command],
            cwd=self._project,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def is_healthy(self, image: str) -> bool:
        """What its HEALTHCHECK says, run in another container of the image: buildah runs one command in each."""
        kind, *command = self.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        with container(image) as other:
            return self.beside(*run(other, command)).returncode == 0

    def words(self) -> str:
        return self.output.read_text(errors="replace")


@contextmanager
def running(image: str, name: str, project: Path, output: Path) -> Iterator[Running]:
    one = Running(image, name, project, output)
    try:
        yield one
    finally:
        # The kernel ends every process of the namespace with the first.
        one.process.kill()
        one.process.wait()


def test_the_cpu_image_serves_a_project_as_a_user_without_rights(cpu_image: str, tmp_path: Path) -> None:
    project = tmp_path / "digits"
    assert tritonkit(tmp_path, "init", "digits", "--output", str(project)).returncode == 0
    # The user of the image is nobody that this machine knows.
    for entry in (project, *project.rglob("*")):
        entry.chmod(0o777)

    with container(cpu_image) as name, running(cpu_image, name, project, tmp_path / "output") as served:
        assert served.config["User"] == "tritonkit"
        assert not served.is_healthy(cpu_image)
        wait_for(lambda: "ready in" in served.words() or served.process.poll() is not None, seconds=90)
        assert served.process.poll() is None, served.words()
        assert served.is_healthy(cpu_image)
        done = served.beside(
            str(PROGRAM), "infer", "classify", "--url", "127.0.0.1:8000", "--input", "IMAGE=@samples/7.png",
            "--classes", "1",
        )  # fmt: skip
        assert "seven" in done.stdout, done.stdout + done.stderr

        written = project / ".tritonkit" / "state.json"
        state = json.loads(written.read_text())
        assert written.stat().st_uid == 10001
        # As `docker stop` does it.
        served.beside("kill", "-TERM", str(state["pid"]), processes=True)
        wait_for(lambda: served.process.poll() is not None, seconds=60)
        assert "stopped" in served.words()
        assert not written.exists()


def test_what_the_cpu_image_brings(cpu_image: str) -> None:
    with container(cpu_image) as name:
        done = subprocess.run(
            run(name, ["tritonkit", "doctor", "--json"]), capture_output=True, text=True, check=False, timeout=60
        )
        findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
        for needed in ("python", "tritonserver", "numpy < 2", "onnxruntime", "haproxy"):
            assert not findings[needed]["problem"], findings[needed]
        listed = buildah("run", "--isolation", "chroot", name, "--", "pip", "list")
        # The host's configuration of pip was lent to the build, and is in no layer.
        assert "tritonkit" in listed
        assert "pip.conf" not in buildah("run", "--isolation", "chroot", name, "--", "ls", "/etc").split()


def test_the_ngc_image_adds_tritonkit_to_a_native_server(base_image: str, tmp_path: Path) -> None:
    """The real base cannot be had here; one with a tritonserver in its place has all that the file relies on."""
    stand_in = tmp_path / "tritonserver"
    (stand_in / "bin").mkdir(parents=True)
    (stand_in / "backends" / "onnxruntime").mkdir(parents=True)
    (stand_in / "TRITON_VERSION").write_text("2.51.0\n")
    (stand_in / "bin" / "tritonserver").write_text("#!/bin/sh\nexit 0\n")
    (stand_in / "bin" / "tritonserver").chmod(0o755)
    with container(base_image) as name:
        buildah("add", "--quiet", name, str(stand_in), "/opt/tritonserver")
        native = "localhost/tritonkit-test:native"
        buildah("commit", "--quiet", name, native)
    tag = build("Dockerfile.ngc", "localhost/tritonkit-test:ngc", image=native, folder=tmp_path)
    with container(tag) as name:
        assert settings(tag)["Cmd"][:2] == ["tritonkit", "up"]
        done = subprocess.run(
            run(name, ["tritonkit", "doctor", "--json"]), capture_output=True, text=True, check=False, timeout=60
        )
        findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
        assert findings["tritonserver"]["found"].startswith("2.51.0, /opt/tritonserver/bin/tritonserver")
        assert not findings["haproxy"]["problem"]
        # The Python that Triton's models run in is not tritonkit's.
        other = subprocess.run(run(name, ["python3", "-c", "import tritonkit"]), capture_output=True, check=False)
        assert other.returncode != 0
        assert b"No module named" in other.stderr


def test_a_build_leaves_no_container_behind(cpu_image: str) -> None:
    assert shutil.which("buildah")
    assert cpu_image.partition(":")[0] not in buildah("containers", "--format", "{{.ImageName}}")
