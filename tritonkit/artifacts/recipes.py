"""How one artifact is made: frozen values, complete enough that equal ones make equal artifacts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tritonkit.artifacts.signature import Tensor
from tritonkit.tools import digests


@dataclass(frozen=True)
class Download:
    """A file that lies elsewhere.

    Attributes:
        url: where.
        sha256: what it must be; None takes it as it comes.
    """

    url: str
    sha256: str | None = None


Given: TypeAlias = Path | Download
"""A file to start from."""

FileNames: TypeAlias = Literal["model.onnx", "model.pt", "model.pt2", "model.plan"]


@dataclass(frozen=True)
class Shapes:
    """The shapes of one input in an optimization profile, the batch first."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class Tolerances:
    """How far answers may differ; None follows the precision."""

    absolute: float | None = None
    relative: float | None = None
    cosine: float | None = None


@dataclass(frozen=True)
class Asking:
    """Which inputs an artifact and its source must answer alike.

    Attributes:
        max_batch_size: the largest batch; 0 where the first dimension is none.
        seed: of the random values.
        ranges: smallest and largest random value, by input.
        file: a .npz file with values of the inputs.
        samples: values of the inputs, as lists.
        profiles: the shapes to ask, where they are stated.
    """

    max_batch_size: int = 0
    seed: int = 0
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    file: Path | None = None
    samples: Mapping[str, Any] = field(default_factory=dict)
    profiles: tuple[Mapping[str, Shapes], ...] = ()


@dataclass(frozen=True)
class TorchRecipe:
    """From a torch.nn.Module to ONNX, TorchScript or torch.export's archive.

    Attributes:
        directory: the folder that the factory's module is looked for in, and that dependencies are relative to.
        factory: ``package.module:function``.
        arguments: the factory's keyword arguments.
        weights: a state dictionary for the module.
        example: a .npz file that says the inputs' names, types and shapes.
        inputs: the inputs, as stated; none where the example says them.
        outputs: the outputs that are stated.
        filename: what is made, by the name that Triton looks for.
        precision: FP32, FP16 or BF16; None keeps the module's own.
        opset: ONNX operator set; None takes the exporter's own.
        external_data: whether weights go beside the ONNX file.
        asking: the inputs of the proof.
        tolerances: the proof's measure.
    """

    directory: Path
    factory: str
    arguments: Mapping[str, Any]
    weights: Given | None
    example: Path | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    filename: FileNames
    precision: str | None
    opset: int | None
    external_data: bool
    asking: Asking
    tolerances: Tolerances


@dataclass(frozen=True)
class PlanRecipe:
    """From ONNX to one TensorRT plan for each compute capability.

    Attributes:
        directory: the folder that dependencies are relative to.
        onnx: the ONNX file, or how it is made.
        compute_capabilities: the GPUs to build for, as in ``8.9``.
        preferred_batch_sizes: what a derived profile is fastest for.
        profiles: optimization profiles; derived from the batch size where none is stated.
        builder_optimization_level: TensorRT's effort; None takes its own.
        workspace: bytes that TensorRT may use for a layer; None takes its own.
        version_compatible: whether later versions of TensorRT can load the plan.
        hardware_compatibility_level: TensorRT's name of a level; None for none.
        precision: the precision of the ONNX file, which the tolerances follow.
        asking: the inputs of the proof.
        tolerances: the proof's measure.
    """

    directory: Path
    onnx: Given | TorchRecipe
    compute_capabilities: tuple[str, ...]
    preferred_batch_sizes: tuple[int, ...]
    profiles: tuple[Mapping[str, Shapes], ...]
    builder_optimization_level: int | None
    workspace: int | None
    version_compatible: bool
    hardware_compatibility_level: str | None
    precision: str | None
    asking: Asking
    tolerances: Tolerances


Recipe: TypeAlias = TorchRecipe | PlanRecipe


def plan_filenames(recipe: PlanRecipe) -> dict[str, str]:
    """The plan's file name by compute capability: Triton's own where there is one, told apart where there are more."""
    if len(recipe.compute_capabilities) == 1:
        return {recipe.compute_capabilities[0]: "model.plan"}
    return {capability: f"model_sm{capability.replace('.', '')}.plan" for capability in recipe.compute_capabilities}


def files_of(recipe: Recipe) -> tuple[Path, ...]:
    """The local files that a recipe names, itself and in what it starts from."""
    named = [recipe.asking.file]
    if isinstance(recipe, TorchRecipe):
        named += [recipe.example, recipe.weights if isinstance(recipe.weights, Path) else None]
        module = factory_file(recipe)
        named.append(module)
    elif isinstance(recipe.onnx, TorchRecipe):
        named.extend(files_of(recipe.onnx))
    else:
        named.append(recipe.onnx if isinstance(recipe.onnx, Path) else None)
    return tuple(dict.fromkeys(path for path in named if path is not None))


def factory_file(recipe: TorchRecipe) -> Path | None:
    """The file of the factory's module, where it lies below the recipe's folder."""
    below = recipe.directory.joinpath(*recipe.factory.partition(":")[0].split("."))
    return next((path for path in (below.with_suffix(".py"), below / "__init__.py") if path.is_file()), None)


def key(recipe: Recipe, starting: Mapping[str, Path]) -> str:
    """What tells a recipe from all others: its values, and the content of the files that it names.

    Args:
        recipe: the recipe.
        starting: the local files of what it starts from (``weights``, ``onnx``), downloaded or made by now.

    Raises:
        OSError: a file that it names cannot be read.
    """
    values = plain(recipe)
    values.pop("directory")
    for name, path in starting.items():
        values[name] = digests.of_file(path)
    if isinstance(recipe, TorchRecipe):
        module = factory_file(recipe)
        values["module"] = digests.of_file(module) if module else None
    text = json.dumps([type(recipe).__name__, values], sort_keys=True)
    return digests.of_bytes(text.encode())[:40]


def plain(value: Any) -> Any:
    """A recipe as JSON can hold it; of a file, its digest."""
    if dataclasses.is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return digests.of_file(value) if value.is_file() else None
    return value
