"""The plan of a request that is spread over servers: daemons, servers on their GPUs, views, a gateway."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from asking import ask
from gpu_machine import PROGRAM, UUIDS, pretend
from serving import ANY_PORTS, ECHO, deployment_of, left_of
from test_serve_plan import BUNDLED, HOST, REQUEST

from tritonkit import serve
from tritonkit.errors import SpecError, TritonkitError, UsageError
from tritonkit.serve import events, machine, phases, routing
from tritonkit.serve.changing import replanner
from tritonkit.serve.gpus import Gpu
from tritonkit.serve.processes import Change, DaemonCheck, ServerCheck
from tritonkit.serve.seats import Machine
from tritonkit.serve.stored_models import StoredModel
from tritonkit.spec.servers import Server

GIB = 2**30
GPU = Gpu(0, UUIDS[0], "NVIDIA H200", 132, 141 * GIB, 0, "9.0")
OTHER = replace(GPU, index=1, uuid=UUIDS[1])
CONFIG = 'backend: "onnxruntime" instance_group [{ kind: KIND_GPU gpus: [1] }]'
MODELS = {
    "a": StoredModel("a", Path("/models/a"), ("1", "labels.txt"), {"config.pbtxt": 'backend: "onnxruntime"'}),
    "b": StoredModel("b", Path("/models/b"), ("1",), {"config.pbtxt": CONFIG}),
    "both": StoredModel(
        "both", Path("/models/both"), ("1",),
        {"config.pbtxt": 'platform: "ensemble" ensemble_scheduling { step { model_name: "a" } }'},
    ),
}  # fmt: skip
MACHINE = Machine((GPU, OTHER), (GPU, OTHER), MODELS, frozenset({"onnxruntime"}), Path("/bin/nvidia-cuda-mps-control"))
SERVERS = (
    Server("x", 0, ("both",), (0,), 30, 8 * GIB),
    Server("y", 1, ("a",), (0, 1), 12.5),
    Server("z", 2, ("b",), (1,)),
)


def host(count: int, **changes: Any) -> serve.Host:
    return replace(
        HOST,
        **{
            "machine": MACHINE,
            "models": tuple(MODELS),
            "server_ports": tuple(
                {"http": n, "grpc": n + 1, "metrics": n + 2} for n in range(9000, 9000 + 10 * count, 10)
            ),
            "haproxy": Path("/sbin/haproxy"),
            "runtime": Path("/run/t/0123abcd"),
            "environment": {**HOST.environment, "CUDA_VISIBLE_DEVICES": "3", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "7"},
            **changes,
        },
    )


def test_daemons_servers_and_the_gateway() -> None:
    plan = serve.plan(replace(REQUEST, servers=SERVERS), host(4))
    processes = {process.name: process for process in plan.processes}
    assert list(processes) == ["mps-0", "mps-1", "x", "y-gpu0", "y-gpu1", "z", "gateway"]
    daemon, x, y = processes["mps-0"], processes["x"], processes["y-gpu1"]
    pipe = Path("/run/t/0123abcd/mps-0/pipe")
    assert daemon.argv == ("/bin/nvidia-cuda-mps-control", "-f")
    assert daemon.check == DaemonCheck(Path("/bin/nvidia-cuda-mps-control"), pipe, 0, GPU.uuid)
    assert daemon.env == {
        **HOST.environment,
        "CUDA_VISIBLE_DEVICES": UUIDS[0],
        "CUDA_MPS_PIPE_DIRECTORY": str(pipe),
        "CUDA_MPS_LOG_DIRECTORY": "/run/t/0123abcd/mps-0/log",
        "TRITONKIT_DEPLOYMENT": "0123abcd.mps-0.",
    }
    assert [folder.path for folder in daemon.folders] == [pipe, pipe.parent / "log"]
    limits = {name: value for name, value in x.env.items() if name.startswith("CUDA_")}
    assert limits == {
        "CUDA_VISIBLE_DEVICES": UUIDS[0],
        "CUDA_MPS_PIPE_DIRECTORY": str(pipe),
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "30",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=8192M",
    }
    assert (x.needs, y.needs, processes["z"].needs) == (("mps-0",), ("mps-1",), ("mps-1",))
    assert y.env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "12.5"
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in processes["z"].env, "not the one of our own shell"
    assert isinstance(x.check, ServerCheck)
    assert x.check.share is not None
    assert (x.check.share.pipe_directory, x.check.share.multiprocessors) == (pipe, 132)
    assert x.models == ("a", "both")
    assert plan.addresses == {"http": "127.0.0.1:8000", "grpc": "127.0.0.1:8001", "metrics": "127.0.0.1:8002"}
    assert x.addresses["http"] == "127.0.0.1:9000"
    assert processes["gateway"].after == ("x", "y-gpu0", "y-gpu1", "z")


def test_the_pools_of_servers_on_one_gpu() -> None:
    plan = serve.plan(replace(REQUEST, servers=SERVERS), host(4))
    processes = {process.name: process for process in plan.processes}
    pools = ("--pinned-memory-pool-byte-size=134217728", "--cuda-memory-pool-byte-size=0:33554432")
    assert processes["x"].argv[-2:] == pools
    assert processes["y-gpu0"].argv[-3:] == (*pools, "--allow-gpu-metrics=false")
    given = replace(REQUEST, servers=SERVERS, server_args=("--pinned-memory-pool-byte-size=1", "--cuda-mem=0:2"))
    processes = {process.name: process for process in serve.plan(given, host(4)).processes}
    assert processes["x"].argv[-3:] == ("--metrics-port=9002", *given.server_args)
    alone = serve.plan(replace(REQUEST, gpus=("1",)), host(1, machine=replace(MACHINE, gpus=(OTHER,))))
    assert [process.name for process in alone.processes] == ["mps-1", "server"]
    assert alone.processes[1].argv[-1] == "--metrics-port=8002", "one server keeps Triton's own"
    many = (Server("a", models=("a", "both"), gpus=(1,), replicas=20), Server("b", 1, models=("b",), gpus=(1,)))
    last = serve.plan(replace(REQUEST, servers=many), host(21)).processes[-2]
    assert last.argv[-3:-1] == ("--pinned-memory-pool-byte-size=33554432", "--cuda-memory-pool-byte-size=0:8388608")


def test_views_of_the_repository() -> None:
    plan = serve.plan(replace(REQUEST, servers=SERVERS), host(4))
    (view,) = next(process for process in plan.processes if process.name == "x").folders
    assert view.path == Path("/project/.tritonkit/views/x")
    assert view.links == {
        "a/1": Path("/models/a/1"),
        "a/labels.txt": Path("/models/a/labels.txt"),
        "both/1": Path("/models/both/1"),
    }
    assert view.files["a/config.pbtxt"] == 'backend: "onnxruntime"', "as it is: it names no GPU"
    (view,) = next(process for process in plan.processes if process.name == "z").folders
    local = StoredModel("b", Path("/"), (), {"config.pbtxt": view.files["b/config.pbtxt"]}).config
    assert list(local.instance_group[0].gpus) == [0], "the server sees GPU 1 as its only one"


def test_requests_go_where_a_model_was_put() -> None:
    plan = serve.plan(replace(REQUEST, servers=SERVERS), host(4))
    (folder,) = plan.processes[-1].folders
    routes = dict(line.split() for line in folder.files["models.map"].splitlines())
    assert routes["a"] != routes["both"], "`a` is in x only as a member of an ensemble, and has servers of its own"
    only = (Server("x", 0, ("both",), (0,)), Server("z", 1, ("b",), (1,)))
    (folder,) = serve.plan(replace(REQUEST, servers=only), host(2)).processes[-1].folders
    routes = dict(line.split() for line in folder.files["models.map"].splitlines())
    assert routes["a"] == routes["both"] != routes["b"]


def test_without_mps_a_server_sees_its_gpu_alone() -> None:
    off = serve.plan(
        replace(REQUEST, servers=(Server("s"),), gpus=("1",), mps="off"),
        host(1, machine=replace(MACHINE, gpus=(OTHER,))),
    )
    (process,) = off.processes
    assert process.env["CUDA_VISIBLE_DEVICES"] == UUIDS[1]
    assert process.env["CUDA_MPS_PIPE_DIRECTORY"] == "/run/t/0123abcd/no-mps", "not that of a daemon of somebody else's"
    assert isinstance(process.check, ServerCheck)
    assert process.check.share is not None
    assert process.check.share.pipe_directory is None
    assert process.needs == ()


def test_on_the_cpu() -> None:
    bare = replace(MACHINE, gpus=(), present=())
    spread = serve.plan(replace(REQUEST, servers=(Server("s", replicas=2),), gpus=("none",)), host(2, machine=bare))
    assert [process.name for process in spread.processes] == ["s-r0", "s-r1", "gateway"]
    assert spread.processes[0].env["CUDA_VISIBLE_DEVICES"] == ""
    assert not any("pool" in flag for flag in spread.processes[0].argv)
    assert spread.processes[0].argv[-1] == "--allow-gpu-metrics=false", "it has no GPU to tell of"
    guarded = replace(REQUEST, max_request_bytes=2**20)
    server, gateway = serve.plan(guarded, host(1, machine=bare)).processes
    assert (server.name, gateway.name) == ("server", "gateway")
    assert "--allow-gpu-metrics=false" not in server.argv, "it sees whatever GPUs there are"


def test_the_probe_reaches_every_server() -> None:
    for request, found in ((REQUEST, HOST), (replace(REQUEST, servers=SERVERS), host(4))):
        checks = [process.check for process in serve.plan(replace(request, probe=2.5), found).processes]
        assert {check.probe for check in checks if isinstance(check, ServerCheck)} == {2.5}


def test_of_two_words_about_a_server_the_last_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are said by threads of their own, which may overtake each other."""
    said: list[tuple[str, str]] = []
    monkeypatch.setattr(routing, "tell", lambda _, server, word: said.append((server, word)))
    plan = serve.plan(replace(REQUEST, servers=(Server("a", gpus=(1,), replicas=2),)), host(2))
    specs = {process.name: process for process in plan.processes}
    state = phases.begin(plan.processes, plan.policy, 0)
    for process in plan.processes:
        state, _ = machine.step(state, events.Tick(), 0)
        state, _ = machine.step(state, events.Spawned(process.name, 7), 0)
        state, _ = machine.step(state, events.BecameReady(process.name, 7), 0)
    suspected, actions = machine.step(state, events.Suspected("a-r0", 7, True), 1)
    assert actions == (events.Avoid("a-r0"),)
    routing.route("a-r0", suspected, specs)
    well, actions = machine.step(suspected, events.Suspected("a-r0", 7, False), 2)
    assert actions == (events.Use("a-r0"),)
    # The first one comes late, as it were.
    for _ in range(2):
        routing.route("a-r0", well, specs)
    assert said == [("a-r0", "drain"), ("a-r0", "ready"), ("a-r0", "ready")]


