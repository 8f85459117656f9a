"""From ONNX to TensorRT plans. Imported only to build: it needs TensorRT, or TensorRT for RTX."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsInt

from tritonkit.artifacts import tensorrt_module
from tritonkit.artifacts.recipes import PlanRecipe, Shapes
from tritonkit.artifacts.signature import Tensor
from tritonkit.errors import ExportFailed
from tritonkit.tools import nvidia_smi
from tritonkit.tools.commands import cache_directory

if TYPE_CHECKING:
    import tensorrt_rtx_bindings as trt
else:
    trt = tensorrt_module.load()

Profile = Mapping[str, Shapes]

_TYPES = {
    "FLOAT": "TYPE_FP32",
    "HALF": "TYPE_FP16",
    "BF16": "TYPE_BF16",
    "INT8": "TYPE_INT8",
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
    "UINT8": "TYPE_UINT8",
    "BOOL": "TYPE_BOOL",
}


@dataclass(frozen=True)
class Built:
    """A plan, as TensorRT has it.

    Attributes:
        file: where it lies.
        inputs: its inputs, with -1 where a profile decides.
        outputs: likewise.
        profiles: the shapes that it accepts.
    """

    file: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    profiles: tuple[Profile, ...]


class _Logger(trt.ILogger):
    """Keeps TensorRT's complaints for the error message."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(" ".join(message.split()))


# TensorRT keeps the first logger of a process and ignores all others.
_LOGGER = _Logger()


class _Monitor(trt.IProgressMonitor):
    """Tells how far the build is: TensorRT nests its phases, and the outermost one counts."""

    def __init__(self, report: Callable[[str, float], None]) -> None:
        super().__init__()
        self._report = report
        self._steps: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: SupportsInt) -> None:
        if parent_phase is None:
            self._steps[phase_name] = int(num_steps)
            self._report(f"building: {phase_name}", 0.0)

    def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
        if phase_name in self._steps:
            self._report(f"building: {phase_name}", (int(step) + 1) / max(self._steps[phase_name], 1))
        return True

    def phase_finish(self, phase_name: str) -> None:
        self._steps.pop(phase_name, None)


def build(recipe: PlanRecipe, onnx: Path, capability: str, file: Path, report: Callable[[str, float], None]) -> Built:
    """Build a plan for one compute capability.

    Args:
        recipe: how.
        onnx: the ONNX file.
        capability: the GPU, as in ``8.9``.
        file: where the plan goes.
        report: called with the phase of the build and how much of it is done.

    Raises:
        ExportFailed: TensorRT does not take the file, the options or the GPU; its own words are in the message.
        OSError: the disk refuses.
    """
    _LOGGER.errors.clear()
    builder = trt.Builder(_LOGGER)
    network = builder.create_network(_typing())
    parser = trt.OnnxParser(network, _LOGGER)
    report("parsing", 0.0)
    if not parser.parse_from_file(str(onnx)):
        raise ExportFailed(f"TensorRT {trt.__version__} does not take {onnx.name}: {_parser_errors(parser)}")
    inputs = tuple(_tensor(network.get_input(index)) for index in range(network.num_inputs))
    outputs = tuple(_tensor(network.get_output(index)) for index in range(network.num_outputs))
    config = builder.create_builder_config()
    config.progress_monitor = _Monitor(report)
    profiles = recipe.profiles or derived_profiles(inputs, recipe)
    accepted = tuple(_add_profile(builder, config, profile, inputs) for profile in profiles)
    _set_options(config, recipe)
    _target(config, capability)
    timing = _timing_file(capability)
    _use_timing_cache(config, timing)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportFailed(f"TensorRT {trt.__version__} cannot build a plan for {capability}: {_complaints()}")
    file.write_bytes(_content(plan))
    _keep_timing_cache(config, timing)
    return Built(file, inputs, outputs, accepted)


def _typing() -> int:
    # From TensorRT 11 on every network is strongly typed, and the flag may be gone.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parser_errors(parser: trt.OnnxParser) -> str:
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        operator = error.node_operator()
        known = operator and parser.supports_operator(operator)
        where = f"operator {operator} (node '{error.node_name()}')" if operator else "the file"
        words = " ".join(error.desc().split())
        found.append(f"{where}: {words}" if known or not operator else f"{where}, which it lacks: {words}")
    return "; ".join(dict.fromkeys(found)) or _complaints()


def _complaints() -> str:
    # Where there is no driver, TensorRT says so again and again; building needs none.
    told = [words for words in _LOGGER.errors if "CUDA driver version is insufficient" not in words]
    return "; ".join(dict.fromkeys(told)) or "it does not say why"


def _tensor(value: trt.ITensor) -> Tensor:
    kind = _TYPES.get(value.dtype.name)
    if kind is None:
        raise ExportFailed(f"'{value.name}' is of TensorRT's type {value.dtype.name}, which Triton does not know")
    return Tensor(value.name, kind, _sizes(value.shape))


