"""The gateway when clients stall, servers die or hang, and while servers or its own configuration change."""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from gateways import Clients, Gateway, gateway, infer, servers
from serving import deployment_of, wait_for

from tritonkit.errors import CommandFailed, RequestFailed
from tritonkit.serve import Deployment
from tritonkit.serve.gateway import CONFIG, MAX_RELOADS, Backend
from tritonkit.serve.haproxy import answers, reload, stop

Running = dict[str, tuple[Backend, Deployment]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, running: Running) -> Iterator[Gateway]:
    """A gateway that tests leave as it was; it has little patience with clients."""
    folder, backends = tmp_path_factory.mktemp("gateway"), [backend for backend, _ in running.values()]
    with gateway(folder, backends, client_timeout=1, header_timeout=1) as one:
        yield one


@pytest.fixture
def patient(tmp_path: Path, running: Running) -> Iterator[Gateway]:
    """A gateway that waits for clients as long as it does for anybody's."""
    with gateway(tmp_path, [backend for backend, _ in running.values()]) as one:
        yield one


@pytest.fixture
def clients() -> Iterator[Clients]:
    with Clients() as opened:
        yield opened


@dataclass
class Load:
    """Clients that ask without a pause, each over a connection of its own."""

    served: int = 0
    failures: list[str] = field(default_factory=list)

    def ask(self, clients: Clients, gateway: Gateway, protocol: str, over: threading.Event) -> None:
        client = clients.of(gateway, protocol)
        number = 0
        while not over.is_set():
            number += 1
            try:
                assert infer(client, "both", 0.002, number) == [np.float32(0.002), number]
                self.served += 1
            except Exception as error:
                self.failures.append(f"{protocol}: {type(error).__name__}: {error}")
                time.sleep(0.05)


@contextmanager
def load(gateway: Gateway) -> Iterator[Load]:
    """Four clients, two of each protocol, for the time of a block."""
    found, over = Load(), threading.Event()
    with ExitStack() as stack:
        threads = [
            threading.Thread(target=found.ask, args=(stack.enter_context(Clients()), gateway, protocol, over))
            for protocol in ("http", "http", "grpc", "grpc")
        ]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: found.served >= 20)
            yield found
        finally:
            over.set()
            for thread in threads:
                thread.join(timeout=60)
                assert not thread.is_alive(), "a client is stuck"


def goes_on(found: Load) -> None:
    """Wait until twenty more requests are served."""
    before = found.served
    wait_for(lambda: found.served >= before + 20)


def exchange(
    address: str,
    *parts: bytes,
    pause: float = 0.0,
    half_close: bool = False,
    until: Callable[[bytes], bool] = lambda _: False,
) -> tuple[bytes, float]:
    """Send parts with a pause after each.

    Gives what comes back, to the end of the connection or until it satisfies ``until``, and how many seconds that took.
    """
    host, port = address.rsplit(":", 1)
    answer = b""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        start = time.monotonic()
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except ConnectionError:
            # Answered and closed before we were done: what was answered is what counts.
            half_close = False
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        try:
            while not until(answer) and (part := connection.recv(65536)):
                answer += part
        except ConnectionError:
            assert answer, "reset without an answer"
        return answer, time.monotonic() - start


def infer_request(model: str, length: int) -> bytes:
    return f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n".encode()


def grpc_request(method: str, data: bytes) -> bytes:
    """A gRPC call over HTTP/2 of which no more than ``data`` is sent."""
    headers = {
        ":method": "POST", ":scheme": "http", ":path": f"/inference.GRPCInferenceService/{method}",
        ":authority": "a", "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    packed = b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    end_of_headers = 4
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, b"")
        + frame(1, end_of_headers, 1, packed)
        + frame(0, 0, 1, data)
    )


def frames(answer: bytes) -> dict[int, int]:
    """The flags of HTTP/2 frames by their kinds, of each kind the last."""
    found = {}
    while len(answer) >= 9:
        found[answer[3]] = answer[4]
        answer = answer[9 + int.from_bytes(answer[:3], "big") :]
    return found


