"""How a deployment is, as the supervisor's rules see it. Every process is in one named phase::

WAITING ──spawn──> STARTING ──ready──> READY ──stop──> STOPPING ──exit──> STOPPED
   ^                  │                  │                │
   │           refused, too late     sick, died      too late
   │                  v                  v                v
   │               KILLING ───exit──> BACKOFF          KILLING ──exit──> STOPPED
   │                  │                  │
   └── it is due, or its end was asked ──┴──> FAILED, when it is the last time, or it cannot be killed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from tritonkit.serve.processes import Policy, ProcessSpec


class Phase(str, Enum):
    """Where a process is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    KILLING = "killing"
    BACKOFF = "backoff"
    STOPPED = "stopped"
    FAILED = "failed"


LIVE = frozenset({Phase.STARTING, Phase.READY, Phase.STOPPING, Phase.KILLING})
OVER = frozenset({Phase.STOPPED, Phase.FAILED})


@dataclass(frozen=True)
class Process:
    """One process as the rules see it; times are those given to ``step``.

    Attributes:
        name: as in the plan.
        since: when it came into its phase.
        needs: the processes that are ready whenever it runs.
        after: the processes that were ready once before its first start.
        serves: what the deployment cannot do without: its models, or itself where nothing can stand in for it.
        phase: where it is.
        pid: of the running process, or None. One that failed and has a pid could not be killed.
        starts: how often it was started.
        failures: how often it ended unasked, without a stable time in between.
        was_ready: whether it was ready at least once.
        asks: how often somebody asked that it be started again.
        avoided: whether it is to get no new requests until it is trusted again.
        aside: whether it runs beside the process of its server that requests go to: it has not taken over yet, or has
            been taken over from. It is never started again, and nobody misses it.
        dismissed: whether it is to be forgotten once it has ended, being ``aside``.
        excused: whether it is to be started again as soon as it has ended, which counts as no failure of its own.
        reason: why it last ended unasked; empty when it never did.
    """

    name: str
    since: float
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()
    phase: Phase = Phase.WAITING
    pid: int | None = None
    starts: int = 0
    failures: int = 0
    was_ready: bool = False
    asks: int = 0
    avoided: bool = False
    aside: bool = False
    dismissed: bool = False
    excused: bool = False
    reason: str = ""

    @property
    def live(self) -> bool:
        """Whether it runs, or is about to."""
        return self.phase in LIVE

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(0, self.starts - 1)


@dataclass(frozen=True)
class State:
    """A deployment: its processes, and whether it is to run or to stop.

    Attributes:
        processes: in the order of the plan: each after all that it needs or comes after.
        policy: how patient the rules are.
        came_up: whether all processes were ready at one time.
        stopping: whether everything is to end.
        failed: the process that the deployment ends for, if it does so unasked.
    """

    processes: tuple[Process, ...]
    policy: Policy
    came_up: bool = False
    stopping: bool = False
    failed: str | None = None

    @property
    def ready(self) -> bool:
        """Whether every process is ready that is not ``aside``."""
        return all(process.phase is Phase.READY or process.aside for process in self.processes)

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing will."""
        return self.stopping and all(process.phase in OVER for process in self.processes)

    @property
    def word(self) -> str:
        """``starting``, ``ready``, ``degraded`` (it was ready, and a process is not) or ``stopping``."""
        if self.stopping:
            return "stopping"
        if self.ready:
            return "ready"
        return "degraded" if self.came_up else "starting"

    def process(self, name: str) -> Process:
        """The process of that name."""
        return next(process for process in self.processes if process.name == name)

    def found(self, name: str) -> Process | None:
        """The process of that name; None where there is none, or no longer."""
        return next((process for process in self.processes if process.name == name), None)

    def dependants(self, name: str) -> list[Process]:
        """The processes that cannot run without that one."""
        return [process for process in self.processes if name in process.needs]


def put(state: State, process: Process) -> State:
    """The state with ``process`` in the place of the one of its name."""
    return replace(state, processes=tuple(process if old.name == process.name else old for old in state.processes))


def begin(specs: Sequence[ProcessSpec], policy: Policy, now: float) -> State:
    """A deployment of these processes, none of them started."""
    return State(
        tuple(Process(spec.name, now, spec.needs, spec.after, _serves(spec)) for spec in specs),
        policy,
    )


def deadline(process: Process, policy: Policy) -> float | None:
    """When the rules want to look at the process again though nothing happens to it; None for never."""
    if process.phase is Phase.STARTING:
        return process.since + policy.start_timeout
    if process.phase is Phase.STOPPING:
        return process.since + policy.stop_timeout
    if process.phase is Phase.KILLING:
        return process.since + policy.kill_timeout
    if process.phase is Phase.BACKOFF:
        # A float's range ends long before the patience of somebody who allows a thousand restarts.
        wait = policy.backoff * 2.0 ** min(process.failures - 1, 60)
        return process.since + min(wait, policy.backoff_limit)
    return None


def next_deadline(state: State) -> float | None:
    """When the rules want a ``Tick`` though nothing happens; None when there is nothing to wait for."""
    deadlines = [deadline(process, state.policy) for process in state.processes]
    return min((due for due in deadlines if due is not None), default=None)


def _serves(spec: ProcessSpec) -> tuple[str, ...]:
    if spec.kind == "mps":
        # It is missed by its servers alone.
        return ()
    # Models that are loaded when somebody asks may be any: nothing can be known to stand in for such a server.
    return spec.models or (spec.name,)
