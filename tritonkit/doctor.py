"""What this machine has of all that tritonkit can drive, and how to get the rest."""

from __future__ import annotations

import importlib
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tritonkit.errors import CommandFailed, TritonkitError
from tritonkit.tools import c_compiler, docker, haproxy, nvidia_smi, packages, perf_analyzer, tritonserver
from tritonkit.tools.commands import run
from tritonkit.tools.tritonserver import TritonServer


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        name: what it is.
        serves: what it is needed for.
        found: version and place; empty where it is not usable.
        problem: why it is not usable; empty where it is.
        remedy: the command, or the advice, that changes that.
        required: whether the basic path (build, serve and benchmark on a CPU) needs it.
        requirements: what ``pip install`` gets to mend it.
    """

    name: str
    serves: str
    found: str = ""
    problem: str = ""
    remedy: str = ""
    required: bool = False
    requirements: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether it is there and works."""
        return not self.problem


def examine() -> list[Finding]:
    """Look for everything; nothing is changed and nothing heavy is imported."""
    return [
        _python(),
        *_serving(),
        _c_compiler(),
        _perf_analyzer(),
        _haproxy(),
        _gpus(),
        _nvml(),
        _program("nvidia-cuda-mps-control", "thread percentages", "comes with the NVIDIA driver"),
        _docker(),
        _package("torch", "exports from PyTorch", "export"),
        _package("onnx", "exports from PyTorch", "export"),
        _package("tensorrt", "TensorRT plans", "tensorrt"),
        _package("scipy", "provision and autoscale", "provision"),
        _package("ortools", "provision and autoscale", "provision"),
    ]


def install(findings: Sequence[Finding], report: Callable[[str], None]) -> None:
    """Get what the basic path lacks: Python packages into this environment, perf_analyzer into tritonkit's cache.

    Args:
        findings: from ``examine``.
        report: told, in a sentence, what is being done.

    Raises:
        ToolMissing: pip is missing, or what was fetched does not run here.
        CommandFailed: pip failed; its words are in the message.
    """
    wanted = [text for finding in findings if finding.required and not finding.usable for text in finding.requirements]
    if wanted:
        report(f"installing {', '.join(wanted)}")
        argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
        run(argv, hint="Is a package registry within reach? pip's own settings (index-url, proxy) are used.")
        importlib.invalidate_caches()
    perf_analyzer.install(report)


def remedies(findings: Sequence[Finding], *, tried: bool) -> tuple[str, ...]:
    """What to do about everything that the basic path lacks, each thing once.

    Args:
        findings: from ``examine``.
        tried: whether ``install`` has been run: then it is no remedy any more.
    """
    lacking = [finding for finding in findings if finding.required and not finding.usable]
    every = (perf_analyzer.INSTALL_HINT if one.requirements and not tried else one.remedy for one in lacking)
    return tuple(dict.fromkeys(every))


def _python() -> Finding:
    found = f"{platform.python_version()}, {sys.executable}"
    problem = "" if sys.version_info < (3, 13) else "numpy below 2, which Triton's stub needs, has no build for it"
    return Finding(
        "python", "everything", found, problem, "make the environment with Python 3.10 to 3.12", required=True
    )


def _serving() -> list[Finding]:
    """The server, and the packages that it takes from this environment."""
    try:
        server = tritonserver.find()
    except TritonkitError as error:
        return [_unusable_server(error), _numpy(required=True), _onnxruntime(required=True)]
    # A native server brings a stub and an ONNX Runtime of its own.
    return [_tritonserver(server), _numpy(required=server.bundled), _onnxruntime(required=server.bundled)]


def _unusable_server(error: TritonkitError) -> Finding:
    # A package that is there already is not what is missing.
    lacking = () if packages.version("nvidia-pytriton") else packages.requirements("tritonkit", "server")
    return Finding(
        "tritonserver", "serving", problem=str(error.args[0]), remedy=error.hint or "", required=True,
        requirements=lacking,
    )  # fmt: skip


def _tritonserver(server: TritonServer) -> Finding:
    serves = "serving"
    try:
        tritonserver.check(server)
    except TritonkitError as error:
        return _unusable_server(error)
    try:
        backends = sorted(folder.name for folder in server.backends.iterdir() if folder.is_dir())
    except OSError as error:
        problem = f"{server.binary} has no folder of backends: {server.backends}: {error.strerror}"
        remedy = "install that server's backends there, or take it off PATH: then the one of tritonkit[server] is used"
        return Finding("tritonserver", serves, problem=problem, remedy=remedy, required=True)
    found = f"{server.version}, {server.binary}, backends: {', '.join(backends)}"
    return Finding("tritonserver", serves, f"{found} and tritonkit's own" if server.bundled else found, required=True)


