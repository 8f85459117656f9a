"""What a deployment consists of, as frozen values: what the planning gives, and the supervisor starts and keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tritonkit.serve.ports import Held
from tritonkit.serve.warden import MARK

# No server's name in a spec has it: the second one of the two names that a server's processes have in turn.
_SECOND = "+"


@dataclass(frozen=True)
class Policy:
    """How patient the supervisor is; every time in seconds.

    Attributes:
        start_timeout: from the start of a process to its readiness.
        stop_timeout: from SIGTERM to SIGKILL.
        kill_timeout: from SIGKILL to the end, before a process counts as one that cannot be ended.
        max_restarts: restarts in a row, without a stable time between them, before it gives up.
        backoff: before the first restart; doubled for each further one.
        backoff_limit: the longest wait before a restart.
        stable_after: ready for this long, a process has earned a fresh count of restarts.
    """

    start_timeout: float = 300.0
    stop_timeout: float = 30.0
    kill_timeout: float = 30.0
    max_restarts: int = 5
    backoff: float = 0.5
    backoff_limit: float = 30.0
    stable_after: float = 60.0


@dataclass(frozen=True)
class Share:
    """What a server has of one GPU.

    Attributes:
        gpu: the GPU's index, as the driver counts.
        uuid: the GPU's UUID; the server sees this GPU alone, as device 0.
        pipe_directory: of the MPS control daemon that the server is a client of; None without MPS.
        thread_percentage: the most of the GPU's SMs that each of its processes may use; None sets no limit.
        memory_limit: the most bytes of the GPU's memory that each of its processes may take; None sets no limit.
        multiprocessors: how many SMs the whole GPU has.
    """

    gpu: int
    uuid: str
    pipe_directory: Path | None
    thread_percentage: float | None
    memory_limit: int | None
    multiprocessors: int


@dataclass(frozen=True)
class ServerCheck:
    """A tritonserver: ready when it answers under its own id and every model is READY.

    Attributes:
        http: the address that it answers health requests on.
        server_id: what the server calls itself there, so that no other server is taken for it.
        models: the models that must be READY before it is.
        share: the part of a GPU that it must be seen to hold; None where it has no GPU of its own.
        probe: seconds within which each model must answer a request of zeros, or make progress on others; sent as
            often. None sends none.
    """

    http: str
    server_id: str
    models: tuple[str, ...]
    share: Share | None = None
    probe: float | None = None

    def __str__(self) -> str:
        return f"{', '.join(self.models) or 'the server'} READY at {self.http}"


@dataclass(frozen=True)
class DaemonCheck:
    """An MPS control daemon: ready when it answers on its pipe.

    Attributes:
        program: ``nvidia-cuda-mps-control``.
        pipe_directory: where its pipe lies.
        gpu: the index of its GPU, as the driver counts.
        uuid: that GPU's UUID.
    """

    program: Path
    pipe_directory: Path
    gpu: int
    uuid: str

    def __str__(self) -> str:
        return f"the daemon answers in {self.pipe_directory}"


@dataclass(frozen=True)
class GatewayCheck:
    """HAProxy: ready when its own health page answers.

    Attributes:
        http: the address of the gateway for clients.
        control: HAProxy's own Unix socket, by which servers are drained and their state is read.
    """

    http: str
    control: Path

    def __str__(self) -> str:
        return f"the gateway answers at {self.http}"


Check = ServerCheck | DaemonCheck | GatewayCheck


@dataclass(frozen=True)
class Folder:
    """A folder that a process needs, replaced whole before each of its starts.

    Attributes:
        path: where it lies, within the deployment's own folder.
        files: the text of each file, by its path in the folder.
        links: the target of each symbolic link, by its path in the folder.
    """

    path: Path
    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class ProcessSpec:
    """One process to start and keep.

    Attributes:
        name: unique in the plan; of a server it is the server's, or that name's ``twin``.
        argv: the program and its arguments.
        env: its whole environment.
        cwd: its working directory, emptied before every start: the Python stub would import a ``model.py``
            that lies there in place of the model's own.
        log: the file that takes both its output streams.
        mark: what ``serve.warden`` knows its processes and shared memory by.
        check: what it is, and how its readiness and health are judged.
        addresses: where it answers, by service (``http``, ``grpc``, ``metrics``).
        needs: the processes that must be ready whenever it runs: their end takes it along.
        after: the processes that must have been ready once before its first start.
        folders: what is written for it before each start.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    mark: str
    check: Check
    addresses: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    folders: tuple[Folder, ...] = ()

    @property
    def shown(self) -> str:
        """The name that people and the gateway know it by, whichever of a server's two names it has."""
        return shown(self.name)

    @property
    def kind(self) -> str:
        """``server``, ``mps`` or ``gateway``."""
        return {ServerCheck: "server", DaemonCheck: "mps", GatewayCheck: "gateway"}[type(self.check)]

    @property
    def models(self) -> tuple[str, ...]:
        """The models that must be READY before it is."""
        return self.check.models if isinstance(self.check, ServerCheck) else ()


@dataclass(frozen=True)
class Plan:
    """The processes of one deployment, in the order of their start.

    Attributes:
        deployment: a name that no other deployment has.
        project: the folder whose ``.tritonkit`` keeps the state and the logs.
        repository: the model repository.
        spec: the spec that it was built from, if any.
        addresses: where clients find it, by service.
        processes: what is started.
        policy: how patient the supervisor is.
        tokens_file: the file with the tokens of which clients must bear one; None where they need none.
        tls_certificate: the file with the certificate that clients see, and its key; None without TLS.
        notes: what a user should know of it, each a sentence.
        held: the ports that are kept for it until its supervisor ends; no part of what is planned.
    """

    deployment: str
    project: Path
    repository: Path
    spec: Path | None
    addresses: Mapping[str, str]
    processes: tuple[ProcessSpec, ...]
    policy: Policy
    tokens_file: Path | None = None
    tls_certificate: Path | None = None
    notes: tuple[str, ...] = ()
    held: tuple[Held, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Change:
    """A change to a deployment that runs.

    Attributes:
        server: the name of a server, as in the spec or as in the plan.
        thread_percentage: the most of its GPU's SMs that each of its processes may use from now on; None leaves it.
        beside: the process that is to be planned anew under its ``twin`` name, on other ports, to run beside it for a
            while; empty for none.
        running: the processes as they run now, none of them a second one of its server.
    """

    server: str
    thread_percentage: float | None = None
    beside: str = ""
    running: tuple[ProcessSpec, ...] = ()


def shown(name: str) -> str:
    """The name that people and the gateway know a process by."""
    return name.removesuffix(_SECOND)


def twin(name: str) -> str:
    """The other one of the two names that the processes of one server have in turn: one may run beside the other."""
    return shown(name) if name.endswith(_SECOND) else f"{name}{_SECOND}"


def environment(inherited: Mapping[str, str], marked: str, **variables: str) -> dict[str, str]:
    """The whole environment of a process with this mark: what is inherited, and ``variables`` on top."""
    return {**inherited, MARK: marked, **variables}
