"""What ``up --dry-run`` prints: the GPUs, the processes that would be started, and each of them in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import typer

from tritonkit.cli.console import print_json, print_table

if TYPE_CHECKING:
    from tritonkit.serve.gpus import Gpu
    from tritonkit.serve.processes import Plan, ProcessSpec

# What a plan shows of a process's environment: what tritonkit sets, and not all that the user has.
SHOWN_VARIABLES = (
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "CUDA_MPS_LOG_DIRECTORY",
    "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
    "CUDA_MPS_PIPE_DIRECTORY",
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "PATH",
    "TRITONKIT_DEPLOYMENT",
)


def print_plan(plan: Plan, gpus: Sequence[Gpu], *, as_json: bool) -> None:
    """Print a plan on standard output, as tables or as JSON."""
    if as_json:
        print_json(_document(plan, gpus))
        return
    if gpus:
        print_table(
            ("GPU", "name", "SMs", "memory", "in use", "compute capability", "UUID", "used by"),
            [
                (
                    gpu.index,
                    gpu.name,
                    gpu.multiprocessors,
                    f"{gpu.memory_total / 2**30:.1f} GiB",
                    f"{gpu.memory_used / 2**30:.1f} GiB",
                    gpu.compute_capability,
                    gpu.uuid,
                    ", ".join(f"{user.pid} {user.command}".strip() for user in gpu.users) or "-",
                )
                for gpu in gpus
            ],
            right=("GPU", "SMs", "memory", "in use"),
        )
    if len(plan.processes) > 1:
        print_table(
            ("process", "kind", "GPU", "percentage", "memory", "models", "HTTP", "gRPC", "metrics"),
            [_row(process) for process in plan.processes],
            right=("GPU", "percentage", "memory"),
        )
    for note in plan.notes:
        typer.echo(f"note: {note}")
    for process in plan.processes:
        rows = [
            ("program", process.argv[0]),
            *(("", argument) for argument in process.argv[1:]),
            *(("environment", f"{name}={value}") for name, value in _shown(process.env).items()),
            ("folder", process.cwd),
            *(("writes", folder.path) for folder in process.folders),
            ("log", process.log),
            *(
                (("starts after", ", ".join((*process.needs, *process.after))),)
                if process.needs + process.after
                else ()
            ),
            ("ready when", process.check),
        ]
        print_table(("process", process.name), rows)


def _row(process: ProcessSpec) -> tuple[object, ...]:
    from tritonkit.serve.processes import DaemonCheck, ServerCheck
    from tritonkit.spec.sizes import shown_size

    share = process.check.share if isinstance(process.check, ServerCheck) else None
    percentage = None if share is None else share.thread_percentage
    memory = None if share is None else share.memory_limit
    placed = process.check if isinstance(process.check, DaemonCheck) else share
    return (
        process.name,
        process.kind,
        "-" if placed is None else placed.gpu,
        "-" if percentage is None else f"{percentage:g}%",
        "-" if memory is None else shown_size(memory),
        ", ".join(process.models) or "-",
        *(process.addresses.get(service, "-") for service in ("http", "grpc", "metrics")),
    )


def _document(plan: Plan, gpus: Sequence[Gpu]) -> dict[str, object]:
    document = asdict(replace(plan, held=()))
    del document["held"]
    for process, spec in zip(document["processes"], plan.processes, strict=True):
        process["kind"] = spec.kind
        process["env"] = _shown(process["env"])
    return {**document, "gpus": [asdict(gpu) for gpu in gpus]}


def _shown(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in SHOWN_VARIABLES if name in environment}
