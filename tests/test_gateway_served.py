"""The gateway before two real servers: who answers what, in whose words."""

from __future__ import annotations

import http.client
import json
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from gateways import Clients, Gateway, certificate, gateway, infer, servers
from serving import wait_for
from tritonclient.utils import InferenceServerException

from tritonkit.serve.gateway import Backend
from tritonkit.serve.haproxy import reload

PROTOCOLS = ("http", "grpc")


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Backend]]:
    # Every model is loaded at the start, and may be unloaded where a gateway lets that through.
    arguments = ("--model-control-mode=explicit", "--load-model=*")
    with servers(tmp_path_factory.mktemp("servers"), server_args=arguments) as running:
        yield [backend for backend, _ in running.values()]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, backends: list[Backend]) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("gateway"), backends, max_request_bytes=4_000_000) as running:
        yield running


@pytest.fixture
def clients() -> Iterator[Clients]:
    with Clients() as opened:
        yield opened


def ask(address: str, path: str, *, method: str = "GET", body: str | None = None, **headers: str) -> tuple[int, str]:
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def refused(call: Any) -> tuple[str, str]:
    """The status and the words of an error that a client of Triton's own sees."""
    with pytest.raises(InferenceServerException) as error:
        call()
    return str(error.value.status()), str(error.value.message())


