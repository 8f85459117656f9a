"""The GPUs of this machine, through NVML: which there are, what they have, who uses them, and which are meant."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonkit.errors import Fault, SpecError, ToolMissing, TritonkitError
from tritonkit.serve import procfs

# CUDA cores in one SM, by compute capability, as NVIDIA's CUDA Programming Guide counts the FP32 units of each
# architecture; `_ConvertSMVer2Cores` in its CUDA samples holds the same numbers. Later ones have 128 as well.
_CORES = {(6, 0): 64, (7, 0): 64, (7, 2): 64, (7, 5): 64, (8, 0): 64}
_CORES_SINCE = 128
VOLTA = (7, 0)
# Client processes that one MPS server takes, and the version of CUDA since which it takes more.
_MPS_CLIENTS = 48
_MPS_CLIENTS_LATER = 60
_LATER = 13010
# What a loaded driver shows: its kernel module, the device that every client of it opens, and that of WSL.
_DRIVER = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), Path("/dev/dxg"))
ALL = "all"
NONE = "none"


@dataclass(frozen=True)
class User:
    """A process that computes on a GPU.

    Attributes:
        pid: as the driver counts, which in a container is another number than there.
        memory: the bytes of the GPU's memory that it holds; None where the driver does not say.
        command: its program; empty where it cannot be told, as in a container.
    """

    pid: int
    memory: int | None
    command: str


@dataclass(frozen=True)
class Gpu:
    """One physical GPU.

    Attributes:
        index: as the driver counts, in the order of the PCI bus.
        uuid: its UUID.
        name: the product's name.
        multiprocessors: how many SMs it has.
        memory_total: all of its memory, in bytes.
        memory_used: how much of that is taken now, in bytes.
        compute_capability: as in ``9.0``.
        mig: whether it is cut into MIG devices.
        users: the processes that compute on it.
        mps_clients: how many client processes one MPS server takes with this driver.
        fault: why it cannot be used, in the driver's words, and nothing but its index may be known of it; empty where
            it can.
    """

    index: int
    uuid: str
    name: str
    multiprocessors: int
    memory_total: int
    memory_used: int
    compute_capability: str
    mig: bool = False
    users: tuple[User, ...] = ()
    mps_clients: int = _MPS_CLIENTS
    fault: str = ""

    def __str__(self) -> str:
        return f"{self.index} ({self.fault or f'{self.name}, {self.uuid}'})"

    @property
    def mps_refusal(self) -> str:
        """Why MPS cannot partition it; empty where it can."""
        if self.mig:
            return "it is cut into MIG devices, which partition it already"
        if _numbers(self.compute_capability) < VOLTA:
            return f"its compute capability is {self.compute_capability}; MPS keeps limits from Volta (7.0) on"
        return ""


class NoDriver(ToolMissing):
    """There is no NVIDIA driver on this machine."""


@contextmanager
def nvml() -> Iterator[Any]:
    """NVML, ready to be asked, for the time of a block: the module ``pynvml``.

    Raises:
        NoDriver: this machine has no NVIDIA driver.
        ToolMissing: the package nvidia-ml-py is not installed.
        TritonkitError: the driver does not answer.
    """
    try:
        module: Any = importlib.import_module("pynvml")
    except ModuleNotFoundError:
        raise ToolMissing(
            "nvidia-ml-py is not installed: GPUs are chosen and watched through it",
            hint="Install it with: pip install 'nvidia-ml-py>=12.535' (it comes with 'tritonkit[gpu]')",
        ) from None
    try:
        module.nvmlInit()
    except (module.NVMLError_LibraryNotFound, module.NVMLError_DriverNotLoaded) as error:
        raise NoDriver(
            f"no NVIDIA driver answers (NVML: {error})",
            hint="Install the driver, or serve on the CPU: leave --gpus out, or say --gpus none.",
        ) from error
    except module.NVMLError as error:
        raise TritonkitError(
            f"the NVIDIA driver refused to answer (NVML: {error})",
            hint="See what nvidia-smi says, or serve on the CPU: --gpus none.",
        ) from error
    try:
        yield module
    except module.NVMLError as error:
        raise TritonkitError(f"the NVIDIA driver refused to answer (NVML: {error})") from error
    finally:
        module.nvmlShutdown()


def has_driver() -> bool:
    """Whether an NVIDIA driver is loaded here, by its files: nothing is imported and nothing is asked."""
    return any(file.exists() for file in _DRIVER)


def inventory() -> tuple[Gpu, ...]:
    """Every GPU of this machine, those that cannot be used (``Gpu.fault``) included.

    Raises:
        NoDriver: this machine has no NVIDIA driver.
        ToolMissing: the package nvidia-ml-py is not installed.
        TritonkitError: the driver does not answer.
    """
    with nvml() as module:
        version = _told(module, "nvmlSystemGetCudaDriverVersion_v2") or 0
        clients = _MPS_CLIENTS_LATER if version >= _LATER else _MPS_CLIENTS
        return tuple(_gpu(module, index, clients) for index in range(module.nvmlDeviceGetCount()))


def present() -> tuple[Gpu, ...]:
    """As ``inventory``; none where this machine has no NVIDIA driver.

    Raises:
        ToolMissing: there is a driver, and the package nvidia-ml-py, through which it is asked, is not installed.
        TritonkitError: the driver does not answer.
    """
    try:
        return inventory()
    except NoDriver:
        return ()
    except ToolMissing:
        if shutil.which("nvidia-smi"):
            raise
        return ()


def computing(uuid: str) -> frozenset[int]:
    """The processes that hold a context on a GPU, as the driver counts them (``procfs.counts_as_the_kernel``).

    Raises:
        ToolMissing: the package nvidia-ml-py is not installed, or there is no driver.
        TritonkitError: the driver does not answer, or has no such GPU.
    """
    with nvml() as module:
        # NVML's list of MPS clients also holds those that have only initialised CUDA; this one does not.
        processes = module.nvmlDeviceGetComputeRunningProcesses(module.nvmlDeviceGetHandleByUUID(uuid))
        return frozenset(process.pid for process in processes)


def select(words: Sequence[str], here: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs that the words mean, each an index, a UUID or the beginning of one, or ``all``; in their order.

    Raises:
        SpecError: a word means none of them, or two, or one that cannot be used; every one that is wrong is named.
    """
    if list(words) == [ALL]:
        if not here:
            raise SpecError([Fault("--gpus all", 0, "", "there is no GPU")])
        words = [str(gpu.index) for gpu in here]
    found: list[Gpu] = []
    faults = []
    for word in words:
        gpu, message = resolve(word, here)
        if gpu is None:
            faults.append(Fault(f"--gpus {','.join(words)}", 0, "", message))
        elif gpu not in found:
            found.append(gpu)
    if faults:
        raise SpecError(faults)
    return tuple(found)


