"""TorchScript modules and exported programs that run batches; on a GPU, one CUDA graph a batch size."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tritonkit.backends.batching.configuration import Model
from tritonkit.backends.batching.padding import example

Caller = Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]
WARM_UP_RUNS = 3
# Channels-last is taken where it saves at least this share: a tie is no reason to change the layout.
WORTH = 0.95


class Captured(NamedTuple):
    """A batch size that is ready to run: where its inputs go, the graph, where its outputs come out."""

    graph: Any
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    host: dict[str, torch.Tensor]


def load(path: Path, device: torch.device) -> Any:
    """A TorchScript module, or the module of an exported program (``.pt2``), on its device.

    Raises:
        RuntimeError: the file holds neither.
    """
    if path.suffix == ".pt2":
        program = torch.export.load(path)
        if device.type == "cuda":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        return program.module()
    module = torch.jit.load(str(path), map_location=device)
    return module.eval()


class TorchEngine:
    """A module on one device.

    An answer may share memory with its batch on a CPU, and is overwritten by the next run on a GPU.
    """

    reuses_outputs = True

    def __init__(
        self,
        module: Any,
        caller: Callable[[Any], Caller],
        model: Model,
        mode: Callable[[], AbstractContextManager[Any]],
        say: Callable[[str], None],
    ) -> None:
        """``caller`` makes a function of named tensors from a module; ``mode`` is what to run it in."""
        self.device = torch.device("cpu" if model.device is None else f"cuda:{model.device}")
        self._module = module
        self._call = caller(module)
        self._model = model
        self._mode = mode
        self._say = say
        self._channels_last = False
        self._captured: dict[Any, Captured] = {}
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            # Sizes are few and fixed, so that the search for the fastest algorithms pays.
            torch.backends.cudnn.benchmark = model.fixed

    def allocate(self, size: int) -> Any:
        """Host memory as an array of bytes, page-locked where there is a GPU."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=self.device.type == "cuda").numpy()

    def run(self, feed: Mapping[str, Any], wanted: Sequence[str]) -> Sequence[Any]:
        """The wanted outputs for one batch."""
        tensors = {name: torch.from_numpy(_writable(array)) for name, array in feed.items()}
        with self._mode():
            captured = self._captured.get(tuple(array.shape for array in feed.values()))
            if captured is not None and feed.keys() == captured.inputs.keys():
                return self._replay(captured, tensors, wanted)
            answers = self._compute({name: tensor.to(self.device) for name, tensor in tensors.items()})
            return [answers[name].contiguous().cpu().numpy() for name in wanted]

    def lost(self) -> str:
        """Why the GPU's context is beyond use; empty while it is sound, and on a CPU."""
        if self.device.type == "cuda":
            try:
                torch.cuda.synchronize(self.device)
            except RuntimeError as error:
                return str(error).splitlines()[0]
        return ""

    def use_channels_last(self) -> None:
        """Keep images as NHWC inside, whatever it costs."""
        self._module = self._module.to(memory_format=torch.channels_last)
        self._channels_last = True

    def try_channels_last(self, rows: int) -> None:
        """Keep images as NHWC inside if that is faster for a batch of ``rows`` on this GPU."""
        if not self._model.fixed or not any(len(shape) == 4 for shape in self._model.shapes(rows).values()):
            return
        try:
            plain = self._seconds(rows)
            self.use_channels_last()
            if self._seconds(rows) < WORTH * plain:
                self._say("runs channels-last (NHWC), which is faster here")
                return
        except Exception as error:
            self._say(f"does not run channels-last ({str(error).splitlines()[0]})")
        self._module = self._module.to(memory_format=torch.contiguous_format)
        self._channels_last = False

    def prepare(self, sizes: Sequence[int]) -> None:
        """Capture these batch sizes in CUDA graphs, or say why not; without batching, 0 is the model's own shapes."""
        if not self._model.fixed or self.device.type != "cuda":
            return
        for rows in sizes:
            try:
                self._capture(rows)
            except Exception as error:
                self._say(f"runs without CUDA graphs ({str(error).strip().splitlines()[0]})")
                self._captured.clear()
                torch.cuda.synchronize(self.device)
                return

    def _compute(self, inputs: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        if self._channels_last:
            inputs = {
                name: tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
                for name, tensor in inputs.items()
            }
        return self._call(inputs)

    def _replay(self, captured: Captured, tensors: Mapping[str, torch.Tensor], wanted: Sequence[str]) -> list[Any]:
        for name, tensor in tensors.items():
            captured.inputs[name].copy_(tensor, non_blocking=True)
        captured.graph.replay()
        for name in wanted:
            captured.host[name].copy_(captured.outputs[name], non_blocking=True)
        torch.cuda.current_stream(self.device).synchronize()
        return [captured.host[name].numpy() for name in wanted]

    def _capture(self, rows: int) -> None:
        feed = example(self._model, rows)
        with self._mode():
            inputs = {name: torch.from_numpy(array).to(self.device) for name, array in feed.items()}
            stream = torch.cuda.Stream(self.device)
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_RUNS):
                    expected = self._compute(inputs)
            torch.cuda.current_stream(self.device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = {name: tensor.contiguous() for name, tensor in self._compute(inputs).items()}
            host = {
                name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for name, tensor in outputs.items()
            }
            captured = Captured(graph, inputs, outputs, host)
            self._replay(captured, {name: torch.from_numpy(array) for name, array in feed.items()}, list(outputs))
            for name, tensor in host.items():
                told = expected[name].cpu()
                if tensor.is_floating_point() and not _close(tensor, told):
                    raise ValueError(f"output {name} differs when replayed")
        self._captured[tuple(array.shape for array in feed.values())] = captured

    def _seconds(self, rows: int) -> float:
        inputs = {name: torch.from_numpy(array).to(self.device) for name, array in example(self._model, rows).items()}
        with self._mode():
            for _ in range(WARM_UP_RUNS):
                self._compute(inputs)
            torch.cuda.synchronize(self.device)
            began = time.perf_counter()
            for _ in range(WARM_UP_RUNS):
                self._compute(inputs)
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - began


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    scale = float(b.abs().max()) if b.numel() else 0.0
    return bool(torch.allclose(a, b, rtol=0, atol=2e-2 * scale, equal_nan=True))


def _writable(array: Any) -> Any:
    # torch warns of arrays that it must not write to; it never does.
    return array if array.flags.writeable else np.array(array)
