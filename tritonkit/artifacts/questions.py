"""The inputs that an artifact and its source are both given: reproducible, of several sizes, none of them trivial."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tritonkit.artifacts.recipes import Asking
from tritonkit.artifacts.signature import Tensor
from tritonkit.errors import ExportFailed

Array: TypeAlias = "npt.NDArray[Any]"

DTYPES: Mapping[str, Any] = {
    "TYPE_BOOL": np.bool_,
    "TYPE_UINT8": np.uint8,
    "TYPE_UINT16": np.uint16,
    "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64,
    "TYPE_INT8": np.int8,
    "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
    "TYPE_BF16": ml_dtypes.bfloat16,
    "TYPE_STRING": np.object_,
}

# For dimensions of which nothing is known: multiples of 32, since networks that halve their input often need them,
# and another order on each axis, since a mix-up of two axes shows only where they differ.
_SIZES = (32, 64, 96)


@dataclass(frozen=True)
class Question:
    """One set of inputs.

    Attributes:
        label: what is special about it, for tables: "batch 3".
        tensors: the value of each input.
    """

    label: str
    tensors: Mapping[str, Array]


def batch_sizes(max_batch_size: int) -> tuple[int, ...]:
    """One, an odd one, and the largest."""
    odd = max((size for size in (3, 5, 7) if size < max_batch_size), default=1)
    return tuple(sorted({1, odd, max(max_batch_size, 1)}))


def questions(inputs: Sequence[Tensor], asking: Asking) -> tuple[Question, ...]:
    """The questions to ask of something with these inputs: small, odd and large.

    Raises:
        ExportFailed: values that the spec gives do not fit, or there can be no random ones.
    """
    given = _given(inputs, asking)
    batches = batch_sizes(asking.max_batch_size) if asking.max_batch_size else (0, 0, 0)
    varies = any(-1 in (tensor.shape or ())[1 if asking.max_batch_size else 0 :] for tensor in inputs)
    if not asking.max_batch_size and not varies:
        batches = (0,)
    elif varies and len(batches) < len(_SIZES):
        batches = (*batches, *(batches[-1],) * (len(_SIZES) - len(batches)))
    random = np.random.default_rng(asking.seed)
    asked = []
    for index, batch in enumerate(batches):
        step = 2 if index == len(batches) - 1 and index else index
        tensors = {}
        for tensor in inputs:
            shape = _shape(tensor, asking, batch, step)
            value = given.get(tensor.name)
            tensors[tensor.name] = (
                _repeated(value, batch) if value is not None else _random(tensor, shape, asking, random)
            )
        asked.append(Question(_label(batch, tensors, varies=varies), tensors))
    return tuple(asked)


def _label(batch: int, tensors: Mapping[str, Array], *, varies: bool) -> str:
    shapes = " ".join("x".join(map(str, value.shape)) for value in tensors.values())
    if not batch:
        return shapes
    return f"batch {batch}: {shapes}" if varies else f"batch {batch}"


def _shape(tensor: Tensor, asking: Asking, batch: int, step: int) -> tuple[int, ...]:
    if tensor.shape is None:
        raise ExportFailed(f"the rank of the input '{tensor.name}' is not known; state its dims in the spec")
    stated = asking.profiles[0].get(tensor.name) if asking.profiles else None
    shape = []
    for axis, size in enumerate(tensor.shape):
        if size >= 0 and not (axis == 0 and batch):
            shape.append(size)
        elif axis == 0 and batch:
            shape.append(batch)
        elif stated is not None:
            shape.append((stated.min, stated.opt, stated.max)[step][axis])
        else:
            shape.append(_SIZES[(step + max(axis - 1, 0)) % len(_SIZES)])
    return tuple(shape)


def _random(tensor: Tensor, shape: tuple[int, ...], asking: Asking, random: np.random.Generator) -> Array:
    dtype = DTYPES[tensor.data_type]
    limits = asking.ranges.get(tensor.name)
    if tensor.data_type == "TYPE_STRING":
        hint = "give them under 'samples', or as a .npz file under export.inputs"
        raise ExportFailed(f"there are no random strings for the input '{tensor.name}'", hint=hint)
    if tensor.data_type == "TYPE_BOOL":
        return random.integers(0, 2, shape).astype(dtype)
    if tensor.data_type.startswith(("TYPE_INT", "TYPE_UINT")):
        # 0 and 1 are valid for nearly everything: token numbers, masks, classes. Bytes are mostly pixels.
        low, high = limits or (0, 255 if tensor.data_type == "TYPE_UINT8" else 1)
        return random.integers(int(low), int(high), shape, endpoint=True).astype(dtype)
    value = random.uniform(*limits, shape) if limits else random.standard_normal(shape)
    return np.asarray(value.astype(dtype))


def _repeated(value: Array, batch: int) -> Array:
    """The values over again until there are as many as the batch has."""
    if not batch:
        return value
    return np.asarray(value[np.arange(batch) % len(value)])


def _given(inputs: Sequence[Tensor], asking: Asking) -> dict[str, Array]:
    arrays: dict[str, Any] = dict(asking.samples)
    if asking.file is not None:
        arrays.update(read_npz(asking.file))
        unknown = arrays.keys() - {tensor.name for tensor in inputs} - asking.samples.keys()
        if unknown:
            known = ", ".join(tensor.name for tensor in inputs)
            raise ExportFailed(f"{asking.file} has the array '{min(unknown)}', which is no input; the inputs: {known}")
    return {tensor.name: _fitted(tensor, arrays[tensor.name], asking) for tensor in inputs if tensor.name in arrays}


def _fitted(tensor: Tensor, value: Any, asking: Asking) -> Array:
    where = f"the value given for the input '{tensor.name}' ({tensor})"
    try:
        array = np.asarray(value).astype(DTYPES[tensor.data_type])
    except (ValueError, TypeError) as error:
        raise ExportFailed(f"{where} cannot be used: {error}") from None
    rank = len(tensor.shape or ())
    if asking.max_batch_size and array.ndim == rank - 1:
        array = array[np.newaxis]
    wanted = (tensor.shape or ())[1 if asking.max_batch_size else 0 :]
    found = array.shape[1 if asking.max_batch_size else 0 :]
    fits = len(wanted) == len(found) and all(size in (-1, got) for size, got in zip(wanted, found, strict=True))
    if array.ndim != rank or not fits or not array.size:
        raise ExportFailed(f"{where} has the shape {list(array.shape)}")
    return np.asarray(array)


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of a .npz file; none that would run code.

    Raises:
        ExportFailed: it is no such file.
    """
    try:
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            raise ExportFailed(f"{path} holds a single array; expected a .npz file with one for each input")
        with stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ExportFailed(f"{path} cannot be read as a .npz file: {error}") from None
