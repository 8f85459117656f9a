"""What the gateway costs: one tritonserver asked through HAProxy and directly, at p50 and in throughput.

Run from the root of the repository::

    python benchmarks/gateway.py [--clients 1 8] [--rounds 5] [--seconds 3] [--limit 1.0]

A Python model gives back two numbers of its input: 16 bytes, or the 602 KB of a 224 x 224 image in FP32.
perf_analyzer asks, over HTTP and gRPC. Both ways are measured in turn within each round, so that a slow spell of
the machine meets both; the medians go into a Markdown table, the ratio being the median of those within the rounds.
With ``--limit``, the exit code is 1 when the gateway adds more milliseconds than that at one client's p50.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
from load import FREE_PORTS, Figures, data_file, measure

from tritonkit import serve
from tritonkit.tools import haproxy

CORES = len(os.sched_getaffinity(0))
LENGTHS = {"small": 4, "600 KB": 3 * 224 * 224}
MODEL = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(request, "IN").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array[:2])]) for array in arrays]
"""
CONFIG = """
backend: "python"
max_batch_size: 0
input [{{ name: "IN" data_type: TYPE_FP32 dims: [{length}] }}]
output [{{ name: "OUT" data_type: TYPE_FP32 dims: [2] }}]
instance_group [{{ count: {count} kind: KIND_CPU }}]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of one measurement")
    parser.add_argument("--limit", type=float, metavar="MILLISECONDS", help="exit 1 when more than this is added")
    arguments = parser.parse_args()
    engine = haproxy.version(haproxy.find())
    print(f"{platform.machine()}, {CORES} cores, {engine}; medians of {arguments.rounds} rounds\n")
    rows, added = [], []
    with tempfile.TemporaryDirectory(prefix="tritonkit-gateway-") as folder, served(Path(folder)) as through:
        direct = directly(through)
        for protocol in ("http", "grpc"):
            for size, length in LENGTHS.items():
                data = data_file(Path(folder), {"IN": np.zeros(length, np.float32)})
                for clients in arguments.clients:
                    turns = [
                        tuple(
                            measure(way, model_name(length), data, protocol=protocol, clients=clients,
                                    seconds=arguments.seconds)
                            for way in (direct, through)
                        )
                        for _ in range(arguments.rounds)
                    ]  # fmt: skip
                    rows.append(row(f"{protocol}, {size}, {clients}", turns))
                    print(rows[-1], file=sys.stderr)
                    if clients == 1:
                        added.append(statistics.median(gateway.p50 - bare.p50 for bare, gateway in turns))
    print("| protocol, request, clients | p50 direct | p50 gateway | added | rate direct | rate gateway | ratio |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    print("\n".join(rows))
    if arguments.limit is not None and max(added) > arguments.limit:
        sys.exit(f"the gateway adds {max(added):.2f} ms at p50, more than {arguments.limit:g} ms")


def row(name: str, turns: list[tuple[Figures, ...]]) -> str:
    bare, gateway = ([turn[way] for turn in turns] for way in (0, 1))
    latency = [statistics.median(one.p50 for one in way) for way in (bare, gateway)]
    rate = [statistics.median(one.rate for one in way) for way in (bare, gateway)]
    added = statistics.median(turn[1].p50 - turn[0].p50 for turn in turns)
    ratio = statistics.median(turn[1].rate / turn[0].rate for turn in turns)
    return (
        f"| {name} | {latency[0]:.2f} ms | {latency[1]:.2f} ms | {added:+.2f} ms "
        f"| {rate[0]:.0f}/s | {rate[1]:.0f}/s | {ratio:.2f} |"
    )


def model_name(length: int) -> str:
    return f"take_{length}"


def served(folder: Path) -> AbstractContextManager[serve.Deployment]:
    """One server behind a gateway, for the time of a block."""
    for length in LENGTHS.values():
        version = folder / "models" / model_name(length) / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(MODEL)
        (version.parent / "config.pbtxt").write_text(CONFIG.format(length=length, count=min(4, CORES)))
    request = serve.Request(
        repository=folder / "models",
        project=folder,
        ports=FREE_PORTS,
        gpus=("none",),
        # A single server has a gateway only where it is asked for something that takes one.
        max_request_bytes=2**26,
        policy=serve.Policy(start_timeout=300, stop_timeout=10),
    )
    return serve.up(serve.plan(request, serve.survey(request)))


def directly(deployment: serve.Deployment) -> serve.Deployment:
    """The same deployment under the addresses of its server."""
    (server,) = (one for one in deployment.servers if one.kind == "server")
    return replace(deployment, http=server.addresses["http"], grpc=server.addresses["grpc"])


if __name__ == "__main__":
    main()
