"""What the number of malloc's arenas does to tritonserver: requests a second, p99, and memory.

Run from the root of the repository, with the extras ``server``, ``cpu``, ``dev`` and ``bench`` installed::

    PYTHONPATH=. python benchmarks/arenas.py --work /tmp/arenas [--rounds 5]

A small CNN with six instances on the CPU, 602 KB a request, 32 clients: in gRPC messages (from four perf_analyzers),
and in shared memory over gRPC and HTTP. One server for each ``MALLOC_ARENA_MAX``, all there at once and asked in turns,
so that a slow spell of the machine meets them all; medians, in brackets the ratio to glibc's default. `tritonkit up`
sets it to 4 where the user did not.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
from cnn import SHAPE, network
from load import Figures, data_file, measure, server
from server_memory import memory

# As glibc takes it: 0 is its default, eight for every core.
ARENAS = (0, 16, 4, 2, 1)
MODES = {
    "gRPC": ("grpc", False, 4),
    "gRPC + shared memory": ("grpc", True, 1),
    "HTTP + shared memory": ("http", True, 1),
}
CLIENTS = 32
SECONDS = 2.4
CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "input" data_type: TYPE_FP32 dims: [3, 224, 224] }]
output [{ name: "output" data_type: TYPE_FP32 dims: [10] }]
instance_group [{ count: 6 kind: KIND_CPU }]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    model = network(arguments.work / "model.onnx", "FP32")
    data = data_file(arguments.work, {"input": np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)})
    found: dict[tuple[int, str], list[Figures]] = {}
    with ExitStack() as stack:
        deployments = {}
        for arenas in ARENAS:
            os.environ["MALLOC_ARENA_MAX"] = str(arenas)
            folder = arguments.work / str(arenas)
            version = folder / "models" / "cnn" / "1"
            version.mkdir(parents=True)
            (version / "model.onnx").write_bytes(model.read_bytes())
            (version.parent / "config.pbtxt").write_text(CONFIG)
            deployments[arenas] = stack.enter_context(server(folder, folder / "models"))
        # The clients are no contestants.
        del os.environ["MALLOC_ARENA_MAX"]
        for number in range(arguments.rounds):
            for mode, (protocol, shared, processes) in MODES.items():
                for arenas in ARENAS if number % 2 else ARENAS[::-1]:
                    figures = measure(
                        deployments[arenas], "cnn", data, protocol=protocol, shared_memory=shared, clients=CLIENTS,
                        seconds=SECONDS, processes=processes,
                    )  # fmt: skip
                    found.setdefault((arenas, mode), []).append(figures)
        held = {arenas: memory(deployments[arenas])["server"] for arenas in ARENAS}
    print(f"{os.cpu_count()} cores, {platform.platform()}, medians of {arguments.rounds} rounds\n")
    print("| arenas |" + "".join(f" {mode}, requests/s | p99, ms |" for mode in MODES) + " tritonserver, MiB |")
    print("|---:|" + "---:|" * (2 * len(MODES) + 1))
    for arenas in ARENAS:
        cells = [str(arenas) if arenas else "glibc's default"]
        for mode in MODES:
            rate, usual = (median(figures.rate for figures in found[which, mode]) for which in (arenas, ARENAS[0]))
            p99 = median(figures.p99 for figures in found[arenas, mode])
            cells += [f"{rate:.0f} ({rate / usual:.2f})", f"{p99:.1f}"]
        print(f"| {' | '.join(cells)} | {held[arenas]:.0f} |")


if __name__ == "__main__":
    main()
