"""From what was asked for and what this machine has, to the processes that serve it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tritonkit.client.ports import DEFAULT_PORTS
from tritonkit.errors import UsageError
from tritonkit.serve.gpus import NONE
from tritonkit.serve.ports import Held, join
from tritonkit.serve.processes import Plan, Policy, ProcessSpec, ServerCheck, environment, shown
from tritonkit.serve.seats import Machine, Mps, Seat
from tritonkit.serve.server_args import check_server_args, controllable, is_explicit, stub_settings, unless_given
from tritonkit.serve.warden import mark, shared_memory_prefix
from tritonkit.tools.tritonserver import ALLOCATOR, TritonServer, check_path

if TYPE_CHECKING:
    from tritonkit.serve.stored_models import StoredModel
    from tritonkit.spec.servers import Server

SERVICES = ("http", "grpc", "metrics")
SERVER_NAME = "server"
LOOPBACK = "127.0.0.1"
# Metrics of GPUs come from DCGM. Where it finds no driver it logs that as two errors, in /var/log too where it may; and
# tritonserver was seen to stand still there, once, for the half minute that it was watched.
_NO_GPU_METRICS = "--allow-gpu-metrics=false"


@dataclass(frozen=True)
class Request:
    """What to serve, and how.

    Attributes:
        repository: the model repository.
        project: the folder whose ``.tritonkit`` keeps the state and the logs.
        spec: the spec that the repository was built from, if any; only noted.
        models: the models of a repository that is not built yet; None looks into the repository.
        servers: the spec's servers; none puts every model into one server on each GPU.
        gpus: which GPUs to serve on, by index or UUID, or ``all``, or ``none`` for the CPU alone; None takes every one
            where there are ``servers``, and else leaves the choice to one tritonserver.
        mps: whether servers are clients of an MPS daemon; ``auto`` where that can be.
        host: the name or IPv4 address to listen on.
        ports: the port of each of ``SERVICES``; 0 takes a free one.
        log_verbose: Triton's verbosity, from 0.
        server_args: further flags of tritonserver, as they are.
        allow_model_control: let clients load and unload models; every one is loaded at the start.
        tokens_file: bearer tokens that the gateway asks for; None asks for none.
        tls_certificate: the gateway's certificate and key; None serves without TLS.
        max_request_bytes: the longest request that the gateway takes; None keeps its default.
        request_timeout: seconds that the gateway waits for a server's answer; None keeps its default.
        probe: seconds within which each model must answer a request of the supervisor's; None sends none.
        percentages: thread percentages by process, in place of those of ``servers``.
        policy: how patient the supervisor is.
    """

    repository: Path
    project: Path
    spec: Path | None = None
    models: Mapping[str, StoredModel] | None = None
    servers: tuple[Server, ...] = ()
    gpus: tuple[str, ...] | None = None
    mps: Mps = "auto"
    host: str = LOOPBACK
    ports: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_PORTS))
    log_verbose: int = 0
    server_args: tuple[str, ...] = ()
    allow_model_control: bool = False
    tokens_file: Path | None = None
    tls_certificate: Path | None = None
    max_request_bytes: int | None = None
    request_timeout: float | None = None
    probe: float | None = None
    percentages: Mapping[str, float] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)

    @property
    def is_spread(self) -> bool:
        """Whether it is more than one tritonserver that sees all of this machine, and that clients reach directly."""
        return self.is_placed or self.is_guarded

    @property
    def is_placed(self) -> bool:
        """Whether it says which servers there are, or on which GPUs."""
        return bool(self.servers) or self.gpus is not None

    @property
    def is_guarded(self) -> bool:
        """Whether it asks for what only the gateway can do, so that even one server has one."""
        asked = (self.tokens_file, self.tls_certificate, self.max_request_bytes, self.request_timeout)
        return any(one is not None for one in asked)

    @property
    def entries(self) -> tuple[Server, ...]:
        """The servers that are meant."""
        from tritonkit.spec.servers import Server

        return self.servers or (Server(SERVER_NAME),)

    @property
    def on_cpu(self) -> bool:
        """Whether the CPU was asked for."""
        return self.gpus == (NONE,)


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
        machine: GPUs and models, where the request is spread over servers.
        server_ports: the ports of each server behind a gateway.
        seconds: the servers behind a gateway whose process has its ``twin`` name.
        haproxy: the gateway's program; None where there is only one server.
        runtime: the short folder for sockets.
        held: the ports that are kept for it.
        driver: whether its processes may find an NVIDIA driver.
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
    machine: Machine = field(default_factory=Machine)
    server_ports: tuple[Mapping[str, int], ...] = ()
    seconds: frozenset[str] = frozenset()
    haproxy: Path | None = None
    runtime: Path = Path()
    held: tuple[Held, ...] = ()
    driver: bool = True


def seats(request: Request, machine: Machine, beside: str = "") -> tuple[Seat, ...]:
    """The server processes of a request that is spread over servers.

    Args:
        request: what to serve.
        machine: where.
        beside: the process that must have room for a second one of its kind.

    Raises:
        SpecError: it cannot be done on this machine; every fault is in it.
    """
    # Only a request that is spread over servers pays for this.
    from tritonkit.serve import shares

    return shares.seats(
        request.entries,
        request.mps,
        machine,
        cpu_asked=request.on_cpu,
        percentages=request.percentages,
        beside=beside,
    )


def plan(request: Request, host: Host) -> Plan:
    """The processes that serve ``request`` on ``host``. Reads and writes nothing.

    Raises:
        SpecError: its servers cannot share this machine as they say; every fault is in it.
        UsageError: what is asked for cannot work, such as a path that the Python stub cannot take.
    """
    check_server_args(request.server_args)
    if host.server.bundled:
        check_path("the model repository", request.repository)
        for name in host.models:
            check_path("a model's folder", Path(name))
        check_path("the cache of tritonkit ($TRITONKIT_CACHE)", host.backend_directory)
        if host.programs is not None:
            check_path("the Python environment", host.programs)
    if request.is_spread:
        from tritonkit.serve import spreading

        if host.server.bundled:
            check_path("the project folder", request.project)
        processes, addresses, notes = spreading.spread(request, host, seats(request, host.machine))
    else:
        process = server_process(request, host, SERVER_NAME, host.models, ports=host.ports, address=host.address)
        processes, addresses, notes = (process,), process.addresses, ()
    if request.mps == "on" and not any(process.kind == "mps" for process in processes):
        raise UsageError(
            "--mps on: no server has a GPU of its own", hint="Say which GPUs: --gpus 0, or `servers` in the spec."
        )
    return Plan(
        deployment=host.deployment,
        project=request.project,
        repository=request.repository,
        spec=request.spec,
        addresses=addresses,
        processes=processes,
        policy=request.policy,
        tokens_file=request.tokens_file,
        tls_certificate=request.tls_certificate,
        notes=notes,
        held=host.held,
    )


def server_process(
    request: Request,
    host: Host,
    name: str,
    models: tuple[str, ...],
    *,
    ports: Mapping[str, int],
    address: str,
    repository: Path | None = None,
    flags: Sequence[str] = (),
    gpu_metrics: bool = True,
) -> ProcessSpec:
    """One tritonserver, on this machine as it is.

    Args:
        request: what to serve, and how.
        host: what this machine has.
        name: of the process.
        models: the models of its repository.
        ports: the port of each of ``SERVICES``.
        address: the IPv4 address to listen on.
        repository: its model repository, where that is not the request's.
        flags: more flags, before those of the user.
        gpu_metrics: whether it tells the state of the GPUs that it sees, where there may be any.
    """
    keeping = request.project / ".tritonkit"
    marked = mark(host.deployment, name)
    server_id = f"tritonkit-{marked.rstrip('.')}"
    addresses = {service: join(address, ports[service]) for service in SERVICES}
    argv = (
        str(host.server.binary),
        f"--id={server_id}",
        f"--model-repository={repository or request.repository}",
        f"--backend-directory={host.backend_directory}",
        f"--cache-directory={host.server.caches}",
        *stub_settings(shared_memory_prefix(marked), request.server_args, bundled=host.server.bundled),
        # A model that does not load must not end the server: its index then says which one, and why.
        "--exit-on-error=false",
        # Triton gives up on requests in flight some seconds before it would be killed.
        f"--exit-timeout-secs={max(1, int(request.policy.stop_timeout) - 5)}",
        *(f"--{service}-address={address}" for service in SERVICES),
        *(f"--{service}-port={ports[service]}" for service in SERVICES),
        *((f"--log-verbose={request.log_verbose}",) if request.log_verbose else ()),
        *(controllable(request.server_args) if request.allow_model_control else ()),
        *flags,
        *(() if host.driver and gpu_metrics else unless_given((_NO_GPU_METRICS,), request.server_args)),
        *request.server_args,
    )
    return ProcessSpec(
        name=name,
        argv=argv,
        env=_environment(host, marked),
        cwd=keeping / "run" / name,
        # Of both processes that a server may have.
        log=keeping / "logs" / f"{shown(name)}.log",
        mark=marked,
        check=ServerCheck(
            http=addresses["http"],
            server_id=server_id,
            models=() if is_explicit(request.server_args) else models,
            probe=request.probe,
        ),
        addresses=addresses,
    )


def _environment(host: Host, marked: str) -> dict[str, str]:
    variables = environment(host.environment, marked)
    if host.programs is not None:
        # The stub takes its packages from the first python3 on PATH. Only that of Python 3.10 heeds these two;
        # without them every version does the same.
        variables.pop("PYTHONPATH", None)
        variables.pop("PYTHONHOME", None)
        variables["PATH"] = f"{host.programs}:{variables.get('PATH', '')}".rstrip(":")
    if host.library_path:
        variables = {**ALLOCATOR, **variables, "LD_LIBRARY_PATH": host.library_path}
    return variables
