"""The frame of a spec: tritonkit's own keys. Triton's fields inside a model are checked against its protobuf
by ``tritonkit.modelconfig``, so that they are defined in one place only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictInt, StrictStr, WithJsonSchema

from tritonkit.spec.document import DEFAULT_REPOSITORY
from tritonkit.spec.export import Export, Source
from tritonkit.spec.frozen import Frozen
from tritonkit.spec.objectives import Milliseconds, PerSecond
from tritonkit.spec.paths import is_plain
from tritonkit.spec.sizes import MIB, SIZE_PATTERN, size_in_bytes

NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
"""What names of models are made of."""

VERSION_PATTERN = r"^(?:0|[1-9][0-9]{0,18})$"
"""What numbers of versions are made of."""

_NAME = re.compile(NAME_PATTERN)
_VERSION = re.compile(VERSION_PATTERN)


def is_name(word: str) -> bool:
    """Whether a model can have this name: it is a folder of the repository, a part of URLs and of file names."""
    return bool(_NAME.fullmatch(word)) and len(word) <= 200


def is_version(word: str) -> bool:
    """Whether a folder of this name is a version: Triton ignores leading zeros, and reads the rest as 64 bits."""
    return bool(_VERSION.fullmatch(word)) and int(word) < 2**63


def _model_name(name: str) -> str:
    if not is_name(name):
        message = "a model's name has letters, digits, '_', '-' and '.', begins with none of the last two, and is short"
        raise ValueError(message)
    return name


def _version(number: str) -> str:
    if not is_version(number):
        raise ValueError("a version is a whole number")
    return number


def _variant_name(name: str) -> str:
    if not is_name(name):
        raise ValueError("a configuration's name has letters, digits, '_', '-' and '.', and is short")
    return name


def _path_in_folder(path: str) -> str:
    # What Triton itself finds there is written by the build, and nothing may be written outside the model's folder.
    if not is_plain(path):
        raise ValueError("expected a path inside the model's folder, as in tokenizer/vocabulary.txt")
    if path == "config.pbtxt":
        raise ValueError("config.pbtxt is written from the model's fields")
    return path


def _frozen_mapping(value: dict[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(value)


ModelName = Annotated[StrictStr, AfterValidator(_model_name)]
VersionNumber = Annotated[StrictStr, AfterValidator(_version)]
VariantName = Annotated[StrictStr, AfterValidator(_variant_name)]
PathInFolder = Annotated[StrictStr, AfterValidator(_path_in_folder)]
NonEmpty = Annotated[StrictStr, Field(min_length=1)]


class Step(Frozen):
    """One step of an ensemble: a model, and which of the ensemble's tensors it reads and writes."""

    model: StrictStr = Field(description="Name of the model that this step runs.")
    model_version: StrictInt = Field(default=-1, description="Version to run; -1 is the latest one.")
    input: dict[StrictStr, StrictStr] = Field(description="The model's input names, each with the ensemble's tensor.")
    output: dict[StrictStr, StrictStr] = Field(description="The model's output names, each with the ensemble's tensor.")


