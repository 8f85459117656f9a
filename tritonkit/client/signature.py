"""What one loaded model takes and gives, put together from its metadata and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tritonkit.client.endpoint import Endpoint
from tritonkit.errors import RequestFailed, TritonkitError, UsageError, nearest


@dataclass(frozen=True)
class Tensor:
    """One input or output of a model.

    Attributes:
        name: its name.
        datatype: Triton's name on the wire: ``FP32``, ``UINT8``, ``BYTES`` (a configuration says STRING) ...
        dims: the shape of one item, without the batch dimension; -1 where any size is taken.
        optional: whether a request may leave it out.
        labels: whether the model has class labels for it.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    optional: bool = False
    labels: bool = False

    def __str__(self) -> str:
        return f"{self.datatype}{list(self.dims)}".replace(" ", "")


@dataclass(frozen=True)
class Signature:
    """One loaded model, as its callers see it.

    Attributes:
        model: its name.
        versions: the versions that are loaded.
        max_batch_size: the largest batch of one request; 0 where the model has no batch dimension.
        inputs: what it takes.
        outputs: what it gives.
        members: the models of an ensemble, in its order and each as often as a request runs it; empty for any other
            model. For an ensemble among them there stand its own members: it computes nothing itself and waits nowhere.
        decoupled: whether it may give any number of answers to one request.
    """

    model: str
    versions: tuple[str, ...]
    max_batch_size: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    members: tuple[str, ...] = ()
    decoupled: bool = False


def signature(endpoint: Endpoint, model: str, version: str = "") -> Signature:
    """What ``model`` takes and gives.

    Raises:
        UsageError: the server has no such model or version; those it has are named.
        RequestFailed: it cannot be reached, or the model is not ready.
    """
    try:
        metadata = endpoint.metadata(model, version)
        config = endpoint.config(model, version)
        members = _members(endpoint, config)
    except RequestFailed as error:
        raise _explained(endpoint, model, version, error) from error
    return read(metadata, config, members)


def read(metadata: dict[str, Any], config: dict[str, Any], members: tuple[str, ...] = ()) -> Signature:
    """The signature in a server's answers for ``metadata`` and ``config``; of an ensemble, with these members."""
    batch = int(config.get("max_batch_size", 0))
    details = {entry["name"]: entry for entry in [*config.get("input", []), *config.get("output", [])]}

    def tensor(entry: dict[str, Any]) -> Tensor:
        detail = details.get(entry["name"], {})
        shape = tuple(int(size) for size in entry["shape"])
        return Tensor(
            name=entry["name"],
            datatype=entry["datatype"],
            dims=shape[1:] if batch else shape,
            optional=bool(detail.get("optional")),
            labels=bool(detail.get("label_filename")),
        )

    return Signature(
        model=metadata["name"],
        versions=tuple(metadata.get("versions", ())),
        max_batch_size=batch,
        inputs=tuple(tensor(entry) for entry in metadata.get("inputs", [])),
        outputs=tuple(tensor(entry) for entry in metadata.get("outputs", [])),
        members=members,
        decoupled=bool(config.get("model_transaction_policy", {}).get("decoupled")),
    )


def _members(endpoint: Endpoint, config: dict[str, Any]) -> tuple[str, ...]:
    """The models that an ensemble comes to in the end, step by step. Triton loads no ensemble that holds itself."""
    found: list[str] = []
    for step in config.get("ensemble_scheduling", {}).get("step", []):
        name = step["model_name"]
        found += _members(endpoint, endpoint.config(name)) or [name]
    return tuple(found)


def _explained(endpoint: Endpoint, model: str, version: str, refused: RequestFailed) -> TritonkitError:
    try:
        states = endpoint.index()
    except RequestFailed:
        return refused
    mine = [state for state in states if state.name == model]
    names = list(dict.fromkeys(state.name for state in states))
    if not mine:
        there = nearest(model, names) if names else "; it has none at all"
        return UsageError(f"{endpoint.address} has no model {model!r}{there}")
    if not any(state.state == "READY" for state in mine):
        why = "; ".join(f"version {state.version or '?'}: {state.state} {state.reason}".strip() for state in mine)
        return RequestFailed(f"{endpoint.address}: model {model!r} is not ready ({why})")
    if version and all(state.version != version for state in mine):
        versions = ", ".join(state.version for state in mine)
        return UsageError(f"{endpoint.address}: model {model!r} has no version {version}. It has: {versions}.")
    return refused
