"""``tritonkit provision --validate``: the plan served, its models under load at once, against what was predicted."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import typer

from tritonkit.cli.console import messages, print_table
from tritonkit.errors import BenchmarkFailed

if TYPE_CHECKING:
    from tritonkit.bench.records import Repeat
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
    *,
    shown: bool,
) -> list[dict[str, Any]]:
    """Serve a plan on this machine's GPUs, or on its CPU where it has none, and hold it against what was predicted.

    Raises:
        SpecError, ExportFailed: the spec with the plan cannot be built.
        LaunchFailed: the servers did not come up.
        BenchmarkFailed: a model could not be loaded with requests.
    """
    from tritonkit.cli.build import write
    from tritonkit.cli.export import make
    from tritonkit.cli.temporary import ON_CPU, serving, with_members
    from tritonkit.provision import overlay
    from tritonkit.provision.validation import compare
    from tritonkit.repository import build
    from tritonkit.serve import gpus

    with TemporaryDirectory(prefix="tritonkit-plan-") as scratch:
        plan = Path(scratch) / "plan.yaml"
        plan.write_text(overlay.text(packing, loaded, "tritonkit provision --validate"))
        repository = Path(scratch) / "model_repository"
        changes = build.compare([*files, plan], list(assignments), os.environ, repository, make=make)
        write(changes)
        here = gpus.present()
        if not here:
            messages().print("note: no GPU is here: the servers run on the CPU, with no percentages", markup=False)
        chosen = tuple(str(number) for number in range(len(packing.gpus))) if here else ON_CPU
        names = with_members(loaded, list(loaded.spec.models))
        entries = changes.inputs.servers
        with serving(repository, names, entries, chosen) as deployment:
            measured = _measured(
                packing, deployment.http, deployment.grpc, repository, seconds, protocol, Path(scratch)
            )
    found = compare(packing, measured)
    if shown:
        _print(found)
    return [each.as_json() for each in found]


def _measured(
    packing: Packing, http: str, grpc: str, repository: Path, seconds: float, protocol: Protocol, folder: Path
) -> Mapping[str, Repeat]:
    from tritonkit.bench import point
    from tritonkit.bench.command import WINDOWS
    from tritonkit.bench.data import document
    from tritonkit.bench.levels import Level, RequestRate
    from tritonkit.bench.preparation import Wish, prepare
    from tritonkit.cli.temporary import samples_of
    from tritonkit.client.endpoint import Addresses
    from tritonkit.tools import perf_analyzer

    rates = {seat.model: seat.choice.workload.rate for _, seat in packing.seats}
    levels = [Level(model, RequestRate(rate, "poisson"), protocol=protocol) for model, rate in sorted(rates.items())]
    texts, start = samples_of(repository, os.environ)
    server = Addresses(http, grpc)
    wish = Wish({}, {}, interval_ms=max(int(seconds * 1000 / WINDOWS), 100))
    subjects = prepare(server, levels, wish, samples=texts, folder=start)
    folders, data = [], {}
    for level in levels:
        place = folder / "load" / level.model
        place.mkdir(parents=True)
        data[level.model] = place / "input.json"
        data[level.model].write_text(document(subjects[level.model].data, subjects[level.model].signature))
        folders.append(place)
    bench = point.Bench(server, perf_analyzer.find(), subjects, data)
    point.warm_up(levels, folders, _WARM_UP, bench)
    found = {}
    for result in point.measure(levels, folders, 1, bench):
        if result.repeat is None:
            raise BenchmarkFailed(f"{result.level.model}: {result.error}")
        found[result.level.model] = result.repeat
    return found


def _print(found: Sequence[Comparison]) -> None:
    figures = ("SLO", "p99", "at most", "mean", "batch", "computes", "predicted", "error", "rate/s", "served/s")
    print_table(
        ("model", *figures, "held"),
        [
            (
                each.model, f"{each.slo_ms:g}", f"{each.latency_p99_ms:.2f}", f"{each.predicted_p99_ms:.2f}",
                _number(each.latency_ms), f"{each.batch_size:.1f}", _number(each.compute_ms),
                _number(each.predicted_compute_ms), "-" if each.error is None else f"{each.error:+.1%}",
                f"{each.rate:.4g}", f"{each.throughput:.4g}", "yes" if each.held else "NO",
            )
            for each in found
        ],
        title="predicted against measured, every model under its load at once: times in ms",
        right=figures,
    )  # fmt: skip
    errors = [abs(each.error) for each in found if each.error is not None]
    if errors:
        typer.echo(f"computation: {sum(errors) / len(errors):.1%} off on average, {max(errors):.1%} at most")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
