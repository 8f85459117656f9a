"""``tritonkit bench``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tritonkit.cli.console import progress
from tritonkit.cli.points import failure, print_points, title_of
from tritonkit.cli.served import served
from tritonkit.cli.target import CaCertificate, GrpcUrl, TokenFile, Url, addresses

if TYPE_CHECKING:
    from tritonkit.bench.levels import Axes, Distribution, Level, Load
    from tritonkit.bench.preparation import Subject, Wish
    from tritonkit.bench.sweep import Point
    from tritonkit.client.endpoint import Addresses
    from tritonkit.tools.perf_analyzer import PerfAnalyzer

_DEFAULT_CONCURRENCY = "1,2,4,8"
_DEFAULT_SERVER = "127.0.0.1"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("bench", epilog="Example: tritonkit bench classify --concurrency 1:16:5 --input IMAGE=@7.png")(bench)


def bench(
    models: Annotated[
        list[str] | None, typer.Argument(help="The models, one after the other (default: every one that is ready).")
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            "--concurrency", metavar="RANGE", help="Requests in flight: 4, or 1,2,4, or 1:16:5 (from, to, step)."
        ),
    ] = None,
    request_rate: Annotated[
        str | None,
        typer.Option("--request-rate", metavar="RANGE", help="Requests a second, sent whatever the server does."),
    ] = None,
    distribution: Annotated[
        Literal["constant", "poisson"], typer.Option("--request-distribution", help="How request rates are spaced.")
    ] = "constant",
    batch_size: Annotated[str, typer.Option("--batch-size", "-b", metavar="RANGE", help="Items in one request.")] = "1",
    protocol: Annotated[str, typer.Option(help="How to ask: http, grpc, or http,grpc to compare.")] = "http",
    shared_memory: Annotated[
        str, typer.Option("--shared-memory", help="Where tensors travel: none, system, or none,system.")
    ] = "none",
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="Data: @file, @'*.png' (one item a file), JSON, or png:WIDTHxHEIGHT (default: made to the type).",
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", metavar="NAME:SIZES", help="Shape of one item where it is open: X:3,224,224."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the data that is made.")] = 0,
    interval: Annotated[
        int | None,
        typer.Option("--measurement-interval", min=100, help="One window, in ms (default: by the model's latency)."),
    ] = None,
    stability: Annotated[
        float, typer.Option("--stability-percentage", min=0.1, help="How far three windows may differ.")
    ] = 10.0,
    trials: Annotated[
        int, typer.Option("--max-trials", min=3, help="Windows to try before a level is called unstable.")
    ] = 10,
    url: Url = None,
    grpc_url: GrpcUrl = None,
    token_file: TokenFile = None,
    ca_certificate: CaCertificate = None,
    targets: Annotated[
        list[Path] | None,
        typer.Option(
            "--serve",
            metavar="SPEC|REPOSITORY",
            help="Where no server runs: serve this meanwhile (default: ./spec.yaml, else ./model_repository).",
        ),
    ] = None,
    model_version: Annotated[
        str, typer.Option("--model-version", help="The version (default: the server's choice).", show_default=False)
    ] = "",
    target: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the results (default: benchmarks-TIME).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print perf_analyzer's command lines only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Measure models with perf_analyzer, one process a load level; without a server one is started meanwhile."""
    from tritonkit.bench.command import certified
    from tritonkit.bench.levels import PROTOCOLS, SHARED_MEMORIES, Axes, choices, levels, whole_numbers
    from tritonkit.bench.preparation import Wish, prepare
    from tritonkit.bench.results import refuse_occupied
    from tritonkit.client.tensors import parse_inputs
    from tritonkit.repository.samples import samples
    from tritonkit.tools import perf_analyzer

    wish = Wish(parse_inputs(inputs or []), _shapes(shape or []), seed, interval, stability, trials)
    axes = Axes(
        loads=_loads(concurrency, request_rate, distribution),
        batch_sizes=tuple(whole_numbers("--batch-size", batch_size)),
        protocols=choices("--protocol", protocol, PROTOCOLS),
        shared_memories=choices("--shared-memory", shared_memory, SHARED_MEMORIES),
        version=model_version,
    )
    named = _Named(url, grpc_url, token_file, ca_certificate)
    folder = target or Path(time.strftime("benchmarks-%Y%m%d-%H%M%S"))
    analyzer = perf_analyzer.find()
    if dry_run:
        _print_plan(models, axes, wish, analyzer, named, folder)
        return
    refuse_occupied(folder)
    with _server(named, targets or []) as (found, repository):
        server = certified(found, axes.protocols)
        wanted = levels(models or _ready_models(server), axes)
        texts, start = samples(repository, os.environ) if repository else ({}, None)
        subjects = prepare(server, wanted, wish, samples=texts, folder=start)
        points = _sweep(wanted, subjects, server, analyzer, folder, as_json=as_json)
    failed = failure(points, len(wanted), folder)
    if failed is not None:
        raise failed


