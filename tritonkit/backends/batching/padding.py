"""Whether padding a batch leaves the answers alone: asked of the model itself, when it loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tritonkit.backends.batching.configuration import NUMPY_TYPES, Model

if TYPE_CHECKING:
    from tritonkit.backends.batching.batcher import Engine

# What to try a dimension with that may be any.
ANY = 4
# Other kernels for another batch size, in TF32 or FP16, differ by less than this of an output's largest value.
SIZE_TOLERANCE = 2e-2
# The same kernels on the same rows differ at most in the order of their sums.
ROW_TOLERANCE = 1e-4


def example(model: Model, rows: int, seed: int = 7) -> dict[str, Any]:
    """Random inputs for a batch of ``rows``: numbers around 0, and 0 or 1 where they must be whole.

    Raises:
        ValueError: an input is text.
    """
    random = np.random.default_rng(seed)
    feed = {}
    for tensor in model.inputs:
        shape = [ANY if size == -1 else size for size in model.shapes(rows)[tensor.name]]
        dtype = np.dtype(NUMPY_TYPES[tensor.type])
        if dtype.hasobject:
            raise ValueError(f"input {tensor.name} is text, for which there is no example")
        values = random.normal(size=shape) if dtype.kind == "f" else random.integers(0, 2, size=shape)
        feed[tensor.name] = np.ascontiguousarray(values.astype(dtype))
    return feed


def harm(model: Model, engine: Engine, sizes: Sequence[int]) -> str | None:
    """What padding to ``sizes`` does to this model's answers; None where it does nothing.

    The same rows run padded with two different contents, and unpadded.
    """
    gap = next(((size, low + 1) for low, size in zip((0, *sizes), sizes, strict=False) if size > low + 1), None)
    if gap is None:
        return None
    size, rows = gap
    names = [tensor.name for tensor in model.outputs]
    try:
        kept = example(model, rows)
        first, second = (
            _run(engine, {name: _padded(kept[name], other[name]) for name in kept}, names)
            for other in (example(model, size, seed=8), example(model, size, seed=9))
        )
        alone = _run(engine, kept, names)
    except Exception as error:
        return f"random rows do not run ({error})"
    for name, a, b, c in zip(names, first, second, alone, strict=True):
        if not a.ndim or a.shape[0] != size:
            return f"output {name} has shape {list(a.shape)} for a batch of {size}"
        if a.dtype.hasobject:
            continue
        if not _close(a[:rows], b[:rows], ROW_TOLERANCE):
            return f"output {name} of one row depends on the other rows of its batch"
        if not _close(a[:rows], c, SIZE_TOLERANCE):
            return f"output {name} depends on the size of the batch"
    return None


def _run(engine: Engine, feed: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    return [np.array(array) for array in engine.run(feed, names)]


def _padded(kept: Any, other: Any) -> Any:
    return np.ascontiguousarray(np.concatenate([kept, other[len(kept) :]]))


def _close(a: Any, b: Any, tolerance: float) -> bool:
    if a.dtype.kind not in "fc":
        # A class near a tie may change with the last bit of what it was chosen from: count, do not insist.
        return bool(np.mean(a == b) > 1 - tolerance)
    scale = float(np.max(np.abs(b[np.isfinite(b)]), initial=0.0))
    return bool(np.allclose(a, b, rtol=0, atol=tolerance * scale, equal_nan=True))
