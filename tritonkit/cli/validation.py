"""``tritonkit provision --validate``: the plan served, its models under load at once, against what was predicted."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tritonkit.cli.console import messages, print_table, progress

if TYPE_CHECKING:
    from tritonkit.client.endpoint import Protocol
    from tritonkit.provision.packing import Packing
    from tritonkit.provision.validation import Comparison
    from tritonkit.spec.loading import LoadedSpec

_WARM_UP = 3.0


def validate(
    packing: Packing,
    loaded: LoadedSpec,
    files: Sequence[Path],
    assignments: Sequence[str],
    seconds: float,
    protocol: Protocol,
    device: str,
    raw: Path,
) -> tuple[Comparison, ...]:
    """Serve a plan on this machine's GPUs, or on its CPU where it has none, and hold it against what was predicted.

    Args:
        packing: the plan.
        loaded: the spec that it is for.
        files: the spec's files.
        assignments: what was set beside them.
        seconds: how long every model is under load.
        protocol: how requests are sent.
        device: what the profile was measured on; empty where it does not say.
        raw: where perf_analyzer's command lines, logs and reports go, and the servers' logs where it fails; what is
            there is replaced.

    Raises:
        SpecError, ExportFailed: the spec with the plan cannot be built.
        LaunchFailed: the servers did not come up.
        BenchmarkFailed: a model could not be loaded with requests.
    """
    from tritonkit.bench.command import ANY_PERCENTAGE, WINDOWS
    from tritonkit.bench.levels import Level, RequestRate
    from tritonkit.bench.preparation import Wish
    from tritonkit.cli.temporary import ON_CPU, built, samples_of, serving, with_members
    from tritonkit.client.endpoint import Addresses, Endpoint
    from tritonkit.provision import overlay
    from tritonkit.provision.measuring import under_load
    from tritonkit.provision.validation import compare, seconds_to_tell
    from tritonkit.serve import gpus
    from tritonkit.tools import perf_analyzer

    rates = {seat.model: seat.choice.workload.rate for _, seat in packing.seats}
    slowest = min(rates, key=lambda model: rates[model])
    enough = seconds_to_tell(rates[slowest])
    if seconds < enough:
        messages().print(
            f"note: {seconds:g} s may be too short to tell whether {slowest} is served {rates[slowest]:g}/s; "
            f"--seconds {math.ceil(enough)} is enough",
            markup=False,
        )
    here, count = gpus.present(), overlay.gpus(packing, loaded)
    if not here:
        messages().print("note: no GPU is here: the servers run on the CPU, with no percentages", markup=False)
    elif device and any(gpu.name != device for gpu in here[:count]):
        names = ", ".join(dict.fromkeys(gpu.name for gpu in here[:count]))
        messages().print(f"note: the profile is of {device}, and here is {names}", markup=False)
    analyzer = perf_analyzer.find()
    shutil.rmtree(raw, ignore_errors=True)
    plan = overlay.text(packing, loaded, "tritonkit provision --validate")
    chosen = tuple(str(number) for number in range(count)) if here else ON_CPU
    levels = [Level(model, RequestRate(rate, "poisson"), protocol=protocol) for model, rate in sorted(rates.items())]
    # As it comes, also where there is one model: random arrivals need not be steady, and more windows take longer.
    interval = max(int(seconds * 1000 / WINDOWS), 100)
    wish = Wish({}, {}, interval_ms=interval, stability_percentage=ANY_PERCENTAGE, max_trials=WINDOWS)
    with built(files, assignments, plan) as (repository, entries), progress() as bars:
        texts, start = samples_of(repository, os.environ)
        bar = bars.add_task("starting the plan's servers", total=None)
        served = with_members(loaded, list(loaded.spec.models))
        with serving(repository, served, entries, chosen, raw / "servers") as deployment:
            bars.update(bar, description=f"every model under its load for {seconds:g} s")
            endpoint = Endpoint(deployment.http)
            padded = {model: _padded(endpoint.config(model)) for model in rates} if here else {}
            measured = under_load(
                levels, Addresses(deployment.http, deployment.grpc), analyzer, wish, raw, "load",
                samples=texts, samples_folder=start, warm_up=_WARM_UP,
            )  # fmt: skip
    return compare(packing, measured, padded)


def _padded(config: Mapping[str, Any]) -> Sequence[int]:
    """The batch sizes that a model on a GPU is padded to: by tritonkit's own backends, and by no native one."""
    from tritonkit.backends.batching.configuration import sizes_of
    from tritonkit.repository.inspection import BUNDLED
    from tritonkit.tools import tritonserver

    ours = tritonserver.find().bundled and config.get("backend") in {*(BUNDLED.backends or ())} - {"python"}
    return sizes_of(config, on_gpu=True) if ours else ()


def print_comparison(found: Sequence[Comparison]) -> None:
    """What was measured against what was asked for and predicted, as tables that fit a terminal."""
    figures = ("SLO", "p99", "at most", "mean", "rate/s", "served/s")
    print_table(
        ("model", *figures, "held"),
        [
            (
                each.model, f"{each.slo_ms:g}", f"{each.latency_p99_ms:.2f}", f"{each.predicted_p99_ms:.2f}",
                _number(each.latency_ms), f"{each.rate:.4g}", f"{each.throughput:.4g}",
                "yes" if each.held else "NO" if each.told else "too short",
            )
            for each in found
        ],
        title="every model under its load at once: times in ms",
        right=figures,
        narrow=True,
    )  # fmt: skip
    columns = ("batch", "takes", "predicted", "error")
    print_table(
        ("model", *columns),
        [
            (
                each.model, f"{each.batch_size:.1f}", _number(each.compute_ms), _number(each.predicted_compute_ms),
                "-" if each.error is None else f"{each.error:+.1%}",
            )
            for each in found
        ],
        title="the computation of a batch, against its prediction: times in ms",
        right=columns,
        narrow=True,
    )  # fmt: skip
    errors = [abs(each.error) for each in found if each.error is not None]
    if errors:
        typer.echo(f"computation: {sum(errors) / len(errors):.1%} off on average, {max(errors):.1%} at most")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
