"""The supervisor's rules, without the acting: ``step(state, event, now) -> (state, actions)``.

Every process is in one named phase::

    WAITING ──spawn──> STARTING ──ready──> READY ──stop──> STOPPING ──exit──> STOPPED
                          │                  │                │
             refused, too late          sick, died        too late
                          v                  v                v
                       KILLING ───exit──> BACKOFF          KILLING ──exit──> STOPPED
                          │                  └──> STARTING, or FAILED when it is the last time
                          └──cannot be killed──> FAILED

A process that dies before it was ever ready fails the deployment; one that was ready is started again after a
wait. Processes start in order, each when those before it are ready, and stop in reverse. When one fails, all
stop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from tritonkit.serve.events import (
    Action,
    BecameReady,
    Clean,
    Event,
    Exited,
    Kill,
    Spawn,
    Spawned,
    SpawnFailed,
    StopAsked,
    Terminate,
    Tick,
    Unusable,
)
from tritonkit.serve.processes import Policy


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
_OVER = frozenset({Phase.STOPPED, Phase.FAILED})


@dataclass(frozen=True)
class Process:
    """One process as the rules see it; times are those given to ``step``.

    Attributes:
        name: as in the plan.
        since: when it came into its phase.
        phase: where it is.
        pid: of the running process, or None.
        restarts: how often it was started again in all.
        failures: how often it ended unasked, without a stable time in between.
        was_ready: whether it was ready at least once.
        reason: why it last ended unasked; empty when it never did.
    """

    name: str
    since: float
    phase: Phase = Phase.WAITING
    pid: int | None = None
    restarts: int = 0
    failures: int = 0
    was_ready: bool = False
    reason: str = ""


@dataclass(frozen=True)
class State:
    """A deployment: its processes in starting order, and whether it is to run or to stop."""

    processes: tuple[Process, ...]
    policy: Policy
    stopping: bool = False
    failed: str | None = None

    @property
    def ready(self) -> bool:
        """Whether every process is ready."""
        return all(process.phase is Phase.READY for process in self.processes)

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing will."""
        return self.stopping and all(process.phase in _OVER for process in self.processes)

    def process(self, name: str) -> Process:
        """The process of that name."""
        return next(process for process in self.processes if process.name == name)


def begin(names: tuple[str, ...], policy: Policy, now: float) -> State:
    """A deployment of these processes, none of them started."""
    return State(tuple(Process(name, since=now) for name in names), policy)


def step(state: State, event: Event, now: float) -> tuple[State, tuple[Action, ...]]:
    """What follows from ``event`` at time ``now``: the next state, and what is to be done, in order.

    An event about a process that is not the one running now changes nothing.
    """
    actions: list[Action] = []
    if isinstance(event, StopAsked):
        state = _stop(state, event.at_once, now, actions)
    elif not isinstance(event, Tick):
        process = state.process(event.name)
        if isinstance(event, Spawned):
            if process.phase is Phase.STARTING and process.pid is None:
                state = _put(state, replace(process, pid=event.pid))
        elif isinstance(event, SpawnFailed):
            if process.phase is Phase.STARTING and process.pid is None:
                state = _ended(state, process, event.reason, now)
        elif process.pid is not None and process.pid == event.pid:
            state = _happened(state, process, event, now, actions)
    state = _overdue(state, now, actions)
    return _advance(state, now, actions), tuple(actions)


def next_deadline(state: State) -> float | None:
    """When ``step`` wants a ``Tick`` though nothing happens; None when there is nothing to wait for."""
    deadlines = [_deadline(process, state.policy) for process in state.processes]
    return min((deadline for deadline in deadlines if deadline is not None), default=None)


def _deadline(process: Process, policy: Policy) -> float | None:
    if process.phase is Phase.STARTING:
        return process.since + policy.start_timeout
    if process.phase is Phase.STOPPING:
        return process.since + policy.stop_timeout
    if process.phase is Phase.KILLING:
        return process.since + policy.kill_timeout
    if process.phase is Phase.BACKOFF:
        wait = policy.backoff * 2.0 ** (process.failures - 1)
        return process.since + min(wait, policy.backoff_limit)
    return None


