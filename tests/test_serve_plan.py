from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from serving import FREE_PORTS, echo_repository, python_model, tritonkit

from tritonkit import serve
from tritonkit.errors import LaunchFailed, TritonkitError, UsageError
from tritonkit.serve import gpus, ports
from tritonkit.tools.tritonserver import TritonServer

BUNDLED = TritonServer(Path("/s/tritonserver"), "1", Path("/s/backends"), Path("/s/caches"), stub=Path("/s/stub"))
HOST = serve.Host(
    server=BUNDLED,
    backend_directory=Path("/cache/backends/key"),
    models=("a", "b"),
    address="127.0.0.1",
    ports={"http": 8000, "grpc": 8001, "metrics": 8002},
    programs=Path("/env/bin"),
    library_path="/lib/python",
    environment={"HOME": "/h", "PATH": "/usr/bin", "PYTHONPATH": "/p", "PYTHONHOME": "/q"},
    deployment="0123abcd",
)
REQUEST = serve.Request(repository=Path("/models"), project=Path("/project"))


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("lent", ["1 65535\n", "no numbers"])
def test_free_ports_where_the_kernel_lends_all(lent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "range").write_text(lent)
    monkeypatch.setattr(ports, "_LENT", tmp_path / "range")
    assert all(ports.choose("127.0.0.1", FREE_PORTS).values())


