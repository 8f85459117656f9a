"""The processes of a request that is spread over servers: MPS daemons, the servers on their seats, a gateway. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tritonkit.serve import mps, shares
from tritonkit.serve.gateway import Backend, GatewayOptions, gateway_process
from tritonkit.serve.gpus import Gpu
from tritonkit.serve.plans import LOOPBACK, Host, Request, server_process
from tritonkit.serve.processes import DaemonCheck, Folder, ProcessSpec, ServerCheck, Share, environment, twin
from tritonkit.serve.seats import Seat
from tritonkit.serve.server_args import unless_given
from tritonkit.serve.stored_models import StoredModel
from tritonkit.serve.warden import mark
from tritonkit.spec.sizes import MIB

# tritonserver's own defaults for each process; several on one GPU share what one would take, down to a floor.
_PINNED_POOL, _PINNED_FLOOR = 256 * MIB, 32 * MIB
_CUDA_POOL, _CUDA_FLOOR = 64 * MIB, 8 * MIB
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def spread(
    request: Request, host: Host, seats: Sequence[Seat]
) -> tuple[tuple[ProcessSpec, ...], Mapping[str, str], tuple[str, ...]]:
    """The processes, the addresses for clients, and what a user should know.

    The public ports belong to the only server, or else to the gateway.
    """
    gpus = dict.fromkeys(seat.gpu for seat in seats if seat.gpu is not None and seat.mps)
    daemons = [_daemon(request, host, gpu) for gpu in gpus]
    notes = shares.notes(seats, request.mps, host.machine, cpu_asked=request.on_cpu)
    if len(seats) == 1 and not request.is_guarded:
        server = _server(request, host, seats[0], host.ports, host.address)
        return (*daemons, server), server.addresses, notes
    servers = [
        _server(request, host, seat, ports, LOOPBACK) for seat, ports in zip(seats, host.server_ports, strict=True)
    ]
    gateway = _gateway(request, host, seats, servers)
    return (*daemons, *servers, gateway), gateway.addresses, notes


def daemon_name(gpu: Gpu) -> str:
    """The name of the process that is a GPU's MPS daemon."""
    return f"mps-{gpu.index}"


def _daemon(request: Request, host: Host, gpu: Gpu) -> ProcessSpec:
    program = host.machine.mps_program
    assert program is not None  # noqa: S101 - a seat under MPS has one
    name, keeping = daemon_name(gpu), request.project / ".tritonkit"
    pipe, log = _pipe_directory(host, gpu), host.runtime / name / "log"
    marked = mark(host.deployment, name)
    variables = {mps.PIPE_VARIABLE: str(pipe), mps.LOG_VARIABLE: str(log), _VISIBLE: gpu.uuid}
    return ProcessSpec(
        name=name,
        argv=(str(program), "-f"),
        env=environment(_without_cuda(host.environment), marked, **variables),
        cwd=keeping / "run" / name,
        log=keeping / "logs" / f"{name}.log",
        mark=marked,
        check=DaemonCheck(program=program, pipe_directory=pipe, gpu=gpu.index, uuid=gpu.uuid),
        folders=(Folder(pipe), Folder(log)),
    )


def _server(request: Request, host: Host, seat: Seat, ports: Mapping[str, int], address: str) -> ProcessSpec:
    name = twin(seat.name) if seat.name in host.seconds else seat.name
    view = request.project / ".tritonkit" / "views" / name
    models = [host.machine.models[name] for name in seat.models]
    process = server_process(
        request,
        host,
        name,
        seat.models,
        ports=ports,
        address=address,
        repository=view,
        flags=unless_given(_pools(seat), request.server_args),
        # Several would report the same figures of the one GPU, each through a DCGM of its own.
        gpu_metrics=seat.first if seat.gpu is not None else not request.is_placed,
    )
    process = replace(process, folders=(_view(view, models, seat.gpu),))
    if seat.gpu is None:
        # Not even a look at the GPUs, where there are any.
        hidden = {_VISIBLE: ""} if request.on_cpu else {}
        return replace(process, env={**process.env, **hidden})
    assert isinstance(process.check, ServerCheck)  # noqa: S101 - as it was made
    return replace(
        process,
        env={**_without_cuda(process.env), **_limits(host, seat, seat.gpu)},
        check=replace(process.check, share=_share(host, seat, seat.gpu)),
        needs=(daemon_name(seat.gpu),) if seat.mps else (),
    )


