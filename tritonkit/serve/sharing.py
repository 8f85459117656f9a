"""Who shares the GPUs of a deployment that runs: its MPS daemons, and their clients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tritonkit.errors import ToolMissing, TritonkitError
from tritonkit.serve import procfs, warden
from tritonkit.serve.mps import PROGRAM, Client, Daemon, located
from tritonkit.serve.processes import twin
from tritonkit.serve.state import Deployment, ServerState


@dataclass(frozen=True)
class Sharer:
    """One client process of an MPS daemon.

    Attributes:
        pid: its process.
        command: its program.
        server: the server of the deployment that it belongs to; empty for somebody else's process.
        model: the model whose Python stub it is; empty for tritonserver itself.
        thread_percentage: what limits it; None where nothing does.
    """

    pid: int
    command: str
    server: str
    model: str
    thread_percentage: float | None


@dataclass(frozen=True)
class Shared:
    """One MPS daemon of a deployment.

    Attributes:
        name: of its process in the plan.
        gpu: the index of its GPU.
        pid: its process; None while it has none.
        pipe_directory: where its pipe lies.
        answers: whether it answers.
        servers: its MPS servers.
        clients: the clients of these.
    """

    name: str
    gpu: int
    pid: int | None
    pipe_directory: Path
    answers: bool
    servers: tuple[int, ...] = ()
    clients: tuple[Sharer, ...] = ()


def daemons(deployment: Deployment) -> tuple[Shared, ...]:
    """Every MPS daemon of a deployment, as it is now.

    Raises:
        ToolMissing: there is a daemon, and no program to ask it.
    """
    found = [process for process in deployment.servers if process.kind == "mps"]
    program = located()
    if found and program is None:
        raise ToolMissing(f"{PROGRAM} is not on PATH: it asks the daemon", hint="It comes with the NVIDIA driver.")
    owners = _owners(deployment)
    return tuple(_shared(process, program, owners) for process in found if program is not None)


def _shared(process: ServerState, program: Path, owners: dict[int, ServerState]) -> Shared:
    assert process.control is not None  # noqa: S101 - a daemon has a pipe directory
    assert process.gpu is not None  # noqa: S101 - and a GPU
    daemon = Daemon(program, process.control)
    try:
        return Shared(
            name=process.name,
            gpu=process.gpu,
            pid=process.pid,
            pipe_directory=process.control,
            answers=True,
            servers=daemon.servers(),
            clients=tuple(_sharer(client, owners.get(client.pid)) for client in daemon.clients()),
        )
    except TritonkitError:
        return Shared(process.name, process.gpu, process.pid, process.control, answers=False)


def _owners(deployment: Deployment) -> dict[int, ServerState]:
    return {
        pid: server
        for server in deployment.servers
        if server.kind == "server"
        for name in (server.name, twin(server.name))
        for pid in warden.members(warden.mark(deployment.id, name))
    }


def _sharer(client: Client, owner: ServerState | None) -> Sharer:
    if owner is None:
        return Sharer(client.pid, client.command, "", "", None)
    return Sharer(client.pid, client.command, owner.name, _model(client.pid, owner.models), owner.thread_percentage)


def _model(pid: int, models: tuple[str, ...]) -> str:
    # A stub is told the file of its model: FOLDER/MODEL/VERSION/FILE.
    words = procfs.arguments(pid) or []
    parts = Path(words[1]).parts if len(words) > 1 else ()
    return parts[-3] if len(parts) > 3 and parts[-3] in models else ""
