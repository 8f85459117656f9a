"""``tritonkit provision``: from objectives to thread percentages, batches and GPUs."""

from __future__ import annotations

import os
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tritonkit.cli.build import Assignments
from tritonkit.cli.console import messages, print_json, print_table, progress
from tritonkit.cli.plan_file import check_plan, check_target, write

if TYPE_CHECKING:
    from tritonkit.provision.choices import Terms
    from tritonkit.provision.packing import Packing
    from tritonkit.provision.validation import Comparison
    from tritonkit.spec.loading import LoadedSpec

DEFAULT_PROFILE = Path("profiles.csv")
# What is left of a GPU's memory to its driver and its MPS server; the help says it.
_RESERVE_MIB = 1024

ProfileFile = Annotated[
    Path, typer.Option("--profile", metavar="FILE", help="The CSV file with the measurements of the models.")
]
GpuMemory = Annotated[
    str | None,
    typer.Option(
        "--gpu-memory",
        metavar="SIZE",
        help="Memory of each GPU, as in 80GiB; 1 GiB of it is left to the driver (default: the profiled GPU's).",
    ),
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
    force: Annotated[bool, typer.Option("--force", help="Replace NEWSPEC if it is there, and a plan.")] = False,
    validate: Annotated[
        bool, typer.Option("--validate", help="Serve the plan, load every model at its rate at once, and compare.")
    ] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="How long to load them for --validate.")] = 60.0,
    protocol: Sent = "http",
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Find the fewest GPUs, and percentages and batches on them, that hold every model's SLO; needs no GPU itself."""
    from tritonkit.provision import objectives, overlay, profiles
    from tritonkit.provision.explanation import document
    from tritonkit.provision.packing import pack

    began = time.monotonic()
    chosen = files or [Path("spec.yaml")]
    if target is not None:
        check_target(target, [*chosen, profile], force=force)
    with progress() as bars:
        bars.add_task("planning", total=None)
        loaded, wanted, known, terms = inputs(chosen, assignments or [], profile, gpus, gpu_memory, share)
        device = profiles.device(profiles.read(profile), str(profile))
        packing = pack(wanted, known, terms)
        took = time.monotonic() - began
        kept = overlay.remaining(packing, loaded, assignments or [], os.environ)
        text = overlay.text(packing, loaded, shlex.join(["tritonkit", *sys.argv[1:]]), kept)
        if target is not None or validate:
            check_plan(packing, text, str(target or "the plan"), chosen, kept)
        if target is not None:
            write(target, text)
    others = objectives.unplanned(loaded)
    changed = [f"{name}: {words}" for name, words in overlay.notes(packing, loaded)]
    if device == profiles.CPU:
        changed.insert(0, f"{profile} was measured on the CPU: the plan says nothing of any GPU")
    if not as_json:
        print_packing(packing, terms, took, f"{profile}, measured on {device}" if device else str(profile))
        for words in changed:
            typer.echo(f"! {words}")
    checked: tuple[Comparison, ...] = ()
    if validate:
        from tritonkit.cli import validation

        raw = profile.with_name(f"{profile.stem}-validation").resolve()
        checked = validation.validate(packing, loaded, chosen, kept, seconds, protocol, device, raw)
    if as_json:
        found: dict[str, Any] = {
            **document(packing, terms),
            "device": device,
            "unplanned": list(others),
            "served_gpus": overlay.gpus(packing, loaded),
            "notes": changed,
            "seconds": took,
        }
        print_json({**found, "validation": [each.as_json() for each in checked]} if validate else found)
    elif validate:
        validation.print_comparison(checked)
    if others:
        gpu, percentage = overlay.left(packing)
        words = (
            f"they share what is left of GPU {gpu}, {percentage} %, and what they do to others there is not predicted"
            if gpu < len(packing.gpus)
            else f"nothing is left for them on the GPUs of the plan, and they have one more, GPU {gpu}"
        )
        messages().print(f"note: no slo is asked for {', '.join(others)}: {words}", markup=False)
    if target is not None and not as_json:
        typer.echo(f"wrote {target}; serve it with: {overlay.serving(chosen, target, kept)}")
    if any(not each.held for each in checked):
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

    loaded = load(files, assignments, os.environ)
    stated = [word for option in assignments for word in ("--set", option)]
    place = [] if profile == DEFAULT_PROFILE else ["--profile", str(profile)]
    measure = shlex.join(["tritonkit", "profile", *map(str, files), *stated, *place])
    rows = profiles.read(profile, measure=measure)
    if profiles.device(rows, str(profile)) == profiles.CPU:
        measure += " --gpu none"
    known = behaviours(rows)
    wanted = objectives.workloads(loaded, known, str(profile), measure=measure)
    for each in wanted:
        noted = (*known[each.model].notes, *objectives.notes(loaded, each.model))
        known[each.model] = replace(known[each.model], notes=noted)
    memory = gpu_memory_mib(rows) if gpu_memory is None else _memory_mib(gpu_memory)
    limit = None if memory is None else max(memory - _RESERVE_MIB, 0.0)
    if limit is None and any(known[each.model].memory_mib for each in wanted):
        messages().print(
            "note: the memory of a GPU is not known, so it is no limit; give it with --gpu-memory", markup=False
        )
    spare = bool(objectives.unplanned(loaded))
    return loaded, wanted, known, Terms(gpus=gpus, memory_mib=limit, execution_share=share, spare=spare)


def _memory_mib(text: str) -> float:
    from tritonkit.spec.sizes import MIB, size_in_bytes

    try:
        memory = size_in_bytes(text) / MIB
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--gpu-memory") from None
    if memory <= _RESERVE_MIB:
        raise typer.BadParameter(
            f"{text}: expected the memory of a whole GPU, as in 80GiB; {_RESERVE_MIB} MiB of it are left to its driver",
            param_hint="--gpu-memory",
        )
    return memory


def print_packing(packing: Packing, terms: Terms, took: float, source: str) -> None:
    """The plan as a table, below it a line on each percentage, and then what to know before believing it."""
    from tritonkit.provision.explanation import fewest, why

    rows, reasons = [], []
    for number, placed in enumerate(packing.gpus):
        for seat in placed:
            choice, run = seat.choice, seat.prediction
            rows.append(
                (
                    number, seat.model, choice.thread_percentage, choice.batch_size, f"{choice.rate:.4g}",
                    f"{run.load:.0%}", f"{run.takes_ms:.2f}", f"{run.wait_ms:.2f}", f"{run.latency_p99_ms:.2f}",
                    f"{choice.workload.slo_ms:g}",
                )
            )  # fmt: skip
            reasons.append(f"  {seat.model} on GPU {number}: {why(seat, placed, terms)}")
    print_table(
        ("GPU", "model", "%", "batch", "rate/s", "load", "takes", "waits", "p99", "SLO"),
        rows,
        title="times in ms: a request takes and waits at most so long, 99 times of 100",
        right=("GPU", "%", "batch", "rate/s", "load", "takes", "waits", "p99", "SLO"),
        narrow=True,
    )
    typer.echo("\n".join(["why not less:", *reasons, ""]))
    count = len(packing.gpus)
    sums = ", ".join(f"{sum(seat.choice.thread_percentage for seat in placed)} %" for placed in packing.gpus)
    typer.echo(f"{count} GPU{'s' if count > 1 else ''} ({sums} given out); {fewest(packing)}; planned in {took:.1f} s")
    typer.echo(f"planned from {source}")
    for behaviour in {seat.model: seat.choice.behaviour for _, seat in packing.seats}.values():
        for note in behaviour.notes:
            typer.echo(f"! {behaviour.model}: {note}")
