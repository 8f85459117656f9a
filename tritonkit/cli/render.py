"""``render``: the plan of a deployment in another engine's own words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tritonkit.cli.serve import Gpus, Host, Mps, gpu_words
from tritonkit.cli.served import Assignments, Targets, served
from tritonkit.client.ports import DEFAULT_PORTS

DEFAULT_FOLDER = Path("compose")


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    group = typer.Typer(no_args_is_help=True, help="Write the plan of a deployment for another engine.")
    group.command(epilog="Example: tritonkit render compose spec.yaml --gpus 0,1")(compose)
    app.add_typer(group, name="render", epilog="Example: tritonkit render compose spec.yaml --gpus 0,1")


def compose(
    targets: Targets = None,
    assignments: Assignments = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where compose.yaml and its files are written.")
    ] = DEFAULT_FOLDER,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print compose.yaml, and write nothing.")] = False,
    gpus: Gpus = None,
    mps: Mps = "auto",
    host: Host = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=1, max=65535, help="For HTTP.")] = DEFAULT_PORTS["http"],
    grpc_port: Annotated[int, typer.Option(min=1, max=65535, help="For gRPC.")] = DEFAULT_PORTS["grpc"],
    metrics_port: Annotated[int, typer.Option(min=1, max=65535, help="For Prometheus.")] = DEFAULT_PORTS["metrics"],
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="Triton's image (default: the release of tritonkit's rules).")
    ] = None,
    gateway_image: Annotated[str | None, typer.Option(metavar="IMAGE", help="HAProxy's image.")] = None,
    server_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="--FLAG=VALUE", help="A further flag of tritonserver; may be repeated."),
    ] = None,
) -> None:
    """Write a compose.yaml: what `up` would start, as containers of Triton's image.

    A spec's repository is built first, if it is not current.
    """
    from tritonkit import serve
    from tritonkit.cli.containers import composition
    from tritonkit.serve.composition_files import write
    from tritonkit.serve.containers import Images, render

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
        server_args=tuple(server_arg or ()),
    )
    folder = Path(os.path.abspath(output))
    made = composition(request, Images.chosen(image, gateway_image), folder)
    if dry_run:
        typer.echo(render(made), nl=False)
        return
    write(made, folder)
    typer.echo(f"wrote {output / 'compose.yaml'}: {', '.join(service.name for service in made.services)}")
    typer.echo(f"  start    docker compose --file {output / 'compose.yaml'} up --detach --wait")
    typer.echo(f"  stop     docker compose --file {output / 'compose.yaml'} down")
