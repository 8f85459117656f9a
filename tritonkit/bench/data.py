"""Input data for perf_analyzer, always of our own making.

Left to itself perf_analyzer sends random bytes: NaNs and 1e38 in FP32. Here every value comes from what the user
gave, or from a seeded generator that keeps to numbers a model can meet.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.utils import serialize_byte_tensor

from tritonkit.client.signature import Signature, Tensor
from tritonkit.client.tensors import as_given, read
from tritonkit.client.values import DTYPES, Array, Misfit, files, objects
from tritonkit.errors import Fault, SpecError, ToolMissing

# perf_analyzer keeps every step in memory, and the file holds it in base64.
BUDGET_BYTES = 32 * 2**20
GENERATED_STEPS = 8
_IMAGES = re.compile(r"png:(\d+)x(\d+)")
# Wide integers are most often indices into a table whose size nobody tells; small ones fit most tables.
_LARGEST_INTEGER = 127


@dataclass(frozen=True)
class Data:
    """What a sweep sends to one model.

    Attributes:
        steps: items without the batch dimension, by input; a request of batch N takes N steps in turn.
        generated: the BYTES inputs that nobody gave a value for, so that a made-up text is sent.
    """

    steps: tuple[Mapping[str, Array], ...]
    generated: tuple[str, ...]

    def request(self, batch_size: int, *, batched: bool) -> dict[str, Array]:
        """The inputs of the first request that perf_analyzer sends at this batch size."""
        if not batched:
            return dict(self.steps[0])
        chosen = [self.steps[index % len(self.steps)] for index in range(batch_size)]
        return {name: np.stack([step[name] for step in chosen]) for name in self.steps[0]}


def make(
    signature: Signature,
    *,
    given: Mapping[str, str] | None = None,
    samples: Mapping[str, str] | None = None,
    folder: Path | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    batch_size: int = 1,
) -> Data:
    """Data for every input that is given or needed.

    Args:
        signature: the model.
        given: for an input ``@file``, ``@pattern`` (one step a file), JSON, or ``png:WIDTHxHEIGHT`` for generated
            images; what is not given is generated, and values for inputs of other models are passed over.
        samples: used for the inputs that ``given`` leaves out: files or JSON, as in a spec.
        folder: where the paths in ``samples`` start; None is the working directory.
        shapes: the shape of one item for inputs whose dims have a -1 and that are generated.
        seed: of the generator; the same seed makes the same data.
        batch_size: the largest batch that a request will have; above 1, items of one input must have one shape.

    Raises:
        SpecError: a value does not fit, or a shape has to be given first; every such fault is in it.
        ToolMissing: images are to be generated, and Pillow is not installed.
    """
    texts = {name: as_given(text, folder) for name, text in (samples or {}).items()} | dict(given or {})
    shapes = shapes or {}
    faults = []
    random = np.random.default_rng(seed)
    items: dict[str, list[Array]] = {}
    generated = []
    for tensor in signature.inputs:
        text = texts.get(tensor.name)
        if text is None and tensor.optional and tensor.name not in shapes:
            continue
        try:
            if text is not None:
                items[tensor.name] = _given(tensor, text, random, batched=signature.max_batch_size > 0)
            else:
                items[tensor.name] = _generated(tensor, shapes.get(tensor.name), random)
                generated += [tensor.name] if tensor.datatype == "BYTES" else []
            _check_shapes(items[tensor.name], batch_size)
        except Misfit as error:
            faults.append(Fault(f"input {tensor.name}", 0, "", str(error)))
    if faults:
        takes = ", ".join(f"{tensor.name} {tensor}" for tensor in signature.inputs)
        raise SpecError(faults, hint=f"{signature.model} takes: {takes}")
    count = max((len(values) for values in items.values()), default=1)
    steps = [{name: values[step % len(values)] for name, values in items.items()} for step in range(count)]
    return Data(tuple(steps), tuple(generated))


def document(data: Data, signature: Signature) -> str:
    """``data`` as the JSON that ``perf_analyzer --input-data`` reads."""
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    steps = [{name: _entry(tensors[name], array) for name, array in step.items()} for step in data.steps]
    return json.dumps({"data": steps}) + "\n"


def _entry(tensor: Tensor, array: Array) -> dict[str, Any]:
    # Base64 for every type: as JSON numbers, FP32 must not look like integers, and FP16 cannot be said at all.
    raw = serialize_byte_tensor(array).item() if tensor.datatype == "BYTES" else array.tobytes()
    return {"content": {"b64": base64.b64encode(raw).decode()}, "shape": list(array.shape)}


def _given(tensor: Tensor, text: str, random: np.random.Generator, *, batched: bool) -> list[Array]:
    images = _IMAGES.fullmatch(text)
    if images and tensor.datatype == "BYTES":
        width, height = int(images.group(1)), int(images.group(2))
        count = GENERATED_STEPS * math.prod(_fixed(tensor, None))
        values = objects([_png(width, height, random) for _ in range(count)])
        return list(values.reshape((GENERATED_STEPS, *_fixed(tensor, None))))
    sources = [f"@{path}" for path in files(text[1:])] if text.startswith("@") else [text]
    arrays = [read(tensor, source, batched=batched) for source in sources]
    return [item for array in arrays for item in array] if batched else arrays


def _check_shapes(items: Sequence[Array], batch_size: int) -> None:
    shapes = list(dict.fromkeys(item.shape for item in items))
    if batch_size > 1 and len(shapes) > 1:
        both = " and ".join(str(list(shape)) for shape in shapes[:2])
        raise Misfit(f"its items have different shapes ({both}), which make no batch of {batch_size}")


def _generated(tensor: Tensor, shape: Sequence[int] | None, random: np.random.Generator) -> list[Array]:
    dims = _fixed(tensor, shape)
    size = math.prod(dims) * (16 if tensor.datatype == "BYTES" else np.dtype(DTYPES[tensor.datatype]).itemsize)
    count = min(max(BUDGET_BYTES // max(size, 1), 1), GENERATED_STEPS)
    return [_values(tensor.datatype, dims, random) for _ in range(count)]


def _fixed(tensor: Tensor, shape: Sequence[int] | None) -> tuple[int, ...]:
    """The shape to generate: the one asked for, when it fits the input's dims."""
    if shape is None:
        if any(size < 0 for size in tensor.dims):
            raise Misfit(f"its shape is open ({tensor}): give one with --shape {tensor.name}:SIZES, or data")
        return tensor.dims
    fits = len(shape) == len(tensor.dims) and all(
        dim in (-1, size) for size, dim in zip(shape, tensor.dims, strict=True)
    )
    if not fits:
        raise Misfit(f"the shape {list(shape)} was asked for, and the model takes {tensor}")
    return tuple(shape)


def _values(datatype: str, dims: Sequence[int], random: np.random.Generator) -> Array:
    if datatype == "BYTES":
        count = math.prod(dims)
        return objects([f"text {number:08x}".encode() for number in random.integers(2**32, size=count)]).reshape(dims)
    dtype = np.dtype(DTYPES[datatype])
    if datatype == "BOOL":
        return random.integers(2, size=dims).astype(dtype)
    if datatype.startswith(("INT", "UINT")):
        largest = 255 if datatype == "UINT8" else _LARGEST_INTEGER
        return random.integers(largest + 1, size=dims).astype(dtype)
    return random.random(size=dims, dtype=np.float32).astype(dtype)


def _png(width: int, height: int, random: np.random.Generator) -> bytes:
    try:
        from PIL import Image
    except ImportError as error:
        raise ToolMissing(
            "images are generated with Pillow, which is not installed", hint="python -m pip install pillow"
        ) from error
    buffer = io.BytesIO()
    pixels = random.integers(256, size=(height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
