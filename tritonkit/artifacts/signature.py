"""The inputs and outputs of an artifact, in Triton's terms."""

from __future__ import annotations

from dataclasses import dataclass


class UnreadableArtifact(Exception):
    """A file is not what its name says; the message goes on after the file's name ("... is not an ONNX model")."""


@dataclass(frozen=True)
class Tensor:
    """One input or output.

    Attributes:
        name: the tensor's name.
        data_type: Triton's name of its type, as in ``TYPE_FP32``.
        shape: every dimension, the batch among them; -1 where it is not fixed. None where the rank is not known.
    """

    name: str
    data_type: str
    shape: tuple[int, ...] | None

    def __str__(self) -> str:
        dims = "unknown shape" if self.shape is None else f"[{','.join(map(str, self.shape))}]"
        return f"{self.data_type.removeprefix('TYPE_')}{dims if self.shape is not None else ' of ' + dims}"


@dataclass(frozen=True)
class Signature:
    """What an artifact says of itself.

    Attributes:
        inputs: all inputs, in its own order.
        outputs: all outputs, likewise.
        beside: the files that it keeps weights in, by their paths from its own folder.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    beside: tuple[str, ...] = ()
