"""What is noticed of a server that runs and does not serve; and what is left alone."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos import Load
from serving import (
    ECHO,
    ECHO_CONFIG,
    QUICK,
    deployment_of,
    echo_repository,
    left_of,
    plan,
    python_model,
    stubs,
    up,
    wait_for,
)

from tritonkit import serve
from tritonkit.client.endpoint import Endpoint
from tritonkit.serve import Deployment, condition, events, health, probes, procfs

PARENT = "import sys; subprocess.run([sys.executable, '-c', {0!r}])"
EXECUTE = "    def execute(self, requests):\n"


def hangs(repository: Path, gate: Path) -> Path:
    """A model that hangs, and is not stopped, for as long as there is that file."""
    wait = f"        import os, time\n        while os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    return python_model(repository, "hangs", ECHO.replace(EXECUTE, EXECUTE + wait))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "STOPPED", 0.6)


def restarted(project: Path, before: Deployment) -> Deployment | None:
    now = deployment_of(project)
    return now if now.ready and now.servers[0].restarts > before.servers[0].restarts else None


def faults_with_stopped(deployment: Deployment, pid: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """SIGSTOP one process; what is seen of the deployment before anything is done about it."""
    with monkeypatch.context() as patient:
        patient.setattr(health, "STOPPED", 30.0)
        os.kill(pid, signal.SIGSTOP)
        # The signal takes effect only when the kernel next comes by the process.
        wait_for(lambda: procfs.is_stopped(pid))
        return condition.faults(deployment)


def test_what_sigstop_has_stopped_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with up(tmp_path, echo_repository(tmp_path / "models")) as first:
        (stub,) = stubs(first)
        found = faults_with_stopped(first, stub, monkeypatch)
        assert found == {"server": "has a child process that was stopped by a signal"}
        second = wait_for(lambda: restarted(tmp_path, first))
        assert second.servers[0].reason == f"has a child process {stub} that was stopped"
        server = second.servers[0].pid
        assert server is not None
        assert faults_with_stopped(second, server, monkeypatch) == {"server": "was stopped by a signal"}
        third = wait_for(lambda: restarted(tmp_path, second))
        assert third.servers[0].reason == "was stopped by a signal"
        assert condition.faults(third) == {}
    assert left_of(first.id) == []


def test_a_model_that_does_not_collect_its_children_costs_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    careless = "import subprocess, time; left = subprocess.Popen(['true']); time.sleep(60)"
    looks: list[float] = []

    class Well:
        def ready(self) -> bool:
            return True

        def answers(self) -> bool:
            looks.append(time.monotonic())
            return True

        def fault(self) -> None:
            return None

        def close(self) -> None:
            return None

    monkeypatch.setattr(health, "_health", lambda *_: Well())
    (spec,) = plan(tmp_path, echo_repository(tmp_path / "models")).processes
    ended, said = threading.Event(), queue.SimpleQueue[events.Event]()
    with subprocess.Popen([sys.executable, "-c", f"import subprocess; {PARENT.format(careless)}"]) as server:
        watcher = threading.Thread(target=health.watch, args=(spec, server.pid, said.put, ended))
        watcher.start()
        try:
            wait_for(lambda: any(map(procfs.is_dead, procfs.descendants(server.pid))))
            time.sleep(1)
            began = time.monotonic()
            looks.clear()
            time.sleep(2)
            wait_for(lambda: len(looks) >= 2)
            seen = len(looks)
            assert seen <= (time.monotonic() - began) / health.CHECK_PERIOD + 1
            assert [said.get().__class__, said.empty()] == [events.BecameReady, True]
        finally:
            ended.set()
            # The youngest first: the dead one is collected by init as soon as its parent has ended.
            for child in reversed(procfs.descendants(server.pid)):
                os.kill(child, signal.SIGKILL)
            server.kill()
            watcher.join(30)


def test_what_goes_on_in_time_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "STOPPED", 30.0)
    with up(tmp_path, echo_repository(tmp_path / "models")) as first:
        (stub,) = stubs(first)
        os.kill(stub, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(stub, signal.SIGCONT)
        time.sleep(1.0)
        assert deployment_of(tmp_path).servers[0].restarts == 0


def test_a_server_that_does_not_answer_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "SILENT", 1.0)
    with up(tmp_path, echo_repository(tmp_path / "models")) as first:
        with monkeypatch.context() as mute:
            mute.setattr(Endpoint, "live", lambda _: False)
            wait_for(lambda: deployment_of(tmp_path).servers[0].phase != "ready")
        second = wait_for(lambda: restarted(tmp_path, first))
        assert second.servers[0].reason == "did not answer for 1 s"


def probed_twice(deployment: Deployment) -> bool:
    stats = Endpoint(deployment.http).every_statistics()["model_stats"]
    return all(entry["inference_stats"]["success"]["count"] >= 2 for entry in stats)


def test_a_model_that_hangs_is_noticed_by_probes(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    planned = plan(tmp_path, echo_repository(hangs(tmp_path / "models", gate)), probe=2.0)
    with serve.up(planned) as first:
        wait_for(lambda: probed_twice(first))
        assert deployment_of(tmp_path).servers[0].restarts == 0, "it answers"
        gate.write_text("")
        wait_for(lambda: deployment_of(tmp_path).servers[0].phase != "ready")
        gate.unlink()
        second = wait_for(lambda: restarted(tmp_path, first))
        assert second.servers[0].reason == "has a model that does not answer: hangs finished nothing in 2 s"
    assert left_of(first.id) == []


def test_a_model_that_hangs_is_left_alone_without_probes(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.write_text("")
    with up(tmp_path, hangs(tmp_path / "models", gate)) as deployment:
        prober = probes.Prober(deployment.http, ("hangs",), 0.3)
        wait_for(prober.fault)
        assert deployment_of(tmp_path).servers[0].restarts == 0
        gate.unlink()


def test_a_long_queue_is_no_fault(tmp_path: Path) -> None:
    """A probe waits behind eight other requests for longer than it has, while they are finished one by one."""
    slow = ECHO.replace(EXECUTE, f"{EXECUTE}        import time\n        time.sleep(0.3)\n")
    config = ECHO_CONFIG.replace("max_batch_size: 8", "max_batch_size: 1")
    with up(tmp_path, python_model(tmp_path / "models", "slow", slow, config)) as deployment:
        load = Load(deployment.http, deployment.grpc, 8, protocols=("http",), model="slow")
        with load.running():
            wait_for(lambda: load.answered(0))
            prober = probes.Prober(deployment.http, ("slow",), 2.0)
            time.sleep(5)
            assert prober.fault() is None
            prober.close()


@pytest.mark.parametrize("datatype", ["BOOL", "FP16", "FP32", "INT64", "STRING"])
def test_a_request_of_zeros(datatype: str, every_type: Deployment) -> None:
    request = probes.zeros(Endpoint(every_type.http), f"echo_{datatype.lower()}")
    assert request is not None
    prober = probes.Prober(every_type.http, (), 30.0)
    before = prober._finished(f"echo_{datatype.lower()}")
    assert prober._answered(f"echo_{datatype.lower()}", request)
    assert before == [(0, 0)]
    # Triton counts a request a moment after it has answered it.
    wait_for(lambda: prober._finished(f"echo_{datatype.lower()}") != before)
    assert prober._finished(f"echo_{datatype.lower()}") == [(1, 0)], "the model took it"


@pytest.fixture(scope="module")
def every_type(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    project = tmp_path_factory.mktemp("types")
    for datatype in ("BOOL", "FP16", "FP32", "INT64", "STRING"):
        config = ECHO_CONFIG.replace("TYPE_FP32 dims: [2]", f"TYPE_{datatype} dims: [2, -1]")
        python_model(project / "models", f"echo_{datatype.lower()}", config=config)
    with serve.up(plan(project, project / "models", policy=QUICK)) as deployment:
        yield deployment


def test_models_whose_requests_belong_together_are_not_asked(tmp_path: Path) -> None:
    sequence = ECHO_CONFIG + "sequence_batching { max_sequence_idle_microseconds: 5000000 }\n"
    with up(tmp_path, python_model(tmp_path / "models", "sequence", config=sequence)) as deployment:
        assert probes.zeros(Endpoint(deployment.http), "sequence") is None
