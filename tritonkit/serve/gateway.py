"""The gateway: HAProxy before the servers of a deployment, as one process of the plan. Pure.

A request goes by the model that it names (the path in HTTP, the name inside the message in gRPC) to one of the
servers that hold the model. Servers that hold the same models are replicas of each other and form one group.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonkit.client.access import is_token, tokens_of
from tritonkit.client.ports import DEFAULT_PORTS
from tritonkit.errors import TritonkitError, UsageError
from tritonkit.resources import templates_directory
from tritonkit.serve.ports import join
from tritonkit.serve.processes import Folder, GatewayCheck, ProcessSpec, environment
from tritonkit.serve.warden import mark
from tritonkit.tools.digests import open_regular

GATEWAY_NAME = "gateway"
CONFIG = "haproxy.cfg"
SCRIPT = "gateway.lua"
MODELS = "models.map"
STATES = "servers.state"
# Seconds for which an HTTP client may be silent on an open connection.
KEEP_ALIVE = 75.0
# How many reloads a worker that was replaced may outlast.
MAX_RELOADS = 10
# What a configuration, a map and a message for people can hold without a quote.
_ROUTABLE = re.compile(r"[^\s#%$/\\\"'\x00-\x1f\x7f]+")
# In a gRPC message the length of the name is one byte.
_LONGEST_NAME = 127
_SHARED_MEMORY = "shared memory is registered with one server: use its own address (tritonkit status names it)"
_CLOSED = "model control, trace and log settings are closed: start with --allow-model-control"
_CLOSED_GRPC = "model control, trace and log settings reach every server over HTTP only"


@dataclass(frozen=True)
class Backend:
    """One server behind the gateway.

    Attributes:
        name: the name of its process.
        http: its address for HTTP, ``host:port``.
        grpc: its address for gRPC.
        metrics: its address for metrics.
        models: the models that it holds.
    """

    name: str
    http: str
    grpc: str
    metrics: str
    models: tuple[str, ...]


@dataclass(frozen=True)
class GatewayOptions:
    """How the gateway listens and what it lets through; every time in seconds.

    Attributes:
        address: the IPv4 address to listen on.
        http_port: for clients that speak HTTP.
        grpc_port: for clients that speak gRPC.
        metrics_port: for Prometheus.
        allow_model_control: let clients load and unload models and change trace and log settings.
        tokens_file: a file with one bearer token a line, of which each request must bear one; None asks for none.
        tls_certificate: a PEM file with a certificate and its key; None serves without TLS.
        max_request_bytes: the longest body of a request, and the longest (first) message of a gRPC call.
        request_timeout: the longest silence of a server that works on a request, and of both sides of a gRPC stream.
        client_timeout: the longest silence of an HTTP client that has not sent all of its request.
        header_timeout: for all headers of an HTTP request.
        max_connections: how many clients may be connected at a time; further ones wait.
        sticky_models: models whose requests from one client address all go to one server, as sequences need.
    """

    address: str = "127.0.0.1"
    http_port: int = DEFAULT_PORTS["http"]
    grpc_port: int = DEFAULT_PORTS["grpc"]
    metrics_port: int = DEFAULT_PORTS["metrics"]
    allow_model_control: bool = False
    tokens_file: Path | None = None
    tls_certificate: Path | None = None
    max_request_bytes: int = 64 * 2**20
    request_timeout: float = 3600.0
    client_timeout: float = 60.0
    header_timeout: float = 10.0
    max_connections: int = 4096
    sticky_models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Servers that hold the same models.

    Attributes:
        name: part of the names of its two HAProxy backends.
        servers: the servers.
        models: the models that go to these servers.
        sticky: whether one client address's requests all go to one of them.
    """

    name: str
    servers: tuple[Backend, ...]
    models: tuple[str, ...]
    sticky: bool


def gateway_process(
    backends: Sequence[Backend],
    options: GatewayOptions,
    *,
    program: Path,
    project: Path,
    runtime: Path,
    deployment: str,
    inherited_env: Mapping[str, str],
) -> ProcessSpec:
    """The HAProxy process before ``backends``. Reads nothing but its own templates, and writes nothing.

    Args:
        backends: the servers, at least one.
        options: how it listens and what it lets through.
        program: HAProxy, as ``tools.haproxy.find`` found it.
        project: the folder whose ``.tritonkit`` keeps the configuration and the log.
        runtime: the short folder of the deployment's sockets.
        deployment: the deployment's name.
        inherited_env: the environment that processes start from.

    Raises:
        TritonkitError: a model has a name that cannot be routed by.
    """
    marked = mark(deployment, GATEWAY_NAME)
    keeping = project / ".tritonkit"
    folder = keeping / GATEWAY_NAME
    control = runtime / "haproxy.sock"
    addresses = {
        "http": join(options.address, options.http_port),
        "grpc": join(options.address, options.grpc_port),
        "metrics": join(options.address, options.metrics_port),
    }
    return ProcessSpec(
        name=GATEWAY_NAME,
        # A master that stays in the foreground and starts a worker anew at every reload.
        argv=(str(program), "-W", "-db", "-S", f"{control},mode,600", "-f", str(folder / CONFIG)),
        env=environment(inherited_env, marked),
        cwd=keeping / "run" / GATEWAY_NAME,
        log=keeping / "logs" / f"{GATEWAY_NAME}.log",
        mark=marked,
        check=GatewayCheck(
            http=addresses["http"],
            control=control,
        ),
        addresses=addresses,
        after=tuple(backend.name for backend in backends),
        folders=(Folder(folder, files=files(backends, options, folder=folder, runtime=runtime)),),
    )


