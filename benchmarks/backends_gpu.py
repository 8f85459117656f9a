"""The backends on one GPU: against the runtime in process, under dynamic batching, under MPS.

Run from the root of the repository, with torch, torchvision, onnx, onnxruntime-gpu and nvidia-pytriton installed::

    PYTHONPATH=. python benchmarks/backends_gpu.py --work /tmp/gpu --out benchmarks/results/backends-h200 [PART ...]

Every part is a process of its own, so that one that fails leaves the others. The table is printed last; the
ratios are to the in-process rate at a fixed batch of 8 of the same model in the same run. Nothing of the GPU's
settings is touched; the MPS daemon is our own and is stopped at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODELS = ("resnet50", "mobilenet_v2")
BATCH = 8
CLIENTS = 32
SECONDS = 4.0
PARTS = ("models", "inprocess", "equal", "naive", "one", "mps", "mps16", "torch", "transport")
CONFIG = """
backend: "{backend}"
max_batch_size: {largest}
input [{{ name: "{input}" data_type: TYPE_FP32 dims: [3, 224, 224] }}]
output [{{ name: "{output}" data_type: TYPE_FP32 dims: [1000] }}]
instance_group [{{ count: {count} kind: KIND_GPU gpus: [0] }}]
dynamic_batching {{ preferred_batch_size: [{preferred}] max_queue_delay_microseconds: {delay} }}
{more}
"""
NAIVE = """
parameters { key: "batch_buckets" value { string_value: "none" } }
optimization { execution_accelerators { gpu_execution_accelerator [
  { name: "cuda" parameters { key: "enable_cuda_graph" value: "0" } }
] } }
"""

NOTHING = """
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        out = pb_utils.Tensor("output", np.zeros((1, 1000), np.float32))
        return [pb_utils.InferenceResponse([out]) for _ in requests]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; else all")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.inside:
        rows = globals()[f"part_{arguments.parts[0]}"](arguments)
        print("ROWS " + json.dumps(rows))
        return
    table = [versions()]
    for part in arguments.parts or PARTS:
        began = time.monotonic()
        argv = [sys.executable, __file__, part, "--work", str(arguments.work), "--out", str(arguments.out), "--inside"]
        # Into the file as it comes: a run that is stopped leaves what it found so far.
        log = arguments.out / f"{part}.log"
        with log.open("w") as told:
            subprocess.run(argv, stdout=told, stderr=subprocess.STDOUT, check=False)
        lines = log.read_text(errors="replace").splitlines()
        found = [line[5:] for line in lines if line.startswith("ROWS ")]
        rows = json.loads(found[-1]) if found else [f"{part} failed: {lines[-1:]}"]
        table += rows
        print(*rows, f"{part}: {time.monotonic() - began:.0f} s", sep="\n", flush=True)
    (arguments.out / "rows.json").write_text(json.dumps(table, indent=1))
    print("\n".join(table))


def versions() -> str:
    import numpy as np
    import onnxruntime
    import torch

    return (
        f"{torch.cuda.get_device_name()}, {platform.platform()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, "
        f"numpy {np.__version__}"
    )


def part_models(arguments: argparse.Namespace) -> list[str]:
    import torch
    import torchvision

    torch.manual_seed(0)
    for name in MODELS:
        module = getattr(torchvision.models, name)(weights=None).eval()
        example = torch.randn(2, 3, 224, 224)
        torch.onnx.export(
            module, (example,), str(arguments.work / f"{name}.onnx"), input_names=["input"], output_names=["output"],
            dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}}, opset_version=17, dynamo=False,
        )  # fmt: skip
        torch.jit.trace(module, example).save(str(arguments.work / f"{name}.pt"))
    return []


def part_inprocess(arguments: argparse.Namespace) -> list[str]:
    """The fixed batch of 8 as onnxruntime gives it, and the engine with fixed and mixed batches."""
    import onnxruntime

    onnxruntime.preload_dlls()
    return [inprocess(arguments.work / f"{name}.onnx") for name in MODELS]