def test_slow_headers(served: Gateway) -> None:
    answer, _ = exchange(served.http, b"GET /v2/health/live HTTP/1.1\r\n", *[b"a: b\r\n"] * 8, pause=0.25)
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("model", ["one", "nobody"])
def test_a_body_that_stalls(served: Gateway, model: str) -> None:
    answer, seconds = exchange(served.http, infer_request(model, 1000) + b"{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b'{"error":"the request did not arrive in time"}')
    assert 0.5 < seconds < 8


def test_a_request_too_long_is_refused_before_it_is_sent(served: Gateway) -> None:
    answer, seconds = exchange(served.http, infer_request("one", 10**9) + b"{")
    assert answer.startswith(b"HTTP/1.1 413 ")
    # The connection is closed once the client has been silent for its time.
    assert seconds < 8


@pytest.mark.parametrize("path", ["index", "models/one/load"])
def test_a_body_without_an_end_is_cut_off(tmp_path: Path, running: Running, path: str) -> None:
    """Of a body whose length is not stated, no more is read than a request may have."""
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    head = f"POST /v2/repository/{path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    backends = [backend for backend, _ in running.values()]
    options = {"max_request_bytes": 100_000, "allow_model_control": True, "client_timeout": 10}
    with gateway(tmp_path, backends, **options) as one:
        answer, _ = exchange(one.http, head, *[chunk] * 20, until=lambda got: got.endswith(b"}"))
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.endswith(b'{"error":"a request may have 100000 bytes at most"}')
        short, _ = exchange(one.http, head, b"2\r\n{}\r\n0\r\n\r\n", until=lambda got: got.endswith((b"]", b"}")))
        assert short.startswith(b"HTTP/1.1 200 " if path == "index" else b"HTTP/1.1 503 "), "as the server says"


def test_what_is_no_request(served: Gateway) -> None:
    assert exchange(served.http, b"\x00\x01\x02\r\n\r\n")[0].startswith(b"HTTP/1.1 400 ")
    exchange(served.grpc, b"\x00\x01\x02\r\n\r\n" * 10)
    exchange(served.grpc, b"GET / HTTP/1.1\r\n\r\n")
    answer, _ = exchange(
        served.http, b"POST /v2/models/one/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 411 ")
    assert answer.endswith(b"""{"error":"the gateway needs the request's Content-Length"}""")


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\0\1\0\x0a\x03o", b"\0\x7f\0\0\0\x0a\x03one"], ids=["none", "part", "long"]
)
def test_a_message_that_stalls(served: Gateway, data: bytes) -> None:
    answer, seconds = exchange(served.grpc, grpc_request("ModelInfer", data), until=lambda got: 1 in frames(got))
    # The head of an answer that has no body, and an end to the stream.
    end_of_stream_and_headers = 5
    assert frames(answer)[1] == end_of_stream_and_headers
    assert 0.5 < seconds < 8


def test_a_client_that_only_listens_any_more_gets_its_answer(served: Gateway) -> None:
    body = b'{"inputs":[{"name":"IN","datatype":"FP32","shape":[1,2],"data":[0.5,1]}]}'
    answer, seconds = exchange(served.http, infer_request("one", len(body)) + body, half_close=True)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert seconds > 0.4


def test_the_kernel_looks_after_clients_that_vanish(patient: Gateway) -> None:
    """A half-open connection sends nothing at all, so nobody but the kernel can find it out."""
    for address in (patient.http, patient.grpc):
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as connection:
            ours = f"{connection.getsockname()[1]:04X}"

            def timers(ours: str = ours, port: str = port) -> list[str]:
                rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
                return [row[5] for row in rows if row[1].endswith(f":{int(port):04X}") and row[2].endswith(f":{ours}")]

            keepalive = "02:"
            wait_for(lambda: [timer[:3] for timer in timers()] == [keepalive])  # noqa: B023


