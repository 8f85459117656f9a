"""Whether plans fit what will serve them: said before a server starts, and fails to load them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tritonkit.artifacts import provenance
from tritonkit.artifacts.provenance import Provenance
from tritonkit.artifacts.tensorrt_module import RTX
from tritonkit.errors import ExportFailed
from tritonkit.tools import digests, nvidia_smi

_LIBRARY = re.compile(r"libnvinfer\.so\.(\d+\.\d+\.\d+)\Z")
_LIBRARY_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/local/tensorrt/lib",
    "/opt/tritonserver/lib",
)


@dataclass(frozen=True)
class Serving:
    """What will load a plan.

    Attributes:
        tensorrt: the version of TensorRT that the server loads; None where it is not known.
        compute_capabilities: those of the GPUs that will serve; none where there is no GPU.
    """

    tensorrt: str | None
    compute_capabilities: tuple[str, ...]


def here() -> Serving:
    """The TensorRT library and the GPUs of this machine."""
    return Serving(_library_version(_LIBRARY_FOLDERS), nvidia_smi.compute_capabilities())


def _library_version(folders: Iterable[str]) -> str | None:
    for folder in folders:
        for file in sorted(Path(folder).glob("libnvinfer.so.*")):
            match = _LIBRARY.match(file.name)
            if match:
                return match[1]
    return None


def differences(record: Provenance, serving: Serving) -> list[str]:
    """Why a plan will not be loaded: each reason with both sides. Empty where nothing speaks against it."""
    found = []
    built_by = next(((name, version) for name, version in record.tools.items() if name.startswith("tensorrt")), None)
    if built_by is not None and serving.tensorrt is not None:
        name, version = built_by
        if name.startswith(RTX):
            found.append(f"it was built by TensorRT for RTX {version}, the server has TensorRT {serving.tensorrt}")
        elif not _loads(version, serving.tensorrt, compatible=bool(record.options.get("version_compatible"))):
            found.append(f"it was built by TensorRT {version}, the server has {serving.tensorrt}")
    capability, level = record.compute_capability, record.options.get("hardware_compatibility_level")
    if capability is not None:
        unfit = [gpu for gpu in serving.compute_capabilities if not _runs_on(capability, gpu, level)]
        if unfit:
            found.append(f"it was built for compute capability {capability}, the GPUs here have {', '.join(unfit)}")
    return found


def _loads(built: str, serving: str, *, compatible: bool) -> bool:
    ours, theirs = ([int(part) for part in re.findall(r"\d+", version)[:3]] for version in (built, serving))
    if compatible:
        # A later version of the same major number loads a version-compatible plan.
        return ours[:1] == theirs[:1] and ours <= theirs
    return ours == theirs


def _runs_on(built: str, gpu: str, level: object) -> bool:
    if level == "AMPERE_PLUS":
        return int(gpu.partition(".")[0]) >= 8
    return built == gpu


def check(repository: Path, serving: Serving | None = None) -> None:
    """Refuse a repository that holds a plan for something else, or one whose file is not the recorded one.

    Where a model has plans for several GPUs, each GPU needs one that fits.

    Args:
        repository: the model repository.
        serving: what will serve it; None is this machine.

    Raises:
        ExportFailed: every plan that does not fit, and what differs.
    """
    unfit: list[str] = []
    versions: dict[Path, dict[Path, Provenance]] = {}
    for file in sorted(repository.glob("*/*/*.plan")):
        record = provenance.read(file)
        if record is not None:
            versions.setdefault(file.parent, {})[file] = record
    for records in versions.values():
        serving = serving or here()
        changed = [file for file, record in records.items() if digests.of_file(file) != record.sha256]
        unfit.extend(f"{file}: is not the plan that its record describes" for file in changed)
        unfit.extend(_unfit(records, serving))
    if unfit:
        hint = "tritonkit build-repo builds plans for this machine; export.compute_capabilities names other GPUs"
        raise ExportFailed("\n".join(unfit), hint=hint)


def _unfit(records: dict[Path, Provenance], serving: Serving) -> list[str]:
    if len(records) < 2:
        return [f"{file}: {reason}" for file, record in records.items() for reason in differences(record, serving)]
    found: list[str] = []
    for gpu in serving.compute_capabilities or (None,):
        one = Serving(serving.tensorrt, (gpu,) if gpu else ())
        reasons = {file: differences(record, one) for file, record in records.items()}
        if all(reasons.values()):
            found.extend(f"{file}: {reason}" for file, words in reasons.items() for reason in words)
    return list(dict.fromkeys(found))
