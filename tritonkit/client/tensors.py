"""One request's inputs: each an array of the model's own type and shape, in one batch.

Every array has the batch dimension in front when the model batches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tritonkit.client.signature import Signature, Tensor
from tritonkit.client.values import Array, Misfit, content, files, from_file, from_json, objects
from tritonkit.errors import Fault, SpecError, nearest


def collect(
    signature: Signature,
    given: Mapping[str, str],
    *,
    samples: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> dict[str, Array]:
    """One request's inputs, each an array of the model's type and shape, all with the same batch size.

    Args:
        signature: the model.
        given: for each input ``@file`` (or ``@pattern``: one item a file), or a value written as JSON.
        samples: what to use when ``given`` is empty: files or JSON, cut to one batch the model takes.
        folder: where the paths in ``samples`` start; None is the working directory.

    Raises:
        SpecError: an input is unknown, missing, unreadable or does not fit; every such fault is in it.
    """
    from_samples = not given and bool(samples)
    texts = {name: as_given(text, folder) for name, text in samples.items()} if from_samples and samples else given
    faults = [Fault(f"input {name}", 0, "", message) for name, message in _misnamed(signature, texts, from_samples)]
    arrays: dict[str, Array] = {}
    for tensor in signature.inputs:
        if tensor.name not in texts:
            continue
        try:
            arrays[tensor.name] = read(tensor, texts[tensor.name], batched=signature.max_batch_size > 0)
        except Misfit as error:
            faults.append(Fault(f"input {tensor.name}", 0, "", str(error)))
    if from_samples and signature.max_batch_size:
        arrays = {name: array[: signature.max_batch_size] for name, array in arrays.items()}
    if not faults:
        faults = _batch_faults(signature, arrays)
    if faults:
        takes = ", ".join(f"{tensor.name} {tensor}" for tensor in signature.inputs)
        raise SpecError(faults, hint=f"{signature.model} takes: {takes}")
    return arrays


def parse_inputs(options: Sequence[str]) -> dict[str, str]:
    """The values of ``NAME=VALUE`` options, by name.

    Raises:
        SpecError: an option has no ``=``, or a name is given twice.
    """
    given: dict[str, str] = {}
    faults = []
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name:
            faults.append(Fault("--input", 0, "", f"expected NAME=@file or NAME=json, got {option!r}"))
        elif name in given:
            faults.append(Fault("--input", 0, "", f"{name} is given twice"))
        given[name] = value
    if faults:
        raise SpecError(faults, hint="For example: --input IMAGE=@cat.png, or --input X='[1, 2, 3]'")
    return given


def as_given(sample: str, folder: Path | None) -> str:
    """A sample of a spec in the form of ``--input``: JSON stays, anything else is a path or a pattern."""
    try:
        json.loads(sample)
    except ValueError:
        return f"@{(folder or Path()) / sample.removeprefix('@')}"
    return sample


def read(tensor: Tensor, text: str, *, batched: bool) -> Array:
    """The array that ``@file``, ``@pattern`` or a JSON value stands for.

    Args:
        tensor: the input.
        text: what was given for it. For BYTES, text that is no JSON string or list stands for itself.
        batched: whether the model has a batch dimension; it is added where the value has none.

    Raises:
        Misfit: there is no such file, or its content is not of the input's type, shape or size.
    """
    if not text.startswith("@"):
        return shaped(tensor, from_json(tensor, text), batched=batched)
    paths = files(text[1:])
    if tensor.datatype == "BYTES":
        return shaped(tensor, objects([content(path) for path in paths]), batched=batched)
    arrays = [_of_file(tensor, path, batched=batched) for path in paths]
    if len(arrays) == 1:
        return arrays[0]
    if not batched:
        raise Misfit(f"{text[1:]} names {len(arrays)} files, and the model takes no batch: give one")
    if len({array.shape[1:] for array in arrays}) > 1:
        raise Misfit(f"{text[1:]} names files of different shapes, which make no batch")
    return np.concatenate(arrays)


def _of_file(tensor: Tensor, path: Path, *, batched: bool) -> Array:
    try:
        return shaped(tensor, from_file(tensor, path), batched=batched)
    except Misfit as error:
        words = str(error)
        raise Misfit(words if words.startswith(str(path)) else f"{path}: {words}") from None


def shaped(tensor: Tensor, array: Array, *, batched: bool) -> Array:
    """``array`` in the input's shape: a flat one is folded into its dims, and a missing batch dimension added.

    Raises:
        Misfit: it has another shape.
    """
    dims = tensor.dims
    if _matches(array.shape, dims):
        return array[np.newaxis] if batched else array
    if batched and _matches(array.shape[1:], dims) and array.ndim == len(dims) + 1:
        return array
    folded = _folded(array, dims, batched=batched) if array.ndim <= 1 else None
    if folded is None:
        batch = " (or a batch of them)" if batched else ""
        raise Misfit(f"got {tensor.datatype}{list(array.shape)}, and the model takes {tensor}{batch}")
    return folded


def _misnamed(signature: Signature, texts: Mapping[str, str], from_samples: bool) -> list[tuple[str, str]]:
    known = [tensor.name for tensor in signature.inputs]
    unknown = [(name, f"the model has no such input{nearest(name, known)}") for name in texts if name not in known]
    source = "the samples have no value for it" if from_samples else "no value is given"
    missing = [
        (tensor.name, f"{source}, and the model needs it ({tensor})")
        for tensor in signature.inputs
        if tensor.name not in texts and not tensor.optional
    ]
    return unknown + missing


def _batch_faults(signature: Signature, arrays: Mapping[str, Array]) -> list[Fault]:
    if not signature.max_batch_size or not arrays:
        return []
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        each = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        return [Fault("inputs", 0, "", f"batch sizes differ: {each}")]
    size = next(iter(sizes.values()))
    if not 1 <= size <= signature.max_batch_size:
        most = signature.max_batch_size
        return [Fault("inputs", 0, "", f"a batch of {size}, and the model takes 1 to {most} (max_batch_size)")]
    return []


def _matches(shape: Sequence[int], dims: Sequence[int]) -> bool:
    return len(shape) == len(dims) and all(dim in (-1, size) for size, dim in zip(shape, dims, strict=True))


def _folded(array: Array, dims: Sequence[int], *, batched: bool) -> Array | None:
    """A flat array in the shape of ``dims``, when there is exactly one way to fold it."""
    unknown = sum(dim < 0 for dim in dims)
    size = math.prod(dim for dim in dims if dim > 0)
    if not array.size or array.size % size or unknown > 1:
        return None
    if batched:
        return array.reshape((1 if unknown else -1, *dims))
    return array.reshape(tuple(dims)) if unknown or array.size == size else None
