"""Servers that share GPUs through MPS: on the fake daemon here, and with ``-m gpu`` on the real one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from asking import ask
from gpu_machine import gpu_machine
from serving import ECHO, QUICK, deployment_of, left_of, plan, python_model, wait_for
from test_backends_onnxruntime import WEIGHT, linear

from tritonkit import serve
from tritonkit.client.endpoint import Endpoint
from tritonkit.errors import LaunchFailed
from tritonkit.serve import control, gpus, mps, procfs
from tritonkit.serve.processes import ProcessSpec, ServerCheck
from tritonkit.serve.sharing import daemons
from tritonkit.spec.servers import Server
from tritonkit.tools.commands import run

__all__ = ["gpu_machine"]
GIB = 2**30
# Where there is no GPU, the same model runs on the CPU, and in a process of its own there too.
ANYWHERE = (
    "instance_group [{ count: 1 kind: KIND_AUTO }]\nmax_batch_size: 8\n"
    'parameters { key: "own_process" value { string_value: "true" } }\n'
)
# A first context on a GPU, and CUDA's libraries, take their time.
PATIENT = replace(QUICK, start_timeout=120, stop_timeout=10)
RESTART = {"command": "restart", "server": "mps-0"}
X = np.ones((1, 3), np.float32)


def percentages(a: float, b: float) -> tuple[Server, ...]:
    """Two servers on GPU 0; one of them with a model on the CPU as well, and a limit of memory."""
    return (
        Server("a", 0, ("small", "echo"), (0,), a, memory_limit=8 * GIB),
        Server("b", 1, ("large",), (0,), b),
    )


def models(folder: Path) -> Path:
    linear(folder, "small", ANYWHERE)
    linear(folder, "large", ANYWHERE)
    return python_model(folder, "echo")


@contextmanager
def up(planned: serve.Plan) -> Iterator[serve.Deployment]:
    """Serve, and see that nothing is left of it."""
    with serve.up(planned) as deployment:
        yield deployment
    assert left_of(deployment.id) == []
    assert not deployment.control.parent.exists()


def seen_by(process: ProcessSpec) -> dict[str, int]:
    """What a process with the environment of a server sees of its GPU."""
    seen: dict[str, int] = json.loads(run(mps.WITNESS, env=process.env).splitlines()[-1])
    assert "error" not in seen, seen
    return seen


def answers(deployment: serve.Deployment, model: str) -> bool:
    with triton.InferenceServerClient(deployment.grpc) as client:
        return bool(np.allclose(ask(client, model, {"x": X})["y"], X @ WEIGHT, atol=1e-2))


def test_two_servers_at_30_and_60_percent_of_one_gpu(gpu_machine: str, tmp_path: Path) -> None:
    planned = plan(tmp_path, models(tmp_path / "models"), servers=percentages(30, 60), gpus=("0",), policy=PATIENT)
    gpu = gpus.inventory()[0]
    specs = {process.name: process for process in planned.processes}
    assert list(specs) == ["mps-0", "a", "b", "gateway"]
    with up(planned) as deployment:
        (daemon,) = daemons(deployment)
        assert daemon.answers
        assert len(daemon.servers) == 1
        clients = {client.pid: client for client in daemon.clients}
        pids = {server.name: server.pid for server in deployment.servers}
        for name, limit in (("a", 30), ("b", 60)):
            pid = pids[name]
            assert pid is not None
            assert (clients[pid].server, clients[pid].thread_percentage) == (name, limit)
        # The stubs of the models on the GPU; that of `echo`, which never asks for a GPU, may be there or not.
        assert {(client.server, client.model) for client in clients.values()} >= {("a", "small"), ("b", "large")}
        for name, percentage in (("a", 30), ("b", 60)):
            seen = seen_by(specs[name])
            assert abs(seen["multiprocessors"] - percentage * gpu.multiprocessors / 100) <= 8
            assert (seen["memory_free"] <= 8 * GIB) == (name == "a")
            print(f"{name}: {seen} of {gpu.multiprocessors} SMs")
        assert answers(deployment, "small")
        assert answers(deployment, "large")


def test_a_wrong_pipe_directory_makes_up_fail(gpu_machine: str, tmp_path: Path) -> None:
    planned = plan(tmp_path, models(tmp_path / "models"), servers=percentages(30, 60), gpus=("0",), policy=PATIENT)
    (tmp_path / "elsewhere").mkdir()
    lost = {mps.PIPE_VARIABLE: str(tmp_path / "elsewhere")}
    wrong = tuple(
        replace(process, env={**process.env, **lost}) if process.name == "b" else process
        for process in planned.processes
    )
    words = r"b runs without MPS and without limits: the daemon in \S+ has no client"
    with pytest.raises(LaunchFailed, match=words), serve.up(replace(planned, processes=wrong)):
        pytest.fail("it came up")
    assert left_of(planned.deployment) == []


def test_a_limit_that_did_not_take_makes_up_fail(gpu_machine: str, tmp_path: Path) -> None:
    planned = plan(tmp_path, models(tmp_path / "models"), servers=percentages(30, 60), gpus=("0",), policy=PATIENT)
    (server,) = (process for process in planned.processes if process.name == "a")
    env = {key: value for key, value in server.env.items() if key != mps.PERCENTAGE_VARIABLE}
    wrong = tuple(replace(one, env=env) if one is server else one for one in planned.processes)
    words = r"a is not limited as it should be: .* \d+ SMs, where 30%"
    with pytest.raises(LaunchFailed, match=words), serve.up(replace(planned, processes=wrong)):
        pytest.fail("it came up")


def test_two_gpus_behind_one_address(gpu_machine: str, tmp_path: Path) -> None:
    here = gpus.inventory()
    if len(here) < 2:
        pytest.skip(f"needs two GPUs, and {len(here)} is here")
    repository = tmp_path / "models"
    linear(repository, "linear", ANYWHERE)
    planned = plan(tmp_path, repository, gpus=("0", "1"), policy=PATIENT)
    assert [process.name for process in planned.processes] == [
        "mps-0", "mps-1", "server-gpu0", "server-gpu1", "gateway",
    ]  # fmt: skip
    with up(planned) as deployment:
        for _ in range(20):
            # Each on a connection of its own, as of so many clients.
            assert answers(deployment, "linear")

        def served() -> dict[str, int]:
            return {
                server.name: Endpoint(server.http).statistics("linear")["model_stats"][0]["inference_count"]
                for server in deployment.servers
                if server.kind == "server"
            }

        # tritonserver counts a request after it has answered.
        wait_for(lambda: sum(served().values()) >= 20)
        print(served())
        assert all(served().values())
        devices = {server.name: server.uuid for server in deployment.servers if server.kind == "server"}
        assert devices == {"server-gpu0": here[0].uuid, "server-gpu1": here[1].uuid}
        for daemon in daemons(deployment):
            owners = {client.server for client in daemon.clients}
            assert owners == {f"server-gpu{daemon.gpu}"}


def test_a_dead_daemon_takes_its_servers_along(gpu_machine: str, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    linear(repository, "linear", ANYWHERE)
    planned = plan(tmp_path, repository, servers=(Server("a", gpus=(0,), thread_percentage=30),), policy=PATIENT)
    (server,) = (process for process in planned.processes if process.kind == "server")
    with up(planned) as deployment:
        before = {one.name: one.pid for one in deployment.servers}
        ((old,),) = (one.servers for one in daemons(deployment))
        began = procfs.start_ticks(old)
        assert began is not None
        daemon = before["mps-0"]
        assert daemon is not None
        os.kill(daemon, signal.SIGKILL)

        def again() -> serve.Deployment | None:
            now = deployment_of(tmp_path)
            return now if now.ready and all(one.pid != before[one.name] for one in now.servers) else None

        after = wait_for(again, seconds=120)
        pids = {one.name: one.pid or 0 for one in after.servers}
        (shared,) = daemons(after)
        assert pids["a"] in {client.pid for client in shared.clients}
        assert {one.name: one.restarts for one in after.servers} == {"mps-0": 1, "a": 1}
        assert answers(after, "linear")
        assert not procfs.is_running(old, began), "the old daemon's MPS server went with it"
        assert isinstance(server.check, ServerCheck)
        assert mps.attachment(server, pids["a"]) is None


def test_a_daemon_is_started_again_after_its_clients_have_answered(gpu_machine: str, tmp_path: Path) -> None:
    working = tmp_path / "working"
    begin = f"        import pathlib, time; pathlib.Path({str(working)!r}).touch(); time.sleep(1.5)\n"
    slow = ECHO.replace("        return", f"{begin}        return")
    assert slow != ECHO
    repository = python_model(tmp_path / "models", "slow", slow)
    planned = plan(tmp_path, repository, servers=(Server("a", gpus=(0,), thread_percentage=30),), policy=PATIENT)
    with (
        up(planned) as deployment,
        ThreadPoolExecutor() as threads,
        triton.InferenceServerClient(deployment.grpc) as one,
    ):
        asked = threads.submit(ask, one, "slow", {"IN": np.ones((1, 2), np.float32)})
        wait_for(working.exists)
        steps = [(step["server"], step["step"]) for step in control.ask(deployment.control, RESTART)]
        assert steps == [("mps-0", "restarting"), ("mps-0", "ready"), ("a", "ready")]
        assert asked.result()["OUT"].tolist() == [[1, 1]]
        after = deployment_of(tmp_path)
        assert {server.name: (server.restarts, server.reason) for server in after.servers} == {
            "mps-0": (1, ""),
            "a": (1, ""),
        }


def test_a_stub_that_only_looks_for_gpus_is_no_fault(gpu_machine: str, tmp_path: Path) -> None:
    source = """
import ctypes
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        try:
            self.code = ctypes.CDLL("libcuda.so.1").cuInit(0)
        except OSError:
            self.code = None
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", pb_utils.get_input_tensor_by_name(r, "IN").as_numpy())])
            for r in requests
        ]
"""
    repository = python_model(tmp_path / "models", "looks", source)
    planned = plan(tmp_path, repository, servers=(Server("a", gpus=(0,), thread_percentage=30),), policy=PATIENT)
    with up(planned) as deployment:
        (shared,) = daemons(deployment)
        print([(client.server, client.model, client.command) for client in shared.clients])
        assert [one.phase for one in deployment.servers] == ["ready", "ready"]
