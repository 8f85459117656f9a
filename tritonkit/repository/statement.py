"""What a model states that its export goes by: inputs and outputs, example values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tritonkit.artifacts.recipes import Asking, Shapes
from tritonkit.artifacts.signature import Tensor
from tritonkit.modelconfig import protobuf
from tritonkit.spec.schema import Model


def asking(model: Model, config: Any, file: Path | None) -> Asking:
    """The questions that a model's artifact has to answer.

    Args:
        model: what the spec says of it.
        config: its ModelConfig, as far as it is stated.
        file: the .npz file with its inputs, if there is one.
    """
    export = model.export
    return Asking(
        max_batch_size=config.max_batch_size,
        seed=export.seed,
        ranges={name: (limits[0], limits[1]) for name, limits in export.ranges.items()},
        file=file,
        # Files and patterns of samples are for clients: what is in them is no tensor yet.
        samples={key: value for key, value in model.samples.items() if isinstance(value, list | int | float)},
        profiles=tuple(
            {key: Shapes(shapes.min, shapes.opt, shapes.max) for key, shapes in profile.items()}
            for profile in export.profiles
        ),
    )


def tensors(stated: Any, max_batch_size: int) -> tuple[Tensor, ...]:
    """Inputs or outputs of a ModelConfig, the batch first; without a shape where no dims are stated."""
    found = []
    for tensor in stated:
        dims = tuple(tensor.reshape.shape) if tensor.HasField("reshape") else tuple(tensor.dims)
        known = bool(dims) or tensor.HasField("reshape")
        shape = ((-1, *dims) if max_batch_size else dims) if known else None
        found.append(Tensor(tensor.name, protobuf.data_type_name(tensor.data_type), shape))
    return tuple(found)
