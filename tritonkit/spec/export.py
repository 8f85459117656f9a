"""Where a model comes from, and how the file that Triton loads is made from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, StrictBool, StrictInt, StrictStr, Tag

from tritonkit.spec.frozen import Frozen
from tritonkit.spec.sizes import SIZE_PATTERN

_FACTORY = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\Z")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}\Z")
_CAPABILITY = re.compile(r"\d{1,2}\.\d\Z")


def _matching(pattern: re.Pattern[str], words: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"expected {words}")
        return value

    return AfterValidator(check)


def _number_as_text(value: Any) -> Any:
    # YAML reads 8.9 as a number.
    return str(value) if isinstance(value, float) else value


FactoryName = Annotated[StrictStr, _matching(_FACTORY, "package.module:factory")]
Digest = Annotated[StrictStr, _matching(_SHA256, "64 hexadecimal digits")]
ComputeCapability = Annotated[
    StrictStr, BeforeValidator(_number_as_text), _matching(_CAPABILITY, "a compute capability, as in 8.9")
]
Bytes = Annotated[StrictStr, _matching(re.compile(SIZE_PATTERN), "a number of bytes, as in 4GiB")]
NonEmpty = Annotated[StrictStr, Field(min_length=1)]
Limits = Annotated[tuple[float, ...], Field(min_length=2, max_length=2)]
Shape = Annotated[tuple[Annotated[StrictInt, Field(ge=0)], ...], Field(min_length=1)]


class FileSource(Frozen):
    """A file with its known content."""

    file: NonEmpty = Field(description="Path relative to the spec, or a URL: https://, s3://, gs://, abfs://, hf://.")
    sha256: Digest | None = Field(default=None, description="Digest of the file; another content is refused.")


def _path_or_file(value: Any) -> str:
    return "[path]" if isinstance(value, str) else "[file]"


File: TypeAlias = Annotated[
    Annotated[NonEmpty, Tag("[path]")] | Annotated[FileSource, Tag("[file]")], Discriminator(_path_or_file)
]


class TorchSource(Frozen):
    """A torch.nn.Module that a function of the user's returns."""

    torch: FactoryName = Field(description="The function that returns the module, found from the spec's folder on.")
    arguments: dict[StrictStr, Any] = Field(default_factory=dict, description="Keyword arguments of the function.")
    weights: File | None = Field(
        default=None,
        description="State dictionary to load into the module (.pt, .pth, .safetensors); no code in it runs.",
    )
    example: NonEmpty | None = Field(
        default=None, description="A .npz file with one array for each input, instead of the model's 'input'."
    )


class ModelSource(Frozen):
    """The artifact of another model of the spec."""

    model: NonEmpty = Field(description="Name of the model.")


_KINDS: dict[str, type[Frozen]] = {"file": FileSource, "torch": TorchSource, "model": ModelSource}


def _kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "[path]"
    if isinstance(value, FileSource | TorchSource | ModelSource):
        return next(f"[{kind}]" for kind, known in _KINDS.items() if isinstance(value, known))
    if isinstance(value, Mapping):
        return next((f"[{kind}]" for kind in _KINDS if kind in value), None)
    return None


Source: TypeAlias = Annotated[
    Annotated[NonEmpty, Tag("[path]")]
    | Annotated[FileSource, Tag("[file]")]
    | Annotated[TorchSource, Tag("[torch]")]
    | Annotated[ModelSource, Tag("[model]")],
    Discriminator(
        _kind,
        custom_error_type="source_form",
        custom_error_message="expected a path or URL, {file: ...}, {torch: package.module:factory} or {model: ...}",
    ),
]
"""The forms of ``source``; the tags are no part of a value's path."""


class ShapeRange(Frozen):
    """The shapes of one input that an optimization profile covers, each with the batch first."""

    min: Shape = Field(description="Smallest shape.")
    opt: Shape = Field(description="Shape to be fastest for.")
    max: Shape = Field(description="Largest shape.")


class Tolerance(Frozen):
    """How far an artifact's answers may be from its source's; what is left out follows the precision."""

    absolute: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="An output within this everywhere passes, whatever its relative error."
    )
    relative: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Largest error of an element, relative to it or to the output's root mean square."
    )
    cosine: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        default=None, description="Smallest cosine between the two outputs."
    )


class Export(Frozen):
    """How an artifact is made and proved."""

    format: Literal["torchscript", "pt2"] | None = Field(
        default=None, description="What backend pytorch is given: TorchScript (the default) or torch.export's .pt2."
    )
    precision: Literal["FP32", "FP16", "BF16"] | None = Field(
        default=None, description="Precision of the weights and of the computation; None keeps the module's own."
    )
    opset: Annotated[StrictInt, Field(ge=18, le=30)] | None = Field(
        default=None, description="ONNX operator set; None takes the exporter's own."
    )
    external_data: StrictBool = Field(
        default=False, description="Whether weights go beside the ONNX file; above 2 GB they always do."
    )
    profiles: tuple[dict[StrictStr, ShapeRange], ...] = Field(
        default=(), description="Optimization profiles, each with the shapes of every input that varies."
    )
    compute_capabilities: tuple[ComputeCapability, ...] = Field(
        default=(), description="GPUs to build plans for; the one here where none is stated."
    )
    builder_optimization_level: Annotated[StrictInt, Field(ge=0, le=5)] | None = Field(
        default=None, description="TensorRT's effort, 0 to 5; None takes TensorRT's own."
    )
    workspace: Bytes | None = Field(default=None, description="Memory that TensorRT may use for a layer, as in 4GiB.")
    version_compatible: StrictBool = Field(
        default=False, description="Whether later versions of TensorRT can load the plan."
    )
    hardware_compatibility_level: Literal["AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"] | None = Field(
        default=None, description="TensorRT's level of compatibility with other GPUs."
    )
    inputs: NonEmpty | None = Field(
        default=None, description="A .npz file whose arrays the artifact and its source must answer alike."
    )
    ranges: dict[StrictStr, Limits] = Field(
        default_factory=dict, description="Smallest and largest value of the random inputs that parity asks."
    )
    seed: StrictInt = Field(default=0, description="Seed of the random inputs, and of the factory.")
    tolerance: Tolerance = Field(default_factory=Tolerance, description="How exact the artifact must be.")


def keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that a mapping inside ``source`` or ``export`` may have, by its place in a model; tags included."""
    parts = [part for part in location if isinstance(part, str)]
    if parts[0] in ("source", "versions"):
        tag = next((part.strip("[]") for part in parts if part.strip("[]") in _KINDS), "")
        kind: type[Frozen] = FileSource if "weights" in parts else _KINDS.get(tag, FileSource)
        return list(kind.model_fields)
    if "tolerance" in parts:
        return list(Tolerance.model_fields)
    return list((ShapeRange if "profiles" in parts else Export).model_fields)
