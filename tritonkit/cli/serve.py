"""``up``: a project's deployment, from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritonkit.cli.console import print_json, print_table
from tritonkit.cli.served import Assignments, Targets, served
from tritonkit.client.ports import DEFAULT_PORTS

if TYPE_CHECKING:
    from tritonkit.serve import Plan

# What a plan shows of a process's environment: what tritonkit sets, and not all that the user has.
SHOWN_VARIABLES = ("LD_LIBRARY_PATH", "PATH", "TRITONKIT_DEPLOYMENT")


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
    host: Annotated[str, typer.Option(help="The IPv4 address to listen on.")] = "127.0.0.1",
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
) -> None:
    """Build a spec's repository if it is not current, and serve it until Ctrl-C, or in the background with --detach."""
    from tritonkit import serve
    from tritonkit.serve.state import refuse_second

    if as_json and not dry_run:
        raise typer.BadParameter("--json goes with --dry-run")
    if not dry_run:
        # Before anything is built.
        refuse_second(Path.cwd())
    chosen = served(targets or [], assignments or [], dry_run=dry_run)
    request = serve.Request(
        repository=chosen.repository.resolve(),
        project=Path.cwd(),
        spec=chosen.spec and chosen.spec.resolve(),
        models=chosen.models,
        host=host,
        ports={"http": http_port, "grpc": grpc_port, "metrics": metrics_port},
        log_verbose=log_verbose,
        server_args=tuple(server_arg or ()),
        policy=serve.Policy(start_timeout=start_timeout, stop_timeout=stop_timeout),
    )
    plan = serve.plan(request, serve.survey(request))
    if dry_run:
        _print_plan(plan, as_json)
    elif detach:
        _up_detached(plan)
    else:
        _up_foreground(plan)


def _up_foreground(plan: Plan) -> None:
    from tritonkit.cli.deployment import Screen
    from tritonkit.serve.deployment import serve
    from tritonkit.serve.state import Claim

    claim = Claim(plan.project)
    with Screen(plan) as screen:
        number = serve(plan, claim, screen.changed)
    typer.echo("stopped", err=True)
    raise typer.Exit(128 + number)


def _up_detached(plan: Plan) -> None:
    from tritonkit.cli.deployment import guide, headline, spinner
    from tritonkit.serve.detached import Detached
    from tritonkit.serve.state import Claim

    starting = Detached(plan, Claim(plan.project))
    with spinner("starting"):
        deployment = starting.wait()
    typer.echo(headline(deployment))
    typer.echo(guide(deployment, stop="tritonkit down"))


def _print_plan(plan: Plan, as_json: bool) -> None:
    if as_json:
        document = asdict(plan)
        for process in document["processes"]:
            process["env"] = _shown(process["env"])
        print_json(document)
        return
    for process in plan.processes:
        rows = [
            ("program", process.argv[0]),
            *(("", argument) for argument in process.argv[1:]),
            *(("environment", f"{name}={value}") for name, value in _shown(process.env).items()),
            ("folder", process.cwd),
            ("log", process.log),
            ("ready when", process.check),
        ]
        print_table(("process", process.name), rows)


def _shown(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in SHOWN_VARIABLES if name in environment}