def _share(host: Host, seat: Seat, gpu: Gpu) -> Share:
    return Share(
        gpu=gpu.index,
        uuid=gpu.uuid,
        pipe_directory=_pipe_directory(host, gpu) if seat.mps else None,
        thread_percentage=seat.thread_percentage,
        memory_limit=seat.entry.memory_limit,
        multiprocessors=gpu.multiprocessors,
    )


def _limits(host: Host, seat: Seat, gpu: Gpu) -> dict[str, str]:
    """The variables by which a server sees its GPU alone, and no more of it than it may use."""
    if not seat.mps:
        # A daemon of somebody else's may listen in the default place; no client finds it here.
        return {_VISIBLE: gpu.uuid, mps.PIPE_VARIABLE: str(host.runtime / "no-mps")}
    variables = {_VISIBLE: gpu.uuid, mps.PIPE_VARIABLE: str(_pipe_directory(host, gpu))}
    if seat.thread_percentage is not None:
        variables[mps.PERCENTAGE_VARIABLE] = f"{seat.thread_percentage:g}"
    if seat.entry.memory_limit is not None:
        # Of device 0 as the server sees it: an entry for one that it does not see would drop every limit.
        variables[mps.MEMORY_VARIABLE] = f"0={seat.entry.memory_limit // MIB}M"
    return variables


def _pools(seat: Seat) -> list[str]:
    if seat.gpu is None or seat.neighbours == 1:
        return []
    pinned = max(_PINNED_FLOOR, _PINNED_POOL // seat.neighbours)
    cuda = max(_CUDA_FLOOR, _CUDA_POOL // seat.neighbours)
    return [f"--pinned-memory-pool-byte-size={pinned}", f"--cuda-memory-pool-byte-size=0:{cuda}"]


def _view(path: Path, models: Iterable[StoredModel], gpu: Gpu | None) -> Folder:
    """The repository as one server sees it: links to what the models hold, configurations for its own GPU."""
    files: dict[str, str] = {}
    links: dict[str, Path] = {}
    for model in models:
        configs = model.configs_for(None if gpu is None else gpu.index)
        files.update({f"{model.name}/{name}": text for name, text in configs.items()})
        links.update({f"{model.name}/{entry}": model.folder / entry for entry in model.entries})
    return Folder(path, files=files, links=links)


def _gateway(request: Request, host: Host, seats: Sequence[Seat], servers: Sequence[ProcessSpec]) -> ProcessSpec:
    assert host.haproxy is not None  # noqa: S101 - the survey found it, or refused
    backends = [
        Backend(
            name=server.shown,
            http=server.addresses["http"],
            grpc=server.addresses["grpc"],
            metrics=server.addresses["metrics"],
            models=models,
        )
        for server, models in zip(servers, _routed(seats), strict=True)
    ]
    options = GatewayOptions(
        address=host.address,
        http_port=host.ports["http"],
        grpc_port=host.ports["grpc"],
        metrics_port=host.ports["metrics"],
        allow_model_control=request.allow_model_control,
        tokens_file=request.tokens_file,
        tls_certificate=request.tls_certificate,
        sticky_models=tuple(name for name, model in host.machine.models.items() if model.is_sequential),
    )
    if request.max_request_bytes is not None:
        options = replace(options, max_request_bytes=request.max_request_bytes)
    if request.request_timeout is not None:
        options = replace(options, request_timeout=request.request_timeout)
    return gateway_process(
        backends,
        options,
        program=host.haproxy,
        project=request.project,
        runtime=host.runtime,
        deployment=host.deployment,
        inherited_env=host.environment,
    )


def _routed(seats: Sequence[Seat]) -> list[tuple[str, ...]]:
    """The models whose requests go to each server: those that it was asked to have.

    A model that no entry names goes where an ensemble has brought it.
    """
    named = [set(seat.models if seat.entry.models is None else seat.entry.models) for seat in seats]
    anywhere = set().union(*named)
    return [
        tuple(model for model in seat.models if model in own or model not in anywhere)
        for seat, own in zip(seats, named, strict=True)
    ]


def _pipe_directory(host: Host, gpu: Gpu) -> Path:
    return host.runtime / daemon_name(gpu) / "pipe"


def _without_cuda(variables: Mapping[str, str]) -> dict[str, str]:
    """Without what the user's own shell says of GPUs and MPS: limits add up, and indices would count differently."""
    return {name: value for name, value in variables.items() if name != _VISIBLE and not name.startswith("CUDA_MPS_")}