def resolve(word: int | str, here: Sequence[Gpu]) -> tuple[Gpu | None, str]:
    """The GPU that an index or a UUID means; else None, and why."""
    listed = f"here: {', '.join(map(str, here))}" if here else "there is no GPU here"
    text = str(word)
    if text.startswith("MIG-"):
        return None, f"{text} is a MIG device; tritonkit serves on whole GPUs, which MPS partitions; {listed}"
    if text.isascii() and text.isdigit():
        found = [gpu for gpu in here if gpu.index == int(text)]
    else:
        wanted = text.lower().removeprefix("gpu-")
        found = [gpu for gpu in here if wanted and gpu.uuid.lower().removeprefix("gpu-").startswith(wanted)]
    if len(found) == 1 and found[0].fault:
        return None, f"GPU {found[0].index} cannot be used: {found[0].fault}; {listed}"
    if len(found) == 1:
        return found[0], ""
    if found:
        return None, f"{text} begins the UUIDs of several GPUs; {listed}"
    return None, f"no GPU {text}; {listed}"


def _gpu(module: Any, index: int, clients: int) -> Gpu:
    try:
        return _described(module, index, clients)
    except module.NVMLError as error:
        # One that has fallen off the bus says no more; the others are none the worse.
        return Gpu(index, "", "", 0, 0, 0, "", fault=f"NVML: {error}")


def _described(module: Any, index: int, clients: int) -> Gpu:
    device = module.nvmlDeviceGetHandleByIndex(index)
    memory = module.nvmlDeviceGetMemoryInfo(device)
    capability = tuple(module.nvmlDeviceGetCudaComputeCapability(device))
    partitioned = _told(module, "nvmlDeviceGetMigMode", device)
    return Gpu(
        index=index,
        uuid=_text(module.nvmlDeviceGetUUID(device)),
        name=_text(module.nvmlDeviceGetName(device)),
        multiprocessors=module.nvmlDeviceGetNumGpuCores(device) // _CORES.get(capability, _CORES_SINCE),
        memory_total=memory.total,
        memory_used=memory.used,
        compute_capability=".".join(map(str, capability)),
        mig=bool(partitioned and partitioned[0]),
        users=_users(module, device),
        mps_clients=clients,
    )


def _users(module: Any, device: Any) -> tuple[User, ...]:
    found: dict[int, User] = {}
    # Clients of MPS are told apart from other processes.
    for question in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetMPSComputeRunningProcesses"):
        for process in _told(module, question, device) or ():
            # Another process may have the driver's number here.
            program = procfs.command(process.pid) if procfs.counts_as_the_kernel() else None
            found[process.pid] = User(process.pid, process.usedGpuMemory, program or "")
    return tuple(found.values())


def _told(module: Any, question: str, *arguments: Any) -> Any:
    """The answer to a question that not every GPU or driver has an answer to; None without one."""
    try:
        return getattr(module, question)(*arguments)
    except (module.NVMLError, AttributeError):
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))
