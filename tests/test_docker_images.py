"""The images of docker/ are built, and the CPU one serves: with buildah, where no Docker engine is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import yaml
from images import ISOLATION, base, build, buildah, described, run, settings
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


class Network:
    """A network, process numbers and shared memory of its own, for containers that share them; all ends with it."""

    def __init__(self) -> None:
        # The kernel ends every process of the namespace with the first.
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
             "sh", "-c", 'mount -t tmpfs shm /dev/shm && exec "$@"', "sh",
             sys.executable, "-c", WITH_LOOPBACK, "sleep", "infinity"]
        )  # fmt: skip
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        self._first = wait_for(lambda: children.read_text().split())[0]
        self.started: list[subprocess.Popen[bytes]] = []

    def inside(self, command: Sequence[str], *, processes: bool = True) -> list[str]:
        """The command line that runs a command in it; without ``processes`` in its network alone."""
        spaces = ("--net", "--pid", "--mount") if processes else ("--net",)
        return ["nsenter", "--target", self._first, *spaces, *command]

    def asked(self, *command: str, processes: bool = False, cwd: Path | None = None) -> str:
        """Run a command in it to its end; what it said."""
        argv = self.inside(command, processes=processes)
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)
        return done.stdout + done.stderr

    def succeeds(self, command: Sequence[str]) -> bool:
        """Whether a command does, in its network."""
        return subprocess.run(self.inside(command, processes=False), capture_output=True, check=False).returncode == 0

    def close(self) -> None:
        """End everything in it; may be called again."""
        self._holder.kill()
        for process in (self._holder, *self.started):
            process.wait()


@pytest.fixture
def network() -> Iterator[Network]:
    one = Network()
    try:
        yield one
    finally:
        one.close()


class Running:
    """A command of an image, in a network, with its output in a file."""

    def __init__(self, network: Network, argv: Sequence[str], output: Path) -> None:
        self._output = output
        with output.open("wb") as log:
            self.process = subprocess.Popen(
                network.inside(argv), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
        network.started.append(self.process)

    def words(self) -> str:
        return self._output.read_text(errors="replace")

    def runs(self) -> bool:
        return self.process.poll() is None


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The digits starter, in a folder that the user of the image may write to."""
    folder = tmp_path / "digits"
    assert tritonkit(tmp_path, "init", "digits", "--output", str(folder)).returncode == 0
    for entry in (folder, *folder.rglob("*")):
        entry.chmod(0o777)
    return folder


def health(image: str) -> list[str]:
    """The command of an image's HEALTHCHECK."""
    kind, *command = settings(image)["Healthcheck"]["Test"]
    assert kind == "CMD"
    return [str(word) for word in command]


SEVEN = ("infer", "classify", "--url", "127.0.0.1:8000", "--input", "IMAGE=@samples/7.png", "--classes", "1")


def test_the_cpu_image_serves_a_project_as_a_user_without_rights(
    cpu_image: str, network: Network, project: Path, tmp_path: Path
) -> None:
    config = settings(cpu_image)
    assert config["User"] == "tritonkit"
    command = [*config["Entrypoint"], *config["Cmd"]]
    with container(cpu_image) as name, container(cpu_image) as other, closing(network):
        # buildah runs one command in each container.
        healthy = run(other, health(cpu_image))
        assert not network.succeeds(healthy)
        served = Running(network, run(name, command, "--volume", f"{project}:/project"), tmp_path / "output")
        wait_for(lambda: "ready in" in served.words() or not served.runs(), seconds=90)
        assert served.runs(), served.words()
        assert network.succeeds(healthy)
        assert "seven" in network.asked(str(PROGRAM), *SEVEN, cwd=project)
        # Compiled while the image was built, which has no compiler itself.
        assert '"digits_0_0: runs inside tritonserver"' in (project / ".tritonkit/logs/server.log").read_text()

        written = project / ".tritonkit" / "state.json"
        state = json.loads(written.read_text())
        assert written.stat().st_uid == 10001
        # As `docker stop` does it.
        network.asked("kill", "-TERM", str(state["pid"]), processes=True)
        wait_for(lambda: not served.runs(), seconds=60)
        assert "stopped" in served.words()
        assert not written.exists()


def test_a_compose_file_serves(cpu_image: str, network: Network, project: Path, tmp_path: Path) -> None:
    """Every service is run as the file says, in an image that has a real tritonserver where NVIDIA's has it."""
    stand_in = native_image(cpu_image)
    (project / "spec.yaml").write_text(f"{(project / 'spec.yaml').read_text()}servers: [{{name: s, replicas: 2}}]\n")
    done = tritonkit(project, "render", "compose", "--gpus", "none")
    assert done.returncode == 0, done.stderr
    for entry in project.rglob("*"):
        if not entry.is_symlink():
            entry.chmod(0o777)
    folder = project / "compose"
    composition = yaml.safe_load((folder / "compose.yaml").read_text().replace("$$", "$"))
    assert list(composition["services"]) == ["s-r0", "s-r1", "gateway"]
    with ExitStack() as containers:
        places = {name: containers.enter_context(container(stand_in)) for name in composition["services"]}
        containers.enter_context(closing(network))
        running = {}
        for name, place in places.items():
            command, options = described(composition, name, folder)
            running[name] = Running(network, run(place, command, *options, "--user", "root"), tmp_path / name)
        for name, service in composition["services"].items():
            kind, *command = service["healthcheck"]["test"]
            assert kind == "CMD"
            wait_for(lambda command=command: network.succeeds(command), seconds=90)  # type: ignore[misc]
            assert running[name].runs(), running[name].words()
        for _ in range(4):
            assert "seven" in network.asked(str(PROGRAM), *SEVEN, cwd=project)
        addresses = ("--url", "127.0.0.1:8100", "--url", "127.0.0.1:8110")
        sample = json.loads(network.asked(str(PROGRAM), "top", "--json", "--interval", "0.2", *addresses))
        assert [server["fault"] for server in sample["servers"]] == ["", ""]


def native_image(cpu_image: str) -> str:
    """The CPU image with the wheel's tritonserver where NVIDIA's image has its own."""
    arrange = """
import pathlib
from tritonkit.serve.backend_directory import assemble
from tritonkit.tools import tritonserver
server, root = tritonserver.find(), pathlib.Path("/opt/tritonserver")
root.mkdir()
for name, place in (("bin", server.binary.parent), ("backends", assemble(server)), ("caches", server.caches)):
    (root / name).symlink_to(place)
pathlib.Path("/run/tritonkit").mkdir(parents=True)
"""
    tag = "localhost/tritonkit-test:serving"
    with container(cpu_image) as name:
        buildah("run", *ISOLATION, "--user", "root", name, "--", "python3", "-c", arrange)
        buildah("commit", "--quiet", name, tag)
    return tag


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
