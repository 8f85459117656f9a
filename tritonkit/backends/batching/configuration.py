"""A model's configuration as the backends need it: read once, checked, frozen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# What Triton's own backends give a model that can batch and whose configuration does not say how far.
DEFAULT_MAX_BATCH_SIZE = 4
STRING = "TYPE_STRING"
# Triton's types that its Python stub can carry, and numpy's names for them.
NUMPY_TYPES: dict[str, Any] = {
    "TYPE_BOOL": np.bool_,
    "TYPE_UINT8": np.uint8,
    "TYPE_UINT16": np.uint16,
    "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64,
    "TYPE_INT8": np.int8,
    "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
    STRING: np.object_,
}


@dataclass(frozen=True)
class Tensor:
    """One input or output as the model sees it.

    Attributes:
        name: its name in the configuration.
        type: Triton's name of its element type, as ``TYPE_FP32``.
        dims: its shape without the batch dimension, -1 where it varies; ``reshape`` is applied already.
        optional: whether a request may leave it out.
    """

    name: str
    type: str
    dims: tuple[int, ...]
    optional: bool = False

    @property
    def fixed(self) -> bool:
        """Whether every row has one and the same shape, in memory that a GPU can read."""
        return -1 not in self.dims and self.type != STRING


@dataclass(frozen=True)
class Model:
    """One instance's model.

    Attributes:
        config: the whole configuration, as Triton gives it.
        folder: the folder of the version to load.
        device: the index of the instance's GPU; None on the CPU.
        instance: the instance's name.
    """

    config: Mapping[str, Any]
    folder: Path
    device: int | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    instance: str = ""

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.config["name"])

    @property
    def max_batch_size(self) -> int:
        """The most rows in one batch; 0 for a model that does not batch."""
        return int(self.config.get("max_batch_size", 0))

    def shapes(self, rows: int) -> dict[str, tuple[int, ...]]:
        """The shapes of all inputs for a batch of ``rows``; without batching, as they are."""
        batch = (rows,) if self.max_batch_size else ()
        return {tensor.name: (*batch, *tensor.dims) for tensor in self.inputs}

    @property
    def fixed(self) -> bool:
        """Whether a batch size says all input shapes, so that work can be prepared for it."""
        return all(tensor.fixed and not tensor.optional for tensor in self.inputs)


def read(args: Mapping[str, str]) -> Model:
    """The model of an instance, from what Triton gives ``initialize``.

    Raises:
        ValueError: the configuration asks for what a Python-based backend cannot do.
    """
    config = json.loads(args["model_config"])
    _refuse_unsupported(config)
    return Model(
        config=config,
        folder=Path(args["model_repository"]) / args["model_version"],
        device=int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else None,
        inputs=tuple(_tensor(entry) for entry in config["input"]),
        outputs=tuple(_tensor(entry) for entry in config["output"]),
        instance=args["model_instance_name"],
    )


def model_file(folder: Path, config: Mapping[str, Any], default: str) -> Path:
    """The model's file in its version folder.

    Raises:
        FileNotFoundError: it is not there.
    """
    path = folder / (config.get("default_model_filename") or default)
    if path.is_dir():
        # The native onnxruntime backend's form for a model with external weights: a folder of that name.
        path /= default
    if not path.is_file():
        raise FileNotFoundError(f"no model file {path}")
    return path


def parameter(config: Mapping[str, Any], name: str, default: str = "") -> str:
    """A parameter's text, or the default."""
    return str(config.get("parameters", {}).get(name, {}).get("string_value", default))


def whole_number(config: Mapping[str, Any], name: str, default: int = 0) -> int:
    """A parameter that is a whole number from 0.

    Raises:
        ValueError: it is something else.
    """
    text = parameter(config, name, str(default))
    if not text.isdecimal():
        raise ValueError(f"parameter {name}: expected a whole number from 0, got {text!r}")
    return int(text)


