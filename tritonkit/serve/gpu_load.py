"""What the GPUs do at this moment, as NVML measures it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

INSTALL = "pip install nvidia-ml-py"


@dataclass(frozen=True)
class GpuLoad:
    """One GPU; a figure is None where this GPU does not give it.

    Attributes:
        index: as the driver counts.
        uuid: its UUID.
        name: the product's name.
        utilization: percent of the last measuring period (up to a second) in which a kernel ran.
        memory_used: bytes.
        memory_total: bytes.
        power: watts.
        power_limit: the most watts that it may draw.
    """

    index: int
    uuid: str
    name: str
    utilization: float | None
    memory_used: int | None
    memory_total: int | None
    power: float | None
    power_limit: float | None


class GpuMeter:
    """Reads every GPU of this machine. ``reason`` says why there is none to read; it is empty where there is one.

    Args:
        nvml: what to ask in place of the package ``pynvml``.
    """

    def __init__(self, nvml: Any = None) -> None:
        self._handles: list[Any] = []
        self.reason = ""
        try:
            self._nvml = nvml = nvml or importlib.import_module("pynvml")
            nvml.nvmlInit()
        except ImportError:
            self.reason = f"NVML cannot be asked: {INSTALL}"
            return
        except nvml.NVMLError as error:
            self.reason = f"no NVIDIA driver answers: {error}"
            return
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        if not self._handles:
            self.reason = "the NVIDIA driver sees no GPU"

    def read(self) -> tuple[GpuLoad, ...]:
        """Every GPU now; one that has fallen off the bus keeps its row, without figures."""
        return tuple(self._one(index, handle) for index, handle in enumerate(self._handles))

    def _one(self, index: int, handle: Any) -> GpuLoad:
        nvml = self._nvml
        memory = self._asked(nvml.nvmlDeviceGetMemoryInfo, handle)
        rates = self._asked(nvml.nvmlDeviceGetUtilizationRates, handle)
        power = self._asked(nvml.nvmlDeviceGetPowerUsage, handle)
        limit = self._asked(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        return GpuLoad(
            index=index,
            uuid=_text(self._asked(nvml.nvmlDeviceGetUUID, handle)),
            name=_text(self._asked(nvml.nvmlDeviceGetName, handle)),
            utilization=None if rates is None else float(rates.gpu),
            memory_used=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            power=None if power is None else power / 1000,
            power_limit=None if limit is None else limit / 1000,
        )

    def _asked(self, question: Callable[[Any], Any], handle: Any) -> Any:
        with suppress(self._nvml.NVMLError):
            return question(handle)
        return None


def _text(value: Any) -> str:
    # Older versions of the package give bytes.
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")
