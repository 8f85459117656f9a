"""How often perf_analyzer sends less than the rate that it is told, and what of that is left when tritonkit measures.

Run from the root of the repository, with the extras ``server``, ``cpu`` and ``dev`` installed::

    python benchmarks/lost_requests.py [--seconds 200] [--together 6]

So many perf_analyzers at a time, over and over, each asking a model of its own for 100 inferences a second at even
distances, over HTTP or gRPC. Counted are those that sent three quarters of it at first, by their logs, and those whose
figures were still of so few in the end.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
from load import server
from onnx import TensorProto, helper

from tritonkit.bench.data import document
from tritonkit.bench.levels import Level, RequestRate
from tritonkit.bench.point import Bench, measure
from tritonkit.bench.preparation import Wish, prepare
from tritonkit.bench.row import windows
from tritonkit.client.endpoint import Addresses
from tritonkit.tools import perf_analyzer

RATE = 100.0
# Between all of a rate and three quarters of it.
LOST = 0.85
CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
instance_group [{ count: 1 kind: KIND_CPU }]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--together", type=int, default=6)
    arguments = parser.parse_args()
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="tritonkit-lost-") as name:
        folder = Path(name)
        for number in range(arguments.together):
            identity(folder / "models" / f"m{number}")
        with server(folder, folder / "models") as deployment, ThreadPoolExecutor(arguments.together) as pool:
            addresses = Addresses(deployment.http, deployment.grpc)
            end = time.monotonic() + arguments.seconds

            def again_and_again(number: int) -> None:
                run = 0
                while time.monotonic() < end:
                    found.update(once(addresses, number, folder / f"{number}-{run}"))
                    run += 1

            list(pool.map(again_and_again, range(arguments.together)))
    analyzer = perf_analyzer.find()
    print(f"perf_analyzer {analyzer.version}, {arguments.together} at a time\n")
    print("| measurements | sent three quarters at first | measured anew | still short |\n|---:|---:|---:|---:|")
    print(f"| {found['all']} | {found['lost']} | {found['anew']} | {found['short']} |")


def identity(model: Path) -> None:
    """A model that gives back what it gets."""
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, str(model / "1" / "model.onnx"))


def once(addresses: Addresses, number: int, folder: Path) -> list[str]:
    """One measurement: what is to be counted of it."""
    level = Level(f"m{number}", RequestRate(RATE), protocol="grpc" if number % 2 else "http")
    folder.mkdir()
    wish = Wish({}, {}, interval_ms=400, stability_percentage=1_000_000, max_trials=3)
    subjects = prepare(addresses, [level], wish)
    data = folder / "data.json"
    data.write_text(document(subjects[level.model].data, subjects[level.model].signature))
    (result,) = measure([level], [folder], 1, Bench(addresses, perf_analyzer.find(), subjects, {level.model: data}))
    if result.repeat is None:
        raise RuntimeError(result.error)
    first = np.mean([window.throughput for window in windows((folder / "perf_analyzer-1.log").read_text())])
    return [
        "all",
        *(["lost"] if first < LOST * RATE else []),
        *(["anew"] if (folder / "perf_analyzer-1-anew-1.log").exists() else []),
        *(["short"] if result.repeat.throughput < LOST * RATE else []),
    ]


if __name__ == "__main__":
    main()