def switch(config: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    """A parameter that is on or off, in the words that Triton's own backends take.

    Raises:
        ValueError: it is something else.
    """
    text = parameter(config, name, str(default)).lower()
    if text not in {"true", "false", "1", "0"}:
        raise ValueError(f'parameter {name}: expected "true" or "false", got {text!r}')
    return text in {"true", "1"}


def accelerators(config: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """The execution accelerators that the configuration asks for, by name, with their parameters."""
    stated = config.get("optimization", {}).get("execution_accelerators", {})
    return {entry["name"]: entry.get("parameters", {}) for entries in stated.values() for entry in entries}


def batch_sizes(model: Model) -> tuple[int, ...]:
    """The batch sizes that an instance pads to; as ``sizes_of``."""
    return sizes_of(model.config, on_gpu=model.device is not None)


def sizes_of(config: Mapping[str, Any], *, on_gpu: bool) -> tuple[int, ...]:
    """The batch sizes to pad to, ascending, the last one ``max_batch_size``; none where batches run as they come.

    ``batch_buckets`` says them ("1,4,16"; "none" for no padding). Else, on a GPU, they are 1, the
    ``preferred_batch_size`` and the largest, or the powers of two.

    Raises:
        ValueError: ``batch_buckets`` is no list of sizes within ``max_batch_size``.
    """
    largest = int(config.get("max_batch_size", 0))
    stated = parameter(config, "batch_buckets").replace(" ", "")
    if stated and stated != "none":
        sizes = [int(word) if word.isdecimal() else 0 for word in stated.split(",")]
        if not all(0 < size <= largest for size in sizes):
            raise ValueError(
                f"parameter batch_buckets: expected sizes from 1 to max_batch_size ({largest}), as 1,4,16, "
                f"or none, got {stated!r}"
            )
        return tuple(sorted({*sizes, largest}))
    if stated == "none" or not on_gpu or not largest:
        return ()
    preferred = config.get("dynamic_batching", {}).get("preferred_batch_size", [])
    between = preferred or [2**power for power in range(largest.bit_length())]
    return tuple(sorted({1, *(int(size) for size in between if int(size) <= largest), largest}))


def cpu_threads(model: Model) -> int:
    """The threads for one CPU instance: the cores it may use, divided among the instances that share them.

    Every instance has threads of its own. Those of one ``host_policy`` share its cores.
    """
    groups = [group for group in model.config.get("instance_group", []) if group.get("kind") != "KIND_GPU"]
    # Triton names instances after their group: GROUP_0, GROUP_1, ...
    mine = model.instance.rpartition("_")[0]
    policy = next((group.get("host_policy", "") for group in groups if group.get("name") == mine), "")
    sharing = [int(group.get("count", 1)) for group in groups if group.get("host_policy", "") == policy]
    return max(1, len(os.sched_getaffinity(0)) // max(1, sum(max(1, count) for count in sharing)))


def complete(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these inputs or outputs say all that Triton needs."""
    return bool(entries) and all(
        entry.get("dims") and entry.get("data_type", "TYPE_INVALID") != "TYPE_INVALID" for entry in entries
    )


def warn_unused(config: Mapping[str, Any], known: frozenset[str]) -> list[str]:
    """What to say in the log about parameters that have no effect."""
    unused = sorted(set(config.get("parameters", {})) - known - {"batch_buckets"})
    return [f"{config['name']}: the parameter {name} has no effect in this backend" for name in unused]


def _tensor(entry: Mapping[str, Any]) -> Tensor:
    dims = entry.get("reshape", {}).get("shape", entry["dims"])
    return Tensor(
        entry["name"], entry["data_type"], tuple(int(size) for size in dims), bool(entry.get("optional", False))
    )


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    if config.get("sequence_batching", {}).get("state"):
        raise ValueError("implicit state (sequence_batching.state) is not kept by a Python-based backend")
    ragged = [entry["name"] for entry in config["input"] if entry.get("allow_ragged_batch")]
    if ragged:
        raise ValueError(
            f"ragged batches (allow_ragged_batch of {', '.join(ragged)}) are not supported here: without it, "
            "requests of equal shapes are batched together"
        )
    for key in ("batch_input", "batch_output"):
        if config.get(key):
            raise ValueError(f"{key} is not supported here")
    for entry in [*config["input"], *config["output"]]:
        if entry["data_type"] not in NUMPY_TYPES:
            raise ValueError(f"{entry['name']}: Triton's Python stub cannot carry {entry['data_type']}")