@dataclass(frozen=True)
class _Named:
    """What the user says of the server."""

    url: str | None
    grpc_url: str | None
    token_file: Path | None
    ca_certificate: Path | None

    def addresses(self, default: str | None = None) -> Addresses:
        return addresses(self.url or default, self.grpc_url, self.token_file, self.ca_certificate)

    def refuse_alone(self) -> None:
        """Where no server runs that any of it could be about."""
        about = {"--grpc-url": self.grpc_url, "--token-file": self.token_file, "--ca-certificate": self.ca_certificate}
        for option, given in about.items():
            if given is not None:
                message = "it is about a server, and there is none: give --url as well"
                raise typer.BadParameter(message, param_hint=option)


@contextmanager
def _server(named: _Named, targets: Sequence[Path]) -> Iterator[tuple[Addresses, Path | None]]:
    """The server to measure: the one named, the project's own, or one that lives as long as the block.

    And the repository that it serves; None for one that is named, which may serve anything.
    """
    from tritonkit import serve
    from tritonkit.client.endpoint import Addresses
    from tritonkit.serve.state import recorded

    deployment = None if named.url else recorded(Path.cwd())
    if named.url is not None or (deployment is not None and deployment.alive):
        yield named.addresses(), deployment.repository if deployment else None
        return
    named.refuse_alone()
    repository = served(targets, []).repository
    request = serve.Request(
        repository.resolve(), project=Path.cwd(), ports=dict.fromkeys(("http", "grpc", "metrics"), 0)
    )
    plan = serve.plan(request, serve.survey(request))
    typer.echo(f"no server runs here; serving {repository} for the time of the benchmark", err=True)
    with serve.up(plan) as started:
        yield Addresses(started.http, started.grpc), repository


def _sweep(
    wanted: Sequence[Level],
    subjects: Mapping[str, Subject],
    server: Addresses,
    analyzer: PerfAnalyzer,
    folder: Path,
    *,
    as_json: bool,
) -> list[Point]:
    """Measure, keep the files of the results folder current, and print what there is, however it ends."""
    from rich.markup import escape

    from tritonkit.bench import results
    from tritonkit.bench.provenance import gather
    from tritonkit.bench.sweep import measure

    provenance = gather(server, analyzer, subjects)
    results.create(folder)
    points: list[Point] = []
    state = "interrupted"
    try:
        with progress() as bars:
            bar = bars.add_task(escape(title_of(wanted[0])), total=len(wanted))
            for point in measure(wanted, subjects, server, analyzer, folder):
                points.append(point)
                results.write(folder, points, provenance, planned=len(wanted), state="running")
                following = wanted[min(len(points), len(wanted) - 1)]
                bars.update(bar, advance=1, description=escape(title_of(following)))
        state = "complete" if len(points) == len(wanted) else "the server does not answer any more"
    finally:
        if points:
            results.write(folder, points, provenance, planned=len(wanted), state=state)
            print_points(points, folder, as_json=as_json)
    return points


def _print_plan(
    models: Sequence[str] | None,
    axes: Axes,
    wish: Wish,
    analyzer: PerfAnalyzer,
    named: _Named,
    folder: Path,
) -> None:
    """Print the command lines; with the models and the addresses of the server, where there is one to ask."""
    from tritonkit.bench.command import Measurement, argv, certified, shell_line
    from tritonkit.bench.levels import levels
    from tritonkit.bench.sweep import data_file, report_file
    from tritonkit.serve.state import recorded

    deployment = recorded(Path.cwd())
    known = named.url is not None or (deployment is not None and deployment.alive)
    if not known:
        named.refuse_alone()
    server = certified(named.addresses(None if known else _DEFAULT_SERVER), axes.protocols)
    wanted = levels(models or (_ready_models(server) if known else ["MODEL"]), axes)
    interval = wish.interval_ms or Measurement().interval_ms
    measurement = Measurement(interval, wish.stability_percentage, wish.max_trials)
    for level in wanted:
        data, report = data_file(folder, level.model), report_file(folder, level)
        line = argv(analyzer.binary, level, server, measurement, data=data, report=report)
        typer.echo(shell_line(line, analyzer.env))


def _ready_models(server: Addresses) -> list[str]:
    from tritonkit.errors import RequestFailed

    names = list(dict.fromkeys(state.name for state in server.endpoint().index() if state.state == "READY"))
    if not names:
        raise RequestFailed(f"{server.http}: no model is ready there")
    return names


def _loads(concurrency: str | None, request_rate: str | None, distribution: Distribution) -> tuple[Load, ...]:
    from tritonkit.bench.levels import Concurrency, RequestRate, numbers, whole_numbers

    loads: list[Load] = []
    if concurrency or not request_rate:
        values = whole_numbers("--concurrency", concurrency or _DEFAULT_CONCURRENCY)
        loads += [Concurrency(value) for value in values]
    if request_rate:
        loads += [RequestRate(value, distribution) for value in numbers("--request-rate", request_rate)]
    return tuple(loads)


def _shapes(options: Sequence[str]) -> dict[str, tuple[int, ...]]:
    from tritonkit.errors import Fault, SpecError

    shapes = {}
    for option in options:
        name, _, sizes = option.rpartition(":")
        parts = sizes.split(",")
        if not name or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise SpecError([Fault("--shape", 0, "", f"expected NAME:SIZES such as X:3,224,224, got {option!r}")])
        shapes[name] = tuple(int(part) for part in parts)
    return shapes