def _sizes(dims: trt.Dims) -> tuple[int, ...]:
    return tuple(int(dims[axis]) for axis in range(len(dims)))


def _content(memory: Any) -> memoryview:
    # TensorRT's own memory, not copied: plans have gigabytes.
    return memoryview(memory)


def derived_profiles(inputs: Sequence[Tensor], recipe: PlanRecipe) -> tuple[Profile, ...]:
    """One profile from 1 to the largest batch, fastest for the preferred size; none where no dimension varies.

    Raises:
        ExportFailed: another dimension varies, of which nothing is known.
    """
    largest = recipe.asking.max_batch_size
    fitting = [size for size in recipe.preferred_batch_sizes if size <= largest]
    best = max(fitting, default=largest)
    profile: dict[str, Shapes] = {}
    for tensor in inputs:
        shape = tensor.shape or ()
        if -1 not in shape:
            continue
        if -1 in shape[1:] or not largest:
            form = f"export.profiles: [{{{tensor.name}: {{min: [...], opt: [...], max: [...]}}}}], the batch first"
            hint = f"state {form}" if -1 in shape[1:] else f"state max_batch_size, or {form}"
            raise ExportFailed(f"dimensions of the input '{tensor.name}' ({tensor}) vary within no limits", hint=hint)
        profile[tensor.name] = Shapes((1, *shape[1:]), (best, *shape[1:]), (largest, *shape[1:]))
    return (profile,) if profile else ()


def _add_profile(
    builder: trt.Builder, config: trt.IBuilderConfig, profile: Profile, inputs: Sequence[Tensor]
) -> Profile:
    """Add a profile; what TensorRT made of it."""
    made = builder.create_optimization_profile()
    varying = {tensor.name: tensor for tensor in inputs if -1 in (tensor.shape or ())}
    for name in (*(profile.keys() - varying.keys()), *(varying.keys() - profile.keys())):
        fault = "does not vary, or is no input" if name in profile else "varies, and is in no profile"
        raise ExportFailed(f"export.profiles: '{name}' {fault}; those that vary: {', '.join(varying) or 'none'}")
    for name, shapes in profile.items():
        try:
            made.set_shape(name, *(trt.Dims(shape) for shape in (shapes.min, shapes.opt, shapes.max)))
        except (ValueError, TypeError) as error:
            raise ExportFailed(f"export.profiles: TensorRT refuses the shapes of '{name}': {error}") from None
    if config.add_optimization_profile(made) < 0:
        words = ", ".join(f"{name} ({tensor})" for name, tensor in varying.items())
        raise ExportFailed(f"export.profiles: TensorRT refuses a profile of {words}: {_complaints()}")
    return {name: Shapes(*(_sizes(shape) for shape in made.get_shape(name))) for name in profile}


def _set_options(config: trt.IBuilderConfig, recipe: PlanRecipe) -> None:
    if recipe.builder_optimization_level is not None:
        config.builder_optimization_level = recipe.builder_optimization_level
    if recipe.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, recipe.workspace)
    if recipe.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if recipe.hardware_compatibility_level is not None:
        level = recipe.hardware_compatibility_level
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)


def _target(config: trt.IBuilderConfig, capability: str) -> None:
    if not hasattr(config, "set_compute_capability"):
        # TensorRT measures on the GPU that is here, and builds for no other.
        here = nvidia_smi.compute_capabilities()
        if capability not in here:
            found = ", ".join(here) or "none"
            hint = "build where such a GPU is, or with TensorRT for RTX, which builds for other GPUs"
            message = f"TensorRT {trt.__version__} builds only for the GPU that is here ({found}), not for {capability}"
            raise ExportFailed(message, hint=hint)
        return
    target = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}", None)
    if target is None:
        known = sorted(name for name in trt.ComputeCapability.__members__ if name.startswith("SM"))
        raise ExportFailed(f"TensorRT {trt.__version__} builds for {', '.join(known)}, not for {capability}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(target, 0)


def _timing_file(capability: str) -> Path:
    return cache_directory() / "timing" / f"{trt.__name__}-{trt.__version__}-{capability}.cache"


def _use_timing_cache(config: trt.IBuilderConfig, file: Path) -> None:
    try:
        known = file.read_bytes()
    except OSError:
        known = b""
    cache = config.create_timing_cache(known)
    if cache is None and known:
        cache = config.create_timing_cache(b"")
    if cache is not None:
        config.set_timing_cache(cache, ignore_mismatch=False)


def _keep_timing_cache(config: trt.IBuilderConfig, file: Path) -> None:
    cache = config.get_timing_cache()
    measured = cache.serialize() if cache is not None else None
    if measured is None:
        return
    partial = file.with_suffix(f".{os.getpid()}")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(_content(measured))
    partial.replace(file)
