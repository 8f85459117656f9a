"""Which server a command talks to: the one named with ``--url``, or the deployment of the project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tritonkit.client.endpoint import Addresses

Url = Annotated[
    str | None,
    typer.Option("--url", metavar="HOST:PORT", help="HTTP address of a server (default: the project's own)."),
]
GrpcUrl = Annotated[
    str | None,
    typer.Option(
        "--grpc-url", metavar="HOST:PORT", help="Its gRPC address (default: the port after --url's, as Triton has it)."
    ),
]


def addresses(url: str | None, grpc_url: str | None, project: Path | None = None) -> Addresses:
    """The addresses to use.

    Raises:
        TritonkitError: ``url`` is no address; or there is none, and no deployment of ``project`` runs.
    """
    from tritonkit.client.endpoint import Addresses, Endpoint

    if url is not None:
        endpoint = Endpoint(url)
        return Addresses(endpoint.address, grpc_url or endpoint.neighbour(1))
    from tritonkit.serve import state

    deployment = state.running(project or Path.cwd())
    return Addresses(deployment.http, grpc_url or deployment.grpc)