class Slo(Frozen):
    """What a model must hold, and at which load; `tritonkit provision` finds the GPUs and percentages for it."""

    latency_p99: Milliseconds = Field(
        description="The time, with its unit, in which 99 of 100 requests are answered: 20ms."
    )
    rate: PerSecond = Field(description="How many requests arrive, with their unit: 300/s or 900/min.")


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
    versions: dict[VersionNumber, Source | None] | None = Field(
        default=None,
        description="Instead of a source, which is version 1: the source of each version by its number, in the same "
        "forms. Nothing stands for a version whose folder is empty.",
    )
    files: dict[PathInFolder, NonEmpty] = Field(
        default_factory=dict,
        description="More files of the model's folder: where each goes in it, and the file or folder it comes from, "
        "relative to the spec.",
    )
    configs: dict[VariantName, NonEmpty | dict[StrictStr, Any]] = Field(
        default_factory=dict,
        description="Other configurations that tritonserver takes with --model-config-name NAME: the fields in which "
        "each differs from the model's own, or a whole .pbtxt file, relative to the spec.",
    )
    verbatim: StrictBool = Field(
        default=False,
        description="Take the fields exactly as they are written: fill in nothing, not even the name, and take the "
        "names of files as Triton does, from the model's folder.",
    )
    ensemble: tuple[Step, ...] | None = Field(
        default=None, min_length=1, description="Steps of an ensemble, instead of a source."
    )
    samples: dict[StrictStr, Any] = Field(
        default_factory=dict,
        description="Example values of the inputs: a file or glob as a string, or the value itself; sent by "
        "'infer' and 'bench' when no --input is given.",
    )
    slo: Slo | None = Field(default=None, description="The latency and the rate that the model is to be served with.")
    fields: Annotated[Mapping[str, Any], AfterValidator(_frozen_mapping)] = Field(default_factory=dict)


OWN_KEYS = frozenset(Model.model_fields) - {"fields"}
"""The keys of a model that are tritonkit's own; all others are ModelConfig's."""


def _server_name(name: str) -> str:
    if not _SERVER.fullmatch(name):
        raise ValueError("a server's name has letters, digits, '_' and '-', begins with no '-', and is short")
    if name in RESERVED or _DAEMON.fullmatch(name):
        raise ValueError("tritonkit gives this name to a process of its own")
    return name


def _gpu(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "" or value in ("all", "none"):
        raise ValueError("expected the index of a GPU, as in 0, or its UUID, as in GPU-db45a497")
    if isinstance(value, int) and value < 0:
        raise ValueError("a GPU's index is 0 or more")
    return value


def _memory(text: str) -> int:
    size = size_in_bytes(text)
    if size < MIB:
        raise ValueError("expected at least 1MiB, as in 8GiB or 512MiB")
    return size


_SERVER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}")
_DAEMON = re.compile(r"mps-[0-9]+")
RESERVED = frozenset({"gateway", "supervisor"})
"""Names of processes that are no servers."""

ServerName = Annotated[StrictStr, AfterValidator(_server_name)]
GpuName = Annotated[
    Any, AfterValidator(_gpu), WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]})
]
MemoryLimit = Annotated[int, BeforeValidator(_memory), WithJsonSchema({"type": "string", "pattern": SIZE_PATTERN})]


class ServerEntry(Frozen):
    """One server: which models it serves, on which GPUs, and with how much of each."""

    name: ServerName = Field(description="The server's name, by which it is shown, restarted and changed.")
    models: tuple[StrictStr, ...] | None = Field(
        default=None,
        min_length=1,
        description="Its models; the members of an ensemble come along. Default: every model.",
    )
    gpus: tuple[GpuName, ...] | None = Field(
        default=None,
        min_length=1,
        description="Indices or UUIDs of its GPUs, each with a server of its own. "
        "Default: every GPU that `up` serves on.",
    )
    thread_percentage: Annotated[float, Field(gt=0, le=100, strict=True)] | None = Field(
        default=None, description="The most of a GPU's SMs, in percent, that each of its processes may use (MPS)."
    )
    memory_limit: MemoryLimit | None = Field(
        default=None, description="The most of a GPU's memory that each of its processes may take (MPS), as in 8GiB."
    )
    replicas: Annotated[StrictInt, Field(ge=1, le=64)] = Field(
        default=1, description="How many equal servers there are on each of its GPUs."
    )


class Spec(Frozen):
    """A whole spec."""

    version: Literal[1] = Field(description="Version of this format.")
    repository: StrictStr = Field(
        default=DEFAULT_REPOSITORY, min_length=1, description="Where the model repository is written."
    )
    models: dict[ModelName, Model] = Field(min_length=1, description="The models, by name.")
    servers: tuple[ServerEntry, ...] | None = Field(
        default=None,
        min_length=1,
        description="The servers. Default: one on each GPU that `up` serves on, with every model.",
    )
