"""``up``: a project's deployment, from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tritonkit.cli.console import messages
from tritonkit.cli.planned import print_plan
from tritonkit.cli.served import Assignments, Targets, served
from tritonkit.client.ports import DEFAULT_PORTS

if TYPE_CHECKING:
    from tritonkit.serve import Plan
    from tritonkit.serve.processes import Change

Gpus = Annotated[
    str | None,
    typer.Option(
        metavar="0,1|UUID,...|all|none",
        help="The GPUs to serve on, each with a server of its own; none serves on the CPU.",
    ),
]
Mps = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(help="Whether the servers of a GPU share it through an MPS daemon; auto where it can be."),
]
Host = Annotated[str, typer.Option(help="The IPv4 address to listen on.")]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    example = "Example: tritonkit up spec.yaml --detach && tritonkit status && tritonkit down"
    app.command(epilog=example)(up)


def up(
    targets: Targets = None,
    assignments: Assignments = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Serve in the background; return when every model is READY.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be started, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON.")] = False,
    engine: Annotated[
        Literal["native", "docker"],
        typer.Option(help="Processes of this machine, or containers of Triton's image through Docker Compose."),
    ] = "native",
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="With --engine docker: Triton's image, if not the default one.")
    ] = None,
    gpus: Gpus = None,
    mps: Mps = "auto",
    host: Host = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = DEFAULT_PORTS["http"],
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = DEFAULT_PORTS["grpc"],
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = DEFAULT_PORTS["metrics"],
    start_timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="From the start to every model READY.")
    ] = 300.0,
    stop_timeout: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="For the end of a server, before it is killed.")
    ] = 30.0,
    log_verbose: Annotated[int, typer.Option(min=0, metavar="LEVEL", help="Triton's verbosity.")] = 0,
    server_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="--FLAG=VALUE", help="A further flag of tritonserver; may be repeated."),
    ] = None,
    probe: Annotated[
        float | None,
        typer.Option(
            min=0.1, metavar="SECONDS", help="Ask each model as often, and start a server anew whose model is silent."
        ),
    ] = None,
    allow_model_control: Annotated[
        bool, typer.Option("--allow-model-control", help="Let clients load and unload models.")
    ] = False,
    tokens: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Serve only requests that bear a token of this file.")
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Serve over TLS, with this certificate and key (PEM).")
    ] = None,
    max_request_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The longest request that the gateway takes, as in 256MiB.")
    ] = None,
    request_timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=2_000_000,
            metavar="SECONDS",
            help="How long the gateway waits for a server's answer (default: an hour).",
        ),
    ] = None,
) -> None:
    """Build a spec's repository if it is not current, and serve it until Ctrl-C, or in the background with --detach."""
    from tritonkit import serve
    from tritonkit.serve.changing import replanner
    from tritonkit.serve.state import refuse_second

    if as_json and not dry_run:
        raise typer.BadParameter("--json goes with --dry-run")
    if image and engine != "docker":
        raise typer.BadParameter("--image goes with --engine docker")
    if not dry_run:
        # Before anything is built.
        refuse_second(Path.cwd())
        if engine == "docker":
            from tritonkit.tools import docker

            docker.check()
    chosen = served(targets or [], assignments or [], dry_run=dry_run)
    request = serve.Request(
        repository=chosen.repository.resolve(),
        project=Path.cwd(),
        spec=chosen.spec and chosen.spec.resolve(),
        models=chosen.models,
        servers=chosen.servers,
        gpus=None if gpus is None else gpu_words(gpus),
        mps=mps,
        host=host,
        ports={"http": http_port, "grpc": grpc_port, "metrics": metrics_port},
        log_verbose=log_verbose,
        server_args=tuple(server_arg or ()),
        allow_model_control=allow_model_control,
        tokens_file=tokens and tokens.resolve(),
        tls_certificate=tls_certificate and tls_certificate.resolve(),
        max_request_bytes=None if max_request_size is None else _size(max_request_size),
        request_timeout=request_timeout,
        probe=probe,
        policy=serve.Policy(start_timeout=start_timeout, stop_timeout=stop_timeout),
    )
    if engine == "docker":
        from tritonkit.cli.containers import up as up_in_containers

        up_in_containers(request, image, detach=detach, dry_run=dry_run, as_json=as_json)
        return
    found = serve.survey(request)
    plan = serve.plan(request, found)
    if dry_run:
        print_plan(plan, found.machine.gpus, as_json=as_json)
        return
    for note in plan.notes:
        messages().print(f"note: {note}", markup=False)
    replan = replanner(request, found)
    if detach:
        _up_detached(plan, replan)
    else:
        _up_foreground(plan, replan)


def _up_foreground(plan: Plan, replan: Callable[[Change], Plan]) -> None:
    from tritonkit.cli.deployment import Screen
    from tritonkit.serve.deployment import serve
    from tritonkit.serve.state import Claim

    claim = Claim(plan.project)
    with Screen(plan) as screen:
        number = serve(plan, claim, screen.changed, replan)
    typer.echo("stopped", err=True)
    raise typer.Exit(128 + number)


def _up_detached(plan: Plan, replan: Callable[[Change], Plan]) -> None:
    from tritonkit.cli.deployment import guide, headline, spinner
    from tritonkit.serve.detached import Detached
    from tritonkit.serve.state import Claim

    starting = Detached(plan, Claim(plan.project), replan)
    with spinner("starting"):
        deployment = starting.wait()
    typer.echo(headline(deployment))
    typer.echo(guide(deployment, stop="tritonkit down"))


def gpu_words(gpus: str) -> tuple[str, ...]:
    """The words of ``--gpus``."""
    from tritonkit.serve.gpus import ALL, NONE

    words = tuple(word.strip() for word in gpus.split(","))
    if not all(words) or (len(words) > 1 and {ALL, NONE} & set(words)):
        raise typer.BadParameter(
            "expected indices or UUIDs with commas between them, or all, or none", param_hint="--gpus"
        )
    return words


def _size(text: str) -> int:
    from tritonkit.spec.sizes import size_in_bytes

    try:
        return size_in_bytes(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--max-request-size") from None
