"""The onnxruntime backend on a CPU: against onnxruntime in process, and against FastAPI endpoints.

Run from the root of the repository, with the extras ``server``, ``cpu``, ``dev`` and ``bench`` installed::

    python benchmarks/backends_cpu.py [--clients 8] [--rounds 3]

A small CNN, 224 x 224 images, FP32 (602 KB a request) and UINT8 (151 KB). The contestants take turns within one
run, so that a slow spell of the machine meets them all; the medians go into a Markdown table. perf_analyzer
asks Triton; the endpoints are asked by threads that send bytes made beforehand over open connections, which
costs less than perf_analyzer does.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
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
from typing import Any

import numpy as np
import onnx
import onnxruntime
from load import data_file, measure, server
from onnx import TensorProto, helper, numpy_helper

SHAPE = (3, 224, 224)
KINDS: dict[str, Any] = {"FP32": np.float32, "UINT8": np.uint8}
CORES = len(os.sched_getaffinity(0))
CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{{ name: "input" data_type: TYPE_{kind} dims: [3, 224, 224] }}]
output [{{ name: "output" data_type: TYPE_FP32 dims: [10] }}]
instance_group [{{ count: {count} kind: KIND_CPU }}]
"""


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
    contestants: dict[str, Callable[[], float]] = {
        f"onnxruntime in process, {CORES} threads": lambda: in_process(model, image, seconds),
        "FastAPI, base64 in JSON, 1 worker": lambda: asked(lean[1], tutorial_request(image), clients, seconds),
    }
    for workers, port in lean.items():
        contestants[f"FastAPI, lean, {workers} workers"] = lambda port=port: asked(  # type: ignore[misc]
            port, lean_request(image), clients, seconds
        )
    for count in (1, 2):
        for protocol, shared in (("http", False), ("grpc", False), ("grpc", True)):
            name = f"Triton, {protocol}{' + shared memory' if shared else ''}, {count} instances"
            contestants[name] = lambda count=count, protocol=protocol, shared=shared: (  # type: ignore[misc]
                measure(
                    deployment,
                    f"cnn_{count}",
                    data,
                    protocol=protocol,
                    shared_memory=shared,
                    clients=clients,
                    seconds=seconds,
                ).rate
            )
    rounds = [{name: run() for name, run in contestants.items()} for _ in range(arguments.rounds)]
    rates = {name: statistics.median(each[name] for each in rounds) for name in contestants}
    best = rates[f"onnxruntime in process, {CORES} threads"]
    lines = [f"| {kind}, {image.nbytes / 1000:.0f} KB a request | inferences/s | of in process | of lean, as many |"]
    lines.append("|---|---:|---:|---:|")
    for name, figure in rates.items():
        peer = rates[f"FastAPI, lean, {2 if ', 2 ' in name else 1} workers"]
        lines.append(f"| {name} | {figure:.0f} | {figure / best:.2f} | {figure / peer:.2f} |")
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


def in_process(model: Path, image: Any, seconds: float) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = CORES
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    began, runs = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        session.run(None, {"input": image[None]})
        runs += 1
    return runs / (time.perf_counter() - began)


@contextmanager
def endpoint(model: Path, workers: int) -> Iterator[int]:
    """The FastAPI endpoints with so many workers; the port, once they answer."""
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
        yield port
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


def asked(port: int, request: bytes, clients: int, seconds: float) -> float:
    """Answers a second to clients that each send one request after another."""
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
        return sum(pool.map(client, range(clients))) / seconds


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
