"""From what was asked for and what this machine has, to the processes that serve it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tritonkit.client.ports import DEFAULT_PORTS
from tritonkit.errors import TritonkitError
from tritonkit.serve.ports import join
from tritonkit.serve.processes import Plan, Policy, ProcessSpec, ServerCheck, environment
from tritonkit.serve.warden import mark, shared_memory_prefix
from tritonkit.tools.tritonserver import TritonServer

SERVICES = ("http", "grpc", "metrics")
SERVER_NAME = "server"
# tritonserver starts the Python stub through a shell, with these paths unquoted in the command.
_SHELL_SAFE = re.compile(r"[^\s|&;<>()$`\\\"'*?\[\]#~!{}]+")
# Flags that tritonkit sets itself, and the option of `tritonkit up` that changes them, where there is one.
_OWN_FLAGS = {
    "--id": "",
    "--model-repository": "",
    "--model-store": "",
    "--backend-directory": "",
    "--cache-directory": "",
    "--exit-on-error": "",
    "--exit-timeout-secs": "--stop-timeout",
    "--log-verbose": "--log-verbose",
    "--log-file": "",
    "--http-address": "--host",
    "--grpc-address": "--host",
    "--metrics-address": "--host",
    "--http-port": "--http-port",
    "--grpc-port": "--grpc-port",
    "--metrics-port": "--metrics-port",
    "--allow-http": "",
    # Readiness is asked for over HTTP, with no key.
    "--http-restricted-api": "",
}
_CONTROL_MODE = "--model-control-mode"


@dataclass(frozen=True)
class Request:
    """What to serve, and how.

    Attributes:
        repository: the model repository.
        project: the folder whose ``.tritonkit`` keeps the state and the logs.
        spec: the spec that the repository was built from, if any; only noted.
        models: the models of a repository that is not built yet; None looks into the repository.
        host: the name or IPv4 address to listen on.
        ports: the port of each of ``SERVICES``; 0 takes a free one.
        log_verbose: Triton's verbosity, from 0.
        server_args: further flags of tritonserver, as they are.
        policy: how patient the supervisor is.
    """

    repository: Path
    project: Path
    spec: Path | None = None
    models: tuple[str, ...] | None = None
    host: str = "127.0.0.1"
    ports: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_PORTS))
    log_verbose: int = 0
    server_args: tuple[str, ...] = ()
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class Host:
    """What this machine has for a request, as ``survey`` found it.

    Attributes:
        server: the tritonserver to run.
        backend_directory: the backend directory to run it with.
        models: the folders of the repository, by name.
        address: the IPv4 address to listen on.
        ports: the port of each of ``SERVICES``, none of them 0.
        programs: the folder that must come first on ``PATH``; None leaves ``PATH`` as it is.
        library_path: ``LD_LIBRARY_PATH``; empty leaves it as it is.
        environment: the environment that processes start from.
        deployment: a name that no other deployment has.
    """

    server: TritonServer
    backend_directory: Path
    models: tuple[str, ...]
    address: str
    ports: Mapping[str, int]
    programs: Path | None
    library_path: str
    environment: Mapping[str, str]
    deployment: str


def plan(request: Request, host: Host) -> Plan:
    """The processes that serve ``request`` on ``host``. Reads and writes nothing.

    Raises:
        TritonkitError: what is asked for cannot work, such as a path that the Python stub cannot take.
    """
    _check_server_args(request.server_args)
    if host.server.bundled:
        _check_path("the model repository", request.repository)
        for name in host.models:
            _check_path("a model's folder", Path(name))
        _check_path("the cache of tritonkit ($TRITONKIT_CACHE)", host.backend_directory)
        if host.programs is not None:
            _check_path("the Python environment", host.programs)
    keeping = request.project / ".tritonkit"
    marked = mark(host.deployment, SERVER_NAME)
    server_id = f"tritonkit-{marked.rstrip('.')}"
    addresses = {service: join(host.address, host.ports[service]) for service in SERVICES}
    process = ProcessSpec(
        name=SERVER_NAME,
        argv=_argv(request, host, server_id, shared_memory_prefix(marked)),
        env=_environment(host, marked),
        cwd=keeping / "run" / SERVER_NAME,
        log=keeping / "logs" / f"{SERVER_NAME}.log",
        mark=marked,
        check=ServerCheck(
            http=addresses["http"],
            server_id=server_id,
            models=() if _explicit(request.server_args) else host.models,
        ),
        addresses=addresses,
    )
    return Plan(
        deployment=host.deployment,
        project=request.project,
        repository=request.repository,
        spec=request.spec,
        addresses=addresses,
        processes=(process,),
        policy=request.policy,
    )


def _argv(request: Request, host: Host, server_id: str, shared_memory: str) -> tuple[str, ...]:
    return (
        str(host.server.binary),
        f"--id={server_id}",
        f"--model-repository={request.repository}",
        f"--backend-directory={host.backend_directory}",
        f"--cache-directory={host.server.caches}",
        f"--backend-config=python,shm-region-prefix-name={shared_memory}",
        # A model that does not load must not end the server: its index then says which one, and why.
        "--exit-on-error=false",
        # Triton gives up on requests in flight some seconds before it would be killed.
        f"--exit-timeout-secs={max(1, int(request.policy.stop_timeout) - 5)}",
        *(f"--{service}-address={host.address}" for service in SERVICES),
        *(f"--{service}-port={host.ports[service]}" for service in SERVICES),
        *((f"--log-verbose={request.log_verbose}",) if request.log_verbose else ()),
        *request.server_args,
    )


# A message of hundreds of kB is memory that the C library would give back after each request, and then has to fault in
# again: a fifth of what tritonserver spends on one.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 1024 * 1024),
    "MALLOC_TOP_PAD_": str(16 * 1024 * 1024),
}


def _environment(host: Host, marked: str) -> dict[str, str]:
    variables = environment(host.environment, marked)
    if host.programs is not None:
        # The stub takes its packages from the first python3 on PATH. Only that of Python 3.10 heeds these two;
        # without them every version does the same.
        variables.pop("PYTHONPATH", None)
        variables.pop("PYTHONHOME", None)
        variables["PATH"] = f"{host.programs}:{variables.get('PATH', '')}".rstrip(":")
    if host.library_path:
        variables = {**_ALLOCATOR, **variables, "LD_LIBRARY_PATH": host.library_path}
    return variables


def _check_server_args(arguments: tuple[str, ...]) -> None:
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if not flag.startswith("--") or any(letter.isspace() for letter in flag):
            raise TritonkitError(
                f"--server-arg {argument!r}: expected one flag of tritonserver with its value, "
                "like --server-arg=--rate-limit=off"
            )
        # tritonserver takes a flag also by its first letters.
        meant = next((own for own in _OWN_FLAGS if own.startswith(flag)), None)
        if meant is not None or value.startswith("python,shm-region-prefix-name"):
            own = _OWN_FLAGS.get(meant or "")
            raise TritonkitError(
                f"--server-arg {argument}: tritonkit sets this flag itself",
                hint=f"Use tritonkit's own option {own}." if own else None,
            )


def _explicit(arguments: tuple[str, ...]) -> bool:
    """Whether models are loaded only when somebody asks for them."""
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if _CONTROL_MODE.startswith(flag) and value.lower() == "explicit":
            return True
    return False


def _check_path(what: str, path: Path) -> None:
    if not _SHELL_SAFE.fullmatch(str(path)):
        raise TritonkitError(
            f"{what} has a space or a character with a meaning to a shell in its path: {str(path)!r}",
            hint="tritonserver passes such a path to a shell unquoted, and would hang. Move or rename it.",
        )
