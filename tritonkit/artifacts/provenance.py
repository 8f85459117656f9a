"""The record beside every artifact: what it was made from, by what, for what, and how exact it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonkit.artifacts.signature import Signature, Tensor, UnreadableArtifact

if TYPE_CHECKING:
    from tritonkit.artifacts.parity import Parity, Row

SUFFIX = ".provenance.json"
"""Added to an artifact's name to make the name of its record."""

_FORMAT = 1


@dataclass(frozen=True)
class Provenance:
    """What is known of one artifact.

    Attributes:
        artifact: the artifact's file name.
        sha256: digest of its content.
        source: what it was made from, in words, and the digest of that where it is a file.
        options: the whole recipe, as plain values.
        tools: version of each package that had a hand in it, by distribution name.
        dependencies: digest of every file of the user's that was read, by its path relative to the spec.
        inputs: the inputs, the batch among their dimensions.
        outputs: likewise.
        precision: FP32, FP16 or BF16.
        compute_capability: the GPU that it was built for; None where any will do.
        profiles: the shapes that it accepts, as TensorRT has them: by input, minimum, optimum and maximum.
        parity: the figures of the proof, or why there is none.
    """

    artifact: str
    sha256: str
    source: Mapping[str, str | None]
    options: Mapping[str, Any]
    tools: Mapping[str, str]
    dependencies: Mapping[str, str]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    precision: str
    compute_capability: str | None = None
    profiles: tuple[Mapping[str, Any], ...] = ()
    parity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def signature(self) -> Signature:
        """The inputs and outputs, as the configuration takes them."""
        return Signature(self.inputs, self.outputs)


def of_parity(parity: Parity | None, reason: str = "") -> Mapping[str, Any]:
    """The part of a record that a proof, or the lack of one, leaves."""
    if parity is None:
        return {"proved": False, "reason": reason}
    found = {
        "proved": True,
        "against": parity.against,
        "tolerances": asdict(parity.tolerances),
        "rows": _rows(parity.rows),
    }
    return {**found, "rounding": _rows(parity.rounding)} if parity.rounding else found


def _rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    names = ("question", "output", "absolute", "relative", "cosine")
    return [{name: getattr(row, name) for name in names} for row in rows]


def beside(artifact: Path) -> Path:
    """Where the record of an artifact lies."""
    return artifact.with_name(artifact.name + SUFFIX)


def write(folder: Path, record: Provenance) -> None:
    """Put a record beside its artifact in a folder."""
    stored = {"format": _FORMAT, **asdict(record)}
    text = json.dumps(stored, indent=1, sort_keys=True) + "\n"
    beside(folder / record.artifact).write_text(text, encoding="utf-8")


def read(artifact: Path) -> Provenance | None:
    """The record of an artifact; None where there is none that can be used."""
    try:
        stored = json.loads(beside(artifact).read_text(encoding="utf-8"))
        if stored.pop("format") != _FORMAT:
            return None
        for role in ("inputs", "outputs"):
            stored[role] = tuple(_tensor(value) for value in stored[role])
        stored["profiles"] = tuple(stored["profiles"])
        return Provenance(**stored)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _tensor(value: Mapping[str, Any]) -> Tensor:
    shape = value["shape"]
    return Tensor(value["name"], value["data_type"], None if shape is None else tuple(shape))


def recorded_signature(artifact: Path) -> Signature | None:
    """The inputs and outputs of an artifact of which only its record tells; None where it has no record.

    Raises:
        UnreadableArtifact: it is empty.
    """
    if artifact.stat().st_size == 0:
        raise UnreadableArtifact("is empty")
    record = read(artifact)
    return record.signature if record else None