@pytest.mark.parametrize("length", [2, 150_000], ids=["small", "600 KB"])
@pytest.mark.parametrize("model", ["one", "both", "another_model"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_goes_by_its_model(clients: Clients, served: Gateway, protocol: str, model: str, length: int) -> None:
    asked = clients.of(served, protocol)
    assert infer(asked, model, 0, 7, length=length) == [0, 7]
    assert asked.is_model_ready(model)
    assert asked.get_model_metadata(model)
    assert asked.get_model_config(model)
    assert asked.get_inference_statistics(model)


@pytest.mark.parametrize("length", [2, 150_000], ids=["small", "600 KB"])
def test_an_unknown_model_is_refused_in_tritons_words(
    clients: Clients, served: Gateway, backends: list[Backend], length: int
) -> None:
    for protocol, status in (("http", "404"), ("grpc", "StatusCode.NOT_FOUND")):
        through = refused(lambda: infer(clients.of(served, protocol), "nobody", 0, length=length))  # noqa: B023
        assert through == (status, "Request for unknown model: 'nobody' is not found")
    direct = clients.http(backends[0].http)
    assert through[1] == refused(lambda: infer(direct, "nobody", 0, length=length))[1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_too_long_is_refused(clients: Clients, served: Gateway, protocol: str) -> None:
    asked = clients.of(served, protocol)
    assert infer(asked, "one", 0, length=990_000) == [0, 0]
    expected = {
        "http": ("413", "a request may have 4000000 bytes at most"),
        "grpc": ("StatusCode.RESOURCE_EXHAUSTED", "a message may have 4000000 bytes at most"),
    }
    for length in (1_000_001, 10_000_000):
        assert refused(lambda: infer(asked, "one", 0, length=length)) == expected[protocol]  # noqa: B023
    assert infer(asked, "one", 0, 3) == [0, 3]


def test_what_is_closed_says_so(clients: Clients, served: Gateway) -> None:
    http, grpc = clients.of(served, "http"), clients.of(served, "grpc")
    closed = "model control, trace and log settings are closed: start with --allow-model-control"
    calls: tuple[Callable[[Any], Any], ...] = (
        lambda asked: asked.load_model("one"),
        lambda asked: asked.unload_model("one"),
        lambda asked: asked.update_log_settings({"log_verbose_level": 1}),
        lambda asked: asked.update_trace_settings(settings={"trace_level": "TIMESTAMPS"}),
        lambda asked: asked.update_trace_settings("one", settings={"trace_level": "TIMESTAMPS"}),
    )
    for call in calls:
        assert refused(lambda: call(http)) == ("403", closed)  # noqa: B023
        assert refused(lambda: call(grpc)) == ("StatusCode.PERMISSION_DENIED", closed)  # noqa: B023
    for asked, status in ((http, "403"), (grpc, "StatusCode.FAILED_PRECONDITION")):
        said = refused(lambda: asked.register_system_shared_memory("region", "/key", 64))  # noqa: B023
        assert said[0] == status
        assert said[1].startswith("shared memory is registered with one server")


@pytest.mark.parametrize(
    "path",
    ["/", "/v2/nothing", "/v2//repository/models/one/unload", "/v2/%72epository/models/one/unload", "/v2/models/"],
)
def test_no_other_path_reaches_a_server(served: Gateway, path: str) -> None:
    assert ask(served.http, path, method="POST", body="{}") == (404, '{"error":"Not Found"}')


def test_a_compressed_message_cannot_be_routed(clients: Clients, served: Gateway) -> None:
    status, words = refused(
        lambda: infer(clients.of(served, "grpc"), "one", 0, length=150_000, compression_algorithm="gzip")
    )
    assert (status, words) == (
        "StatusCode.UNIMPLEMENTED",
        "the gateway finds the model's name in messages that are not compressed",
    )


def test_the_index_and_the_statistics_are_those_of_all_servers(clients: Clients, served: Gateway) -> None:
    asked = clients.of(served, "http")
    index = asked.get_model_repository_index()
    assert sorted(model["name"] for model in index) == ["another_model", "both", "one", "stream"]
    assert {model["state"] for model in index} == {"READY"}
    statistics = asked.get_inference_statistics()["model_stats"]
    assert {model["name"] for model in statistics} == {"another_model", "both", "one", "stream"}


def test_calls_to_the_server_itself(clients: Clients, served: Gateway) -> None:
    for protocol in PROTOCOLS:
        asked = clients.of(served, protocol)
        assert asked.is_server_live()
        assert asked.is_server_ready()
        assert asked.get_server_metadata()


def test_it_is_ready_only_when_every_model_can_be_served(clients: Clients, served: Gateway) -> None:
    http, grpc = clients.of(served, "http"), clients.of(served, "grpc")
    served.control.drain("right")
    try:
        assert ask(served.http, "/v2/health/ready") == (503, '{"error":"no server is ready for another_model"}')
        assert ask(served.http, "/v2/health/live") == (200, "")
        said = refused(grpc.is_server_ready)
        assert said == ("StatusCode.UNAVAILABLE", "no server is ready for another_model")
        # What has another server goes there.
        assert infer(http, "both", 0, 1) == infer(grpc, "both", 0, 1) == [0, 1]
        words = "no server is ready for 'another_model'"
        for length in (2, 150_000):
            assert refused(lambda: infer(http, "another_model", 0, length=length)) == ("503", words)  # noqa: B023
            said = refused(lambda: infer(grpc, "another_model", 0, length=length))  # noqa: B023
            assert said == ("StatusCode.UNAVAILABLE", words)
    finally:
        served.control.ready("right")
    wait_for(lambda: ask(served.http, "/v2/health/ready") == (200, ""))
    assert infer(http, "another_model", 0, 1) == infer(grpc, "another_model", 0, 1) == [0, 1]


def count_of_both(clients: Clients, backends: list[Backend]) -> list[int]:
    """How many inferences of the model with two servers each of them has made, and counted in full."""
    found = [clients.http(backend.http).get_inference_statistics("both")["model_stats"] for backend in backends]
    # The server counts a request and its execution one after the other, a moment after it has answered.
    return [sum(min(one["inference_count"], one["execution_count"]) for one in statistics) for statistics in found]


def wait_for_both(clients: Clients, backends: list[Backend], before: list[int], inferences: int) -> list[int]:
    """``count_of_both`` once so many more than ``before`` are counted."""
    wait_for(lambda: sum(count_of_both(clients, backends)) - sum(before) == inferences)
    return count_of_both(clients, backends)


def test_statistics_are_those_of_all_replicas(clients: Clients, served: Gateway, backends: list[Backend]) -> None:
    asked = clients.of(served, "http")
    before = count_of_both(clients, backends)
    for length in (2, 3, 4):
        infer(asked, "both", 0, length=length)
    wait_for_both(clients, backends, before, 3)
    for version in ("", "1"):
        (found,) = asked.get_inference_statistics("both", version)["model_stats"]
        each = [
            clients.http(backend.http).get_inference_statistics("both", version)["model_stats"][0]
            for backend in backends
        ]
        assert found["inference_count"] == sum(one["inference_count"] for one in each)
        assert found["last_inference"] == max(one["last_inference"] for one in each)
        for kind in ("success", "queue", "compute_infer"):
            for figure in ("count", "ns"):
                expected = sum(one["inference_stats"][kind][figure] for one in each)
                assert found["inference_stats"][kind][figure] == expected
        (batches,) = found["batch_stats"]
        assert batches["batch_size"] == 1
        assert batches["compute_infer"]["count"] == found["execution_count"]
    listed = asked.get_inference_statistics()["model_stats"]
    assert sorted(model["name"] for model in listed) == ["another_model", "both", "one", "stream"]
    assert found in listed
    assert ask(served.http, "/v2/models/nobody/stats")[0] == 400
    assert ask(served.http, "/v2/models/both/versions/7/stats")[0] == 400


def test_statistics_over_grpc_are_always_those_of_one_server(
    clients: Clients, served: Gateway, backends: list[Backend]
) -> None:
    asked = clients.of(served, "grpc")
    before = count_of_both(clients, backends)
    infer(asked, "both", 0)
    infer(asked, "both", 0)
    infer(clients.http(backends[0].http), "both", 0)
    wait_for_both(clients, backends, before, 3)
    said = {str(asked.get_inference_statistics("both")) for _ in range(4)}
    assert len(said) == 1
    served.control.drain("left")
    try:
        assert asked.get_inference_statistics("both").model_stats
    finally:
        served.control.ready("left")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_replicas_share_the_requests(clients: Clients, served: Gateway, backends: list[Backend], protocol: str) -> None:
    before = count_of_both(clients, backends)
    asked = clients.of(served, protocol)
    for _ in range(10):
        infer(asked, "both", 0)
    after = wait_for_both(clients, backends, before, 10)
    assert [now - then for now, then in zip(after, before, strict=True)] == [5, 5]


def test_sequences_stay_with_one_server(clients: Clients, tmp_path: Path, backends: list[Backend]) -> None:
    before = count_of_both(clients, backends)
    with gateway(tmp_path, backends, sticky_models=("both",)) as one:
        for protocol in PROTOCOLS:
            for _ in range(5):
                infer(clients.of(one, protocol), "both", 0)
    after = wait_for_both(clients, backends, before, 10)
    assert sorted(now - then for now, then in zip(after, before, strict=True)) == [0, 10]


@pytest.mark.parametrize("pause", [0.0, 1.5], ids=["at once", "opened long before"])
def test_a_stream(clients: Clients, served: Gateway, pause: float) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    with clients.grpc(served.grpc) as asked:
        asked.start_stream(lambda result, error: answers.put(error or result.as_numpy("OUT")[0]))
        assert not wait_quietly(answers, pause)
        given = tritonclient.grpc.InferInput("IN", [2], "FP32")
        given.set_data_from_numpy(np.array([0.05, 4], np.float32))
        for _ in range(2):
            asked.async_stream_infer("stream", [given])
        assert [answers.get(timeout=20) for _ in range(8)] == [0, 1, 2, 3] * 2


def wait_quietly(answers: queue.Queue[Any], seconds: float) -> list[Any]:
    try:
        return [answers.get(timeout=seconds)] if seconds else []
    except queue.Empty:
        return []


def test_generate_streams(served: Gateway) -> None:
    status, said = ask(served.http, "/v2/models/stream/generate_stream", method="POST", body='{"IN": [0.05, 3]}')
    assert status == 200
    events = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: ")]
    assert [event["OUT"] for event in events] == [[0, 3], [1, 3], [2, 3]]


def test_metrics_are_those_of_all_servers(served: Gateway, backends: list[Backend]) -> None:
    status, page = ask(served.spec.addresses["metrics"], "/metrics")
    assert status == 200
    lines = page.splitlines()
    about = [line.split()[1:3] for line in lines if line.startswith("# ")]
    assert len(about) == len({tuple(line) for line in about}), "a HELP or TYPE line came twice"
    for backend in backends:
        for line in ask(backend.metrics, "/metrics")[1].splitlines():
            if line.startswith("nv_inference_count{"):
                name, labels = line.rsplit(" ", 1)[0].split("{", 1)
                assert any(one.startswith(f'{name}{{server="{backend.name}",{labels} ') for one in lines)
    assert any(line.startswith("haproxy_frontend_http_requests_total") for line in lines)
    # All samples of a family stand together, behind what is said about it.
    families = [line.split("{")[0] for line in lines if line.startswith("nv_inference_count{")]
    first = lines.index(next(line for line in lines if line.startswith("nv_inference_count{")))
    assert lines[first - 1].startswith("# TYPE nv_inference_count ")
    assert all(line.startswith("nv_inference_count{") for line in lines[first : first + len(families)])
    assert ask(served.spec.addresses["metrics"], "/other")[0] == 404


def test_tokens(clients: Clients, tmp_path: Path, backends: list[Backend]) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("# of the team\nfirst-token-of-ours\n\nsecond-token-of-ours\n")
    with gateway(tmp_path, backends, tokens_file=tokens) as running:
        known, unknown = ({"authorization": f"Bearer {word}"} for word in ("second-token-of-ours", "# of the team"))
        words = "a known token is needed: Authorization: Bearer TOKEN"
        for protocol, status in (("http", "401"), ("grpc", "StatusCode.UNAUTHENTICATED")):
            asked = clients.of(running, protocol)
            assert infer(asked, "one", 0, 1, headers=dict(known)) == [0, 1]
            for headers in ({}, unknown, {"authorization": "Bearer first-token-of-our"}):
                for length in (2, 150_000):
                    said = refused(lambda: infer(asked, "one", 0, length=length, headers=dict(headers)))  # noqa: B023
                    assert (said[0], said[1].lower()) == (status, words.lower())
            assert asked.is_server_live()
            assert asked.is_server_ready()
        assert ask(running.spec.addresses["metrics"], "/metrics")[0] == 401
        assert ask(running.spec.addresses["metrics"], "/metrics", **known)[0] == 200
        assert "first-token" not in running.log()
        running.control.drain("right")
        wait_for(lambda: ask(running.http, "/v2/health/ready") != (200, ""))
        assert ask(running.http, "/v2/health/ready") == (503, '{"error":"no server is ready"}'), (
            "strangers learn no names"
        )
        said = refused(clients.of(running, "grpc").is_server_ready)
        assert said == ("StatusCode.UNAVAILABLE", "no server is ready")
        tokens.write_text("third-token-of-ours\n")
        reload(running.spec, running.process.pid)
        third = {"authorization": "Bearer third-token-of-ours"}
        for headers, expected in ((known, 401), (third, 200)):
            assert ask(running.http, "/v2/models/one", **headers)[0] == expected


def test_tls(clients: Clients, tmp_path: Path, backends: list[Backend]) -> None:
    alone, both = certificate(tmp_path)
    with gateway(tmp_path, backends, tls_certificate=both) as running:
        secure = clients.grpc(running.grpc, ssl=True, root_certificates=str(alone))
        assert infer(secure, "one", 0, 2, length=150_000) == [0, 2]
        assert refused(lambda: infer(secure, "nobody", 0))[0] == "StatusCode.NOT_FOUND"
        options = {"ssl": True, "ssl_options": {"ca_certs": str(alone)}}
        assert infer(clients.http(running.http, **options), "one", 0, 2, length=150_000) == [0, 2]
        with pytest.raises(http.client.RemoteDisconnected):
            ask(running.http, "/v2/health/live")


def test_model_control_reaches_every_server(
    clients: Clients, tmp_path: Path, served: Gateway, backends: list[Backend]
) -> None:
    with gateway(tmp_path, backends, allow_model_control=True) as one:
        http, grpc = clients.of(one, "http"), clients.of(one, "grpc")
        direct = [clients.http(backend.http) for backend in backends]
        http.unload_model("both")
        wait_for(lambda: not any(server.is_model_ready("both") for server in direct))
        # The others are served meanwhile, and the gateway is ready.
        assert infer(http, "one", 0, 1) == infer(grpc, "another_model", 0, 1) == [0, 1]
        assert http.is_server_ready()
        http.load_model("both")
        assert all(server.is_model_ready("both") for server in direct)
        # Longer than HAProxy's buffers.
        padded = {**http.get_model_config("one"), "parameters": {"padding": {"string_value": "x" * 300_000}}}
        http.load_model("one", config=json.dumps(padded))
        assert [server.get_model_config("one").get("parameters") for server in direct[:1]] == [padded["parameters"]]
        assert refused(lambda: http.load_model("nobody"))[0] == "404"
        http.update_log_settings({"log_verbose_level": 1})
        assert [server.get_log_settings()["log_verbose_level"] for server in direct] == [1, 1]
        assert refused(lambda: grpc.load_model("both")) == (
            "StatusCode.PERMISSION_DENIED",
            "model control, trace and log settings reach every server over HTTP only",
        )
    wait_for(lambda: ask(served.http, "/v2/health/ready") == (200, ""))
