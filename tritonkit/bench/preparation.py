"""Before any load: what each model takes, the data for it, and a trial request that shows in a second what is wrong."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tritonkit.bench.command import Measurement, interval_for
from tritonkit.bench.data import Data, make
from tritonkit.bench.levels import Level, check
from tritonkit.client.endpoint import Addresses, Endpoint
from tritonkit.client.inference import infer
from tritonkit.client.signature import Signature, signature
from tritonkit.errors import BenchmarkFailed, Fault, RequestFailed, SpecError, nearest

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
    """

    signature: Signature
    data: Data
    measurement: Measurement


def prepare(
    server: Addresses,
    levels: Sequence[Level],
    wish: Wish,
    *,
    samples: Mapping[str, Mapping[str, str]] | None = None,
    folder: Path | None = None,
) -> dict[str, Subject]:
    """Everything that the levels' models need, each tried with one request of every kind it will get.

    Args:
        server: where the models are.
        levels: the load levels.
        wish: data and measurement, as the user wants them.
        samples: for each model the values of its inputs where ``wish`` gives none.
        folder: where the paths in ``samples`` start.

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
    _check_names(list(signatures.values()), wish)
    subjects = {}
    for model, wanted in by_model.items():
        data = make(
            signatures[model],
            given=wish.given,
            samples=(samples or {}).get(model),
            folder=folder,
            shapes=wish.shapes,
            seed=wish.seed,
            batch_size=max(level.batch_size for level in wanted),
        )
        latency = trial(server, signatures[model], data, wanted)
        interval = wish.interval_ms or interval_for(latency)
        measurement = Measurement(interval, wish.stability_percentage, wish.max_trials)
        subjects[model] = Subject(signatures[model], data, measurement)
    return subjects


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


def _check_names(signatures: Sequence[Signature], wish: Wish) -> None:
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
