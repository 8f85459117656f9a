"""``status``, ``logs``, ``restart`` and ``down``: what runs in a project, from any terminal."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritonkit.cli.console import print_json, print_table

if TYPE_CHECKING:
    from tritonkit.serve import Deployment, ServerState

FOLLOW_PERIOD = 0.2


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command(epilog="Example: tritonkit status --json")(status)
    app.command(epilog="Example: tritonkit logs --follow --tail 20")(logs)
    app.command(epilog="Example: tritonkit restart server")(restart)
    app.command(epilog="Example: tritonkit down")(down)


def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show what runs in this folder: its servers, models and addresses. The exit code is 0 when all of it is ready."""
    from tritonkit import serve
    from tritonkit.cli.deployment import addresses
    from tritonkit.serve import condition

    deployment = serve.running(Path.cwd())
    faults = condition.faults(deployment)
    outdated = condition.outdated(deployment)
    word = "degraded" if faults and deployment.ready else deployment.state
    loaded = _models(deployment, faults)
    if as_json:
        document = asdict(deployment)
        for server in document["servers"]:
            server["fault"] = faults.get(server["name"], "")
        print_json({**document, "state": word, "ready": not faults, "outdated": outdated, "models": loaded})
    else:
        if faults:
            typer.echo(f"{word}: " + "; ".join(f"{name} {fault}" for name, fault in faults.items()))
        if outdated:
            typer.echo(
                f"the repository has changed since {', '.join(outdated)} loaded it: "
                "`tritonkit down` and `tritonkit up` serve what is there now"
            )
        typer.echo(addresses(deployment))
        _print_servers(deployment, faults)
        _print_models(loaded)
    if faults:
        raise typer.Exit(1)


def logs(
    server: Annotated[
        str | None, typer.Argument(help="One server's name, or `supervisor`. Default: every server.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is added, until the servers have stopped.")
    ] = False,
    tail: Annotated[int, typer.Option(min=0, metavar="LINES", help="How many of the last lines.")] = 100,
) -> None:
    """Print the logs of this folder's servers, also those of a run that has ended."""
    from tritonkit.serve.logs import Follower, files
    from tritonkit.serve.state import recorded

    followers = {name: Follower(path, last=tail) for name, path in files(Path.cwd(), server).items()}
    while True:
        deployment = recorded(Path.cwd())
        ended = not follow or deployment is None or not deployment.alive
        for name, follower in followers.items():
            lines = follower.read()
            for line in [*lines, *follower.rest()] if ended else lines:
                typer.echo(line if len(followers) == 1 else f"{name} | {line}")
        if ended:
            return
        time.sleep(FOLLOW_PERIOD)


def restart(
    server: Annotated[
        str,
        typer.Argument(help="A process that `status` shows, or a server of the spec: its processes in turn."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Start one process again: behind the gateway it finishes its requests first, and loses none.

    Its replicas take the new ones; where it has none, the new process does, which is started beside the old one.
    A server that was given up is started as well. The gateway takes its configuration anew, without a pause.
    """
    from tritonkit import serve
    from tritonkit.cli.deployment import spinner
    from tritonkit.serve import control

    deployment = serve.running(Path.cwd())
    steps: list[dict[str, Any]] = []
    try:
        with spinner(f"restarting {server}"):
            for step in control.ask(deployment.control, {"command": "restart", "server": server}):
                steps.append(dict(step))
    finally:
        print_steps(steps, as_json=as_json)


def print_steps(steps: list[dict[str, Any]], *, as_json: bool) -> None:
    """What happened to the processes of a deployment, as ``control.ask`` told it."""
    if as_json:
        print_json(steps)
    elif steps:
        known = {"server", "step", "seconds"}
        print_table(
            ("after", "process", "what happened"),
            [
                (
                    f"{step['seconds']:.1f} s",
                    step["server"],
                    " ".join([step["step"], *(f"({key}: {step[key]})" for key in step if key not in known)]),
                )
                for step in steps
            ],
            right=("after",),
        )


def down() -> None:
    """Stop what runs in this folder, and wait for its end."""
    from tritonkit import serve
    from tritonkit.cli.deployment import spinner
    from tritonkit.serve import docker

    if docker.is_up(Path.cwd()):
        with spinner("stopping"):
            docker.down(Path.cwd())
        typer.echo("stopped the containers")
        return
    with spinner("stopping"):
        stopped = serve.down(Path.cwd())
    if stopped.deployment is not None:
        names = ", ".join(server.name for server in stopped.deployment.servers)
        how = " (killed: it did not end in time)" if stopped.killed else ""
        typer.echo(f"stopped {names}, serving {stopped.deployment.repository}{how}")
    elif stopped.leftover:
        processes = "1 process" if stopped.leftover == 1 else f"{stopped.leftover} processes"
        typer.echo(f"ended {processes} that a killed run had left")
    else:
        typer.echo("nothing is running here")


def _models(deployment: Deployment, faults: dict[str, str]) -> list[dict[str, Any]]:
    from tritonkit.client.endpoint import Endpoint
    from tritonkit.errors import RequestFailed

    found: list[dict[str, Any]] = []
    for server in deployment.servers:
        # One that is still loading may answer already: then what it says is worth a look.
        if server.kind != "server" or (server.name in faults and server.phase == "ready"):
            continue
        try:
            found += [{**asdict(model), "server": server.name} for model in Endpoint(server.http).index()]
        except RequestFailed:
            continue
    return found


def _print_servers(deployment: Deployment, faults: dict[str, str]) -> None:
    from tritonkit.cli.deployment import duration

    servers = deployment.servers
    columns: dict[str, list[object]] = {"server": [server.name for server in servers]}
    if len(servers) > 1:
        columns["kind"] = [server.kind for server in servers]
    if any(server.gpu is not None for server in servers):
        columns["gpu"] = ["-" if server.gpu is None else server.gpu for server in servers]
        columns["SMs"] = [_percentage(server) for server in servers]
    columns["state"] = [_state(server, faults) for server in servers]
    columns["for"] = [duration(time.time() - server.since) for server in servers]
    columns["pid"] = [server.pid or "-" for server in servers]
    columns["restarts"] = [server.restarts for server in servers]
    columns["last fault"] = [server.reason.partition("\n")[0] or "-" for server in servers]
    print_table(
        tuple(columns),
        list(zip(*columns.values(), strict=True)),
        right=tuple({"gpu", "SMs", "for", "pid", "restarts"} & set(columns)),
    )


def _percentage(server: ServerState) -> str:
    return "-" if server.thread_percentage is None else f"{server.thread_percentage:g}%"


def _state(server: ServerState, faults: dict[str, str]) -> str:
    if server.phase == "ready" and server.name in faults:
        return "no answer"
    return "given up" if server.phase == "failed" else server.phase


def _print_models(loaded: list[dict[str, Any]]) -> None:
    if not loaded:
        return
    columns = ["name", "version", "state", "reason"]
    titles = ["model", "version", "state", "reason"]
    if len({model["server"] for model in loaded}) > 1:
        columns.insert(1, "server")
        titles.insert(1, "server")
    print_table(titles, [[model[column] or "-" for column in columns] for model in loaded])
