"""``.tritonkit`` in the project folder: the state of its deployment, the lock that it holds, its logs."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tritonkit.errors import LaunchFailed, TritonkitError
from tritonkit.serve import runtime, warden
from tritonkit.serve.procfs import is_running, start_ticks

# A link is not followed: it exists.
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_ID = re.compile(r"[0-9a-f]{8}")
COMPOSITION = "compose"
_OPTIONAL_PATHS = ("spec", "tokens_file", "tls_certificate")
NOT_RUNNING_HINT = "Start one with: tritonkit up"


@dataclass(frozen=True)
class ServerState:
    """One process of a deployment, as it was last written down.

    Attributes:
        name: as in the plan.
        phase: its phase, by name.
        pid: of the running process, or None.
        restarts: how often it was started again.
        since: when it came into this phase, in seconds since the epoch.
        reason: why it last ended unasked; empty when it never did.
        log: its log.
        kind: ``server``, ``mps`` or ``gateway``.
        addresses: where it answers, by service (``http``, ``grpc``, ``metrics``).
        models: the models that it must serve.
        gpu: the index of its GPU, or of the one that it shares out; None where it has none of its own.
        uuid: that GPU's UUID.
        thread_percentage: the most of the GPU's SMs that it may use; None without a limit.
        memory_limit: the most bytes of the GPU's memory that each of its processes may take; None without a limit.
        control: HAProxy's socket, or the MPS daemon's pipe directory; None for a server.
        repository: what ``record.fingerprint`` said of the repository when it was loaded.
    """

    name: str
    phase: str
    pid: int | None
    restarts: int
    since: float
    reason: str
    log: Path
    kind: str = "server"
    addresses: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    gpu: int | None = None
    uuid: str | None = None
    thread_percentage: float | None = None
    memory_limit: int | None = None
    control: Path | None = None
    repository: str = ""

    @property
    def http(self) -> str:
        """The address that it answers HTTP requests on; empty for an MPS daemon."""
        return self.addresses.get("http", "")


@dataclass(frozen=True)
class Deployment:
    """What runs in a project.

    Attributes:
        id: a name that no other deployment has.
        pid: of its supervisor.
        began: when the supervisor began, in clock ticks since boot; with ``pid`` it names one process.
        started: when the deployment was started, in seconds since the epoch.
        project: the project folder.
        repository: the model repository that is served.
        spec: the spec that it was built from, or None.
        http: ``host:port`` for HTTP.
        grpc: ``host:port`` for gRPC.
        metrics: ``host:port`` for Prometheus.
        stop_timeout: seconds that each of its processes has for an orderly end.
        state: ``starting``, ``ready``, ``degraded`` (it was ready, and a process is not) or ``stopping``.
        ready: whether every process was ready when this was written.
        control: the supervisor's own socket (``serve.control``).
        servers: its processes.
        tokens_file: the file with the tokens of which clients must bear one; None where they need none.
        tls_certificate: the file with the certificate that clients see, and its key; None without TLS.
    """

    id: str
    pid: int
    began: int
    started: float
    project: Path
    repository: Path
    spec: Path | None
    http: str
    grpc: str
    metrics: str
    stop_timeout: float
    state: str
    ready: bool
    control: Path
    servers: tuple[ServerState, ...]
    tokens_file: Path | None = None
    tls_certificate: Path | None = None

    @property
    def alive(self) -> bool:
        """Whether its supervisor runs."""
        return is_running(self.pid, self.began)


def directory(project: Path) -> Path:
    """Where a project's deployment keeps its state and its logs."""
    return project / ".tritonkit"


def prepare(project: Path) -> Path:
    """The ``directory`` of a project, made.

    Raises:
        TritonkitError: it cannot be written to, or it, or a part of it, leads elsewhere.
    """
    folder = directory(project)
    try:
        _make(folder)
    except OSError as error:
        raise TritonkitError(f"{folder}: cannot be written to: {error.strerror}") from error
    return folder


def running(project: Path) -> Deployment:
    """The live deployment of a project; it may still be starting (``ready``).

    Raises:
        TritonkitError: nothing runs there.
    """
    deployment = recorded(project)
    if deployment is None or not deployment.alive:
        raise TritonkitError(f"no server runs in {project}", hint=NOT_RUNNING_HINT)
    return deployment