def test_clients_that_stall_hold_up_nobody(served: Gateway, clients: Clients) -> None:
    with ExitStack() as stack:
        for address, data in (
            (served.http, infer_request("one", 10**6)),
            (served.grpc, grpc_request("ModelInfer", b"")),
        ):
            host, port = address.rsplit(":", 1)
            for _ in range(100):
                connection = stack.enter_context(socket.create_connection((host, int(port))))
                connection.sendall(data)
        for protocol in ("http", "grpc"):
            assert infer(clients.of(served, protocol), "one", 0, 1) == [0, 1]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_inference_may_take_longer_than_a_client_may_be_silent(
    served: Gateway, clients: Clients, protocol: str
) -> None:
    assert infer(clients.of(served, protocol), "one", 2.5, 1) == [2.5, 1]


@pytest.mark.parametrize("name", ["left", "right"])
def test_a_drained_server_loses_no_request(served: Gateway, running: Running, clients: Clients, name: str) -> None:
    client = clients.grpc(served.grpc)
    long: queue.Queue[Any] = queue.Queue()
    with load(served) as found:
        for number in range(2):
            values = tritonclient.grpc.InferInput("IN", [1, 2], "FP32")
            values.set_data_from_numpy(np.array([[0.6, number]], np.float32))
            client.async_infer("both", [values], callback=lambda result, error: long.put(error or result))
        wait_for(lambda: served.control.sessions(name) > 0)
        served.control.drain(name)
        assert served.control.states()[name] == "DRAIN"
        wait_for(lambda: served.control.sessions(name) == 0)
        goes_on(found)
        assert served.control.sessions(name) == 0
        served.control.ready(name)
        wait_for(lambda: served.control.states()[name] == "UP" and served.control.sessions(name) > 0)
    assert found.failures == []
    assert all(isinstance(long.get(timeout=10), tritonclient.grpc.InferResult) for _ in range(2))


def test_a_server_that_the_gateway_does_not_know(served: Gateway, tmp_path: Path) -> None:
    for call in (served.control.drain, served.control.ready, served.control.sessions):
        with pytest.raises(RequestFailed, match=r"nobody"):
            call("nobody")
    silent = replace(served.check, control=tmp_path / "none.sock")
    assert not answers(silent)


def test_a_reload_loses_no_request(tmp_path: Path, running: Running, clients: Clients) -> None:
    backends = [backend for backend, _ in running.values()]
    answered: queue.Queue[Any] = queue.Queue()
    with gateway(tmp_path, backends) as one, load(one) as found:
        one.control.drain("right")
        client = clients.grpc(one.grpc)
        client.start_stream(lambda result, error: answered.put(error or result.as_numpy("OUT")[0]))
        values = tritonclient.grpc.InferInput("IN", [2], "FP32")
        values.set_data_from_numpy(np.array([0.5, 60], np.float32))
        client.async_stream_infer("stream", [values])
        assert answered.get(timeout=10) == 0
        before = one.control.workers()
        for size in (1_000_000, 2_000_000, 3_000_000):
            reload(changed(one, f"gt {64 * 2**20}", f"gt {size}"), one.process.pid)
            goes_on(found)
        assert one.control.workers() != before
        # What was drained stays so, and what the old workers still do is known.
        assert one.control.states() == {"left": "UP", "right": "DRAIN"}
        assert before[0] in one.control.workers(old=True)
        assert one.control.sessions("left") >= 1
        # It goes on after the last reload.
        last = answered.qsize() + 2
        assert [answered.get(timeout=10) for _ in range(last)] == [*range(1, last + 1)]
        client.stop_stream(cancel_requests=True)
        one.control.ready("right")
        wait_for(lambda: one.control.sessions("right") > 0)
        # The old workers end with their last connections.
        clients.close()
        wait_for(lambda: before[0] not in one.control.workers(old=True))
        with Clients() as fresh, pytest.raises(Exception, match="at most"):
            infer(fresh.http(one.http), "both", 0, length=1_000_000)
    assert found.failures == []


def changed(one: Gateway, old: str, new: str) -> Any:
    """The gateway's process with other words in its configuration."""
    (folder,) = one.spec.folders
    text = folder.files[CONFIG]
    assert old in text
    return replace(one.spec, folders=(replace(folder, files={**folder.files, CONFIG: text.replace(old, new)}),))


