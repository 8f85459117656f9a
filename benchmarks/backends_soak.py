"""A soak of the backends: a mixed load for a long time, every answer compared, memory watched.

Run from the root of the repository; ``--models`` is the work folder of ``backends_gpu.py models``, for real image
models on a GPU. Without it a small CNN on the CPU stands for them::

    PYTHONPATH=. python benchmarks/backends_soak.py --work /tmp/soak --seconds 600 [--models /tmp/gpu]

One request in a hundred is malformed. Some of them Triton refuses itself; the others pass its check and reach the
backend, some in one batch with good ones: inputs whose free dimensions do not fit each other, text that is none, an
index that is not there. Before the clock starts, the largest of each sort is asked for by all clients at once, as fast
as the server takes it: pools grow to what the worst moment needs, which would otherwise come late and look like growth.

Exit 1 when a request was lost, an answer was wrong or memory grew. What tritonserver itself holds is shown, and not
judged: freed memory is kept in several arenas, and which of them the messages meet in is chance, so it moves in steps
for a long time without a leak. Judged is what it has allocated while it does nothing, for which the load pauses.
In less than some minutes caches that still fill look like growth.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import tritonclient.grpc as triton
from clients import GrpcConnection, drive
from cnn import network
from load import server
from onnx import TensorProto, helper, numpy_helper
from server_memory import counted, memory, memory_lines
from triton_requests import grpc_tensors
from tritonclient.utils import InferenceServerException

from tritonkit import serve

THREADS = 16
MALFORMED = 0.01
SHAPE = (3, 224, 224)
SAMPLE_SECONDS = 2.0
ROWS = 4
# Of the time, beside it.
WARM_UP = 0.1
# Between them the load pauses, and tritonserver is brought to where it was after the warm-up: it keeps the last
# messages of a few calls.
PARTS = 5
SETTLING_SECONDS = 4.0
# Bytes for each request that tritonserver may have allocated more at the end than after the first part: less than
# whatever is made for one takes. Caches of its threads fill for a while.
LEAK = 16.0
TABLE = np.arange(16, dtype=np.float32)
LONGEST = 64
GPU = "instance_group [{ count: 2 kind: KIND_GPU gpus: [0] }]\n"
CPU = "instance_group [{ count: 1 kind: KIND_CPU }]\n"
BATCHES = "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 1000 }\n"


class Kind(NamedTuple):
    """One sort of request.

    Attributes:
        model: its name.
        share: of all requests.
        make: from a random generator, a number of rows and whether to be malformed, the inputs and the right answer.
        words: what the error of a malformed one says.
        tolerance: how far an answer may be off, of its largest value.
    """

    model: str
    share: float
    make: Callable[[np.random.Generator, int, bool], tuple[dict[str, tuple[Any, str]], Any]]
    words: str
    tolerance: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--models", type=Path, help="resnet50.onnx and mobilenet_v2.pt are there; served on the GPU")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.work / "models", ignore_errors=True)
    kinds = repository(arguments.work / "models", arguments.models)
    with counted(arguments.work) as at_rest, server(arguments.work, arguments.work / "models") as deployment:
        warm_up(deployment, kinds, WARM_UP * arguments.seconds)
        total, samples, allocated = soak(deployment, kinds, arguments.seconds, at_rest)
    (arguments.work / "samples.json").write_text(json.dumps({"memory": samples, "allocated": allocated}))
    flat, lines = memory_lines(samples)
    asked = sum(total.values())
    leak = (allocated[-1] - allocated[1]) * 2**20 / (asked * (PARTS - 1) / PARTS)
    good = sum(count for words, count in total.items() if words.startswith(("right", "refused")))
    print(f"soak of {arguments.seconds:.0f} s, {THREADS} clients: {asked} requests, {asked - good} lost or wrong")
    for words, count in sorted(total.items()):
        print(f"- {words}: {count}")
    print(*(f"- {line}" for line in lines), sep="\n")
    print(
        f"- allocated by the server while it does nothing, MiB: {allocated[0]:.2f} before, then "
        f"{', '.join(f'{each:.2f}' for each in allocated[1:])}: {leak:+.1f} bytes for each request since the first "
        f"part, {'GROWS' if leak > LEAK else 'flat'}"
    )
    sys.exit(int(asked != good or leak > LEAK or not flat))


def repository(folder: Path, models: Path | None) -> list[Kind]:
    """Write the models; the requests to send to them."""
    folder.mkdir(parents=True)
    group = GPU if models else CPU
    image = models / "resnet50.onnx" if models else network(folder.parent / "cnn.onnx", "FP32")
    images = np.random.default_rng(5).normal(size=(32, *SHAPE)).astype(np.float32)
    told = onnxruntime.InferenceSession(str(image), providers=["CPUExecutionProvider"]).run(None, {"input": images})[0]
    into, out = ([f'name: "{name}" data_type: TYPE_FP32' for name in names] for names in (("input",), ("output",)))
    sizes = f"input [{{ {into[0]} dims: [3, 224, 224] }}]\noutput [{{ {out[0]} dims: [{told.shape[1]}] }}]\n"
    add(folder, "image", image, "onnxruntime", group + BATCHES + sizes)
    free = ["batch", "length"]
    add(
        folder, "sum",
        small(folder.parent / "sum.onnx", [helper.make_node("Add", ["a", "b"], ["y"])], ["a", "b"], ["y"], free),
        "onnxruntime", group.replace("count: 2", "count: 1") + BATCHES,
    )  # fmt: skip
    said = [helper.make_node("Identity", ["said"], ["heard"])]
    text = small(folder.parent / "text.onnx", said, ["said"], ["heard"], ["batch", 1], TensorProto.STRING)
    add(folder, "text", text, "onnxruntime", CPU + BATCHES)
    look = [helper.make_node("Gather", ["table", "index"], ["value"])]
    table = small(
        folder.parent / "lookup.onnx", look, ["index"], ["value"], ["batch", 1], TensorProto.INT64, {"table": TABLE}
    )
    add(folder, "lookup", table, "onnxruntime", CPU + BATCHES)
    kinds = [
        Kind("image", 0.6, pictures("input", images, told), "unexpected shape for input", 1e-2),
        Kind("sum", 0.2, sums, "", 1e-3),
        Kind("text", 0.1, texts, "UTF-8", 0.0),
        Kind("lookup", 0.1, lookups, "out of data bounds", 0.0),
    ]
    if models:
        program = models / "mobilenet_v2.pt"
        import torch

        with torch.inference_mode():
            answers = torch.jit.load(str(program))(torch.from_numpy(images)).numpy()
        add(folder, "torch", program, "pytorch", group + BATCHES + sizes.replace('"input"', '"INPUT__0"').replace(
            '"output"', '"OUTPUT__0"'))  # fmt: skip
        kinds.append(Kind("torch", 0.2, pictures("INPUT__0", images, answers), "unexpected shape for input", 1e-2))
    return kinds


def add(folder: Path, name: str, file: Path, backend: str, config: str) -> None:
    version = folder / name / "1"
    version.mkdir(parents=True)
    (version / f"model{file.suffix}").write_bytes(file.read_bytes())
    (version.parent / "config.pbtxt").write_text(f'backend: "{backend}"\n{config}')


def small(
    path: Path,
    nodes: list[Any],
    inputs: list[str],
    outputs: list[str],
    dims: list[Any],
    kind: int = TensorProto.FLOAT,
    weights: Mapping[str, Any] | None = None,
) -> Path:
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(name, kind, dims) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT if weights else kind, dims) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def pictures(name: str, images: Any, told: Any) -> Callable[[np.random.Generator, int, bool], Any]:
    def make(random: np.random.Generator, rows: int, bad: bool) -> Any:
        chosen = random.integers(0, len(images), rows)
        sent = images[chosen]
        return {name: (np.ascontiguousarray(sent[:, :, :, :-1]) if bad else sent, "FP32")}, told[chosen]

    return make


def sums(random: np.random.Generator, rows: int, bad: bool) -> Any:
    """Both lengths are free, so Triton lets them differ; the model's addition does not."""
    length = int(random.integers(2, LONGEST))
    a = random.normal(size=(rows, length)).astype(np.float32)
    b = random.normal(size=(rows, length + 1 if bad else length)).astype(np.float32)
    return {"a": (a, "FP32"), "b": (b, "FP32")}, None if bad else a + b


