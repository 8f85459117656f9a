"""The frame of a spec: tritonkit's own keys. Triton's fields inside a model are checked against its protobuf
by ``tritonkit.modelconfig``, so that they are defined in one place only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictInt, StrictStr

from tritonkit.spec.document import DEFAULT_REPOSITORY
from tritonkit.spec.export import Export, Source
from tritonkit.spec.frozen import Frozen

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")


def _model_name(name: str) -> str:
    # A model's name is a folder of the repository, a part of URLs and of file names.
    if not _NAME.match(name) or len(name) > 200:
        message = "a model's name has letters, digits, '_', '-' and '.', begins with none of the last two, and is short"
        raise ValueError(message)
    return name


def _frozen_mapping(value: dict[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(value)


ModelName = Annotated[StrictStr, AfterValidator(_model_name)]


class Step(Frozen):
    """One step of an ensemble: a model, and which of the ensemble's tensors it reads and writes."""

    model: StrictStr = Field(description="Name of the model that this step runs.")
    model_version: StrictInt = Field(default=-1, description="Version to run; -1 is the latest one.")
    input: dict[StrictStr, StrictStr] = Field(description="The model's input names, each with the ensemble's tensor.")
    output: dict[StrictStr, StrictStr] = Field(description="The model's output names, each with the ensemble's tensor.")


class Model(Frozen):
    """One model: tritonkit's own keys, and every other key as a field of Triton's ModelConfig."""

    source: Source | None = Field(
        default=None,
        description="What the model is made from: a file or folder relative to the spec, or a URL; "
        "{file: PATH or URL, sha256: DIGEST}; {torch: package.module:factory}; or {model: NAME} of the same spec.",
    )
    export: Export = Field(
        default_factory=Export, description="How the file that Triton loads is made, where it is not the source itself."
    )
    ensemble: tuple[Step, ...] | None = Field(
        default=None, min_length=1, description="Steps of an ensemble, instead of a source."
    )
    samples: dict[StrictStr, Any] = Field(
        default_factory=dict,
        description="Example values of the inputs: a file or glob as a string, or the value itself; sent by "
        "'infer' and 'bench' when no --input is given.",
    )
    fields: Annotated[Mapping[str, Any], AfterValidator(_frozen_mapping)] = Field(default_factory=dict)


OWN_KEYS = frozenset(Model.model_fields) - {"fields"}
"""The keys of a model that are tritonkit's own; all others are ModelConfig's."""


class Spec(Frozen):
    """A whole spec."""

    version: Literal[1] = Field(description="Version of this format.")
    repository: StrictStr = Field(
        default=DEFAULT_REPOSITORY, min_length=1, description="Where the model repository is written."
    )
    models: dict[ModelName, Model] = Field(min_length=1, description="The models, by name.")
