"""``tritonkit mps``: who shares the GPUs of the deployment in this folder, and with how much of them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tritonkit.cli.console import print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    group = typer.Typer(
        no_args_is_help=True,
        help="See and change how the servers of this folder share their GPUs through MPS.",
        epilog="Example: tritonkit mps status && tritonkit mps set batch 40",
    )
    group.command(epilog="Example: tritonkit mps status --json")(status)
    group.command("set", epilog="Example: tritonkit mps set interactive 40")(set_percentage)
    app.add_typer(group, name="mps")


def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the MPS daemons of what runs in this folder, and their clients."""
    from tritonkit.serve import running
    from tritonkit.serve.sharing import daemons

    found = daemons(running(Path.cwd()))
    if as_json:
        print_json([asdict(daemon) for daemon in found])
        return
    if not found:
        typer.echo("no MPS daemon runs here")
        return
    print_table(
        ("daemon", "GPU", "pid", "answers", "MPS server", "clients", "pipe directory"),
        [
            (
                daemon.name,
                daemon.gpu,
                daemon.pid or "-",
                "yes" if daemon.answers else "no",
                ", ".join(map(str, daemon.servers)) or "none yet",
                len(daemon.clients),
                daemon.pipe_directory,
            )
            for daemon in found
        ],
        right=("GPU", "pid", "clients"),
    )
    rows = [
        (
            client.server or "-",
            daemon.gpu,
            client.pid,
            client.command,
            client.model or "-",
            "-" if client.thread_percentage is None else f"{client.thread_percentage:g}%",
        )
        for daemon in found
        for client in daemon.clients
    ]
    if rows:
        print_table(
            ("server", "GPU", "pid", "program", "model", "percentage"), rows, right=("GPU", "pid", "percentage")
        )


def set_percentage(
    server: Annotated[str, typer.Argument(help="A server, as the spec or `tritonkit status` names it.")],
    percent: Annotated[float, typer.Argument(help="The most of its GPU's SMs that each of its processes may use.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Give a server another thread percentage, until the deployment ends: it alone is started again with it.

    Behind the gateway no request is lost: its replicas take them, or else the new process, started beside the old one.
    """
    from tritonkit import serve
    from tritonkit.cli.deployment import spinner
    from tritonkit.cli.running import print_steps
    from tritonkit.serve import control

    if not 0 < percent <= 100:
        raise typer.BadParameter(f"{percent:g} is not above 0 and at most 100", param_hint="PERCENT")
    deployment = serve.running(Path.cwd())
    steps: list[dict[str, Any]] = []
    try:
        with spinner(f"changing {server}"):
            request = {"command": "set", "server": server, "percentage": percent}
            for step in control.ask(deployment.control, request):
                steps.append(dict(step))
    finally:
        print_steps(steps, as_json=as_json)
