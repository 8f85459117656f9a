"""onnxruntime sessions that run batches: plain on a CPU; with bound buffers and CUDA graphs on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tritonkit.backends.batching.configuration import Model
from tritonkit.backends.batching.padding import example
from tritonkit.backends.engines.cuda import Device

Provider = tuple[str, dict[str, str]]
CUDA = "CUDAExecutionProvider"


class Prepared(NamedTuple):
    """A batch size that is ready to run: fixed buffers on the device, and what runs on them."""

    session: Any
    binding: Any
    options: Any
    shapes: dict[str, tuple[int, ...]]
    inputs: dict[str, int]
    outputs: dict[str, tuple[int, Any]]


class CpuEngine:
    """One session on the CPU. Its answers are new arrays; a single request's tensors are read where they lie."""

    reuses_outputs = False

    def __init__(self, path: Path, options: Any, providers: Sequence[Any]) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(path), options, providers=[*providers, "CPUExecutionProvider"])
        self.session.disable_fallback()

    def allocate(self, size: int) -> Any:
        """Host memory as an array of bytes."""
        return np.empty(size, np.uint8)

    def run(self, feed: Mapping[str, Any], wanted: Sequence[str]) -> Sequence[Any]:
        """The wanted outputs for one batch."""
        answers: Sequence[Any] = self.session.run(wanted, feed)
        return answers

    def lost(self) -> str:
        """Nothing: an error on a CPU is that of its batch."""
        return ""


class CudaEngine:
    """A model on one GPU.

    Every batch size that is prepared has buffers of its own, bound once. Where the model can be captured, one
    session holds a CUDA graph for each size. Where it cannot, each size has a session of its own: a session that
    sees another size than the time before searches its convolution algorithms again.
    """

    reuses_outputs = True

    def __init__(
        self,
        path: Path,
        make_options: Callable[[], Any],
        model: Model,
        providers: Sequence[Provider],
        say: Callable[[str], None],
    ) -> None:
        """``say`` gets what a reader of the log should know.

        Raises:
            RuntimeError: onnxruntime cannot run on this GPU.
        """
        self._path = path
        self._make_options = make_options
        self._model = model
        self._ordinal = model.device or 0
        self._providers = providers
        self._say = say
        self._prepared: dict[Any, Prepared] = {}
        self.device = Device(self._ordinal)
        cuda = dict(providers)[CUDA]
        self.graphs = model.fixed and cuda.get("enable_cuda_graph", "1") != "0" and len(providers) == 1
        self.session = self._first_session()
        self._plain = self._run_options(-1) if self.graphs else None

    def prepare(self, sizes: Sequence[int]) -> None:
        """Make these batch sizes ready; without batching, 0 is the model's own shapes."""
        if not self._model.fixed:
            return
        if self.graphs:
            try:
                for index, rows in enumerate(sizes):
                    self._prepare(self.session, rows, self._run_options(index + 1))
            except Exception as error:
                self._say(f"cannot be captured in a CUDA graph ({_first_line(error)}): one session a batch size")
                self.graphs = False
                self._plain = None
                self._prepared.clear()
                self.session = self._session(graphs=False)
            else:
                return
        for index, rows in enumerate(sizes):
            self._prepare(self.session if index == 0 else self._session(graphs=False), rows, None)

    def allocate(self, size: int) -> Any:
        """Page-locked host memory as an array of bytes."""
        return self.device.pinned(size)

    def run(self, feed: Mapping[str, Any], wanted: Sequence[str]) -> Sequence[Any]:
        """The wanted outputs for one batch, in buffers that the next run overwrites where the size is prepared."""
        prepared = self._prepared.get(tuple(array.shape for array in feed.values()))
        if prepared is None or feed.keys() != prepared.inputs.keys():
            return list(self.session.run(list(wanted), dict(feed), self._plain))
        for name, pointer in prepared.inputs.items():
            self.device.upload(pointer, feed[name])
        return self._replay(prepared, wanted)

    def lost(self) -> str:
        """Why the GPU's context is beyond use; empty while it is sound."""
        return self.device.lost()

    def _replay(self, prepared: Prepared, wanted: Sequence[str]) -> list[Any]:
        prepared.session.run_with_iobinding(prepared.binding, prepared.options)
        for name in wanted:
            pointer, host = prepared.outputs[name]
            self.device.download(host, pointer)
        self.device.synchronize()
        return [prepared.outputs[name][1] for name in wanted]

    def _prepare(self, session: Any, rows: int, options: Any) -> None:
        feed = example(self._model, rows)
        names = [tensor.name for tensor in session.get_outputs()]
        expected = [np.asarray(array) for array in session.run(names, feed, self._plain)]
        if any(array.dtype.hasobject for array in expected):
            raise ValueError("an output is text")
        binding = session.io_binding()
        inputs, outputs = {}, {}
        for name, array in feed.items():
            inputs[name] = self.device.memory(array.nbytes)
            binding.bind_input(name, "cuda", self._ordinal, array.dtype, array.shape, inputs[name])
            self.device.upload(inputs[name], array)
        for name, array in zip(names, expected, strict=True):
            host = self.device.pinned(array.nbytes).view(array.dtype).reshape(array.shape)
            outputs[name] = (self.device.memory(array.nbytes), host)
            binding.bind_output(name, "cuda", self._ordinal, array.dtype, array.shape, outputs[name][0])
        shapes = {name: array.shape for name, array in feed.items()}
        prepared = Prepared(session, binding, options, shapes, inputs, outputs)
        self.device.synchronize()
        for _ in range(2):
            # The first run captures, the second one replays.
            got = self._replay(prepared, names)
        for name, array, answer in zip(names, expected, got, strict=True):
            scale = float(np.max(np.abs(array), initial=0)) if array.dtype.kind == "f" else 0.0
            if array.dtype.kind == "f" and not np.allclose(answer, array, rtol=0, atol=2e-2 * scale, equal_nan=True):
                raise ValueError(f"output {name} differs when replayed")
        self._prepared[tuple(shapes.values())] = prepared

    def _first_session(self) -> Any:
        if self.graphs:
            try:
                return self._session(graphs=True)
            except Exception as error:
                self._say(f"no CUDA graphs for this model ({_first_line(error)}): one session a batch size")
                self.graphs = False
        return self._session(graphs=False)

    def _session(self, *, graphs: bool) -> Any:
        import onnxruntime

        if hasattr(onnxruntime, "preload_dlls"):
            # CUDA's libraries as wheels lie where the dynamic loader does not look.
            onnxruntime.preload_dlls()
        providers = [
            (name, {**options, "user_compute_stream": str(self.device.stream), "enable_cuda_graph": str(int(graphs))})
            if name == CUDA
            else (name, options)
            for name, options in self._providers
        ]
        session = onnxruntime.InferenceSession(
            str(self._path), self._make_options(), providers=[*providers, "CPUExecutionProvider"]
        )
        missing = {name for name, _ in providers} - set(session.get_providers())
        if missing:
            # onnxruntime only warns when a provider does not load, and runs on the CPU.
            raise RuntimeError(f"{', '.join(sorted(missing))} did not load")
        session.disable_fallback()
        return session

    def _run_options(self, graph: int) -> Any:
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph))
        if graph > 0:
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        return options


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
