"""Which server a command talks to: the one named with ``--url``, or the deployment of the project."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tritonkit.client.access import Access, Token
    from tritonkit.client.endpoint import Addresses, Endpoint
    from tritonkit.serve import Deployment

Url = Annotated[
    str | None,
    typer.Option("--url", metavar="[https://]HOST:PORT", help="HTTP address of a server (default: the project's own)."),
]
GrpcUrl = Annotated[
    str | None,
    typer.Option(
        "--grpc-url", metavar="HOST:PORT", help="Its gRPC address (default: the port after --url's, as Triton has it)."
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="Bear the first token of this file (default: the deployment's own; with --url $TRITONKIT_TOKEN).",
    ),
]
CaCertificate = Annotated[
    Path | None,
    typer.Option(
        "--ca-certificate",
        metavar="FILE",
        help="With https://: the certificates to trust, in PEM (default: the system's).",
    ),
]


def addresses(
    url: str | None, grpc_url: str | None, token_file: Path | None = None, ca_certificate: Path | None = None
) -> Addresses:
    """The addresses to use: those that are given, else those of the deployment of the working directory.

    Raises:
        UsageError: ``url`` is no address; or a token or a certificate cannot be read.
        RequestFailed: there is no ``url``, and the deployment does not answer yet.
        TritonkitError: there is no ``url``, and no deployment runs here.
    """
    from tritonkit.client.endpoint import Addresses
    from tritonkit.errors import RequestFailed

    if url is not None:
        endpoint = named(url, token_file, ca_certificate)
        return Addresses(endpoint.address, grpc_url or endpoint.neighbour(1), endpoint.access)
    from tritonkit.serve import state

    deployment = state.running(Path.cwd())
    found = addresses_of(deployment, access_to(deployment, token_file, ca_certificate))
    if grpc_url is not None:
        found = replace(found, grpc=grpc_url)
    if not deployment.ready and not found.endpoint().live():
        phases = ", ".join(f"{server.name}: {server.phase}" for server in deployment.servers)
        raise RequestFailed(
            f"the deployment of {deployment.project} is still starting ({phases})",
            hint="See when it is ready with: tritonkit status",
        )
    return found


def addresses_of(deployment: Deployment, access: Access) -> Addresses:
    """Where a deployment answers, and its servers by themselves where it has a gateway before them."""
    from tritonkit.client.endpoint import Addresses

    servers = tuple(server.http for server in deployment.servers if server.kind == "server")
    alone = servers == (deployment.http,)
    return Addresses(deployment.http, deployment.grpc, access, () if alone else servers)


def named(url: str, token_file: Path | None = None, ca_certificate: Path | None = None) -> Endpoint:
    """The server that ``--url`` names.

    Raises:
        UsageError: that is no address; a token or a certificate cannot be read, or there is no TLS to have one.
    """
    from tritonkit.client.access import TOKEN_VARIABLE, Access, Tls, Token
    from tritonkit.client.endpoint import Endpoint
    from tritonkit.errors import UsageError

    secured = url.startswith("https://")
    if ca_certificate is not None and not secured:
        raise UsageError("--ca-certificate: there is no TLS without https://", hint=f"Give: --url https://{url}")
    token = _token(token_file)
    if token is None and os.environ.get(TOKEN_VARIABLE):
        token = Token(os.environ[TOKEN_VARIABLE], f"${TOKEN_VARIABLE}")
    return Endpoint(url, access=Access(token, Tls(ca_certificate) if secured else None))


def access_to(deployment: Deployment, token_file: Path | None = None, ca_certificate: Path | None = None) -> Access:
    """What the deployment of a project asks of its clients; the files are the user's own, or those of the deployment.

    Raises:
        UsageError: a token or a certificate cannot be read.
    """
    from tritonkit.client.access import Access, Tls, read_token
    from tritonkit.errors import UsageError

    tls = None
    if deployment.tls_certificate is not None:
        # Reached by its address, whatever the names in its certificate: that one alone is trusted.
        tls = Tls(deployment.tls_certificate, own=True) if ca_certificate is None else Tls(ca_certificate)
    elif ca_certificate is not None:
        raise UsageError("--ca-certificate: the deployment of this folder speaks without TLS")
    token = _token(token_file)
    if token is None and deployment.tokens_file is not None:
        token = read_token(deployment.tokens_file)
    return Access(token, tls)


def _token(file: Path | None) -> Token | None:
    from tritonkit.client.access import read_token

    return None if file is None else read_token(file)
