"""What the commands share that render containers or bring them up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tritonkit.cli.console import messages, print_json

if TYPE_CHECKING:
    from tritonkit.serve import Request
    from tritonkit.serve.containers import Composition, Images


def composition(request: Request, images: Images, folder: Path) -> Composition:
    """The containers that serve a request, for a compose.yaml in ``folder``; what a user should know is printed."""
    from tritonkit import serve
    from tritonkit.serve import container_host, containers

    plan = serve.plan(request, container_host.survey(request, images.triton))
    for note in plan.notes:
        messages().print(f"note: {note}", markup=False)
    secrets = [file for file in (request.tokens_file, request.tls_certificate) if file is not None]
    return containers.compose(plan, folder, images, secrets=secrets)


def up(request: Request, image: str | None, *, detach: bool, dry_run: bool, as_json: bool) -> None:
    """Serve a request in containers, through Docker Compose; print their compose.yaml instead with ``dry_run``."""
    from dataclasses import asdict

    from tritonkit.cli.deployment import spinner
    from tritonkit.serve import docker
    from tritonkit.serve.containers import Images, render

    made = composition(request, Images.chosen(image, None), docker.folder(request.project))
    if dry_run:
        if as_json:
            print_json(asdict(made))
        else:
            typer.echo(render(made), nl=False)
        return
    timeout = request.policy.start_timeout
    if not detach:
        raise typer.Exit(docker.up(made, request.project))
    with spinner("starting"):
        docker.up_detached(made, request.project, start_timeout=timeout)
    http = request.ports["http"]
    typer.echo(f"ready: {', '.join(service.name for service in made.services)}")
    scheme, own = ("https", "https://") if request.tls_certificate else ("http", "")
    typer.echo(f"  HTTP     {scheme}://{request.host}:{http}")
    typer.echo(f"  look     tritonkit top --url {own}{request.host}:{http}")
    typer.echo("  stop     tritonkit down")
