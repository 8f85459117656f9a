"""The same plan as containers: every process a service of Docker Compose. Pure.

Arguments, environments and files are those of the plan's processes; only the folders in them are rewritten to where the
containers have them. The containers use the host's network, so the plan's addresses hold as they are.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tritonkit.resources import templates_directory
from tritonkit.serve.processes import DaemonCheck, Folder, GatewayCheck, Plan, ProcessSpec
from tritonkit.serve.runtime import runtime_directory

COMPOSE = "compose.yaml"
TRITON_IMAGE = "nvcr.io/nvidia/tritonserver:24.10-py3"
"""The release of Triton that the rules of ``tritonkit check`` are held against."""
GATEWAY_IMAGE = "haproxy:2.6"

# Where the containers have the folders of this machine.
REPOSITORY = "/models"
KEEPING = "/tritonkit"
RUNTIME = "/run/tritonkit"
SCRIPTS = "/tritonkit/scripts"
SECRETS = "/tritonkit/secrets"
_MPS_DAEMON, _MPS_CLIENT = "mps_daemon.sh", "mps_client.sh"
# Without MPS each container has a /dev/shm of its own: Python models pass their tensors through it.
_SHARED_MEMORY = "1gb"
# Beyond the time that a process takes for its own end, in seconds.
_STOP_MARGIN = 5
_ANSWERS = "echo get_default_active_thread_percentage | nvidia-cuda-mps-control | grep -Eq '^[0-9]+([.][0-9]+)?$'"


@dataclass(frozen=True)
class Images:
    """What the containers run.

    Attributes:
        triton: an image of Triton, for servers and MPS daemons.
        gateway: an image of HAProxy.
    """

    triton: str = TRITON_IMAGE
    gateway: str = GATEWAY_IMAGE

    @classmethod
    def chosen(cls, triton: str | None, gateway: str | None) -> Images:
        """Those that are named, and the default in place of None."""
        return cls(triton or TRITON_IMAGE, gateway or GATEWAY_IMAGE)


@dataclass(frozen=True)
class Mount:
    """A folder or a volume in a container.

    Attributes:
        source: a folder, relative to the compose file or absolute, or the name of a volume.
        target: where the container has it.
        read_only: whether the container may not write to it.
    """

    source: str
    target: str
    read_only: bool = True

    @property
    def kind(self) -> str:
        """``bind`` or ``volume``."""
        return "bind" if self.source.startswith((".", "/")) else "volume"


@dataclass(frozen=True)
class Service:
    """One container.

    Attributes:
        name: that of its process in the plan.
        image: what it runs.
        command: its program and arguments.
        environment: its variables, in addition to the image's.
        working_dir: an empty folder.
        mounts: what it sees of this machine.
        health: the command that says whether it is ready.
        start_period: seconds that it has for its start.
        stop_grace_period: seconds that it has for its end.
        after: the services that must be healthy before its first start.
        gpu: the UUID of the one GPU that it gets, or None.
        ipc: ``host`` where it shares memory with an MPS daemon, or None.
        pid: ``host`` where it must know the processes of other containers, or None.
        shm_size: of its own /dev/shm, or None.
        tmpfs: folders in memory that it may write to.
        user: who it runs as, where that is not the image's choice.
    """

    name: str
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    working_dir: str
    mounts: tuple[Mount, ...]
    health: tuple[str, ...]
    start_period: int
    stop_grace_period: int
    after: tuple[str, ...] = ()
    gpu: str | None = None
    ipc: str | None = None
    pid: str | None = None
    shm_size: str | None = None
    tmpfs: tuple[str, ...] = ()
    user: str | None = None


@dataclass(frozen=True)
class Composition:
    """A deployment as Docker Compose has it.

    Attributes:
        services: one container for each process, in the plan's order.
        volumes: the named volumes that they share.
        files: the text of each file beside compose.yaml, by its path from there.
        links: the target, as the containers see it, of each symbolic link, likewise.
    """

    services: tuple[Service, ...]
    volumes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


def compose(plan: Plan, folder: Path, images: Images, *, secrets: Sequence[Path] = ()) -> Composition:
    """The containers of a plan.

    Args:
        plan: what to serve, made for the tritonserver of ``images``.
        folder: where compose.yaml will lie; paths in it are relative to that where they can be.
        images: what the containers run.
        secrets: files that the gateway reads and that stay where they are, such as those of tokens and certificates.
    """
    places = _Places(plan, secrets)
    repository = Mount(_relative(plan.repository, folder, plan.project), REPOSITORY)
    shared = any(isinstance(process.check, DaemonCheck) for process in plan.processes)
    files = {f"scripts/{name}": _script(name) for name in (_MPS_DAEMON, _MPS_CLIENT) if shared}
    links: dict[str, str] = {}
    services = []
    for process in plan.processes:
        mounts = []
        # The folders of sockets are made in the containers.
        for one in (folder for folder in process.folders if folder.path.is_relative_to(places.keeping)):
            beside = places.beside(one)
            files |= {f"{beside}/{path}": places.rewritten(text) for path, text in one.files.items()}
            links |= {f"{beside}/{path}": places.rewritten(str(target)) for path, target in one.links.items()}
            mounts.append(Mount(f"./{beside}", places.rewritten(str(one.path))))
        if process.kind == "gateway":
            mounts += [Mount(str(secret), places.rewritten(str(secret))) for secret in secrets]
        services.append(_service(process, plan, places, images, repository, tuple(mounts)))
    volumes = dict.fromkeys(mount.source for service in services for mount in service.mounts if mount.kind == "volume")
    return Composition(tuple(services), tuple(volumes), files, links)


def render(composition: Composition) -> str:
    """The text of compose.yaml."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_directory()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - the text is YAML, not a page
    )
    environment.filters["scalar"] = _scalar
    template = environment.get_template(f"{COMPOSE}.j2")
    return template.render(services=composition.services, volumes=composition.volumes)


