"""The files that a ModelConfig names, and where Triton looks for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tritonkit.spec.faults import Path

WARMUP = "warmup"
INITIAL_STATE = "initial_state"
CONFIGS = "configs"
"""Folders of a model that Triton takes for no version."""


@dataclass(frozen=True)
class NamedFile:
    """A file's name in a configuration.

    Attributes:
        path: where the name stands, from the model's fields.
        name: the name.
        folder: the folder that Triton looks in, below the model's own; empty for that one itself, and None for the
            folder of each version.
        absolute: whether Triton takes the name as a path of the machine, and no folder of the model counts.
        rename: puts another name in its place.
    """

    path: Path
    name: str
    folder: str | None
    rename: Callable[[str], None]
    absolute: bool = False


def named_files(config: Any) -> Iterator[NamedFile]:
    """Every file that a ModelConfig names, but for ``default_model_filename``, which is part of a version's source."""
    for index, output in enumerate(config.output):
        if output.label_filename:
            rename = partial(setattr, output, "label_filename")
            yield NamedFile(("output", index, "label_filename"), output.label_filename, "", rename)
    for index, warmup in enumerate(config.model_warmup):
        for key, tensor in warmup.inputs.items():
            if tensor.input_data_file:
                where: Path = ("model_warmup", index, "inputs", key, "input_data_file")
                yield NamedFile(where, tensor.input_data_file, WARMUP, partial(setattr, tensor, "input_data_file"))
    for index, state in enumerate(config.sequence_batching.state):
        for number, initial in enumerate(state.initial_state):
            if initial.data_file:
                where = ("sequence_batching", "state", index, "initial_state", number, "data_file")
                yield NamedFile(where, initial.data_file, INITIAL_STATE, partial(setattr, initial, "data_file"))
    for capability, name in config.cc_model_filenames.items():
        rename = partial(config.cc_model_filenames.__setitem__, capability)
        yield NamedFile(("cc_model_filenames", capability), name, None, rename)
    libraries = config.model_operations.op_library_filename
    for index, name in enumerate(libraries):
        where = ("model_operations", "op_library_filename", index)
        yield NamedFile(where, name, "", partial(libraries.__setitem__, index), absolute=True)