def _numpy(*, required: bool) -> Finding:
    serves = "serving Python models with the server of tritonkit[server]"
    version = packages.version("numpy")
    remedy = "pip install 'numpy<2'"
    if version is None or int(version.split(".")[0]) >= 2:
        problem = "not installed" if version is None else f"{version}: Triton's Python stub cannot read its arrays"
        return Finding(
            "numpy < 2", serves, problem=problem, remedy=remedy, required=required, requirements=("numpy<2",)
        )
    return Finding("numpy < 2", serves, version, required=required)


def _onnxruntime(*, required: bool) -> Finding:
    serves = "serving ONNX models with the server of tritonkit[server]"
    cpu, gpu = packages.version("onnxruntime"), packages.version("onnxruntime-gpu")
    if cpu and gpu:
        remedy = "pip uninstall onnxruntime onnxruntime-gpu, then install the one you want"
        problem = f"onnxruntime {cpu} and onnxruntime-gpu {gpu} have overwritten each other's files"
        return Finding("onnxruntime", serves, problem=problem, remedy=remedy, required=required)
    if not cpu and not gpu:
        return Finding(
            "onnxruntime", serves, problem="not installed", remedy="pip install 'tritonkit[cpu]' (or [gpu])",
            required=required, requirements=packages.requirements("tritonkit", "cpu"),
        )  # fmt: skip
    return Finding("onnxruntime", serves, f"{cpu} for CPUs" if cpu else f"{gpu} for GPUs", required=required)


def _c_compiler() -> Finding:
    serves = "faster ONNX models on the CPU"
    try:
        return Finding("C compiler", serves, " ".join(c_compiler.check()))
    except CommandFailed as error:
        words = f"{error.argv[0]} does not compile: {error.output.strip()}"
        return Finding("C compiler", serves, problem=words, remedy=c_compiler.INSTALL)
    except TritonkitError as error:
        return Finding("C compiler", serves, problem=str(error.args[0]), remedy=c_compiler.INSTALL)


def _perf_analyzer() -> Finding:
    serves = "benchmarks"
    try:
        found = perf_analyzer.find()
    except TritonkitError as error:
        problem, remedy = str(error.args[0]), error.hint or ""
        return Finding("perf_analyzer", serves, problem=problem, remedy=remedy, required=True)
    return Finding("perf_analyzer", serves, f"{found.version}, {found.binary}", required=True)


def _haproxy() -> Finding:
    serves = "one address for several servers"
    try:
        path = haproxy.find()
    except TritonkitError as error:
        return Finding("haproxy", serves, problem=str(error.args[0]), remedy=error.hint or "")
    return Finding("haproxy", serves, f"{haproxy.version(path)}, {path}")


def _gpus() -> Finding:
    serves, remedy = "serving on GPUs", "install the NVIDIA driver (models serve on the CPU without)"
    try:
        gpus = nvidia_smi.gpus()
    except TritonkitError as error:
        words = error.output.strip() if isinstance(error, CommandFailed) else "no nvidia-smi, so no NVIDIA driver"
        return Finding("GPUs", serves, problem=words, remedy=remedy)
    if not gpus:
        return Finding("GPUs", serves, problem="the NVIDIA driver sees none")
    found = (f"{index}: {gpu.name}, {gpu.memory}, {gpu.driver}" for index, gpu in enumerate(gpus))
    return Finding("GPUs", serves, "; ".join(found))


def _nvml() -> Finding:
    serves = "choosing GPUs, and MPS: up --gpus"
    version = packages.version("nvidia-ml-py")
    remedy = "pip install 'nvidia-ml-py>=12.535' (it comes with 'tritonkit[gpu]')"
    return Finding("nvidia-ml-py", serves, version or "", "" if version else "not installed", remedy)


def _program(name: str, serves: str, remedy: str) -> Finding:
    path = shutil.which(name)
    return Finding(name, serves, path) if path else Finding(name, serves, problem="not found", remedy=remedy)


def _docker() -> Finding:
    serves = "serving in containers"
    try:
        return Finding("docker", serves, f"engine {docker.check()}, with Compose")
    except TritonkitError as error:
        return Finding("docker", serves, problem=str(error.args[0]), remedy=error.hint or "")


def _package(name: str, serves: str, group: str) -> Finding:
    version = packages.version(name)
    remedy = f"pip install 'tritonkit[{group}]'"
    return Finding(name, serves, version) if version else Finding(name, serves, problem="not installed", remedy=remedy)
