"""A soak of a served image model: every answer checked, malformed requests among the good ones, memory watched."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tritonkit import serve

THREADS = 16
MALFORMED = 0.01
SHAPE = (3, 224, 224)


def soak(deployment: serve.Deployment, model: Path, seconds: float) -> list[str]:
    """What came of ``seconds`` of requests of 1 to 4 random rows, 1 % of them of a wrong shape or type."""
    images = np.random.default_rng(5).normal(size=(32, *SHAPE)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    told = session.run(None, {"input": images})[0]
    tolerance = 1e-2 * float(np.abs(told).max())
    end = time.monotonic() + seconds

    def client(seed: int) -> Counter[str]:
        random = np.random.default_rng(seed)
        seen: Counter[str] = Counter()
        with triton.InferenceServerClient(deployment.grpc) as connection:
            while time.monotonic() < end:
                chosen = random.integers(0, len(images), random.integers(1, 5))
                bad = random.random() < MALFORMED
                seen[ask(connection, images[chosen], told[chosen], tolerance, bad)] += 1
        return seen

    with ThreadPoolExecutor(THREADS) as pool:
        clients = pool.map(client, range(THREADS))
        # Triton's shared memory for a stub grows to what its batches need, so the first look comes under load.
        time.sleep(seconds / 5)
        before = memory(deployment)
        total = sum(clients, Counter[str]())
    return [
        f"soak of {seconds:.0f} s, {THREADS} clients: " + ", ".join(f"{total[key]} {key}" for key in sorted(total)),
        f"memory after a fifth of the time: {before}; at the end: {memory(deployment)}",
    ]


def ask(connection: Any, images: Any, told: Any, tolerance: float, bad: bool) -> str:
    """One request, and what came of it in a word."""
    sent = np.ascontiguousarray(images[:, :, :, :-1]) if bad else images
    tensor = triton.InferInput("input", list(sent.shape), "FP32")
    tensor.set_data_from_numpy(sent)
    try:
        answer = connection.infer("resnet50", [tensor], client_timeout=30).as_numpy("output")
    except InferenceServerException as error:
        return "refused as they should be" if bad and "shape" in str(error) else f"LOST ({str(error)[:80]})"
    if bad:
        return "malformed but ANSWERED"
    return "right" if answer.shape == told.shape and np.abs(answer - told).max() < tolerance else "WRONG"


def memory(deployment: serve.Deployment) -> str:
    """Resident memory of the servers and their stubs, and what the GPU has in use."""
    resident = 0
    for server in deployment.servers:
        tasks = Path(f"/proc/{server.pid}/task").iterdir()
        children = [pid for task in tasks for pid in (task / "children").read_text().split()]
        for pid in (server.pid, *children):
            status = Path(f"/proc/{pid}/status").read_text()
            resident += int(status.partition("VmRSS:")[2].split()[0])
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader"]
    gpu = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return f"{resident / 1024:.0f} MiB resident, GPU {gpu}"
