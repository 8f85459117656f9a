"""On a real GPU: an MPS client and its daemon meet as their containers let them, each with processes of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import wait_for

from tritonkit.resources import templates_directory
from tritonkit.serve import gpus, witness
from tritonkit.serve.gpus import Gpu

pytestmark = pytest.mark.gpu

SCRIPTS = templates_directory() / "containers"
# What a container has of its own, by what unshare calls it. The composition gives daemon and clients the host's IPC
# namespace; each has processes of its own.
AS_IN_CONTAINERS = ("unshare", "--pid", "--fork", "--mount-proc")


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    return gpus.inventory()[0]


@pytest.fixture(scope="module")
def meeting(gpu: Gpu) -> Iterator[dict[str, str]]:
    """The environment of the clients of a daemon that the container's own script runs."""
    folder = Path(tempfile.mkdtemp(prefix="tk-"))
    env = {
        "PATH": os.environ["PATH"],
        "CUDA_VISIBLE_DEVICES": gpu.uuid,
        "CUDA_MPS_PIPE_DIRECTORY": str(folder / "pipe"),
        "CUDA_MPS_LOG_DIRECTORY": str(folder / "log"),
    }
    daemon = subprocess.Popen(
        ["sh", str(SCRIPTS / "mps_daemon.sh"), "nvidia-cuda-mps-control", "-f"],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for((folder / "pipe" / "started").exists)
        yield env
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def multiprocessors(env: dict[str, str], *around: str) -> int:
    """How many SMs a client sees that runs under the container's own script."""
    looking = [sys.executable, "-I", "-S", witness.__file__]
    argv = [*around, "sh", str(SCRIPTS / "mps_client.sh"), *looking]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    assert "error" not in seen, seen
    return int(seen["multiprocessors"])


def test_a_limit_takes_across_process_namespaces(gpu: Gpu, meeting: dict[str, str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("a namespace of one's own needs root")
    limited = {**meeting, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "30"}
    assert multiprocessors(meeting) == gpu.multiprocessors
    beside, inside = multiprocessors(limited), multiprocessors(limited, *AS_IN_CONTAINERS)
    print(f"SMs of {gpu.multiprocessors} at 30 %: {beside} beside the daemon, {inside} as in a container")
    assert 0.2 * gpu.multiprocessors < beside < 0.4 * gpu.multiprocessors
    assert inside == beside
