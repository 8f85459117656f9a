"""The onnxruntime backend on a CPU: against onnxruntime in process, and against FastAPI endpoints.

Run from the root of the repository, with the extras ``server``, ``cpu``, ``dev`` and ``bench`` installed::

    python benchmarks/backends_cpu.py [--clients 8] [--rounds 3] [--seconds 3]

A small CNN, 224 x 224 images, FP32 (602 KB a request) and UINT8 (151 KB). The contestants take turns within one
run, so that a slow spell of the machine meets them all; the medians go into a Markdown table. All are asked by the
same clients, which send bytes made beforehand (``clients.py``), and each one's first answers are compared with
onnxruntime's own. Beside each rate stands what one inference costs in processor time: the clients, the server
(tritonserver, or uvicorn), and Triton's Python stubs. The backend runs inside tritonserver; "in stubs" is the same
with the parameter ``own_process``. "Nothing" is a Python model that reads no input and gives one answer always: what
remains when a backend in Python and the network cost nothing.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import triton_requests
from backends_cpu_tables import HERE, IN_PROCESS, STUBS, Measured, medians, ratios, table
from clients import Connection, GrpcConnection, HttpConnection, drive, http
from cnn import SHAPE, network
from load import server

from tritonkit.serve.procfs import descendants

KINDS: dict[str, Any] = {"FP32": np.float32, "UINT8": np.uint8}
CORES = sorted(os.sched_getaffinity(0))
TICKS = os.sysconf("SC_CLK_TCK")
CONFIG = """
backend: "{backend}"
max_batch_size: 8
input [{{ name: "input" data_type: TYPE_{kind} dims: [3, 224, 224] }}]
output [{{ name: "output" data_type: TYPE_FP32 dims: [10] }}]
instance_group [{groups}]
{parameters}
"""
# Keeps an instance in a Python stub.
OWN_PROCESS = 'parameters { key: "own_process" value { string_value: "true" } }'
# Each instance and the server's thread for it on one core: what they hand each other stays in its cache.
POLICIES = tuple(f"--host-policy=core{core},cpu-cores={core}-{core}" for core in CORES[:2])
GROUPS = {
    "1 instance": "{ count: 1 kind: KIND_CPU }",
    "2 instances": "{ count: 2 kind: KIND_CPU }",
    "2 instances, a core each": ", ".join(
        f'{{ count: 1 kind: KIND_CPU host_policy: "core{core}" }}' for core in CORES[:2]
    ),
}
NOTHING = """
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        self.scores = np.zeros((1, 10), np.float32)
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("output", self.scores)]) for _ in requests]
"""
PARSERS = {"": ("h11", "asyncio"), ", uvloop + httptools": ("httptools", "uvloop")}


class Contest(NamedTuple):
    """What every contestant of one table gets."""

    model: Path
    image: Any
    scores: Any
    clients: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    print(
        f"{arguments.clients} clients of batch 1, medians of {arguments.rounds} rounds of {arguments.seconds:g} s; "
        f"{len(CORES)} cores, Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}\n"
    )
    found: dict[str, dict[str, Measured]] = {}
    for kind, dtype in KINDS.items():
        with tempfile.TemporaryDirectory(prefix="tritonkit-backends-") as folder, ExitStack() as stack:
            model = network(Path(folder) / "model.onnx", kind)
            image = np.random.default_rng(1).integers(0, 255, (1, *SHAPE)).astype(dtype)
            scores = onnxruntime.InferenceSession(str(model)).run(None, {"input": image})[0].reshape(-1)
            contest = Contest(model, image, scores, arguments.clients, arguments.seconds)
            contestants: dict[str, Callable[[], Measured]] = {
                IN_PROCESS: partial(in_process, contest),
                **endpoints(contest, stack),
                **deployed(contest, kind, Path(folder), stack),
            }
            rounds = [{name: run() for name, run in contestants.items()} for _ in range(arguments.rounds)]
            found[kind] = medians(rounds)
            print(table(f"{kind}, {image.nbytes / 1000:.0f} KB a request", found[kind]))
    print(ratios(list(GROUPS), found))


def deployed(contest: Contest, kind: str, folder: Path, stack: ExitStack) -> dict[str, Callable[[], Measured]]:
    """Triton, by instances and protocol, all models in one server."""
    served = {
        f"{title}, {name}": ("onnxruntime", groups, parameters)
        for title, parameters in ((HERE, ""), (STUBS, OWN_PROCESS))
        for name, groups in GROUPS.items()
    }
    served["nothing, 2 instances, a core each"] = ("python", GROUPS["2 instances, a core each"], "")
    for number, (backend, groups, parameters) in enumerate(served.values()):
        version = folder / "models" / f"model_{number}" / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(
            CONFIG.format(backend=backend, kind=kind, groups=groups, parameters=parameters)
        )
        if backend == "python":
            (version / "model.py").write_text(NOTHING)
        else:
            (version / "model.onnx").write_bytes(contest.model.read_bytes())
    deployment = stack.enter_context(server(folder, folder / "models", server_args=POLICIES))
    pid = deployment.servers[0].pid or 0
    regions = stack.enter_context(
        triton_requests.shared_memory(deployment.grpc, contest.image, contest.scores.nbytes, contest.clients)
    )

    def run(name: str, number: int, protocol: str, shared: bool) -> Measured:
        make, connect, read = (
            (triton_requests.grpc_message, GrpcConnection, triton_requests.grpc_scores)
            if protocol == "grpc"
            else (triton_requests.http_request, HttpConnection, triton_requests.http_scores)
        )
        address = deployment.grpc if protocol == "grpc" else deployment.http
        mine = regions if shared else [None] * contest.clients
        connections: list[Connection] = [
            connect(address, make(f"model_{number}", contest.image, region)) for region in mine
        ]
        expected = np.zeros_like(contest.scores) if name.startswith("nothing") else contest.scores
        for connection, region in zip(connections, mine, strict=True):
            answer = connection.ask()
            check(region.read() if region else read(answer), expected)
        return measured(connections, contest.seconds, [pid], descendants(pid))

    return {
        f"{name}, {protocol}{' + shared memory' if shared else ''}": partial(run, name, number, protocol, shared)
        for number, name in enumerate(served)
        for shared in (False, True)
        for protocol in ("http", "grpc")
    }


def measured(connections: Sequence[Connection], seconds: float, pids: Sequence[int], stubs: Sequence[int]) -> Measured:
    """Let the clients ask for so long, and hang up."""

    def look() -> tuple[float, float, float, float]:
        return time.perf_counter(), time.process_time(), sum(map(spent, pids)), sum(map(spent, stubs))

    before = look()
    done = drive(connections, seconds)
    wall, *used = (after - earlier for after, earlier in zip(look(), before, strict=True))
    for connection in connections:
        connection.close()
    return Measured(done / wall, *(each / done * 1000 for each in used))


def check(scores: Any, expected: Any) -> None:
    """A fast answer counts only when it is right."""
    if not np.allclose(scores, expected, rtol=1e-3):
        raise RuntimeError(f"a wrong answer: {scores} instead of {expected}")


def spent(pid: int) -> float:
    """Seconds of a processor that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def in_process(contest: Contest) -> Measured:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(CORES)
    session = onnxruntime.InferenceSession(str(contest.model), options, providers=["CPUExecutionProvider"])
    began, used, runs = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < contest.seconds:
        session.run(None, {"input": contest.image})
        runs += 1
    return Measured(runs / (time.perf_counter() - began), server=(time.process_time() - used) / runs * 1000)


