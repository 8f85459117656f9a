"""What the GPUs do at this moment, as NVML measures it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from tritonkit.errors import TritonkitError
from tritonkit.serve import gpus
from tritonkit.serve.gpus import Gpu


@dataclass(frozen=True)
class GpuLoad:
    """One GPU; a figure is None where this GPU does not give it.

    Attributes:
        index: as the driver counts.
        uuid: its UUID.
        name: the product's name; of one that cannot be used, why not.
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
    """Reads every GPU of this machine. ``reason`` says why there is none to read; it is empty where there is one."""

    def __init__(self) -> None:
        """NVML is opened, where there is one."""
        self._held = ExitStack()
        self._gpus: tuple[Gpu, ...] = ()
        self.reason = ""
        try:
            self._gpus = gpus.inventory()
            self._nvml = self._held.enter_context(gpus.nvml())
        except TritonkitError as error:
            self.reason = str(error.args[0])
            return
        if not self._gpus:
            self.reason = "the NVIDIA driver sees no GPU"

    def read(self) -> tuple[GpuLoad, ...]:
        """Every GPU now; one that has fallen off the bus keeps its row, without figures."""
        return tuple(map(self._one, self._gpus))

    def close(self) -> None:
        """Give NVML back."""
        self._held.close()

    def _one(self, gpu: Gpu) -> GpuLoad:
        nvml = self._nvml
        handle = self._asked(nvml.nvmlDeviceGetHandleByIndex, gpu.index)
        memory = self._asked(nvml.nvmlDeviceGetMemoryInfo, handle)
        rates = self._asked(nvml.nvmlDeviceGetUtilizationRates, handle)
        power = self._asked(nvml.nvmlDeviceGetPowerUsage, handle)
        limit = self._asked(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        return GpuLoad(
            index=gpu.index,
            uuid=gpu.uuid,
            name=gpu.fault or gpu.name,
            utilization=None if rates is None else float(rates.gpu),
            memory_used=None if memory is None else int(memory.used),
            memory_total=gpu.memory_total or None,
            power=None if power is None else power / 1000,
            power_limit=None if limit is None else limit / 1000,
        )

    def _asked(self, question: Callable[[Any], Any], about: Any) -> Any:
        with suppress(self._nvml.NVMLError):
            return None if about is None else question(about)
        return None