def inprocess(path: Path) -> str:
    import numpy as np
    import onnxruntime

    random = np.random.default_rng(1)
    images = random.normal(size=(BATCH, 3, 224, 224)).astype(np.float32)
    sizes = [int(size) for size in random.integers(1, BATCH + 1, 400)]
    session = onnxruntime.InferenceSession(str(path), providers=["CUDAExecutionProvider"])
    plain = rate(lambda: session.run(None, {"input": images}), BATCH)
    engine, spent = engine_of(path)
    feeds = {size: {"input": images[:size]} for size in range(1, BATCH + 1)}
    fixed = rate(lambda: engine.run(feeds[BATCH], ["output"]), BATCH)
    single = rate(lambda: engine.run(feeds[1], ["output"]), 1)
    mixed = mixed_rate(sizes, lambda size: engine.run(feeds[next(b for b in (1, 2, 4, 8) if b >= size)], ["output"]))
    naive = mixed_rate(sizes, lambda size: session.run(None, feeds[size]))
    path.with_suffix(".rate").write_text(str(plain))
    row = (
        f"{path.stem} in process, images/s: fixed batch 8 {plain:.0f}; engine at 8 {fixed:.0f} ({fixed / plain:.2f}), "
        f"at 1 {single:.0f}, mixed 1..8 {mixed:.0f} ({mixed / plain:.2f}); one session, mixed {naive:.0f}; "
        f"graphs {engine.graphs}; prepared in {spent:.1f} s"
    )
    print(row, flush=True)
    return row


def mixed_rate(sizes: list[int], run: Callable[[int], Any]) -> float:
    """Images a second over batches of these sizes, for a few seconds at most."""
    began, done = time.perf_counter(), 0
    for size in sizes:
        run(size)
        done += size
        if time.perf_counter() - began > SECONDS:
            break
    return done / (time.perf_counter() - began)


def engine_of(path: Path) -> tuple[Any, float]:
    import onnxruntime

    from tritonkit.backends.batching.configuration import Model, Tensor
    from tritonkit.backends.batching.padding import harm
    from tritonkit.backends.engines.onnx_sessions import CudaEngine

    model = Model(
        {"name": path.stem, "max_batch_size": BATCH}, path.parent, 0,
        (Tensor("input", "TYPE_FP32", (3, 224, 224)),), (Tensor("output", "TYPE_FP32", (1000,)),),
    )  # fmt: skip
    began = time.perf_counter()
    engine = CudaEngine(
        path,
        onnxruntime.SessionOptions,
        model,
        [("CUDAExecutionProvider", {"device_id": "0"})],
        print,
    )
    harmed = harm(model, engine, (1, 2, 4, 8))
    print("padding harms:", harmed, flush=True)
    engine.prepare((1, 2, 4, 8))
    return engine, time.perf_counter() - began


def rate(run: Callable[[], Any], images: int) -> float:
    for _ in range(10):
        run()
    began, runs = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS / 2:
        run()
        runs += 1
    return images * runs / (time.perf_counter() - began)


def part_equal(arguments: argparse.Namespace) -> list[str]:
    """Every batch size through the server, against onnxruntime on the CPU."""
    import numpy as np
    import onnxruntime
    import tritonclient.grpc as triton

    rows = []
    folder = repository(arguments, "equal", count=1)
    for name in MODELS:
        add(arguments, folder, f"{name}_torch", name, backend="pytorch", count=1)
    from load import server

    with (
        server(arguments.work / "equal", folder) as deployment,
        triton.InferenceServerClient(deployment.grpc) as client,
    ):
        for name in MODELS:
            session = onnxruntime.InferenceSession(
                str(arguments.work / f"{name}.onnx"), providers=["CPUExecutionProvider"]
            )
            for served, into, out in ((name, "input", "output"), (f"{name}_torch", "INPUT__0", "OUTPUT__0")):
                worst = 0.0
                for batch in range(1, BATCH + 1):
                    images = np.random.default_rng(batch).normal(size=(batch, 3, 224, 224)).astype(np.float32)
                    tensor = triton.InferInput(into, list(images.shape), "FP32")
                    tensor.set_data_from_numpy(images)
                    answer = client.infer(served, [tensor]).as_numpy(out)
                    told = session.run(None, {"input": images})[0]
                    worst = max(worst, float(np.abs(answer - told).max() / np.abs(told).max()))
                rows.append(
                    f"{served}: batch sizes 1..8 against the CPU: largest difference {worst:.1e} of the largest output"
                )
    return [*rows, *said(arguments.work / "equal")]


def part_naive(arguments: argparse.Namespace) -> list[str]:
    return served(arguments, "naive", "resnet50", count=4, more=NAIVE, protocols=("grpc",))


def part_one(arguments: argparse.Namespace) -> list[str]:
    return [row for name in MODELS for row in served(arguments, "one", name, count=1)]


def part_mps(arguments: argparse.Namespace) -> list[str]:
    with mps(arguments.work):
        return [row for name in MODELS for row in served(arguments, "mps", name, count=4)]