def test_a_candidate_that_is_taken_is_passed_over(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_candidates", lambda: [taken])
    assert ports.choose("127.0.0.1", {"http": 0})["http"] not in (0, taken)


def test_the_plan_of_one_server() -> None:
    plan = serve.plan(replace(REQUEST, log_verbose=1, server_args=("--rate-limit=off",)), HOST)
    (process,) = plan.processes
    assert process.argv == (
        "/s/tritonserver",
        "--id=tritonkit-0123abcd.server",
        "--model-repository=/models",
        "--backend-directory=/cache/backends/key",
        "--cache-directory=/s/caches",
        "--backend-config=python,shm-region-prefix-name=tritonkit-0123abcd.server.",
        "--backend-config=onnxruntime,shm-region-prefix-name=tritonkit-0123abcd.server.",
        "--exit-on-error=false",
        "--exit-timeout-secs=25",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
        "--http-port=8000",
        "--grpc-port=8001",
        "--metrics-port=8002",
        "--log-verbose=1",
        "--rate-limit=off",
    )
    assert process.env == {
        "HOME": "/h",
        "PATH": "/env/bin:/usr/bin",
        "LD_LIBRARY_PATH": "/lib/python",
        "MALLOC_ARENA_MAX": "4",
        "MALLOC_MMAP_THRESHOLD_": "33554432",
        "MALLOC_TRIM_THRESHOLD_": "268435456",
        "MALLOC_TOP_PAD_": "16777216",
        "TRITONKIT_DEPLOYMENT": "0123abcd.server.",
    }
    assert process.models == ("a", "b")
    assert plan.addresses == {"http": "127.0.0.1:8000", "grpc": "127.0.0.1:8001", "metrics": "127.0.0.1:8002"}


def test_the_users_own_allocator_settings_win() -> None:
    own = {**HOST.environment, "MALLOC_TOP_PAD_": "1"}
    (process,) = serve.plan(REQUEST, replace(HOST, environment=own)).processes
    assert process.env["MALLOC_TOP_PAD_"] == "1"
    assert process.env["MALLOC_TRIM_THRESHOLD_"] == "268435456"


def test_where_there_is_no_driver_none_is_looked_for() -> None:
    host = replace(HOST, driver=False)
    (process,) = serve.plan(REQUEST, host).processes
    assert process.argv[-1] == "--allow-gpu-metrics=false"
    own = ("--allow-gpu-metrics=true",)
    (process,) = serve.plan(replace(REQUEST, server_args=own), host).processes
    assert process.argv[-2:] == ("--metrics-port=8002", *own)


def test_a_native_server_keeps_its_environment() -> None:
    host = replace(HOST, server=replace(BUNDLED, stub=None), programs=None, library_path="")
    spaced = replace(REQUEST, repository=Path("/my models"))
    (process,) = serve.plan(spaced, host).processes
    assert process.env == {**HOST.environment, "TRITONKIT_DEPLOYMENT": "0123abcd.server."}


def test_models_loaded_on_demand_are_not_waited_for() -> None:
    for flag in ("--model-control-mode=explicit", "--model-control-mode=EXPLICIT", "--model-con=explicit"):
        explicit = replace(REQUEST, server_args=(flag,))
        assert serve.plan(explicit, HOST).processes[0].models == ()
    for flag in ("--model-control-mode=none", "--model-control-mode=poll", "--rate-limit=explicit"):
        assert serve.plan(replace(REQUEST, server_args=(flag,)), HOST).processes[0].models == ("a", "b")


def test_mps_that_is_insisted_on_needs_a_gpu() -> None:
    with pytest.raises(UsageError, match="--mps on: no server has a GPU of its own") as caught:
        serve.plan(replace(REQUEST, mps="on"), HOST)
    assert "--gpus 0" in str(caught.value.hint)


def test_model_control_loads_every_model_at_the_start() -> None:
    control = ["--model-control-mode=explicit", "--load-model=*"]

    def flags(request: serve.Request) -> list[str]:
        return [word for word in serve.plan(request, HOST).processes[0].argv if "control" in word or "load" in word]

    asked = replace(REQUEST, allow_model_control=True)
    assert flags(REQUEST) == []
    assert flags(asked) == control
    assert serve.plan(asked, HOST).processes[0].models == ("a", "b")
    for own in (("--model-control-mode=explicit",), ("--model-control-mode=explicit", "--load-model=a")):
        assert flags(replace(asked, server_args=own)) == list(own)


@pytest.mark.parametrize("path", ["/my models", "/a;b", "/a$b", "/a'b", "/(a)", "/a\nb", "/a&b", "/a*"])
def test_paths_that_would_hang_the_stub_are_refused(path: str) -> None:
    for request, host, words in (
        (replace(REQUEST, repository=Path(path)), HOST, "the model repository"),
        (REQUEST, replace(HOST, models=("fine", path[1:])), "a model's folder"),
        (REQUEST, replace(HOST, backend_directory=Path(path)), "the cache of tritonkit"),
        (REQUEST, replace(HOST, programs=Path(path)), "the Python environment"),
    ):
        with pytest.raises(TritonkitError, match=words) as caught:
            serve.plan(request, host)
        assert "would hang" in str(caught.value.hint)


def test_paths_with_other_characters_are_not() -> None:
    serve.plan(replace(REQUEST, repository=Path("/models/a-b_c.d,e@f+g=h:i%j")), HOST)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--http-port=1", "Use tritonkit's own option --http-port"),
        ("--http-address=0.0.0.0", "Use tritonkit's own option --host"),
        ("--http-por=1", "Use tritonkit's own option --http-port"),
        ("--http-restricted-api=health:key=value", "tritonkit sets this flag itself"),
        ("--http-restricted=health:key=value", "tritonkit sets this flag itself"),
        ("--model-control-mode explicit", "expected one flag of tritonserver"),
        ("--model-repository=/other", "tritonkit sets this flag itself"),
        ("--backend-config=python,shm-region-prefix-name=x", "tritonkit sets this flag itself"),
        ("rate-limit=off", "expected one flag of tritonserver"),
    ],
)
def test_flags_that_tritonkit_sets_are_refused(argument: str, words: str) -> None:
    with pytest.raises(TritonkitError) as caught:
        serve.plan(replace(REQUEST, server_args=(argument,)), HOST)
    assert words in str(caught.value)