def texts(random: np.random.Generator, rows: int, bad: bool) -> Any:
    said = [b"\xff\xfe" if bad else f"wörd {number}".encode() for number in random.integers(0, 1000, rows)]
    words = np.array(said, dtype=np.object_).reshape(rows, 1)
    return {"said": (words, "BYTES")}, words


def lookups(random: np.random.Generator, rows: int, bad: bool) -> Any:
    index = random.integers(0, len(TABLE), (rows, 1))
    return {"index": (np.full_like(index, 99) if bad else index, "INT64")}, TABLE[index]


def warm_up(deployment: serve.Deployment, kinds: list[Kind], seconds: float) -> None:
    """The largest of each sort in turn, from all clients at once."""
    random = np.random.default_rng(THREADS)
    for kind in kinds:
        inputs, _ = kind.make(random, ROWS, False)
        message = grpc_tensors(kind.model, inputs)
        connections = [GrpcConnection(deployment.grpc, message) for _ in range(THREADS)]
        drive(connections, seconds / len(kinds))
        for connection in connections:
            connection.close()


def soak(
    deployment: serve.Deployment, kinds: list[Kind], seconds: float, at_rest: Callable[[], float]
) -> tuple[Counter[str], list[dict[str, float]], list[float]]:
    """What came of the requests, in words; memory in MiB, every few seconds; what was allocated before and between."""
    shares = np.array([kind.share for kind in kinds]) / sum(kind.share for kind in kinds)
    randoms = [np.random.default_rng(seed) for seed in range(THREADS)]

    def client(random: np.random.Generator, end: float) -> Counter[str]:
        seen: Counter[str] = Counter()
        with triton.InferenceServerClient(deployment.grpc) as connection:
            while time.monotonic() < end:
                kind = kinds[random.choice(len(kinds), p=shares)]
                rows = int(random.integers(1, ROWS + 1))
                seen[ask(connection, kind, random, rows, bool(random.random() < MALFORMED))] += 1
        return seen

    total: Counter[str] = Counter()
    samples: list[dict[str, float]] = []
    allocated = [at_rest()]
    began = time.monotonic()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_SECONDS):
            samples.append({"seconds": time.monotonic() - began, **memory(deployment)})

    with ThreadPoolExecutor(THREADS + 1) as pool:
        watching = pool.submit(watch)
        try:
            for _ in range(PARTS):
                end = time.monotonic() + seconds / PARTS
                total = sum(pool.map(client, randoms, repeat(end)), total)
                warm_up(deployment, kinds, SETTLING_SECONDS)
                allocated.append(at_rest())
        finally:
            done.set()
    # Without its looks nothing would be known to be flat.
    watching.result()
    return total, samples, allocated