def endpoints(contest: Contest, stack: ExitStack) -> dict[str, Callable[[], Measured]]:
    """The FastAPI endpoints, by workers and by what parses HTTP for them."""
    image = contest.image
    lean = http("/lean", image.tobytes(), Content_Type="application/octet-stream")
    body = json.dumps({"image": base64.b64encode(image.tobytes()).decode()}).encode()
    tutorial = http("/tutorial", body, Content_Type="application/json")

    def run(served: Sequence[Server], request: bytes, read: Callable[[bytes], Any]) -> Measured:
        ports = [served[number % len(served)].port for number in range(contest.clients)]
        connections = [HttpConnection(f"127.0.0.1:{port}", request) for port in ports]
        for connection in connections:
            check(read(connection.ask()), contest.scores)
        return measured(connections, contest.seconds, [each.pid for each in served], [])

    def listed(answer: bytes) -> Any:
        return np.array(json.loads(answer)["scores"][0])

    found: dict[str, Callable[[], Measured]] = {}
    for more, parsers in PARSERS.items():
        for workers in (1, 2):
            threads = max(1, len(CORES) // workers)
            # One process each, and as many clients each: workers of one uvicorn take connections as it happens.
            served = [stack.enter_context(endpoint(contest.model, threads, *parsers)) for _ in range(workers)]
            if not found:
                found["FastAPI, base64 in JSON, 1 workers"] = partial(run, served, tutorial, listed)
            read = partial(np.frombuffer, dtype=np.float32)
            found[f"FastAPI, lean, {workers} workers{more}"] = partial(run, served, lean, read)
    return found


class Server(NamedTuple):
    """A running uvicorn: its port, and its process."""

    port: int
    pid: int


@contextmanager
def endpoint(model: Path, threads: int, parser: str, loop: str) -> Iterator[Server]:
    """The FastAPI endpoints in one process, once they answer; onnxruntime has so many threads there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    argv = [sys.executable, "-m", "uvicorn", "endpoints:app", "--port", str(port)]
    argv += ["--http", parser, "--loop", loop, "--log-level", "error", "--app-dir", str(Path(__file__).parent)]
    process = subprocess.Popen(argv, env={**os.environ, "MODEL": str(model), "THREADS": str(threads)})
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