def test_views_are_not_written_through_a_link(project: Path) -> None:
    (project / ".tritonkit").mkdir()
    (project / ".tritonkit/views").symlink_to(project / "code")
    told = tritonkit(project, "up", *ANY_PORTS)
    assert (told.returncode, ".tritonkit/views: is a link" in told.stderr) == (1, True)
    assert [path.name for path in (project / "code").iterdir()] == ["model.py"]


def test_a_project_that_the_stub_cannot_take() -> None:
    request = replace(REQUEST, servers=SERVERS, project=Path("/my project"))
    with pytest.raises(TritonkitError, match="the project folder has a space"):
        serve.plan(request, host(4))
    native = host(4, server=replace(BUNDLED, stub=None), programs=None)
    serve.plan(request, native)


def test_changes_of_a_percentage(tmp_path: Path) -> None:
    replan = replanner(replace(REQUEST, servers=SERVERS, project=tmp_path), host(4))

    def percentages(change: Change) -> dict[str, str | None]:
        return {
            one.name: one.env.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")
            for one in replan(change).processes
            if one.kind == "server"
        }

    assert percentages(Change("y-gpu1", 50)) == {"x": "30", "y-gpu0": "12.5", "y-gpu1": "50", "z": None}
    assert percentages(Change("y", 20)) == {"x": "30", "y-gpu0": "20", "y-gpu1": "20", "z": None}
    assert percentages(Change("z", 20))["z"] == "20"
    with pytest.raises(SpecError, match=r"the thread percentages on GPU 0 sum to 110, above 100: x 30, y-gpu0 80"):
        replan(Change("y", 80))
    for change, words in (
        (Change("w", 20), "no server 'w' runs here"),
        (Change("x", 0), "0 is no percentage above 0"),
        (Change("x", 101), "101 is no percentage above 0"),
    ):
        with pytest.raises(UsageError, match=words):
            replan(change)
    with pytest.raises(UsageError, match="one server, on no GPU of its own"):
        replanner(REQUEST, HOST)(Change("server", 20))
    cpu = replanner(replace(REQUEST, gpus=("none",)), host(1, machine=replace(MACHINE, gpus=())))
    with pytest.raises(UsageError, match="server runs on the CPU"):
        cpu(Change("server", 20))


