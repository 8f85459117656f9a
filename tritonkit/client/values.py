"""What users hand over for an input, files or JSON, as numpy arrays of the input's type.

Shapes are as they come; tritonkit.client.tensors makes them fit. BF16, which numpy lacks, is ml_dtypes'.
"""

from __future__ import annotations

import glob
import io
import json
import math
import os
import stat
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tritonkit.client.signature import Tensor

Array: TypeAlias = "npt.NDArray[Any]"

DTYPES: Mapping[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BF16": ml_dtypes.bfloat16,
    "BYTES": np.object_,
}


MAX_BYTES = 2**31 - 1
"""The largest message of gRPC, and of Triton."""


class Misfit(ValueError):
    """A value that does not fit its input; the text says both sides."""


def from_json(tensor: Tensor, text: str) -> Array:
    """A value written as JSON, in the input's type and the shape it is written in.

    Raises:
        Misfit: it is not JSON, is ragged, or holds something that the type cannot hold.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        if tensor.datatype == "BYTES":
            return objects([text.encode()])
        raise Misfit(f"{_short(text)} is neither JSON nor @file ({error})") from None
    if tensor.datatype == "BYTES":
        return _objects_from_json(value, text)
    return _numbers(tensor, value)


def files(pattern: str) -> list[Path]:
    """The file that is named, or those that a pattern with ``*`` names, sorted.

    Raises:
        Misfit: there is none.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        raise Misfit(f"{pattern} is a folder; name its files, for example {pattern.rstrip('/')}/*.png")
    if path.exists():
        return [path]
    paths = [Path(name) for name in sorted(glob.glob(str(path))) if Path(name).is_file()]
    if not paths:
        raise Misfit(f"no such file: {pattern}")
    return paths


def content(path: Path) -> bytes:
    """A file's bytes, or a pipe's.

    Raises:
        Misfit: it cannot be read, has more than a request can hold, or is a device, which may have no end.
    """
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
                raise Misfit(f"{path} is a device or a socket; expected a file")
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise Misfit(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise Misfit(f"{path} has more than {MAX_BYTES:,} bytes, the most that a request can hold")
    return data


def from_file(tensor: Tensor, path: Path) -> Array:
    """The array in a .json, .npy or .npz file, or in a raw one (little-endian, flat).

    Raises:
        Misfit: it cannot be read, or its type is not the input's.
    """
    if path.suffix == ".json":
        return from_json(tensor, content(path).decode(errors="replace"))
    if path.suffix in {".npy", ".npz"}:
        return _from_numpy(tensor, path)
    return _from_raw(tensor, path)


def _from_numpy(tensor: Tensor, path: Path) -> Array:
    data = io.BytesIO(content(path))
    try:
        loaded = np.load(data, allow_pickle=False)
        if path.suffix == ".npz":
            names = loaded.files
            chosen = tensor.name if tensor.name in names or len(names) != 1 else names[0]
            loaded = loaded[chosen]
    except KeyError:
        raise Misfit(f"{path} holds {', '.join(names) or 'nothing'}; no array is named {tensor.name}") from None
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise Misfit(f"{path} is not a file that numpy.save writes: {error}") from error
    expected = np.dtype(DTYPES[tensor.datatype])
    if loaded.dtype != expected:
        raise Misfit(f"{path} holds {loaded.dtype}{list(loaded.shape)}, and the model takes {tensor} ({expected})")
    return np.asarray(loaded)


def _from_raw(tensor: Tensor, path: Path) -> Array:
    data = content(path)
    dtype = np.dtype(DTYPES[tensor.datatype])
    item = dtype.itemsize
    array: Array = np.frombuffer(data[: len(data) // item * item], dtype=dtype)
    size = item * math.prod(dim for dim in tensor.dims if dim > 0)
    if not data or len(data) % size:
        raise Misfit(f"{path} holds {len(data)} bytes, and {tensor} takes {size} (or a multiple of it)")
    return array


def objects(values: Sequence[bytes]) -> Array:
    """A flat array of BYTES elements."""
    array = np.empty(len(values), dtype=np.object_)
    array[:] = values
    return array


def _objects_from_json(value: Any, text: str) -> Array:
    if isinstance(value, str):
        return objects([value.encode()])
    if not isinstance(value, list):
        return objects([text.encode()])
    array = np.array(value, dtype=np.object_)
    for element in array.flat:
        if not isinstance(element, str):
            raise Misfit(f"{_short(json.dumps(element))} is not a string, and the model takes BYTES")
    return objects([str(element).encode() for element in array.flat]).reshape(array.shape)


def _numbers(tensor: Tensor, value: Any) -> Array:
    try:
        array = np.array(value)
    except ValueError:
        raise Misfit("the lists are of different lengths, which makes no tensor") from None
    if array.dtype.kind == "f":
        # One number above the largest INT64 among smaller ones, and numpy takes all of them for floats.
        whole = np.array(value, dtype=np.object_)
        if _whole_numbers(whole):
            array = whole
    floating = tensor.datatype.startswith(("FP", "BF"))
    kinds = "iufO" if floating else "b" if tensor.datatype == "BOOL" else "iuO"
    strange = array.dtype.kind == "O" and not _whole_numbers(array)
    if array.size and (strange or array.dtype.kind not in kinds):
        raise Misfit(f"{_short(json.dumps(value))} does not hold what the model takes: {tensor}")
    dtype = np.dtype(DTYPES[tensor.datatype])
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise Misfit(f"{_short(json.dumps(value))} is outside {limits.min}..{limits.max}, which {tensor} holds")
    with np.errstate(over="ignore"):
        typed: Array = array.astype(dtype)
    if floating and np.isinf(typed).sum() != np.isinf(array.astype(np.float64)).sum():
        raise Misfit(f"{_short(json.dumps(value))} is more than {tensor} holds")
    return typed


def _whole_numbers(array: Array) -> bool:
    return all(isinstance(element, int) and not isinstance(element, bool) for element in array.flat)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
