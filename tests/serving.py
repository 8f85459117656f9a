"""What the tests of serving share: small models, ``tritonkit`` as a process, and a look at what is left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tritonkit import serve
from tritonkit.serve import warden
from tritonkit.serve.state import recorded

T = TypeVar("T")
PROGRAM = Path(sys.executable).with_name("tritonkit")
FREE_PORTS = {"http": 0, "grpc": 0, "metrics": 0}
ANY_PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
# Most tests are not about the stop, and Triton's own takes seconds.
QUICK = serve.Policy(start_timeout=60, stop_timeout=0, backoff=0.05)

ECHO = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", pb_utils.get_input_tensor_by_name(r, "IN").as_numpy())])
            for r in requests
        ]
"""
# It is not ready for a minute.
HANGS = """
import time
class TritonPythonModel:
    def initialize(self, args):
        time.sleep(60)
"""
ECHO_CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "IN" data_type: TYPE_FP32 dims: [2] }]
output [{ name: "OUT" data_type: TYPE_FP32 dims: [2] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""


def python_model(repository: Path, name: str, source: str = ECHO, config: str = ECHO_CONFIG) -> Path:
    """Add a Python model to a repository; the repository."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(source)
    (version.parent / "config.pbtxt").write_text(config)
    return repository


def echo_repository(folder: Path) -> Path:
    """A repository with one model, ``echo``, which answers with what it is given."""
    return python_model(folder, "echo")


def plan(project: Path, repository: Path, **changes: Any) -> serve.Plan:
    """A plan on free ports that does not wait when it is stopped."""
    request = serve.Request(
        **{"repository": repository, "project": project, "ports": FREE_PORTS, "policy": QUICK, **changes}
    )
    return serve.plan(request, serve.survey(request))


@contextmanager
def up(project: Path, repository: Path, **changes: Any) -> Iterator[serve.Deployment]:
    """Serve for the time of a block."""
    with serve.up(plan(project, repository, **changes)) as deployment:
        yield deployment


def tritonkit(project: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``tritonkit`` in a project folder to its end."""
    return subprocess.run(
        [str(PROGRAM), *arguments],
        cwd=project,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@contextmanager
def foreground(project: Path, *arguments: str, ready: bool = True) -> Iterator[subprocess.Popen[str]]:
    """``tritonkit up`` on free ports as a process of its own, once it is ready; killed at the end."""
    process = subprocess.Popen(
        [str(PROGRAM), "up", *arguments, *ANY_PORTS],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process:
        try:
            if ready:
                words = process.stdout.readline()
                assert words.startswith("ready in"), words + process.stdout.read()
            yield process
        finally:
            process.kill()
            left = recorded(project)
            if left is not None:
                # Only where the test has failed already.
                warden.clean(warden.mark(left.id))


def wait_for(what: Callable[[], T | None], *, seconds: float = 60.0) -> T:
    """The first true value of ``what``, asked every 20 ms; a failure when there is none in time."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)
    return value


def deployment_of(project: Path) -> serve.Deployment:
    """The deployment that the project's state file names, alive or not."""
    deployment = recorded(project)
    assert deployment is not None
    return deployment


def stubs(deployment: serve.Deployment) -> list[int]:
    """The Python stub processes of a deployment."""
    servers = {server.pid for server in deployment.servers}
    return [pid for pid in warden.members(warden.mark(deployment.id)) if pid not in servers]


def left_of(deployment_id: str) -> Sequence[object]:
    """What is still there of a deployment: its processes and its shared memory."""
    marked = warden.mark(deployment_id)
    regions = list(warden.SHARED_MEMORY.glob(f"{warden.shared_memory_prefix(marked)}*"))
    return [*warden.members(marked), *regions]


def processes_naming(folder: Path) -> list[str]:
    """The command lines of living processes in which a folder appears."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in words:
                found.append(words)
    return found