def test_a_process_that_is_to_run_beside_another() -> None:
    request = replace(REQUEST, servers=SERVERS)
    plan, replan = serve.plan(request, host(4)), replanner(request, host(4))
    before = {one.name: one for one in plan.processes}
    running = tuple(one for one in plan.processes if one.kind == "server")
    planned = replan(Change("x", 80, beside="x", running=running))
    after = {one.name: one for one in planned.processes}
    first, second = before["x"], after["x+"]
    assert {name: one for name, one in after.items() if name not in {"x+", "gateway"}} == {
        name: one for name, one in before.items() if name not in {"x", "gateway"}
    }
    assert second.env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "80", "the first one's does not count"
    # They have nothing in common that both would write, listen on, or be known and cleaned up by.
    assert not set(first.addresses.values()) & set(second.addresses.values())
    assert (second.mark, second.cwd.name, second.folders[0].path.name) == ("0123abcd.x+.", "x+", "x+")
    assert not second.mark.startswith(first.mark)
    differ = [flag.split("=")[0] for flag, other in zip(first.argv, second.argv, strict=True) if flag != other]
    assert differ == [
        "--id", "--model-repository", "--backend-config", "--backend-config", "--http-port", "--grpc-port",
        "--metrics-port",
    ]  # fmt: skip
    assert (second.shown, second.log, second.needs) == ("x", first.log, first.needs)
    (old,), (new,) = before["gateway"].folders, after["gateway"].folders
    moved = old.files["haproxy.cfg"]
    for service, address in first.addresses.items():
        moved = moved.replace(f" {address}", f" {second.addresses[service]}")
    assert new == replace(old, files={**old.files, "haproxy.cfg": moved})
    assert replace(after["gateway"], folders=()) == replace(before["gateway"], folders=())

    # What was changed stays so, and the next process has the first name again.
    running = tuple(one for one in planned.processes if one.kind == "server")
    assert replan(Change("x", running=running)) == planned
    third = next(one for one in replan(Change("y", 10, beside="x+", running=running)).processes if one.name == "x")
    assert (third.env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"], third.mark) == ("80", first.mark)
    assert not set(third.addresses.values()) & {*first.addresses.values(), *second.addresses.values()}


@pytest.mark.parametrize(
    ("limit", "clients", "words"),
    [
        (36 * GIB, 60, r"GPU 0 has 141.0 GiB of memory, less .*: x 2 processes with 36GiB, x 2 processes with 36GiB"),
        (8 * GIB, 5, r"GPU 0 would have 6 client processes \(x 2, y-gpu0 2, x 2; .*, and MPS takes 5, of which"),
    ],
)
def test_no_room_for_a_process_beside_another(limit: int, clients: int, words: str) -> None:
    servers = (replace(SERVERS[0], memory_limit=limit), *SERVERS[1:])
    present = (replace(GPU, mps_clients=clients), OTHER)
    found = host(4, machine=replace(MACHINE, gpus=present, present=present))
    replan = replanner(replace(REQUEST, servers=servers), found)
    replan(Change("x", 20))
    replan(Change("x", 20, beside="y-gpu1"))
    with pytest.raises(SpecError, match=words):
        replan(Change("x", 20, beside="x"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spec of one model in two replicas on one of two GPUs, which are not there."""
    pretend(monkeypatch, tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code/model.py").write_text(ECHO)
    (tmp_path / "spec.yaml").write_text(
        "version: 1\nmodels:\n  echo:\n    backend: python\n    source: code\n    max_batch_size: 8\n"
        '    input: {IN: "FP32[2]"}\n    output: {OUT: "FP32[2]"}\n    instance_group: [{count: 1, kind: KIND_CPU}]\n'
        "servers:\n  - {name: e, gpus: [0], thread_percentage: 30, memory_limit: 4GiB, replicas: 2}\n"
    )
    return tmp_path


def tritonkit(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=project,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_dry_run(project: Path) -> None:
    told = tritonkit(project, "up", "--dry-run", *ANY_PORTS)
    assert told.returncode == 0, told.stderr
    words = [line.split() for line in told.stdout.splitlines()]
    assert next(line for line in words if line[:1] == ["0"])[1:6] == ["NVIDIA", "H200", "132", "140.4", "GiB"]
    assert ["e-r0", "server", "0", "30%", "4GiB", "echo"] in [line[:6] for line in words]
    assert ["mps-0", "mps", "0"] in [line[:3] for line in words]
    assert not (project / "model_repository").exists()
    for build in (False, True):
        if build:
            assert tritonkit(project, "build-repo", "spec.yaml").returncode == 0
        document = json.loads(tritonkit(project, "up", "--dry-run", "--json", *ANY_PORTS).stdout)
        assert [gpu["uuid"] for gpu in document["gpus"]] == list(UUIDS)
        assert [process["kind"] for process in document["processes"]] == ["mps", "server", "server", "gateway"]
        (view,) = document["processes"][1]["folders"]
        assert view["links"] == {"echo/1": str(project / "model_repository/echo/1")}
        assert 'backend: "python"' in view["files"]["echo/config.pbtxt"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpus", "7"), "--gpus 7: no GPU 7; here: 0 (NVIDIA H200"),
        (("--gpus", "1"), "spec.yaml:11: servers[0].gpus: names GPU 0, which --gpus leaves out (chosen: 1)"),
        (("--gpus", "0,,1"), "expected indices or UUIDs with commas between them"),
        (("--gpus", "all,0"), "expected indices or UUIDs with commas between them"),
        (("--mps", "off"), "servers[0].thread_percentage: only MPS can keep this limit on GPU 0: --mps off"),
        (("--mps", "maybe"), "'maybe' is not one of"),
        (
            ("--set", "servers[0].replicas=4"),
            "spec.yaml:11: servers[0].thread_percentage: the thread percentages on GPU 0 sum",
        ),
        (("--max-request-size", "big"), "expected a number of bytes"),
    ],
)
def test_what_up_refuses(project: Path, arguments: tuple[str, ...], words: str) -> None:
    told = tritonkit(project, "up", *arguments, *ANY_PORTS)
    assert told.returncode == 2
    assert words in " ".join(told.stderr.replace("│", " ").split())
    assert not (project / ".tritonkit").exists()


def test_gpus_that_are_asked_for_without_a_driver_are_a_missing_requirement(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FAKE_NVML")
    told = tritonkit(project, "up", "--gpus", "0", *ANY_PORTS)
    assert told.returncode == 3, "as errors.py and README.md say of what is missing"
    assert told.stderr.splitlines()[-2:] == [
        "error: no NVIDIA driver answers (NVML: Driver Not Loaded)",
        "hint: Install the driver, or serve on the CPU: leave --gpus out, or say --gpus none.",
    ]


def test_a_lost_gpu_is_in_nobodys_way_but_that_of_who_asks_for_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, tmp_path, [{"uuid": UUIDS[0]}, {"refuses": "nvmlDeviceGetHandleByIndex"}])
    told = tritonkit(project, "up", "--dry-run", *ANY_PORTS)
    assert told.returncode == 0, told.stderr
    assert "note: GPU 1 cannot be used: NVML: GPU is lost" in told.stdout
    told = tritonkit(project, "up", "--gpus", "0,1", *ANY_PORTS)
    assert (told.returncode, "GPU 1 cannot be used: NVML: GPU is lost; here: 0 (NVIDIA" in told.stderr) == (2, True)


@contextmanager
def requests(address: str) -> Iterator[list[str]]:
    """Requests one after the other for the time of a block; what went wrong."""
    wrong: list[str] = []
    ended = threading.Event()

    def send() -> None:
        with triton.InferenceServerClient(address) as client:
            while not ended.is_set():
                try:
                    answer = ask(client, "echo", {"IN": np.ones((1, 2), np.float32)})
                    assert (answer["OUT"] == 1).all()
                except Exception as error:
                    wrong.append(str(error))

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield wrong
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_a_percentage_is_changed_without_a_lost_request(project: Path) -> None:
    started = tritonkit(project, "up", "--detach", "--stop-timeout", "5", *ANY_PORTS)
    assert started.returncode == 0, started.stderr
    deployment = deployment_of(project)
    try:
        shown = json.loads(tritonkit(project, "mps", "status", "--json").stdout)
        (daemon,) = shown
        assert (daemon["name"], daemon["gpu"], daemon["answers"]) == ("mps-0", 0, True)
        clients = {(one["server"], one["model"], one["thread_percentage"]) for one in daemon["clients"]}
        assert clients == {("e-r0", "", 30), ("e-r0", "echo", 30), ("e-r1", "", 30), ("e-r1", "echo", 30)}

        with requests(deployment.grpc) as wrong:
            changed = tritonkit(project, "mps", "set", "e", "20", "--json")
        assert changed.returncode == 0, changed.stderr
        assert wrong == []
        steps = [(step["server"], step["step"]) for step in json.loads(changed.stdout)]
        assert [step for step in steps if step[1] == "ready"] == [("e-r0", "ready"), ("e-r1", "ready")]
        table = tritonkit(project, "mps", "status").stdout
        assert table.count("20%") == 4
        after = {server.name: server for server in deployment_of(project).servers}
        before = {server.name: server for server in deployment.servers}
        assert after["mps-0"].pid == before["mps-0"].pid
        assert after["e-r0"].pid != before["e-r0"].pid

        refused = tritonkit(project, "mps", "set", "e-r0", "90")
        assert refused.returncode == 2
        assert "the thread percentages on GPU 0 sum to 110, above 100: e-r0 90, e-r1 20" in refused.stderr
        assert tritonkit(project, "mps", "set", "e", "0").returncode == 2
    finally:
        tritonkit(project, "down")
    assert left_of(deployment.id) == []
