"""What happens to the processes of a deployment, and what is done about it: the words of ``serve.machine``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tick:
    """Time has passed; a deployment starts with it."""


@dataclass(frozen=True)
class Spawned:
    """A process was started."""

    name: str
    pid: int


@dataclass(frozen=True)
class SpawnFailed:
    """A process could not be started at all."""

    name: str
    reason: str


@dataclass(frozen=True)
class BecameReady:
    """A process answers, and every model that it must serve is READY."""

    name: str
    pid: int


@dataclass(frozen=True)
class Unusable:
    """A process that runs will never become ready, or is ready no longer."""

    name: str
    pid: int
    reason: str


@dataclass(frozen=True)
class Suspected:
    """A process that is ready may have to be called unusable soon, or may not after all (``suspect`` is false)."""

    name: str
    pid: int
    suspect: bool


@dataclass(frozen=True)
class Exited:
    """A process ended, with its exit code (negative: the signal that ended it)."""

    name: str
    pid: int
    returncode: int


@dataclass(frozen=True)
class StopAsked:
    """The deployment is to stop; ``at_once`` leaves no time for requests in flight."""

    at_once: bool = False


@dataclass(frozen=True)
class RestartAsked:
    """A process is to be ended in order and started again; one that was given up is started again."""

    name: str


@dataclass(frozen=True)
class SecondAsked:
    """A second process of a server is to be started beside the one that serves, under its ``twin`` name."""

    name: str


@dataclass(frozen=True)
class TookOver:
    """Requests go to the second process of a server now, whose name it is, and no longer to the first one."""

    name: str


@dataclass(frozen=True)
class Dismissed:
    """The process of a server that requests do not go to is to end, and to be forgotten then."""

    name: str


Event = (
    Tick
    | Spawned
    | SpawnFailed
    | BecameReady
    | Unusable
    | Suspected
    | Exited
    | StopAsked
    | RestartAsked
    | SecondAsked
    | TookOver
    | Dismissed
)


@dataclass(frozen=True)
class Spawn:
    """Start the process."""

    name: str


@dataclass(frozen=True)
class Terminate:
    """Send SIGTERM to the process."""

    name: str


@dataclass(frozen=True)
class Kill:
    """SIGKILL the process; what it started is ended by the ``Clean`` that follows its exit."""

    name: str


@dataclass(frozen=True)
class Clean:
    """The process has ended: end what it started, and remove its shared memory."""

    name: str


@dataclass(frozen=True)
class Avoid:
    """Have the gateway send the process no new requests, where others can take them."""

    name: str


@dataclass(frozen=True)
class Use:
    """Have the gateway send the process requests again."""

    name: str


Action = Spawn | Terminate | Kill | Clean | Avoid | Use
