"""The onnxruntime backend on a CPU: against onnxruntime in process, and against FastAPI endpoints.

Run from the root of the repository, with the extras ``server``, ``cpu``, ``dev`` and ``bench`` installed::

    python benchmarks/backends_cpu.py [--clients 8] [--rounds 3]

A small CNN, 224 x 224 images, FP32 (602 KB a request) and UINT8 (151 KB). The contestants take turns within one
run, so that a slow spell of the machine meets them all; the medians go into a Markdown table. perf_analyzer
asks Triton; the endpoints are asked by threads that send bytes made beforehand over open connections, which
costs less than perf_analyzer does. Beside each rate stands what one inference costs in processor time: the client,
the server (tritonserver, or uvicorn's workers), and Triton's Python stubs, in which the backend runs. That hardly
depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from load import data_file, measure, server
from onnx import TensorProto, helper, numpy_helper

from tritonkit.client.endpoint import Endpoint

SHAPE = (3, 224, 224)
KINDS: dict[str, Any] = {"FP32": np.float32, "UINT8": np.uint8}
CORES = len(os.sched_getaffinity(0))
TICKS = os.sysconf("SC_CLK_TCK")
CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{{ name: "input" data_type: TYPE_{kind} dims: [3, 224, 224] }}]
output [{{ name: "output" data_type: TYPE_FP32 dims: [10] }}]
instance_group [{{ count: {count} kind: KIND_CPU }}]
"""


class Measured(NamedTuple):
    """Inferences a second, and the milliseconds of a processor that one costs the client, the server, the stubs."""

    rate: float
    client: float = 0.0
    server: float = 0.0
    stubs: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    arguments = parser.parse_args()
    print(
        f"{arguments.clients} clients of batch 1, medians of {arguments.rounds} rounds of {arguments.seconds:g} s; "
        f"{CORES} cores, Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}\n"
    )
    for kind in KINDS:
        with tempfile.TemporaryDirectory(prefix="tritonkit-backends-") as folder, ExitStack() as stack:
            print(table(kind, Path(folder), stack, arguments))


def table(kind: str, folder: Path, stack: ExitStack, arguments: argparse.Namespace) -> str:
    """Measure all contestants for one element type; their table."""
    model = network(folder / "model.onnx", kind)
    image = np.random.default_rng(1).integers(0, 255, SHAPE).astype(KINDS[kind])
    data = data_file(folder, {"input": image})
    clients, seconds = arguments.clients, arguments.seconds
    for count in (1, 2):
        version = folder / "models" / f"cnn_{count}" / "1"
        version.mkdir(parents=True)
        (version / "model.onnx").write_bytes(model.read_bytes())
        (version.parent / "config.pbtxt").write_text(CONFIG.format(kind=kind, count=count))
    deployment = stack.enter_context(server(folder, folder / "models"))
    lean = {workers: stack.enter_context(endpoint(model, workers)) for workers in (1, 2)}
    contestants: dict[str, Callable[[], Measured]] = {
        f"onnxruntime in process, {CORES} threads": lambda: in_process(model, image, seconds),
        "FastAPI, base64 in JSON, 1 worker": lambda: asked(lean[1], tutorial_request(image), clients, seconds),
    }
    for workers, served in lean.items():
        contestants[f"FastAPI, lean, {workers} workers"] = lambda served=served: asked(  # type: ignore[misc]
            served, lean_request(image), clients, seconds
        )
    for count in (1, 2):
        for protocol, shared in (("http", False), ("grpc", False), ("grpc", True)):
            name = f"Triton, {protocol}{' + shared memory' if shared else ''}, {count} instances"
            contestants[name] = lambda count=count, protocol=protocol, shared=shared: (  # type: ignore[misc]
                triton(deployment, f"cnn_{count}", data, protocol=protocol, shared_memory=shared, clients=clients,
                       seconds=seconds)
            )  # fmt: skip
    rounds = [{name: run() for name, run in contestants.items()} for _ in range(arguments.rounds)]
    medians = {
        name: Measured(*(statistics.median(figures) for figures in zip(*(each[name] for each in rounds), strict=True)))
        for name in contestants
    }
    best = medians[f"onnxruntime in process, {CORES} threads"].rate
    heads = (f"{kind}, {image.nbytes / 1000:.0f} KB a request", "inferences/s", "of in process", "of lean, as many",
             "client, ms", "server, ms", "stubs, ms")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for name, found in medians.items():
        peer = medians[f"FastAPI, lean, {2 if ', 2 ' in name else 1} workers"].rate
        costs = " | ".join(f"{cost:.2f}" if cost else "" for cost in found[1:])
        lines.append(f"| {name} | {found.rate:.0f} | {found.rate / best:.2f} | {found.rate / peer:.2f} | {costs} |")
    return "\n".join([*lines, ""])


