"""Before any load: what each model takes, the data for it, and a trial request that shows in a second what is wrong."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tritonkit.bench.command import Measurement, interval_for
from tritonkit.bench.data import Data, make
from tritonkit.bench.levels import Level, check
from tritonkit.client.endpoint import Addresses, Endpoint
from tritonkit.client.inference import infer
from tritonkit.client.signature import Signature, signature
from tritonkit.errors import BenchmarkFailed, Fault, RequestFailed, SpecError, TritonkitError, nearest

# Seconds; a first request may load a model's libraries.
TRIAL_TIMEOUT = 60.0


@dataclass(frozen=True)
class Wish:
    """What is asked for beside the load levels.

    Attributes:
        given: values of inputs, as tritonkit.bench.data.make takes them; each is for the models that have it.
        shapes: shapes of generated inputs, likewise.
        seed: of the generator.
        interval_ms: one measurement window; None fits it to the model's latency.
        stability_percentage: how far three windows may differ.
        max_trials: windows to try.
    """

    given: Mapping[str, str]
    shapes: Mapping[str, Sequence[int]]
    seed: int = 0
    interval_ms: int | None = None
    stability_percentage: float = 10.0
    max_trials: int = 10


@dataclass(frozen=True)
class Subject:
    """A model that is to be measured, and what is sent to it.

    Attributes:
        signature: the model.
        data: what is sent.
        measurement: how long to look.
        instances: how many instances there are of the model, or of each member of an ensemble.
    """

    signature: Signature
    data: Data
    measurement: Measurement
    instances: Mapping[str, int] = field(default_factory=dict)


def prepare(
    server: Addresses,
    levels: Sequence[Level],
    wish: Wish,
    *,
    samples: Mapping[str, Mapping[str, str]] | None = None,
    folder: Path | None = None,
    tried: bool = True,
) -> dict[str, Subject]:
    """Everything that the levels' models need, each tried with one request of every kind it will get.

    Args:
        server: where the models are.
        levels: the load levels.
        wish: data and measurement, as the user wants them.
        samples: for each model the values of its inputs where ``wish`` gives none.
        folder: where the paths in ``samples`` start.
        tried: whether to send those requests; without, windows fit no latency.

    Raises:
        SpecError: a level, a value or a shape does not fit a model.
        RequestFailed: the server cannot be reached, has no such model, refuses the data, or takes no shared memory.
        BenchmarkFailed: it refuses data that was made up for a BYTES input.
    """
    endpoint = server.endpoint()
    _check_shared_memory(server, endpoint, levels)
    by_model: dict[str, list[Level]] = {}
    for level in levels:
        by_model.setdefault(level.model, []).append(level)
    signatures = {model: signature(endpoint, model, wanted[0].version) for model, wanted in by_model.items()}
    for model, wanted in by_model.items():
        check(wanted, signatures[model])
    check_names(signatures.values(), wish)
    return {
        model: subject(server, signatures[model], wanted, wish, (samples or {}).get(model), folder, tried=tried)
        for model, wanted in by_model.items()
    }


def prepare_each(
    server: Addresses,
    levels: Sequence[Level],
    wish: Wish,
    *,
    samples: Mapping[str, Mapping[str, str]] | None = None,
    folder: Path | None = None,
) -> tuple[dict[str, Subject], dict[str, str]]:
    """As ``prepare``, each model for itself: what is needed of those that can be measured, and why others cannot be.

    Raises:
        SpecError: a value is given for an input that no model has.
        RequestFailed: the server takes no shared memory, and some is asked for.
    """
    endpoint = server.endpoint()
    _check_shared_memory(server, endpoint, levels)
    subjects: dict[str, Subject] = {}
    refused: dict[str, str] = {}
    signatures = []
    for model in dict.fromkeys(level.model for level in levels):
        wanted = [level for level in levels if level.model == model]
        try:
            found = signature(endpoint, model, wanted[0].version)
            signatures.append(found)
            check(wanted, found)
            subjects[model] = subject(server, found, wanted, wish, (samples or {}).get(model), folder)
        except TritonkitError as error:
            refused[model] = str(error.args[0])
    if not refused:
        check_names(signatures, wish)
    return subjects, refused


def subject(
    server: Addresses,
    model: Signature,
    wanted: Sequence[Level],
    wish: Wish,
    samples: Mapping[str, str] | None,
    folder: Path | None,
    *,
    tried: bool = True,
) -> Subject:
    """What one model needs for the levels that are wanted of it; arguments and errors are those of ``prepare``."""
    data = make(
        model,
        given=wish.given,
        samples=samples,
        folder=folder,
        shapes=wish.shapes,
        seed=wish.seed,
        batch_size=max(level.batch_size for level in wanted),
    )
    # A single request is no trial of a model that answers in a stream, or wants sequences.
    plain = tried and not any(level.streaming or level.sequence_length for level in wanted)
    latency = trial(server, model, data, wanted) if plain else 0.0
    measurement = Measurement(wish.interval_ms or interval_for(latency), wish.stability_percentage, wish.max_trials)
    return Subject(model, data, measurement, _instances(server, model))


def _instances(server: Addresses, model: Signature) -> dict[str, int]:
    endpoint = server.endpoint()
    found = {}
    for name in dict.fromkeys(model.members or (model.model,)):
        groups = endpoint.config(name).get("instance_group", [])
        found[name] = sum(int(group.get("count", 1)) * max(len(group.get("gpus", [])), 1) for group in groups)
    return found


def trial(server: Addresses, signature: Signature, data: Data, wanted: Sequence[Level]) -> float:
    """Send the first request of each protocol and batch size before any load; the longest takes how many seconds.

    Raises:
        RequestFailed: the server cannot be reached.
        BenchmarkFailed: it refuses a request; in its own words.
    """
    longest = 0.0
    for level in dict.fromkeys(replace(level, load=wanted[0].load, shared_memory="none") for level in wanted):
        inputs = data.request(level.batch_size, batched=signature.max_batch_size > 0)
        for _ in range(2):
            # The first one may load libraries or warm caches; its time says nothing about the next.
            began = time.monotonic()
            try:
                infer(server, signature, inputs, version=level.version, protocol=level.protocol, timeout=TRIAL_TIMEOUT)
            except RequestFailed as error:
                raise _refused(error, data) from error
            took = time.monotonic() - began
        longest = max(longest, took)
    return longest


def _check_shared_memory(server: Addresses, endpoint: Endpoint, levels: Sequence[Level]) -> None:
    """A gateway takes no shared memory, and says so to whoever asks what there is."""
    if all(level.shared_memory == "none" for level in levels):
        return
    try:
        endpoint.shared_memory()
    except RequestFailed as error:
        own = f"--url {server.servers[0]}" if server.servers else "--url HOST:PORT"
        hint = f"Measure one server by itself: {own} (tritonkit status --json has its --grpc-url)"
        raise RequestFailed(f"shared memory cannot be measured here: {error.args[0]}", hint=hint) from error


def check_names(signatures: Iterable[Signature], wish: Wish) -> None:
    """Refuse values for inputs that none of the models has.

    Raises:
        SpecError: there are such values.
    """
    known = {tensor.name for one in signatures for tensor in one.inputs}
    faults = [
        Fault(f"input {name}", 0, "", f"no model that is measured has such an input{nearest(name, known)}")
        for name in dict.fromkeys([*wish.given, *wish.shapes])
        if name not in known
    ]
    if faults:
        raise SpecError(faults, hint=f"They take: {', '.join(sorted(known))}")


def _refused(error: RequestFailed, data: Data) -> RequestFailed | BenchmarkFailed:
    if not data.generated:
        return error
    names = ", ".join(data.generated)
    first = data.generated[0]
    return BenchmarkFailed(
        f"{error.args[0]}\nA made-up text was sent for {names}.",
        hint=f"Give real data with --input {first}=@file (or generated images: --input {first}=png:8x8)",
    )
