"""What the backends' benchmarks share: models on disk, a server around them, perf_analyzer's figures."""

from __future__ import annotations

import base64
import csv
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tritonkit import serve
from tritonkit.tools import perf_analyzer

FREE_PORTS = {"http": 0, "grpc": 0, "metrics": 0}


@dataclass(frozen=True)
class Figures:
    """One measurement: inferences a second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float


@contextmanager
def server(
    project: Path, repository: Path, *, start_timeout: float = 300, server_args: tuple[str, ...] = ()
) -> Iterator[serve.Deployment]:
    """Serve a repository for the time of a block; ``server_args`` are tritonserver's own options."""
    request = serve.Request(
        repository=repository,
        project=project,
        ports=FREE_PORTS,
        server_args=server_args,
        policy=serve.Policy(start_timeout=start_timeout, stop_timeout=10),
    )
    with serve.up(serve.plan(request, serve.survey(request))) as deployment:
        yield deployment


def data_file(folder: Path, inputs: Mapping[str, Any]) -> Path:
    """The data for perf_analyzer: one request's inputs, each without its batch dimension."""
    path = folder / "data.json"
    row = {name: {"b64": base64.b64encode(array.tobytes()).decode()} for name, array in inputs.items()}
    path.write_text(json.dumps({"data": [row]}))
    return path


def measure(
    deployment: serve.Deployment,
    model: str,
    data: Path,
    *,
    protocol: str,
    shared_memory: bool = False,
    output_size: int = 4096,
    clients: int,
    seconds: float = 6,
    processes: int = 1,
    more: Sequence[str] = (),
) -> Figures:
    """Synchronous clients of batch 1, over the first three windows that hold answers; a failed request is an error.

    With more ``processes`` the clients are divided among so many perf_analyzers that run at once: their rates add up,
    the p50 is the mean of theirs and the p99 the worst of theirs.
    """
    if processes == 1:
        return _measure(deployment, model, data, data.with_name("report.csv"), protocol, shared_memory, output_size,
                        clients, seconds, more)  # fmt: skip
    with ThreadPoolExecutor(processes) as pool:
        parts = list(
            pool.map(
                lambda number: _measure(deployment, model, data, data.with_name(f"report{number}.csv"), protocol,
                                        shared_memory, output_size, clients // processes, seconds, more),
                range(processes),
            )
        )  # fmt: skip
    return Figures(sum(part.rate for part in parts), fmean(part.p50 for part in parts), max(part.p99 for part in parts))


def _measure(
    deployment: serve.Deployment,
    model: str,
    data: Path,
    report: Path,
    protocol: str,
    shared_memory: bool,
    output_size: int,
    clients: int,
    seconds: float,
    more: Sequence[str],
) -> Figures:
    analyzer = perf_analyzer.find()
    report.unlink(missing_ok=True)
    shared = ["--shared-memory", "system", "--output-shared-memory-size", str(output_size)] if shared_memory else []
    argv = [
        str(analyzer.binary), "-m", model, "-u", deployment.grpc if protocol == "grpc" else deployment.http,
        "-i", protocol, "--concurrency-range", str(clients), "--max-threads", str(clients), "--input-data", str(data),
        "-p", str(int(seconds * 1000 / 3)), "-s", "999", "-r", "10", "-f", str(report), *shared, *more,
    ]  # fmt: skip
    done = subprocess.run(
        argv, env={**os.environ, **analyzer.env}, capture_output=True, text=True, check=False, timeout=seconds * 10 + 60
    )
    if done.returncode or not report.is_file():
        raise RuntimeError(f"perf_analyzer ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    with report.open() as lines:
        (row,) = csv.DictReader(lines)
    return Figures(float(row["Inferences/Second"]), float(row["p50 latency"]) / 1000, float(row["p99 latency"]) / 1000)
