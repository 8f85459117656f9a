"""From Triton's requests to batches and back: gather, pad, run once, split by views."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import triton_python_backend_utils as pb_utils

from tritonkit.backends.batching.configuration import STRING, Model

if int(np.__version__.split(".", maxsplit=1)[0]) >= 2:
    # Against numpy 2 the stub reads garbage and writes empty outputs, and still answers HTTP 200.
    raise ImportError(f"numpy {np.__version__} does not work in Triton's Python stub: install numpy < 2")


# Seconds from the error that nothing can follow to the end of the process.
LAST_WORDS = 0.5


class Engine(Protocol):
    """What runs batches: a session, a program, a plan.

    Attributes:
        reuses_outputs: whether the arrays of one run are overwritten by the next.
    """

    reuses_outputs: bool

    def allocate(self, size: int) -> Any:
        """Host memory of ``size`` bytes that this engine reads fast, as an array of bytes."""

    def run(self, feed: Mapping[str, Any], wanted: Sequence[str]) -> Sequence[Any]:
        """Run the model on one batch; the wanted outputs, in that order."""

    def lost(self) -> str:
        """After an error: why no later batch can be run in this process either; empty where one can."""


class Ask(NamedTuple):
    """One request, read: where it stands in the call, its inputs, the outputs it wants, its batch size."""

    position: int
    inputs: dict[str, Any]
    outputs: tuple[str, ...]
    batch: int


class Batcher:
    """Answers the requests of one instance with one engine."""

    def __init__(self, model: Model, engine: Engine, sizes: Sequence[int], *, text: bool = True) -> None:
        """``sizes``: the batch sizes to pad to, ascending; none to run batches as they come.

        ``text``: whether STRING tensors are text to the engine; else they stay bytes.
        """
        self.engine = engine
        self.sizes = tuple(sizes)
        self._batches = model.max_batch_size > 0
        texts = {tensor.name for tensor in (*model.inputs, *model.outputs) if text and tensor.type == STRING}
        self._inputs = tuple((tensor.name, tensor.name in texts) for tensor in model.inputs)
        self._required = tuple(tensor.name for tensor in model.inputs if not tensor.optional)
        self._outputs = tuple(tensor.name for tensor in model.outputs)
        self._text_outputs = texts.intersection(self._outputs)
        self._memory: dict[str, Any] = {}
        self._name = model.name
        self._ending = False

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request, in order; requests of equal shapes run as one batch."""
        responses: list[Any] = [None] * len(requests)
        asks = []
        for position, request in enumerate(requests):
            try:
                asks.append(self._read(position, request))
            except Exception as error:
                responses[position] = failure(error)
        groups = self._grouped(asks) if len(asks) > 1 else [asks] if asks else []
        # The stub copies the answers after this call, so a second run must not overwrite the first one's.
        keep = self.engine.reuses_outputs and len(groups) > 1
        for group in groups:
            self._answer(group, responses, keep)
        return responses

    def _read(self, position: int, request: Any) -> Ask:
        inputs, rows = {}, set()
        for name, is_text in self._inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                array = tensor.as_numpy()
                inputs[name] = _decoded(name, array) if is_text else array
                rows.add(array.shape[0] if array.ndim else 0)
        if len(inputs) < len(self._inputs):
            missing = [name for name in self._required if name not in inputs]
            if missing:
                raise ValueError(f"missing input: {', '.join(missing)}")
        if not self._batches:
            rows = {1}
        if len(rows) != 1:
            raise ValueError(f"the inputs differ in batch size: {sorted(rows)}")
        # Triton names them in no particular order, and all of them when the client named none.
        outputs, wanted = self._outputs, request.requested_output_names()
        if len(wanted) < len(outputs):
            outputs = tuple(name for name in outputs if name in wanted)
        return Ask(position, inputs, outputs, rows.pop())

    def _grouped(self, asks: Sequence[Ask]) -> list[list[Ask]]:
        """Those that can share a batch: equal shapes and types, in a model that batches."""
        if not self._batches:
            return [[ask] for ask in asks]
        groups: dict[Any, list[Ask]] = {}
        for ask in asks:
            shapes = tuple((name, value.shape[1:], value.dtype.char) for name, value in ask.inputs.items())
            groups.setdefault(shapes, []).append(ask)
        return list(groups.values())

    def _answer(self, group: Sequence[Ask], responses: list[Any], keep: bool) -> None:
        try:
            answers = self._run(group, keep)
        except Exception as error:
            lost = self.engine.lost()
            if lost:
                self._end(lost)
            if len(group) == 1 or lost:
                for ask in group:
                    responses[ask.position] = failure(error)
                return
            # One bad request spoils a batch: run them one by one, so that only it gets the error.
            for ask in group:
                self._answer([ask], responses, self.engine.reuses_outputs)
            return
        for ask, answer in zip(group, answers, strict=True):
            tensors = [pb_utils.Tensor(name, array) for name, array in answer.items()]
            responses[ask.position] = pb_utils.InferenceResponse(tensors)

    def _end(self, why: str) -> None:
        """End this process soon: a dead stub is noticed and started anew, one that only fails is not."""
        if not self._ending:
            self._ending = True
            pb_utils.Logger.log_error(f"{self._name}: {why}; the process ends, as it can answer nothing any more")
            # After the answers of this call have left it.
            threading.Timer(LAST_WORDS, os._exit, (1,)).start()

    def _run(self, group: Sequence[Ask], keep: bool) -> list[dict[str, Any]]:
        first = group[0]
        if len(group) == 1:
            wanted, total = first.outputs, first.batch
        else:
            wanted = tuple(name for name in self._outputs if any(name in ask.outputs for ask in group))
            total = sum(ask.batch for ask in group)
        rows = next((size for size in self.sizes if size >= total), total) if self._batches and total else total
        feed = self._gathered(group, rows) if len(group) > 1 or rows > total else first.inputs
        arrays = dict(zip(wanted, self.engine.run(feed, wanted), strict=True))
        for name, array in arrays.items():
            if self._batches and (not array.ndim or array.shape[0] != rows):
                raise ValueError(
                    f"output {name}: shape {list(array.shape)} for a batch of {rows}; the model does not "
                    "batch along the first dimension (max_batch_size: 0 serves it as it is)"
                )
            if name in self._text_outputs:
                arrays[name] = _encoded(array)
            elif keep:
                arrays[name] = array.copy()
        if len(group) == 1 and rows == total:
            return [arrays]
        answers, start = [], 0
        for ask in group:
            answers.append({name: arrays[name][start : start + ask.batch] for name in ask.outputs})
            start += ask.batch
        return answers

    def _gathered(self, group: Sequence[Ask], rows: int) -> dict[str, Any]:
        """All rows of a group in one batch, the last one repeated up to ``rows``."""
        return {name: self._gather(name, [ask.inputs[name] for ask in group], rows) for name in group[0].inputs}

    def _gather(self, name: str, parts: Sequence[Any], rows: int) -> Any:
        shape, dtype = (rows, *parts[0].shape[1:]), parts[0].dtype
        batch = np.empty(shape, dtype) if dtype.hasobject else self._buffer(name, shape, dtype)
        start = 0
        for part in parts:
            batch[start : start + part.shape[0]] = part
            start += part.shape[0]
        # A row that a client sent is one that the model takes; zeros, or what lay there before, may not be.
        batch[start:] = batch[start - 1]
        return batch

    def _buffer(self, name: str, shape: Sequence[int], dtype: Any) -> Any:
        size = int(np.prod(shape)) * dtype.itemsize
        memory = self._memory.get(name)
        if memory is None or memory.nbytes < size:
            # Room for the largest batch of such rows, so that it grows seldom.
            self._memory[name] = memory = self.engine.allocate(size // shape[0] * max(shape[0], *self.sizes, 1))
        return memory[:size].view(dtype).reshape(shape)


def failure(error: Exception) -> Any:
    """The response that carries an error to the client."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error) or type(error).__name__))


def _decoded(name: str, array: Any) -> Any:
    try:
        texts = [value.decode() for value in array.reshape(-1)]
    except UnicodeDecodeError as error:
        raise ValueError(f"input {name}: the model takes UTF-8 text only ({error})") from error
    return _objects(texts, array.shape)


def _encoded(array: Any) -> Any:
    return _objects([value.encode() for value in array.reshape(-1)], array.shape)


def _objects(values: Sequence[Any], shape: Any) -> Any:
    flat = np.empty(len(values), dtype=np.object_)
    flat[:] = values
    return flat.reshape(shape)