def part_mps16(arguments: argparse.Namespace) -> list[str]:
    with mps(arguments.work):
        return [
            row for name in MODELS for row in served(arguments, "mps16", name, count=3, largest=16, preferred="8, 16")
        ]


def part_torch(arguments: argparse.Namespace) -> list[str]:
    with mps(arguments.work):
        return served(arguments, "torch", "resnet50", count=4, backend="pytorch", protocols=("shm",))


def part_transport(arguments: argparse.Namespace) -> list[str]:
    """MobileNetV2 with the pixels in gRPC messages, and what the same messages cost a model that does nothing."""
    import numpy as np
    from load import data_file, measure, server

    name = "mobilenet_v2"
    work = arguments.work / "transport"
    folder = work / "models"
    add(arguments, folder, name, name, count=4)
    add(arguments, folder, f"{name}_16", name, count=3, largest=16, preferred="8, 16")
    bytes_model(arguments.work / f"{name}.onnx", arguments.work / f"{name}_uint8.onnx")
    add(arguments, folder, f"{name}_uint8", f"{name}_uint8", count=4)
    config = folder / f"{name}_uint8" / "config.pbtxt"
    config.write_text(config.read_text().replace("TYPE_FP32", "TYPE_UINT8", 1))
    add(arguments, folder, "nothing", name, count=4)
    config = folder / "nothing" / "config.pbtxt"
    config.write_text(config.read_text().replace('"onnxruntime"', '"python"').replace("KIND_GPU gpus: [0]", "KIND_CPU"))
    (config.parent / "1" / "model.py").write_text(NOTHING)
    random = np.random.default_rng(1)
    data = {}
    for kind, image in (
        ("FP32", random.normal(size=(3, 224, 224)).astype(np.float32)),
        ("UINT8", random.integers(0, 255, (3, 224, 224)).astype(np.uint8)),
    ):
        (work / kind).mkdir(exist_ok=True)
        data[kind] = data_file(work / kind, {"input": image})
    fixed = float((arguments.work / f"{name}.rate").read_text())
    rows = []
    with mps(arguments.work), server(work, folder) as deployment:
        for model, kind in ((name, "FP32"), (f"{name}_16", "FP32"), ("nothing", "FP32"), (f"{name}_uint8", "UINT8")):
            for processes, shared in ((1, False), (4, False), (1, True)):
                how = f"gRPC{' + shared memory' if shared else ''}, {processes} perf_analyzer(s)"
                row = f"transport {model}, {kind}, {data[kind].stat().st_size * 3 / 4e3:.0f} KB, {how}: "
                try:
                    figures = measure(
                        deployment, model, data[kind], protocol="grpc", shared_memory=shared, clients=CLIENTS,
                        seconds=SECONDS, processes=processes,
                    )  # fmt: skip
                except RuntimeError as error:
                    print(error, flush=True)
                    rows.append(f"{row}FAILED: {' / '.join(str(error).strip().splitlines()[-2:])[:300]}")
                    continue
                rows.append(
                    f"{row}{figures.rate:.0f}/s ({figures.rate / fixed:.2f}), p50 {figures.p50:.1f} p99 "
                    f"{figures.p99:.1f} ms"
                )
                print(rows[-1], flush=True)
            rows.append(f"transport {model}: {batch_figures(deployment, model)}")
    return [*rows, *said(work)]


