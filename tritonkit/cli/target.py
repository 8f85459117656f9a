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


def addresses(url: str | None, grpc_url: str | None) -> Addresses:
    """The addresses to use: those that are given, else those of the deployment of the working directory.

    Raises:
        UsageError: ``url`` is no address.
        RequestFailed: there is none, and the deployment does not answer yet.
        TritonkitError: there is no ``url``, and no deployment runs here.
    """
    from tritonkit.client.endpoint import Addresses, Endpoint
    from tritonkit.errors import RequestFailed

    if url is not None:
        endpoint = Endpoint(url)
        return Addresses(endpoint.address, grpc_url or endpoint.neighbour(1))
    from tritonkit.serve import state

    deployment = state.running(Path.cwd())
    if not deployment.ready and not Endpoint(deployment.http).live():
        phases = ", ".join(f"{server.name}: {server.phase}" for server in deployment.servers)
        raise RequestFailed(
            f"the deployment of {deployment.project} is still starting ({phases})",
            hint="See when it is ready with: tritonkit status",
        )
    return Addresses(deployment.http, grpc_url or deployment.grpc)