class _Places:
    """Where the containers have the folders of the plan."""

    def __init__(self, plan: Plan, secrets: Sequence[Path]) -> None:
        self.keeping = plan.project / ".tritonkit"
        pairs = {
            str(runtime_directory(plan.deployment)): RUNTIME,
            str(plan.repository): REPOSITORY,
            str(self.keeping): KEEPING,
            **{str(secret): f"{SECRETS}/{number}-{secret.name}" for number, secret in enumerate(secrets)},
        }
        # A repository may lie in the project, or the other way round: the longest path says most.
        self._pairs = dict(sorted(pairs.items(), key=lambda pair: -len(pair[0])))
        starts = "|".join(map(re.escape, self._pairs))
        self._pattern = re.compile(rf"(?<![\w./-])({starts})(?![\w.-])")

    def rewritten(self, text: str) -> str:
        """The text with every path in it as the containers have it."""
        return self._pattern.sub(lambda match: self._pairs[match[1]], text)

    def beside(self, folder: Folder) -> str:
        """Where the files of a process's folder lie, seen from compose.yaml."""
        return folder.path.relative_to(self.keeping).as_posix()


def _service(
    process: ProcessSpec, plan: Plan, places: _Places, images: Images, repository: Mount, mounts: tuple[Mount, ...]
) -> Service:
    check = process.check
    command = tuple(places.rewritten(word) for word in process.argv)
    image, health, after = images.triton, _http_health(process), (*process.needs, *process.after)
    gpu = ipc = pid = shm_size = user = None
    tmpfs: tuple[str, ...] = ()
    if isinstance(check, GatewayCheck):
        image, health = images.gateway, ("CMD", "bash", "-c", _bash_health(process))
        tmpfs = (f"{RUNTIME}:mode=1777",)
        # Only their owner may read secrets; the image's own user may not.
        user = "0:0" if any(mount.target.startswith(SECRETS) for mount in mounts) else None
    elif isinstance(check, DaemonCheck):
        health = ("CMD-SHELL", _ANSWERS)
        gpu, ipc, pid = process.env["CUDA_VISIBLE_DEVICES"], "host", "host"
        command = ("sh", f"{SCRIPTS}/{_MPS_DAEMON}", *command)
        mounts += (_pipe(check.pipe_directory, places, read_only=False), Mount("./scripts", SCRIPTS))
    else:
        share = check.share
        mounts = (repository, *mounts)
        shm_size = _SHARED_MEMORY
        if share is not None:
            gpu = share.uuid
        if share is not None and share.pipe_directory is not None:
            # Client and daemon meet on Unix sockets in the pipe directory, and in the memory of one IPC namespace.
            ipc, shm_size = "host", None
            command = ("sh", f"{SCRIPTS}/{_MPS_CLIENT}", *command)
            mounts += (_pipe(share.pipe_directory, places, read_only=False), Mount("./scripts", SCRIPTS))
    return Service(
        name=process.name,
        image=image,
        command=command,
        environment={name: places.rewritten(value) for name, value in process.env.items()},
        working_dir=places.rewritten(str(process.cwd)),
        mounts=mounts,
        health=health,
        start_period=math.ceil(plan.policy.start_timeout),
        stop_grace_period=math.ceil(plan.policy.stop_timeout) + _STOP_MARGIN,
        after=tuple(dict.fromkeys(after)),
        gpu=gpu,
        ipc=ipc,
        pid=pid,
        shm_size=shm_size,
        tmpfs=tmpfs,
        user=user,
    )


def _pipe(directory: Path, places: _Places, *, read_only: bool) -> Mount:
    """The volume that a daemon and its clients meet in, at the folder around the pipe directory."""
    target = Path(places.rewritten(str(directory.parent)))
    return Mount(target.name, str(target), read_only)


def _http_health(process: ProcessSpec) -> tuple[str, ...]:
    address = _local(process.addresses.get("http", ""))
    return ("CMD", "curl", "--fail", "--silent", "--max-time", "3", f"http://{address}/v2/health/ready")


def _bash_health(process: ProcessSpec) -> str:
    """The same question, for an image without curl."""
    host, _, port = _local(process.addresses["http"]).rpartition(":")
    asked = r"GET /v2/health/ready HTTP/1.0\r\n\r\n"
    return f"exec 3<>/dev/tcp/{host}/{port} && printf '{asked}' >&3 && head -n 1 <&3 | grep -q ' 200 '"


def _local(address: str) -> str:
    """The address to ask from the same machine where a server listens on all of its own."""
    return re.sub(r"^0\.0\.0\.0:", "127.0.0.1:", address)


def _relative(path: Path, folder: Path, project: Path) -> str:
    """A path as compose.yaml in ``folder`` has it: relative within the project, which may then be moved."""
    if not (path.is_relative_to(project) and folder.is_relative_to(project)):
        return str(path)
    relative = os.path.relpath(path, folder)
    return relative if relative.startswith(".") else f"./{relative}"


def _script(name: str) -> str:
    return (templates_directory() / "containers" / name).read_text(encoding="utf-8")


def _scalar(value: object) -> str:
    """A string of YAML; Compose would put variables where it sees a dollar."""
    return json.dumps(str(value), ensure_ascii=False).replace("$", "$$")