def groups(backends: Sequence[Backend], sticky_models: Sequence[str] = ()) -> tuple[Group, ...]:
    """The groups that the models of ``backends`` go to; the first is every server, whether or not a model does."""
    everyone = tuple(backend.name for backend in backends)
    by_servers: dict[tuple[tuple[str, ...], bool], list[str]] = {(everyone, False): []}
    for model in sorted({model for backend in backends for model in backend.models}):
        holders = tuple(backend.name for backend in backends if model in backend.models)
        by_servers.setdefault((holders, len(holders) > 1 and model in sticky_models), []).append(model)
    return tuple(
        Group(
            name=str(number) if number else "all",
            servers=tuple(backend for backend in backends if backend.name in holders),
            models=tuple(models),
            sticky=sticky,
        )
        for number, ((holders, sticky), models) in enumerate(by_servers.items())
    )


def files(backends: Sequence[Backend], options: GatewayOptions, *, folder: Path, runtime: Path) -> dict[str, str]:
    """HAProxy's configuration for ``backends``: the text of each file in ``folder``, by its name.

    Raises:
        TritonkitError: a model has a name that cannot be routed by.
    """
    import jinja2

    grouped = groups(backends, options.sticky_models)
    lines = [f"{_routable(model)} {group.name}" for group in grouped for model in group.models]
    templates = templates_directory()
    engine = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - the text is a configuration, not a page
    )
    engine.filters["quoted"] = _quoted
    engine.filters["milliseconds"] = lambda seconds: f"{max(1, round(seconds * 1000))}ms"
    config = engine.get_template(f"{CONFIG}.j2").render(
        groups=grouped,
        options=options,
        local=local_socket(runtime),
        exporter=runtime / "exporter.sock",
        refusals=runtime / "refusals.sock",
        script=folder / SCRIPT,
        states=folder / STATES,
        # A model that is being loaded makes its server unready as a whole: with model control that is everyday.
        health_path="/v2/health/live" if options.allow_model_control else "/v2/health/ready",
        name_lengths=sorted({len(model.encode()) for group in grouped for model in group.models}) or [1],
        tls=lambda protocols: _tls(options.tls_certificate, protocols),
        keep_alive=KEEP_ALIVE,
        max_reloads=MAX_RELOADS,
        SHARED_MEMORY=_SHARED_MEMORY,
        CLOSED=_CLOSED,
        CLOSED_GRPC=_CLOSED_GRPC,
    )
    return {
        CONFIG: config,
        MODELS: "".join(f"{line}\n" for line in lines),
        SCRIPT: (templates / SCRIPT).read_text(),
        # Of no server: `haproxy.reload` has the states in it for as long as a new worker starts.
        STATES: "1\n",
    }


def local_socket(runtime: Path) -> Path:
    """Where the gateway speaks HTTP with this machine's own user alone, and without TLS."""
    return runtime / "http.sock"


def check_certificate(file: Path) -> None:
    """Look whether a file holds a certificate and its key, readable by its owner alone.

    Raises:
        UsageError: it does not.
    """
    import ssl

    try:
        with open_regular(file) as stream:
            mode = os.fstat(stream.fileno()).st_mode
        # Asked for nothing: a key behind a password could not be read when the gateway starts.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file, password="")
    except ssl.SSLError as error:
        raise UsageError(
            f"--tls-certificate {file}: no certificate with its key: {error.reason or error}",
            hint="Write both into one PEM file: cat certificate.pem key.pem > both.pem",
        ) from error
    except OSError as error:
        raise UsageError(f"--tls-certificate {file}: cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise UsageError(
            f"--tls-certificate {file}: others may read its key", hint=f"Run: chmod 600 {shlex.quote(str(file))}"
        )


def check_tokens(file: Path) -> None:
    """Look whether a file of bearer tokens can be used: one token a line, readable by its owner alone.

    Raises:
        UsageError: it cannot.
    """
    try:
        with open_regular(file) as stream:
            mode, text = os.fstat(stream.fileno()).st_mode, stream.read().decode("ascii")
    except OSError as error:
        raise UsageError(f"--tokens {file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"--tokens {file}: a token has letters, digits and punctuation of ASCII alone") from None
    if mode & 0o077:
        raise UsageError(f"--tokens {file}: others may read it", hint=f"Run: chmod 600 {shlex.quote(str(file))}")
    tokens = tokens_of(text)
    if not tokens:
        raise UsageError(f"--tokens {file}: holds no token", hint="Write one token a line; # begins a comment.")
    for number, line in enumerate(text.splitlines(), start=1):
        if line in tokens and not is_token(line):
            raise UsageError(f"--tokens {file}: line {number} is no token of 16 or more characters without a space")


def _routable(model: str) -> str:
    if not _ROUTABLE.fullmatch(model) or len(model.encode()) > _LONGEST_NAME:
        raise TritonkitError(
            f"the gateway cannot route by a model's name like {model!r:.200}",
            hint=f"Rename it: at most {_LONGEST_NAME} bytes, without spaces, quotes or any of # % $ / \\",
        )
    return model


def _tls(certificate: Path | None, protocols: str) -> str:
    return f" ssl crt {_quoted(certificate)} alpn {protocols}" if certificate else ""


def _quoted(word: object) -> str:
    """One word of HAProxy's configuration, whose quotes are those of a shell."""
    return shlex.quote(str(word))