def test_a_reload_is_not_written_through_a_link(tmp_path: Path, running: Running) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with gateway(tmp_path, [backend for backend, _ in running.values()]) as one:
        folder = one.spec.folders[0].path
        folder.with_name(f"{folder.name}.new").symlink_to(elsewhere)
        reload(one.spec, one.process.pid)
        assert answers(one.check)
    assert list(elsewhere.iterdir()) == []


def test_a_configuration_that_haproxy_refuses_changes_nothing(served: Gateway, clients: Clients) -> None:
    before = served.control.workers()
    text = (served.spec.folders[0].path / CONFIG).read_text()
    with pytest.raises(CommandFailed, match="unknown keyword"):
        reload(changed(served, "defaults both", "defaults both\n  nonsense"), served.process.pid)
    assert served.control.workers() == before
    folder = served.spec.folders[0].path
    assert (folder / CONFIG).read_text() == text
    assert not folder.with_name(f"{folder.name}.new").exists()
    assert infer(clients.http(served.http), "one", 0, 1) == [0, 1]


@contextmanager
def a_slow_request(one: Gateway, seconds: float) -> Iterator[list[str]]:
    """A request that takes so long, under way from the beginning of a block to its end; what went wrong with it."""
    faults: list[str] = []
    with Clients() as clients:
        client = clients.http(one.http)
        thread = threading.Thread(target=lambda: faults.extend(interrupted(lambda: infer(client, "one", seconds, 1))))
        thread.start()
        wait_for(lambda: one.control.sessions("left") > 0)
        yield faults
        thread.join()


@contextmanager
def stopping(one: Gateway) -> Iterator[None]:
    """The gateway is asked to end, and has ended at the end of the block."""
    ended = threading.Event()
    thread = threading.Thread(target=stop, args=(one.check, one.process.send_signal, ended))
    thread.start()
    try:
        yield
        one.process.wait(20)
    finally:
        ended.set()
        thread.join()