def recorded(project: Path) -> Deployment | None:
    """What the state file says, whether or not that still runs; None when there is none that can be read."""
    try:
        return _parsed(json.loads(_file(project).read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        # A file of another version, or damaged: the lock says whether something runs.
        return None


class Claim:
    """The right to run the one deployment of a project. The kernel takes it back when the holder dies."""

    def __init__(self, project: Path) -> None:
        """Take the project, and clean up after a run of it that was killed.

        Raises:
            LaunchFailed: another ``up`` holds it.
            TritonkitError: the folder cannot be written to, or leads elsewhere.
        """
        self.project = project
        self.leftover = 0
        self._lock = _locked(project)
        stale = recorded(project)
        # One that is alive without this lock is another project's, of which this folder is a copy.
        if stale is not None and not stale.alive:
            self.leftover = warden.clean(warden.mark(stale.id))
            runtime.remove(runtime.runtime_directory(stale.id))
        _file(project).unlink(missing_ok=True)

    def write(self, deployment: Deployment) -> None:
        """Replace the state file, whole."""
        path = _file(self.project)
        beside = path.with_name(".state.json.new")
        # A rest of a run that was killed; or a link, which must not be written through.
        beside.unlink(missing_ok=True)
        with open(os.open(beside, _NEW_FILE, 0o644), "w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(deployment), indent=2, default=str) + "\n")
        beside.replace(path)

    def keep(self, deployment: Deployment) -> None:
        """Put the folder back where somebody has removed it, or a part of it.

        Raises:
            LaunchFailed: another ``up`` has taken the project meanwhile.
            TritonkitError: the folder cannot be written to.
        """
        folder = directory(self.project)
        try:
            there = os.path.samestat(os.fstat(self._lock), os.stat(folder / "lock"))
        except OSError:
            there = False
        if not there:
            lock = _locked(self.project)
            os.close(self._lock)
            self._lock = lock
        if not there or not _file(self.project).exists() or not (folder / "logs").is_dir():
            _make(folder)
            self.write(deployment)

    def release(self, *, forget: bool = True) -> None:
        """Give the project back; ``forget`` removes the state file, for the one who wrote it."""
        if forget:
            _file(self.project).unlink(missing_ok=True)
        os.close(self._lock)


def refuse_second(project: Path) -> None:
    """See that no deployment of the project runs; for those who want to know before they begin. Writes nothing.

    Raises:
        LaunchFailed: one does, or is just coming up.
    """
    try:
        lock = os.open(directory(project) / "lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        raise _up_already(project) from None
    finally:
        os.close(lock)


def _locked(project: Path) -> int:
    folder = prepare(project)
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise TritonkitError(f"{folder}: cannot be written to: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise _up_already(project) from None
    return lock


def _up_already(project: Path) -> LaunchFailed:
    other = recorded(project)
    who = f" (process {other.pid}, serving {other.repository} at {other.http})" if other else ""
    return LaunchFailed(
        f"a deployment of {project} is up already{who}",
        hint="See it with: tritonkit status. Stop it with: tritonkit down",
    )


def began(pid: int) -> int:
    """When a running process began, for ``Deployment.began``."""
    return start_ticks(pid) or 0


def _make(folder: Path) -> None:
    # A project may come from anywhere, so what stands there is not trusted: what is written or removed below
    # must lie in this folder itself.
    for place in (folder, *(folder / name for name in ("logs", "run", "views", "gateway", COMPOSITION))):
        if place.is_symlink():
            raise TritonkitError(f"{place}: is a link; only a folder can keep a deployment's state", hint="Remove it.")
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), open(os.open(folder / ".gitignore", _NEW_FILE, 0o644), "w") as file:
        file.write("*\n")


def _file(project: Path) -> Path:
    return directory(project) / "state.json"


def _parsed(value: Mapping[str, Any]) -> Deployment:
    # Processes are killed, and files are removed, by these.
    if not _ID.fullmatch(value["id"]) or type(value["pid"]) is not int or value["pid"] < 1:
        raise ValueError("no state of a deployment")
    servers = tuple(_parsed_server(server) for server in value["servers"])
    return Deployment(
        **{
            **value,
            "project": Path(value["project"]),
            "repository": Path(value["repository"]),
            **{name: None if value.get(name) is None else Path(value[name]) for name in _OPTIONAL_PATHS},
            "stop_timeout": float(value["stop_timeout"]),
            "control": Path(value["control"]),
            "servers": servers,
        }
    )


def _parsed_server(value: Mapping[str, Any]) -> ServerState:
    control = value["control"]
    return ServerState(
        **{
            **value,
            "log": Path(value["log"]),
            "models": tuple(value["models"]),
            "control": None if control is None else Path(control),
        }
    )