def test_a_port_in_use_is_found_before_the_start_and_its_holder_named(tmp_path: Path, taken: int) -> None:
    echo_repository(tmp_path / "models")
    answer = tritonkit(tmp_path, "up", "models", "--http-port", "0", "--grpc-port", str(taken), "--metrics-port", "0")
    assert answer.returncode == 5
    assert f"grpc port {taken} is in use by process {os.getpid()} (" in answer.stderr
    assert "--grpc-port 0 takes a free one" in answer.stderr
    assert not (tmp_path / ".tritonkit").exists()


def test_ports(taken: int) -> None:
    chosen = ports.choose("127.0.0.1", FREE_PORTS)
    assert len(set(chosen.values())) == 3
    assert all(chosen.values())
    assert ports.choose("127.0.0.1", chosen) == chosen, "what was chosen is free"
    first, last = map(int, ports._LENT.read_text().split())
    assert not any(first <= port <= last for port in chosen.values()), "and no connection gets it while it is free"
    with pytest.raises(LaunchFailed, match=f"http port {taken} is in use"):
        ports.choose("127.0.0.1", {"http": taken})
    with pytest.raises(TritonkitError, match="port 9 is asked for twice"):
        ports.choose("127.0.0.1", {"http": 9, "grpc": 9})
    with pytest.raises(TritonkitError, match=r"cannot listen on 192\.0\.2\.1"):
        ports.choose("192.0.2.1", {"http": 0})


def test_a_port_that_was_found_is_kept_until_its_server_listens(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the choice of a port and the server's bind lie seconds, in which others choose too."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
    monkeypatch.setattr(ports, "_candidates", lambda: [taken, free])
    chosen = ports.choose("127.0.0.1", {"http": 0})
    assert chosen == {"http": free}
    assert ports.choose("127.0.0.1", {"http": 0}) != chosen
    with socket.create_server(("127.0.0.1", free)), pytest.raises(LaunchFailed, match=f"port {free} is in use"):
        ports.choose("127.0.0.1", {"http": free})
    chosen.release()
    assert ports.choose("127.0.0.1", {"http": 0}) == chosen
    assert ports.choose("127.0.0.1", {"http": 0}) == chosen, "what nobody refers to is not kept"


def test_a_port_that_only_root_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(TritonkitError, match="http port 80 may not be listened on") as caught:
        ports.choose("127.0.0.1", {"http": 80})
    assert caught.value.hint == "Choose --http-port above 1023."


def test_hosts() -> None:
    assert ports.resolve("127.0.0.1") == "127.0.0.1"
    assert ports.resolve("localhost") == "127.0.0.1"
    assert ports.join("0.0.0.0", 8000) == "127.0.0.1:8000"  # noqa: S104 - nothing is bound
    for host in ("", "::1", "a..b", "nosuch.invalid"):
        with pytest.raises(TritonkitError, match="no IPv4 address"):
            ports.resolve(host)


def test_repositories_that_cannot_be_served(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty" / ".git").mkdir(parents=True)
    for name, words in (
        ("gone", "no such model repository"),
        ("file", "not a folder"),
        ("empty", "holds no model"),
    ):
        request = serve.Request(repository=tmp_path / name, project=tmp_path, ports=FREE_PORTS)
        with pytest.raises(UsageError, match=words) as caught:
            serve.survey(request)
        assert caught.value.exit_code == 2
    answer = tritonkit(tmp_path, "up")
    assert (answer.returncode, "spec.yaml: no such file" in answer.stderr) == (2, True)


def test_survey_sees_the_models(tmp_path: Path) -> None:
    repository = python_model(echo_repository(tmp_path / "models"), "other")
    (repository / "tritonkit.json").write_text("{}")
    (repository / ".git").mkdir()
    host = serve.survey(serve.Request(repository=repository, project=tmp_path, ports=FREE_PORTS))
    assert (host.models, host.driver) == (("echo", "other"), gpus.has_driver())
    assert host.backend_directory.is_dir()