def _happened(
    state: State, process: Process, event: BecameReady | Unusable | Exited, now: float, actions: list[Action]
) -> State:
    if isinstance(event, BecameReady):
        if process.phase is not Phase.STARTING:
            return state
        return _put(state, replace(process, phase=Phase.READY, since=now, was_ready=True))
    if isinstance(event, Unusable):
        if process.phase not in {Phase.STARTING, Phase.READY}:
            return state
        actions.append(Kill(process.name))
        failures = _fresh_failures(process, state.policy, now)
        return _put(
            state,
            replace(process, phase=Phase.KILLING, since=now, reason=event.reason, failures=failures),
        )
    actions.append(Clean(process.name))
    if process.phase in {Phase.STOPPING, Phase.KILLING}:
        return _ended(state, process, process.reason, now)
    before = "" if process.phase is Phase.READY else " before it was ready"
    process = replace(process, failures=_fresh_failures(process, state.policy, now))
    return _ended(state, process, f"{_ending(event.returncode)}{before}", now)


def _fresh_failures(process: Process, policy: Policy, now: float) -> int:
    stable = process.phase is Phase.READY and now - process.since >= policy.stable_after
    return 0 if stable else process.failures


def _ending(returncode: int) -> str:
    return f"was ended by signal {-returncode}" if returncode < 0 else f"ended with exit code {returncode}"


def _ended(state: State, process: Process, reason: str, now: float) -> State:
    process = replace(process, pid=None, since=now, reason=reason)
    if state.stopping:
        return _put(state, replace(process, phase=Phase.STOPPED))
    failures = process.failures + 1
    process = replace(process, failures=failures)
    if process.was_ready and failures <= state.policy.max_restarts:
        return _put(state, replace(process, phase=Phase.BACKOFF))
    state = _put(state, replace(process, phase=Phase.FAILED))
    return replace(state, stopping=True, failed=process.name)


def _stop(state: State, at_once: bool, now: float, actions: list[Action]) -> State:
    state = replace(state, stopping=True)
    for process in state.processes if at_once else ():
        if process.phase in LIVE and process.phase is not Phase.KILLING and process.pid is not None:
            actions.append(Kill(process.name))
            state = _put(state, replace(process, phase=Phase.KILLING, since=now))
    return state


def _overdue(state: State, now: float, actions: list[Action]) -> State:
    for process in state.processes:
        deadline = _deadline(process, state.policy)
        if deadline is None or now < deadline or process.pid is None:
            continue
        if process.phase is Phase.KILLING:
            # It hangs in the kernel, and holds its ports: nothing can take its place.
            reason = f"did not end within {state.policy.kill_timeout:g} s of SIGKILL"
            state = _put(state, replace(process, phase=Phase.FAILED, pid=None, since=now, reason=reason))
            state = replace(state, stopping=True, failed=process.name)
            continue
        reason = process.reason
        if process.phase is Phase.STARTING:
            reason = f"was not ready within {state.policy.start_timeout:g} s"
        actions.append(Kill(process.name))
        state = _put(state, replace(process, phase=Phase.KILLING, since=now, reason=reason))
    return state


def _advance(state: State, now: float, actions: list[Action]) -> State:
    return _wind_down(state, now, actions) if state.stopping else _start_next(state, now, actions)


def _start_next(state: State, now: float, actions: list[Action]) -> State:
    for process in state.processes:
        due = process.phase is Phase.WAITING
        again = process.phase is Phase.BACKOFF and now >= (_deadline(process, state.policy) or 0.0)
        if due or again:
            actions.append(Spawn(process.name))
            restarts = process.restarts + (1 if again else 0)
            state = _put(state, replace(process, phase=Phase.STARTING, since=now, restarts=restarts))
        if not process.was_ready and process.phase is not Phase.READY:
            # Those behind it wait for it.
            break
    return state


def _wind_down(state: State, now: float, actions: list[Action]) -> State:
    for process in reversed(state.processes):
        if process.phase in {Phase.WAITING, Phase.BACKOFF}:
            state = _put(state, replace(process, phase=Phase.STOPPED, since=now))
        elif process.phase in LIVE:
            if process.phase in {Phase.STARTING, Phase.READY} and process.pid is not None:
                # Nothing is in flight in a server that was not ready: it need not be asked.
                asked = process.phase is Phase.READY
                actions.append(Terminate(process.name) if asked else Kill(process.name))
                phase = Phase.STOPPING if asked else Phase.KILLING
                state = _put(state, replace(process, phase=phase, since=now))
            # Those before it wait for its end.
            break
    return state


def _put(state: State, process: Process) -> State:
    return replace(state, processes=tuple(process if old.name == process.name else old for old in state.processes))