def network(path: Path, kind: str) -> Path:
    """A small CNN: two convolutions, a mean, a layer of ten."""
    random = np.random.default_rng(0)
    weights = {
        "w1": random.normal(size=(16, 3, 5, 5)).astype(np.float32) / 100,
        "w2": random.normal(size=(32, 16, 3, 3)).astype(np.float32) / 10,
        "w3": random.normal(size=(32, 10)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["input"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "w1"], ["a"], strides=[4, 4]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["output"]),
    ]
    types = {"FP32": TensorProto.FLOAT, "UINT8": TensorProto.UINT8}
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("input", types[kind], ["batch", *SHAPE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def triton(deployment: Any, name: str, data: Path, **how: Any) -> Measured:
    """What perf_analyzer finds, and what every inference of its run cost, warm-up included."""
    endpoint = Endpoint(deployment.http)

    def look() -> tuple[float, float, float, float]:
        stubs = children(deployment.servers[0].pid)
        mine = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = endpoint.statistics(name)["model_stats"][0]["inference_count"]
        used = (mine.ru_utime + mine.ru_stime, spent(deployment.servers[0].pid), sum(map(spent, stubs)))
        return (done, *used)

    before = look()
    rate = measure(deployment, name, data, **how).rate
    done, *used = (after - earlier for after, earlier in zip(look(), before, strict=True))
    return Measured(rate, *(seconds / done * 1000 for seconds in used))


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def spent(pid: int) -> float:
    """Seconds of a processor that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def in_process(model: Path, image: Any, seconds: float) -> Measured:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = CORES
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    began, used, runs = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        session.run(None, {"input": image[None]})
        runs += 1
    return Measured(runs / (time.perf_counter() - began), server=(time.process_time() - used) / runs * 1000)


class Server(NamedTuple):
    """A running uvicorn: its port, and its process."""

    port: int
    pid: int


@contextmanager
def endpoint(model: Path, workers: int) -> Iterator[Server]:
    """The FastAPI endpoints with so many workers, once they answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    argv = [sys.executable, "-m", "uvicorn", "endpoints:app", "--port", str(port), "--workers", str(workers)]
    threads = max(1, CORES // workers)
    process = subprocess.Popen(
        [*argv, "--log-level", "error", "--app-dir", str(Path(__file__).parent)],
        env={**os.environ, "MODEL": str(model), "THREADS": str(threads)},
    )
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        # The second worker is up a little after the first.
        time.sleep(2)
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait()


def lean_request(image: Any) -> bytes:
    return http("/lean", "application/octet-stream", image.tobytes())


def tutorial_request(image: Any) -> bytes:
    body = json.dumps({"image": base64.b64encode(image.tobytes()).decode()}).encode()
    return http("/tutorial", "application/json", body)


def http(path: str, kind: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def asked(served: Server, request: bytes, clients: int, seconds: float) -> Measured:
    """Answers a second to clients that each send one request after another."""
    port, workers = served.port, [served.pid, *children(served.pid)]
    mine, theirs = time.process_time(), sum(map(spent, workers))
    end = time.monotonic() + seconds

    def client(_: int) -> int:
        done = 0
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while time.monotonic() < end:
                connection.sendall(request)
                answer(connection)
                done += 1
        return done

    with ThreadPoolExecutor(clients) as pool:
        done = sum(pool.map(client, range(clients)))
    used = (time.process_time() - mine, sum(map(spent, workers)) - theirs)
    return Measured(done / seconds, *(each / done * 1000 for each in used))


def answer(connection: socket.socket) -> None:
    """Read one whole answer; it must be a 200."""
    held = b""
    while b"\r\n\r\n" not in held:
        # With more workers uvicorn sends an answer in two parts, the second only when the first is acknowledged.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        held += connection.recv(65536)
    head, _, body = held.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)


if __name__ == "__main__":
    main()
