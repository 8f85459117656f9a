"""The light HTTP client: what servers say, and what is said where there is none."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from tritonkit.client.endpoint import Endpoint
from tritonkit.errors import RequestFailed, UsageError
from tritonkit.serve import Deployment


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("localhost:9000", "localhost:9000"),
        ("localhost", "localhost:8000"),
        ("http://10.0.0.1:8500/", "10.0.0.1:8500"),
        ("https://10.0.0.1:8500", "10.0.0.1:8500"),
        ("[::1]:80", "[::1]:80"),
    ],
)
def test_addresses(given: str, address: str) -> None:
    assert Endpoint(given).address == address


@pytest.mark.parametrize("given", ["", "ftp://a:1", "a:port", "a:99999", "grpc://a:1", "a:1/v2", "http://"])
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match=r"is not the address of a server[\s\S]*host:port"):
        Endpoint(given)


def test_neighbour() -> None:
    assert Endpoint("[::1]:8000").neighbour(1) == "[::1]:8001"


def test_a_server_answers(measured_server: Deployment) -> None:
    endpoint = Endpoint(measured_server.http)
    assert endpoint.live()
    assert endpoint.ready()
    states = endpoint.index()
    assert [state.name for state in states] == ["add", "image", "moody", "nested", "open", "twice", "types"]
    assert {(state.version, state.state, state.reason) for state in states} == {("1", "READY", "")}
    assert endpoint.server_metadata()["name"]
    assert endpoint.metadata("add")["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}]
    assert endpoint.config("add", "1")["max_batch_size"] == 8
    assert endpoint.statistics("add")["model_stats"][0]["name"] == "add"


def test_tritons_own_words_for_an_unknown_model(measured_server: Deployment) -> None:
    with pytest.raises(RequestFailed, match=r"unknown model: 'ad'"):
        Endpoint(measured_server.http).metadata("ad")


def test_nothing_listens(closed_port: str) -> None:
    endpoint = Endpoint(closed_port)
    assert not endpoint.live()
    assert not endpoint.ready()
    with pytest.raises(RequestFailed, match=rf"no server can be reached at {closed_port}.*refused") as caught:
        endpoint.index()
    assert caught.value.hint is not None
    assert "tritonkit up" in caught.value.hint


def test_something_listens_and_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = Endpoint(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.05)
        assert not endpoint.ready()
        with pytest.raises(RequestFailed, match="no answer in time"):
            endpoint.metadata("add")


def test_the_grpc_port_is_no_http_port(measured_server: Deployment) -> None:
    endpoint = Endpoint(measured_server.grpc, timeout=2)
    assert not endpoint.live()
    with pytest.raises(RequestFailed, match="no server can be reached"):
        endpoint.index()


def test_the_metrics_port_speaks_http_but_is_no_triton(measured_server: Deployment) -> None:
    with pytest.raises(RequestFailed, match="is no Triton HTTP service"):
        Endpoint(measured_server.metrics).server_metadata()
    with pytest.raises(RequestFailed, match="Method Not Allowed"):
        Endpoint(measured_server.metrics).index()


def test_it_is_light() -> None:
    code = (
        "import sys, tritonkit.client.endpoint, tritonkit.client.signature\n"
        "print({'numpy', 'tritonclient', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
