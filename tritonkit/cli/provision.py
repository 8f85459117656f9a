"""``tritonkit provision``: from objectives to thread percentages, batches and GPUs."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tritonkit.cli.build import Assignments
from tritonkit.cli.console import messages, print_json, print_table
from tritonkit.errors import UsageError

if TYPE_CHECKING:
    from tritonkit.provision.choices import Terms
    from tritonkit.provision.packing import Packing
    from tritonkit.spec.loading import LoadedSpec

DEFAULT_PROFILE = Path("profiles.csv")
# What is left of a GPU's memory to its driver and its MPS server.
_RESERVE_MIB = 1024

ProfileFile = Annotated[
    Path, typer.Option("--profile", metavar="FILE", help="The CSV file with the measurements of the models.")
]
GpuMemory = Annotated[
    str | None,
    typer.Option("--gpu-memory", metavar="SIZE", help="Memory of each GPU, as in 80GiB (default: the profiled GPU's)."),
]
Share = Annotated[
    float | None,
    typer.Option(
        "--execution-share",
        min=0.05,
        max=0.95,
        help="The part of an SLO that a request may take beside waiting (default: as each model needs least).",
    ),
]

Sent = Annotated[Literal["http", "grpc"], typer.Option("--protocol", help="How requests are sent to be measured.")]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    example = "Example: tritonkit provision spec.yaml --gpus 2 -o plan.yaml && tritonkit up spec.yaml plan.yaml"
    app.command("provision", epilog=example)(provision)


def provision(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[SPEC [OVERLAY]...]",
            help="The spec, then overlays that replace what it says (default: ./spec.yaml).",
            show_default=False,
        ),
    ] = None,
    assignments: Assignments = None,
    profile: ProfileFile = DEFAULT_PROFILE,
    gpus: Annotated[
        int | None, typer.Option(min=1, max=64, help="How many GPUs there are (default: as many as are needed).")
    ] = None,
    gpu_memory: GpuMemory = None,
    share: Share = None,
    target: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="NEWSPEC", help="Write the plan here: an overlay for the spec."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace NEWSPEC if it is there.")] = False,
    validate: Annotated[
        bool, typer.Option("--validate", help="Serve the plan, load every model at its rate at once, and compare.")
    ] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="How long to load them for --validate.")] = 60.0,
    protocol: Sent = "http",
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Find the fewest GPUs, and percentages and batches on them, that hold every model's SLO; needs no GPU itself."""
    from tritonkit.provision import objectives, overlay
    from tritonkit.provision.explanation import document
    from tritonkit.provision.packing import pack

    began = time.monotonic()
    chosen = files or [Path("spec.yaml")]
    if target is not None and target.exists() and not force:
        raise UsageError(f"{target} is there already", hint="Choose another file with -o, or replace it with --force")
    loaded, wanted, known, terms = inputs(chosen, assignments or [], profile, gpus, gpu_memory, share)
    packing = pack(wanted, known, terms)
    took = time.monotonic() - began
    if target is not None:
        target.write_text(overlay.text(packing, loaded, shlex.join(["tritonkit", *sys.argv[1:]])))
    checked: list[dict[str, Any]] = []
    if validate:
        from tritonkit.cli import validation

        checked = validation.validate(packing, loaded, chosen, assignments or [], seconds, protocol, shown=not as_json)
    others = objectives.unplanned(loaded)
    if as_json:
        found: dict[str, Any] = {
            **document(packing, terms),
            "unplanned": list(others),
            "seconds": took,
        }
        print_json({**found, "validation": checked} if validate else found)
    elif not validate:
        print_packing(packing, terms, took)
    if others:
        gpu, percentage = overlay.left(packing)
        messages().print(
            f"note: no slo is asked for {', '.join(others)}: they share what is left of GPU {gpu}, {percentage} %, and "
            "what they do to others there is not predicted",
            markup=False,
        )
    if target is not None and not as_json:
        spec = shlex.join(map(str, chosen))
        typer.echo(f"wrote {target}; serve it with: tritonkit up {spec} {shlex.quote(str(target))}")
    if any(not row["held"] for row in checked):
        raise typer.Exit(7)


def inputs(
    files: list[Path],
    assignments: list[str],
    profile: Path,
    gpus: int | None,
    gpu_memory: str | None,
    share: float | None,
) -> tuple[LoadedSpec, Any, Any, Terms]:
    """The spec, its workloads, what the profile knows, and the terms; for every command that plans."""
    from tritonkit.provision import objectives, profiles
    from tritonkit.provision.choices import Terms
    from tritonkit.provision.prediction import behaviours, gpu_memory_mib
    from tritonkit.spec.loading import load
    from tritonkit.spec.sizes import MIB, size_in_bytes

    loaded = load(files, assignments, os.environ)
    rows = profiles.read(profile)
    known = behaviours(rows)
    wanted = objectives.workloads(loaded, known, str(profile))
    try:
        memory = gpu_memory_mib(rows) if gpu_memory is None else size_in_bytes(gpu_memory) / MIB
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--gpu-memory") from None
    limit = None if memory is None else max(memory - _RESERVE_MIB, 0.0)
    if limit is None and any(known[each.model].memory_mib for each in wanted):
        messages().print(
            "note: the memory of a GPU is not known, so it is no limit; give it with --gpu-memory", markup=False
        )
    return loaded, wanted, known, Terms(gpus=gpus, memory_mib=limit, execution_share=share)


def print_packing(packing: Packing, terms: Terms, took: float) -> None:
    """The plan as a table that explains itself, and below it what to know before believing it."""
    from tritonkit.provision.explanation import fewest, why

    rows = []
    for number, placed in enumerate(packing.gpus):
        for seat in placed:
            choice, run = seat.choice, seat.prediction
            rows.append(
                (
                    number, seat.model, f"{choice.thread_percentage} %", choice.batch_size, f"{choice.rate:.4g}",
                    f"{run.load:.0%}", f"{run.takes_ms:.2f}", f"{run.wait_ms:.2f}", f"{run.latency_p99_ms:.2f}",
                    f"{choice.workload.slo_ms:g}", f"{seat.margin_ms:.2f}", why(seat, placed, terms),
                )
            )  # fmt: skip
    figures = ("GPU", "batch", "rate/s", "load", "takes", "waits", "p99", "SLO", "margin")
    print_table(
        (
            "GPU",
            "model",
            "percent",
            "batch",
            "rate/s",
            "load",
            "takes",
            "waits",
            "p99",
            "SLO",
            "margin",
            "why not less",
        ),
        rows,
        title="times in ms: a request takes and waits at most so long, 99 times of 100",
        right=("percent", *figures),
    )
    count = len(packing.gpus)
    sums = ", ".join(f"{sum(seat.choice.thread_percentage for seat in placed)} %" for placed in packing.gpus)
    typer.echo(f"{count} GPU{'s' if count > 1 else ''} ({sums} given out); {fewest(packing)}; planned in {took:.1f} s")
    for behaviour in {seat.model: seat.choice.behaviour for _, seat in packing.seats}.values():
        for note in behaviour.notes:
            typer.echo(f"! {behaviour.model}: {note}")