def bytes_model(source: Path, target: Path) -> None:
    """The same network on bytes, which it turns into numbers around zero itself."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(str(source))
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["scaled" if name == "input" else name for name in node.input]
    nodes = [
        helper.make_node("Cast", ["input"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["cast", "middle"], ["moved"]),
        helper.make_node("Div", ["moved", "spread"], ["scaled"]),
        *graph.node,
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(helper.make_tensor(key, TensorProto.FLOAT, [1], [64.0]) for key in ("middle", "spread"))
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    onnx.save(model, str(target))


def served(
    arguments: argparse.Namespace,
    part: str,
    name: str,
    *,
    protocols: tuple[str, ...] = ("grpc", "shm"),
    backend: str = "onnxruntime",
    **config: Any,
) -> list[str]:
    import numpy as np
    from load import data_file, measure, server

    work = arguments.work / f"{part}-{name}"
    folder = work / "models"
    add(arguments, folder, name, name, backend=backend, **config)
    image = np.random.default_rng(1).normal(size=(3, 224, 224)).astype(np.float32)
    data = data_file(work, {"input" if backend == "onnxruntime" else "INPUT__0": image})
    file = arguments.work / f"{name}.rate"
    fixed = float(file.read_text()) if file.is_file() else float("nan")
    rows = []
    began = time.monotonic()
    with server(work, folder) as deployment:
        took = time.monotonic() - began
        for protocol in protocols:
            shared = protocol == "shm"
            try:
                figures = measure(
                    deployment, name, data, protocol="grpc", shared_memory=shared, clients=CLIENTS, seconds=SECONDS
                )
            except RuntimeError as error:
                log = (work / ".tritonkit" / "logs" / "server.log").read_text(errors="replace")
                print(error, log[-6000:], sep="\n", flush=True)
                rows.append(f"{part} {backend} {name} {protocol}: FAILED")
                continue
            rows.append(
                f"{part} {backend} {name}, {config.get('count')} instances, {CLIENTS} clients, gRPC"
                f"{' + shared memory' if shared else ''}: {figures.rate:.0f}/s ({figures.rate / fixed:.2f}), "
                f"p50 {figures.p50:.1f} p99 {figures.p99:.1f} ms"
            )
            print(rows[-1], flush=True)
        rows.append(f"{part} {name}: up in {took:.0f} s; {batch_figures(deployment, name)}")
    return [*rows, *said(work)]


def batch_figures(deployment: Any, name: str) -> str:
    from tritonkit.client.endpoint import Endpoint

    statistics = Endpoint(deployment.http).statistics(name)["model_stats"][0]
    count = statistics["execution_count"] or 1
    spent = statistics["inference_stats"]
    parts = {key: spent[key]["ns"] / max(1, spent[key]["count"]) / 1e6 for key in ("queue", "compute_infer")}
    mean = statistics["inference_count"] / count
    return f"mean batch {mean:.2f}, " + ", ".join(f"{key} {value:.2f} ms" for key, value in parts.items())


def said(project: Path) -> list[str]:
    """What the backends said in the server's log."""
    log = (project / ".tritonkit" / "logs" / "server.log").read_text(errors="replace")
    words = ("CUDA graph", "padded", "channels-last", "cannot be captured", "failed")
    return sorted({line.split("] ", 1)[-1][:300] for line in log.splitlines() if any(word in line for word in words)})[
        :6
    ]


def repository(arguments: argparse.Namespace, part: str, **config: Any) -> Path:
    folder: Path = arguments.work / part / "models"
    for name in MODELS:
        add(arguments, folder, name, name, **config)
    return folder


def add(
    arguments: argparse.Namespace,
    folder: Path,
    served_as: str,
    name: str,
    *,
    count: int,
    backend: str = "onnxruntime",
    largest: int = BATCH,
    preferred: str = "8",
    delay: int = 1000,
    more: str = "",
) -> None:
    file = {"onnxruntime": "model.onnx", "pytorch": "model.pt"}[backend]
    version = folder / served_as / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version / file).unlink(missing_ok=True)
    (version / file).symlink_to(arguments.work / f"{name}.{file.rpartition('.')[2]}")
    into, out = ("input", "output") if backend == "onnxruntime" else ("INPUT__0", "OUTPUT__0")
    buckets = 'parameters { key: "batch_buckets" value { string_value: "1,2,4,8,16" } }' if largest > BATCH else ""
    buckets = buckets or 'parameters { key: "batch_buckets" value { string_value: "1,2,4,8" } }'
    text = CONFIG.format(
        backend=backend, largest=largest, input=into, output=out, count=count, preferred=preferred, delay=delay,
        more=more or buckets,
    )  # fmt: skip
    (version.parent / "config.pbtxt").write_text(text)


@contextmanager
def mps(work: Path) -> Iterator[None]:
    """An MPS daemon of our own, which the servers started in the block attach to."""
    folders = {"CUDA_MPS_PIPE_DIRECTORY": work / "mps", "CUDA_MPS_LOG_DIRECTORY": work / "mps-log"}
    for variable, folder in folders.items():
        folder.mkdir(exist_ok=True)
        os.environ[variable] = str(folder)
    subprocess.run(["nvidia-cuda-mps-control", "-d"], check=True)
    try:
        yield
        clients = subprocess.run(
            ["nvidia-cuda-mps-control"], input="get_server_list\n", capture_output=True, text=True, check=False
        )
        print("MPS servers:", clients.stdout.split(), flush=True)
    finally:
        subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", capture_output=True, text=True, check=False)
        for variable in folders:
            del os.environ[variable]


if __name__ == "__main__":
    main()
