"""TensorRT plans that run batches: a context an optimization profile, CUDA graphs where they are asked for."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tritonkit.backends.batching.configuration import Model
from tritonkit.backends.batching.padding import example
from tritonkit.backends.engines.cuda import CudaError, Device

# TensorRT itself, then TensorRT for RTX, whole or as the two wheels that its package is made of.
MODULES = (("tensorrt",), ("tensorrt_rtx",), ("tensorrt_rtx_libs", "tensorrt_rtx_bindings"))


class Profile(NamedTuple):
    """An optimization profile: the shapes of the inputs that it covers, and the context that runs it."""

    context: Any
    smallest: dict[str, tuple[int, ...]]
    largest: dict[str, tuple[int, ...]]

    def covers(self, shapes: Mapping[str, Sequence[int]]) -> bool:
        """Whether all these shapes lie within the profile."""
        return all(
            len(shape) == len(self.smallest[name])
            and all(a <= b <= c for a, b, c in zip(self.smallest[name], shape, self.largest[name], strict=True))
            for name, shape in shapes.items()
        )


class Prepared(NamedTuple):
    """Shapes that are ready to run: device buffers of their own, host arrays, and the captured work."""

    inputs: dict[str, int]
    outputs: dict[str, tuple[int, Any]]
    graph: ctypes.c_void_p


def runtime_module() -> Any:
    """TensorRT's Python module, whichever of its packages is installed.

    Raises:
        RuntimeError: none is.
    """
    for names in MODULES:
        try:
            return [importlib.import_module(name) for name in names][-1]
        except ImportError:
            continue
    raise RuntimeError("neither tensorrt nor tensorrt_rtx can be imported: pip install tensorrt, of the plan's version")


def deserialize(path: Path) -> tuple[Any, Any, Any]:
    """TensorRT's module, a runtime that must be kept, and the plan's engine.

    Raises:
        RuntimeError: TensorRT refuses the plan; its own words say whether for its version or for this GPU.
    """
    trt = runtime_module()
    complaints: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        """Keeps what TensorRT complains about."""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                complaints.append(message.strip())

    runtime = trt.Runtime(Logger())
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        said = "; ".join(complaints) or "no reason given"
        raise RuntimeError(
            f"{path}: {trt.__name__} {trt.__version__} refuses this plan ({said}): build it with this version, on this "
            "kind of GPU"
        )
    return trt, runtime, engine


class PlanEngine:
    """A plan on one GPU; its answers are overwritten by the next run."""

    reuses_outputs = True

    def __init__(self, path: Path, model: Model, *, graphs: bool, say: Callable[[str], None]) -> None:
        """Load a plan.

        Raises:
            RuntimeError: there is no GPU here, or TensorRT refuses the plan.
        """
        self._device = Device(model.device or 0)
        self._trt, self._runtime, self.engine = deserialize(path)
        self._model = model
        self._graphs = graphs
        self._say = say
        self.names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        self._inputs = [
            name for name in self.names if self.engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
        ]
        self._outputs = [name for name in self.names if name not in self._inputs]
        self._profiles = [self._profile(index) for index in range(self.engine.num_optimization_profiles)]
        self._device_memory: dict[str, tuple[int, int]] = {}
        self._host_memory: dict[str, Any] = {}
        self._prepared: dict[Any, Prepared] = {}

    def allocate(self, size: int) -> Any:
        """Page-locked host memory as an array of bytes."""
        return self._device.pinned(size)

    def run(self, feed: Mapping[str, Any], wanted: Sequence[str]) -> Sequence[Any]:
        """The wanted outputs for one batch, by the profile that fits it most closely."""
        prepared = self._prepared.get(_key(feed))
        if prepared is not None:
            return self._replay(prepared, feed, wanted)
        context = self._context({name: array.shape for name, array in feed.items()})
        for name, array in feed.items():
            pointer = self._pointer(name, array.nbytes)
            self._device.upload(pointer, np.ascontiguousarray(array))
            context.set_tensor_address(name, pointer)
        shapes = {name: self._output_shape(context, name) for name in self._outputs}
        for name, shape in shapes.items():
            size = int(np.prod(shape)) * self.dtype(name).itemsize
            context.set_tensor_address(name, self._pointer(name, size))
        self._execute(context)
        answers = []
        for name in wanted:
            host = self._host(name, shapes[name])
            self._device.download(host, self._device_memory[name][0])
            answers.append(host)
        self._device.synchronize()
        return answers

    def lost(self) -> str:
        """Why the GPU's context is beyond use; empty while it is sound."""
        return self._device.lost()

    def prepare(self, sizes: Sequence[int]) -> None:
        """Capture these batch sizes in CUDA graphs, if they were asked for; without batching, 0 is the own shapes."""
        if not self._graphs or not self._model.fixed:
            return
        for rows in sizes:
            feed = example(self._model, rows)
            try:
                self._prepared[_key(feed)] = self._capture(feed)
            except (CudaError, RuntimeError) as error:
                self._say(f"runs without CUDA graphs ({error})")
                self._prepared.clear()
                return

    def dtype(self, name: str) -> Any:
        """The numpy type of a tensor's elements.

        Raises:
            ValueError: numpy has none, as for BF16.
        """
        kind = self.engine.get_tensor_dtype(name)
        try:
            return np.dtype(self._trt.nptype(kind))
        except TypeError as error:
            raise ValueError(f"{name}: Triton's Python stub cannot carry TensorRT's {kind}") from error

    def tensors(self, side: str) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the inputs or outputs, -1 where they vary."""
        return [(name, tuple(self.engine.get_tensor_shape(name))) for name in getattr(self, f"_{side}s")]

    def largest_batch(self) -> int:
        """The most rows that any profile takes."""
        return max(profile.largest[name][0] for profile in self._profiles for name in self._inputs)

    def _profile(self, index: int) -> Profile:
        context = self.engine.create_execution_context()
        context.set_optimization_profile_async(index, self._device.stream)
        self._device.synchronize()
        ranges = {name: self.engine.get_tensor_profile_shape(name, index) for name in self._inputs}
        return Profile(
            context,
            {name: tuple(low) for name, (low, _, _) in ranges.items()},
            {name: tuple(high) for name, (_, _, high) in ranges.items()},
        )

    def _context(self, shapes: Mapping[str, Sequence[int]]) -> Any:
        fitting = [profile for profile in self._profiles if profile.covers(shapes)]
        if not fitting:
            told = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise ValueError(f"no optimization profile of this plan takes {told}")
        profile = min(fitting, key=lambda each: sum(int(np.prod(shape)) for shape in each.largest.values()))
        for name, shape in shapes.items():
            profile.context.set_input_shape(name, tuple(shape))
        return profile.context

    def _output_shape(self, context: Any, name: str) -> tuple[int, ...]:
        shape = tuple(context.get_tensor_shape(name))
        if -1 in shape:
            raise ValueError(f"output {name}: its shape depends on the data, which is not supported here")
        return shape

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(self._device.stream):
            raise RuntimeError("TensorRT could not run the batch")

    def _capture(self, feed: Mapping[str, Any]) -> Prepared:
        context = self._context({name: array.shape for name, array in feed.items()})
        inputs = {name: self._device.memory(array.nbytes) for name, array in feed.items()}
        outputs = {}
        for name in self._outputs:
            shape, dtype = self._output_shape(context, name), self.dtype(name)
            size = int(np.prod(shape)) * dtype.itemsize
            outputs[name] = (self._device.memory(size), self._device.pinned(size).view(dtype).reshape(shape))
        for name, array in feed.items():
            self._device.upload(inputs[name], array)
            context.set_tensor_address(name, inputs[name])
        for name, (pointer, _) in outputs.items():
            context.set_tensor_address(name, pointer)
        # TensorRT finishes what a new shape needs in a first run, which must not be captured.
        self._execute(context)
        self._device.synchronize()
        self._device.begin_capture()
        try:
            self._execute(context)
        finally:
            graph = self._device.end_capture()
        return Prepared(inputs, outputs, graph)

    def _replay(self, prepared: Prepared, feed: Mapping[str, Any], wanted: Sequence[str]) -> list[Any]:
        for name, pointer in prepared.inputs.items():
            self._device.upload(pointer, np.ascontiguousarray(feed[name]))
        self._device.launch(prepared.graph)
        for name in wanted:
            pointer, host = prepared.outputs[name]
            self._device.download(host, pointer)
        self._device.synchronize()
        return [prepared.outputs[name][1] for name in wanted]

    def _pointer(self, name: str, size: int) -> int:
        pointer, has = self._device_memory.get(name, (0, 0))
        if has < max(size, 1):
            pointer, has = self._device.memory(size), size
            self._device_memory[name] = (pointer, has)
        return pointer

    def _host(self, name: str, shape: Sequence[int]) -> Any:
        dtype = self.dtype(name)
        size = int(np.prod(shape)) * dtype.itemsize
        memory = self._host_memory.get(name)
        if memory is None or memory.nbytes < size:
            self._host_memory[name] = memory = self._device.pinned(size)
        return memory[:size].view(dtype).reshape(shape)


def _key(feed: Mapping[str, Any]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, array.shape) for name, array in feed.items())