def test_a_stop_waits_for_requests_and_not_for_connections(tmp_path: Path, running: Running) -> None:
    with gateway(tmp_path, [backend for backend, _ in running.values()]) as one, ExitStack() as kept:
        address = one.http.split(":")
        for words in (b"", b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"):
            silent = kept.enter_context(socket.create_connection((address[0], int(address[1]))))
            silent.sendall(words)
            assert not words or b"200" in silent.recv(64)
        kept.enter_context(Clients()).grpc(one.grpc).is_server_live()
        assert one.control.requests() == 0
        began = time.monotonic()
        with a_slow_request(one, 3) as faults:
            assert one.control.requests() == 1
            # It is given up on long before the connections would be closed for their silence.
            with stopping(one):
                pass
            took = time.monotonic() - began
        assert faults == []
        assert took >= 3


def test_a_reload_that_is_under_way_does_not_undo_a_stop(tmp_path: Path, running: Running) -> None:
    with (
        gateway(tmp_path, [backend for backend, _ in running.values()]) as one,
        a_slow_request(one, 8) as faults,
        stopping(one),
    ):
        (before,) = one.control.workers()
        one.process.send_signal(signal.SIGUSR2)
        wait_for(lambda: replaced(one, before))
        # The new worker takes no connections either.
        wait_for(lambda: not listening(one.http), seconds=5)
        assert one.process.poll() is None
    assert faults == []


def replaced(one: Gateway, worker: int) -> bool:
    # The master does not answer while it starts itself anew.
    with suppress(RequestFailed):
        return worker in one.control.workers(old=True)
    return False


def listening(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_worker_with_a_stream_is_waited_for_by_whom_it_concerns(
    tmp_path: Path, running: Running, clients: Clients
) -> None:
    with gateway(tmp_path, [backend for backend, _ in running.values()]) as one:
        client = clients.grpc(one.grpc)
        answered: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: answered.put(error or result))
        values = tritonclient.grpc.InferInput("IN", [2], "FP32")
        values.set_data_from_numpy(np.array([30, 2], np.float32))
        client.async_stream_infer("stream", [values])
        wait_for(lambda: one.control.sessions("left") > 0)
        (first,) = one.control.workers()
        reload(one.spec, one.process.pid)
        # Of one that was replaced only now nobody knows what its clients will still send.
        assert one.control.may_follow("right")
        assert one.control.may_follow("left", outlasting=(first,))
        assert not one.control.may_follow("right", outlasting=(first,))
        for _ in range(MAX_RELOADS):
            assert first in one.control.workers(old=True)
            reload(one.spec, one.process.pid)
        wait_for(lambda: first not in one.control.workers(old=True))


def test_no_worker_outlives_its_master(tmp_path: Path, running: Running) -> None:
    with gateway(tmp_path, [backend for backend, _ in running.values()]) as one:
        (worker,) = one.control.workers()
        one.process.kill()
        wait_for(lambda: not Path(f"/proc/{worker}").exists())


def server_pid(deployment: Deployment) -> int:
    """The PID of a server now; another one after each restart."""
    pid = deployment_of(deployment.project).servers[0].pid
    assert pid
    return pid


def interrupted(call: Callable[[], object]) -> list[str]:
    """What a call that is under way comes to: one line."""
    try:
        call()
    except Exception as error:
        return [str(error)]
    return []


def test_a_server_that_dies_takes_only_its_own_requests_along(
    tmp_path: Path, running: Running, clients: Clients
) -> None:
    backends = [backend for backend, _ in running.values()]
    _, right = running["right"]
    with gateway(tmp_path, backends) as one:
        lost: list[str] = []

        def ask(protocol: str) -> None:
            infer(clients.of(one, protocol), "another_model", 20)

        threads = [
            threading.Thread(target=lambda p=protocol: lost.extend(interrupted(lambda: ask(p))))
            for protocol in ("http", "grpc")
        ]
        for thread in threads:
            thread.start()
        # Before there is a load, whose requests would be counted as well.
        wait_for(lambda: one.control.sessions("right") == 2)
        with load(one) as found:
            os.kill(server_pid(right), signal.SIGKILL)
            for thread in threads:
                thread.join(timeout=10)
            goes_on(found)
            assert len(lost) == 2
            assert any("[502] the server ended while it worked on the request" in words for words in lost), lost
            assert any("UNAVAILABLE" in words for words in lost), lost
            wait_for(lambda: one.control.states()["right"] == "UP", seconds=60)
            goes_on(found)
            # Each client has one request at a time, so no more can have been in flight on the server.
            assert len(found.failures) <= 4, found.failures


def test_a_server_that_hangs_is_left_alone(tmp_path: Path, running: Running, clients: Clients) -> None:
    backends = [backend for backend, _ in running.values()]
    pid = server_pid(running["right"][1])
    with gateway(tmp_path, backends) as one, load(one) as found:
        client = clients.grpc(one.grpc)
        assert infer(client, "one", 0, 1) == [0, 1]
        os.kill(pid, signal.SIGSTOP)
        try:
            words: list[str] = []
            held = threading.Thread(
                target=lambda: words.extend(interrupted(lambda: infer(client, "another_model", 0, length=1_000_000)))
            )
            held.start()
            time.sleep(0.3)
            # Only the connection whose message nobody reads may be held up; another would be for some 10 s, until the
            # server is found to be down.
            start = time.monotonic()
            assert infer(clients.grpc(one.grpc), "one", 0, 2, length=150_000) == [0, 2]
            assert infer(clients.http(one.http), "one", 0, 2, length=150_000) == [0, 2]
            assert time.monotonic() - start < 8
            wait_for(lambda: one.control.states()["right"] == "DOWN", seconds=20)
            held.join(timeout=10)
            assert not held.is_alive()
            # The latter where not all of the message had been sent.
            assert "UNAVAILABLE" in words[0] or "CANCELLED" in words[0]
            assert infer(client, "one", 0, 3) == [0, 3]
            goes_on(found)
            assert len(found.failures) <= 4, found.failures
        finally:
            # The supervisor may have killed it meanwhile.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        wait_for(lambda: one.control.states()["right"] == "UP", seconds=60)