def ask(connection: Any, kind: Kind, random: np.random.Generator, rows: int, bad: bool) -> str:
    """One request, and what came of it in words."""
    inputs, told = kind.make(random, rows, bad)
    tensors = []
    for name, (value, datatype) in inputs.items():
        tensors.append(triton.InferInput(name, list(value.shape), datatype))
        tensors[-1].set_data_from_numpy(value)
    try:
        answer = connection.infer(kind.model, tensors, client_timeout=30)
    except InferenceServerException as error:
        if bad and kind.words in str(error):
            by = "Triton" if "unexpected" in kind.words else "the backend"
            return f"refused as it should be, {kind.model}, by {by}"
        return f"LOST, {kind.model}: {str(error)[:120]}"
    if bad:
        return f"malformed but ANSWERED, {kind.model}"
    value = answer.as_numpy(answer.get_response().outputs[0].name)
    if value.shape != told.shape:
        return f"WRONG SHAPE, {kind.model}"
    if value.dtype.hasobject or not kind.tolerance:
        same = bool((value == told).all())
    else:
        same = bool(np.abs(value - told).max() <= kind.tolerance * max(1e-6, np.abs(told).max()))
    return f"right, {kind.model}" if same else f"WRONG, {kind.model}"


if __name__ == "__main__":
    main()
