"""Stands for nvidia-ml-py on a machine without a GPU: the calls that tritonkit makes, over GPUs told by a JSON file.

The file's path is in FAKE_NVML; each GPU is a mapping of the values below that differ. Without a file no driver runs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

H200 = {
    "uuid": "GPU-00000000-0000-0000-0000-000000000000",
    "name": "NVIDIA H200",
    "cores": 16896,
    "total": 150754820096,
    "used": 0,
    "capability": [9, 0],
    "mig": 0,
    "processes": [],
    "busy": 0,
    "milliwatts": 75_000,
    "milliwatts_limit": 700_000,
    # The call that this GPU refuses, as one does that has fallen off the bus.
    "refuses": "",
}
_state: dict[str, Any] = {}


class NVMLError(Exception):
    """What every call may raise."""


class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801 - the names are NVML's
    """There is no driver."""


class NVMLError_DriverNotLoaded(NVMLError):  # noqa: N801
    """There is no driver either."""


def nvmlInit() -> None:  # noqa: N802
    file = os.environ.get("FAKE_NVML")
    if not file:
        raise NVMLError_DriverNotLoaded("Driver Not Loaded")
    if not Path(file).exists():
        raise NVMLError("Driver/library version mismatch")
    _state["gpus"] = [{**H200, **gpu} for gpu in json.loads(Path(file).read_text())]


def nvmlShutdown() -> None:  # noqa: N802
    _state.clear()


def nvmlSystemGetCudaDriverVersion_v2() -> int:  # noqa: N802
    return 13000


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return len(_state["gpus"])


def nvmlDeviceGetHandleByIndex(index: int) -> dict[str, Any]:  # noqa: N802
    handle: dict[str, Any] = _state["gpus"][index]
    if handle["refuses"] == "nvmlDeviceGetHandleByIndex":
        raise NVMLError("GPU is lost")
    return handle


def nvmlDeviceGetHandleByUUID(uuid: str) -> dict[str, Any]:  # noqa: N802
    for handle in _state["gpus"]:
        if handle["uuid"] == uuid:
            return dict(handle)
    raise NVMLError("Not Found")


def nvmlDeviceGetUUID(device: dict[str, Any]) -> str:  # noqa: N802
    return str(device["uuid"])


def nvmlDeviceGetName(device: dict[str, Any]) -> str:  # noqa: N802
    return str(device["name"])


def nvmlDeviceGetMemoryInfo(device: dict[str, Any]) -> SimpleNamespace:  # noqa: N802
    if device["refuses"] == "nvmlDeviceGetMemoryInfo":
        raise NVMLError("GPU is lost")
    return SimpleNamespace(total=device["total"], used=device["used"])


def nvmlDeviceGetCudaComputeCapability(device: dict[str, Any]) -> list[int]:  # noqa: N802
    return list(device["capability"])


def nvmlDeviceGetNumGpuCores(device: dict[str, Any]) -> int:  # noqa: N802
    return int(device["cores"])


def nvmlDeviceGetMigMode(device: dict[str, Any]) -> list[int]:  # noqa: N802
    if device["capability"] < [8, 0]:
        raise NVMLError("Not Supported")
    return [device["mig"], device["mig"]]


def nvmlDeviceGetComputeRunningProcesses(device: dict[str, Any]) -> list[SimpleNamespace]:  # noqa: N802
    return [SimpleNamespace(pid=pid, usedGpuMemory=memory) for pid, memory in device["processes"]]


def nvmlDeviceGetUtilizationRates(device: dict[str, Any]) -> SimpleNamespace:  # noqa: N802
    return SimpleNamespace(gpu=device["busy"], memory=0)


def nvmlDeviceGetPowerUsage(device: dict[str, Any]) -> int:  # noqa: N802
    if device["milliwatts"] is None:
        raise NVMLError("Not Supported")
    return int(device["milliwatts"])


def nvmlDeviceGetEnforcedPowerLimit(device: dict[str, Any]) -> int:  # noqa: N802
    return int(device["milliwatts_limit"])
