"""``tritonkit bench``: a study from a file, or a short one from options. Both run in one way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tritonkit.cli.target import CaCertificate, GrpcUrl, TokenFile, Url

if TYPE_CHECKING:
    from tritonkit.bench.levels import Load

_DEFAULT_CONCURRENCY = "1,2,4,8"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("bench", epilog="Example: tritonkit bench classify --concurrency 1:16:5 --input IMAGE=@7.png")(bench)


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY.yaml [OVERLAY]...|MODEL...]",
            help="A study with its overlays; or models, one after the other (default: every one that is ready).",
        ),
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
        Literal["constant", "poisson"] | None,
        typer.Option("--request-distribution", help="How request rates are spaced (default: constant)."),
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option("--batch-size", "-b", metavar="RANGE", help="Items in one request (default: 1).")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="How to ask: http, grpc, or http,grpc to compare (default: http).")
    ] = None,
    shared_memory: Annotated[
        str | None,
        typer.Option("--shared-memory", help="Where tensors travel: none, system, or none,system (default: none)."),
    ] = None,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="All requests over one gRPC stream, as decoupled models need it.")
    ] = False,
    sequence_length: Annotated[
        int, typer.Option("--sequence-length", min=0, help="Requests of one sequence, for models that keep a state.")
    ] = 0,
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
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the data that is made, and of the order of points (default: 0).")
    ] = None,
    warmup: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Under load before each point (default: 1).")
    ] = None,
    repeats: Annotated[int | None, typer.Option(min=1, max=100, help="Of each point (default: 1).")] = None,
    interval: Annotated[
        int | None,
        typer.Option("--measurement-interval", min=100, help="One window, in ms (default: by the model's latency)."),
    ] = None,
    stability: Annotated[
        float | None,
        typer.Option("--stability-percentage", min=0.1, help="How far three windows may differ (default: 10)."),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option("--max-trials", min=3, help="Windows to try before a level is called unstable (default: 10)."),
    ] = None,
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
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Replace one value of the study: repeats=5."),
    ] = None,
    find: Annotated[
        str | None,
        typer.Option(metavar="GOAL", help="Search the axes instead of measuring all: max-throughput, min-p99 ..."),
    ] = None,
    subject_to: Annotated[
        list[str] | None,
        typer.Option("--subject-to", metavar="LIMIT", help="What a found point must meet: 'p99<20ms'."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure points again that the folder has; the old ones are kept aside.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the results (default: NAME-results, or benchmarks-TIME)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the points and perf_analyzer's command lines only.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Measure models with perf_analyzer: a whole study of deployments from a file, or models of a server."""
    from tritonkit.bench.objective import read_objective
    from tritonkit.cli import studies

    objective = read_objective(find, subject_to or [])
    if names and all(Path(name).suffix in (".yaml", ".yml") for name in names):
        own = {
            "--concurrency": concurrency, "--request-rate": request_rate, "--request-distribution": distribution,
            "--batch-size": batch_size, "--protocol": protocol, "--shared-memory": shared_memory, "--input": inputs,
            "--shape": shape, "--seed": seed, "--warmup": warmup, "--repeats": repeats, "--url": url,
            "--measurement-interval": interval, "--stability-percentage": stability, "--max-trials": trials,
            "--grpc-url": grpc_url, "--serve": targets, "--model-version": model_version or None,
            "--token-file": token_file, "--ca-certificate": ca_certificate,
            "--streaming": streaming or None, "--sequence-length": sequence_length or None,
        }  # fmt: skip
        given = [option for option, value in own.items() if value is not None]
        if given:
            raise typer.BadParameter(f"{', '.join(given)}: a study says this itself; replace a value with --set")
        studies.run_file([Path(name) for name in names], assignments or [], folder, objective, fresh, dry_run, as_json)
        return
    if assignments:
        raise typer.BadParameter("--set replaces values of a study, and there is none: use the other options")
    from tritonkit.bench.levels import PROTOCOLS, SHARED_MEMORIES, Axes, choices, whole_numbers
    from tritonkit.bench.plan import Target
    from tritonkit.bench.preparation import Wish
    from tritonkit.client.tensors import parse_inputs

    wish = Wish(
        parse_inputs(inputs or []), _shapes(shape or []), seed or 0, interval,
        10.0 if stability is None else stability, 10 if trials is None else trials,
    )  # fmt: skip
    axes = Axes(
        loads=_loads(concurrency, request_rate, distribution),
        batch_sizes=tuple(whole_numbers("--batch-size", "1" if batch_size is None else batch_size)),
        protocols=choices("--protocol", "http" if protocol is None else protocol, PROTOCOLS),
        shared_memories=choices("--shared-memory", "none" if shared_memory is None else shared_memory, SHARED_MEMORIES),
        version=model_version,
        streaming=streaming,
        sequence_length=sequence_length,
    )
    if streaming and "http" in axes.protocols:
        raise typer.BadParameter("streams need gRPC: give --protocol grpc", param_hint="--streaming")
    named = Target(url=url, grpc_url=grpc_url, token_file=token_file, ca_certificate=ca_certificate)
    target = studies.target_of(named, targets or [], axes.protocols, dry_run=dry_run)
    short = studies.short(
        target, names or [], axes, wish, repeats=repeats or 1, warmup=1.0 if warmup is None else warmup
    )
    where = folder or Path(time.strftime("benchmarks-%Y%m%d-%H%M%S"))
    studies.run(short, target, where, objective, fresh=fresh, dry_run=dry_run, as_json=as_json)


def _loads(concurrency: str | None, request_rate: str | None, distribution: str | None) -> tuple[Load, ...]:
    from tritonkit.bench.levels import Concurrency, RequestRate, numbers, whole_numbers

    loads: list[Load] = []
    if concurrency is not None or request_rate is None:
        values = whole_numbers("--concurrency", _DEFAULT_CONCURRENCY if concurrency is None else concurrency)
        loads += [Concurrency(value) for value in values]
    if request_rate is not None:
        spaced: Literal["constant", "poisson"] = "poisson" if distribution == "poisson" else "constant"
        loads += [RequestRate(value, spaced) for value in numbers("--request-rate", request_rate)]
    elif distribution is not None:
        message = "it says how request rates are spaced, and there is none: give --request-rate"
        raise typer.BadParameter(message, param_hint="--request-distribution")
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
