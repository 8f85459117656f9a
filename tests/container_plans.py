"""Plans for containers, on GPUs that this machine does not have: NVML's answer is injected, all else is as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

from serving import echo_repository

from tritonkit import serve
from tritonkit.serve import container_host
from tritonkit.serve.containers import TRITON_IMAGE
from tritonkit.serve.gpus import Gpu
from tritonkit.serve.processes import Plan
from tritonkit.spec.servers import Server

UUID = "GPU-00000000-1111-2222-3333-44444444444{}"
H200 = {
    "name": "NVIDIA H200", "multiprocessors": 132, "memory_total": 141 * 2**30, "memory_used": 0,
    "compute_capability": "9.0",
}  # fmt: skip


def plan(project: Path, *, gpus: int = 1, replicas: int = 2, mps: Any = "auto", **changes: Any) -> Plan:
    """Servers at 30 and 60 percent on each of so many GPUs, or without any, so many replicas on the CPU."""
    repository = project / "model_repository"
    if not repository.exists():
        echo_repository(repository)
    servers: tuple[Server, ...]
    if gpus:
        servers = (Server("at30", 0, thread_percentage=30.0), Server("at60", 1, thread_percentage=60.0))
        if mps == "off":
            servers = (Server("one"), Server("other", 1))
    else:
        servers = (Server("server", replicas=replicas),)
    here = tuple(Gpu(index=index, uuid=UUID.format(index), **H200) for index in range(gpus))  # type: ignore[arg-type]
    request = serve.Request(
        repository=repository,
        project=project,
        servers=servers,
        gpus=tuple(str(gpu.index) for gpu in here) or ("none",),
        mps=mps,
        **changes,
    )
    with mock.patch("tritonkit.serve.gpus.inventory", return_value=here):
        return serve.plan(request, container_host.survey(request, TRITON_IMAGE))
