"""The supervisor's rules, without the acting: ``step(state, event, now) -> (state, actions)``.

- A process is started when what it ``needs`` is ready and, the first time, when what it comes ``after`` was ready
  once; all whose gates are open start at the same time.
- A process that ends unasked is started again after a wait, as often in a row as the policy says. One whose need
  is lost is killed at once, and started again after that need, which is not counted against it.
- What is asked to start again ends in order, and after those that need it: an MPS daemon after its clients.
- A server that is lost, or may be, gets no new requests until it is ready again, or until it is clear that it is well.
- A process that never became ready fails the deployment. One that was given up fails it as well, unless every
  model has another server that was not.
- A second process of a server (``seconds``) is started as any other, and never started again.
- Stopping goes backwards: nothing is asked to end before all that need it, or come after it, have ended.
"""

from __future__ import annotations

from dataclasses import replace

from tritonkit.serve import seconds
from tritonkit.serve.events import (
    Action,
    Avoid,
    BecameReady,
    Clean,
    Dismissed,
    Event,
    Exited,
    Kill,
    RestartAsked,
    SecondAsked,
    Spawn,
    Spawned,
    SpawnFailed,
    StopAsked,
    Suspected,
    Terminate,
    Tick,
    TookOver,
    Unusable,
    Use,
)
from tritonkit.serve.phases import Phase, Process, State, deadline, put

_RUNNING = frozenset({Phase.STARTING, Phase.READY})


def step(state: State, event: Event, now: float) -> tuple[State, tuple[Action, ...]]:
    """What follows from ``event`` at time ``now``: the next state, and what is to be done, in order.

    An event about a process that is not the one running now changes nothing.
    """
    actions: list[Action] = []
    before = state
    if isinstance(event, StopAsked):
        state = _stop(state, event.at_once, now, actions)
    elif isinstance(event, RestartAsked):
        state = _restart(state, event.name, now)
    elif isinstance(event, SecondAsked | TookOver | Dismissed):
        state = seconds.step(state, event, now)
    elif not isinstance(event, Tick) and (process := state.found(event.name)) is not None:
        if isinstance(event, Spawned):
            if process.phase is Phase.STARTING and process.pid is None:
                state = put(state, replace(process, pid=event.pid))
        elif isinstance(event, SpawnFailed):
            if process.phase is Phase.STARTING and process.pid is None:
                state = _ended(state, process, event.reason, now)
        elif process.pid is not None and process.pid == event.pid:
            state = _happened(state, process, event, now, actions)
    for rule in (_end_overdue, _end_unwanted, _give_up_dependants):
        state = rule(state, now, actions)
    state = _wind_down(state, now, actions) if state.stopping else _start(state, now, actions)
    if not state.stopping:
        were_ready = {process.name for process in before.processes if process.phase is Phase.READY}
        for process in state.processes:
            if process.name in were_ready and process.phase is not Phase.READY and not process.avoided:
                state = put(state, replace(process, avoided=True))
                # What is aside gets no requests anyway, and has its name at the gateway in common with what does.
                actions[:0] = [] if process.aside else [Avoid(process.name)]
    state = seconds.forget(state)
    return replace(state, came_up=state.came_up or state.ready), tuple(actions)


def _happened(
    state: State,
    process: Process,
    event: BecameReady | Unusable | Suspected | Exited,
    now: float,
    actions: list[Action],
) -> State:
    if isinstance(event, BecameReady):
        if process.phase is not Phase.STARTING or process.excused:
            return state
        process = replace(process, phase=Phase.READY, since=now, was_ready=True)
        return _avoid(state, process, False, actions)
    if isinstance(event, Suspected):
        return _avoid(state, process, event.suspect, actions) if process.phase is Phase.READY else state
    if isinstance(event, Unusable):
        if process.phase not in _RUNNING:
            return state
        process = replace(process, failures=_fresh_failures(process, state, now))
        return _kill(state, process, event.reason, now, actions)
    actions.append(Clean(process.name))
    if process.phase is Phase.FAILED:
        # It could not be killed, and went after all.
        return put(state, replace(process, pid=None))
    if process.phase in {Phase.STOPPING, Phase.KILLING}:
        return _ended(state, process, process.reason, now)
    before = "" if process.phase is Phase.READY else " before it was ready"
    process = replace(process, failures=_fresh_failures(process, state, now))
    return _ended(state, process, f"{_ending(event.returncode)}{before}", now)


def _avoid(state: State, process: Process, avoided: bool, actions: list[Action]) -> State:
    if avoided != process.avoided and not process.aside:
        actions.append(Avoid(process.name) if avoided else Use(process.name))
    return put(state, replace(process, avoided=avoided))


def _fresh_failures(process: Process, state: State, now: float) -> int:
    stable = process.phase is Phase.READY and now - process.since >= state.policy.stable_after
    return 0 if stable else process.failures


def _ending(returncode: int) -> str:
    return f"was ended by signal {-returncode}" if returncode < 0 else f"ended with exit code {returncode}"


def _ended(state: State, process: Process, reason: str, now: float) -> State:
    process = replace(process, pid=None, since=now, reason=reason)
    if state.stopping:
        return put(state, replace(process, phase=Phase.STOPPED))
    if process.aside:
        return put(state, replace(process, phase=Phase.FAILED))
    if process.excused:
        return put(state, replace(process, phase=Phase.WAITING))
    process = replace(process, failures=process.failures + 1)
    if process.was_ready and process.failures <= state.policy.max_restarts:
        return put(state, replace(process, phase=Phase.BACKOFF))
    return _give_up(state, process, now)


def _give_up(state: State, process: Process, now: float) -> State:
    state = put(state, replace(process, phase=Phase.FAILED, since=now))
    kept = {served for other in state.processes if other.phase is not Phase.FAILED for served in other.serves}
    if state.stopping or (state.came_up and kept.issuperset(process.serves)):
        return state
    # Where it was given up because what it needs was, that is the cause.
    cause = next((need for need in process.needs if state.process(need).phase is Phase.FAILED), process.name)
    return replace(state, stopping=True, failed=cause)


def _restart(state: State, name: str, now: float) -> State:
    """Have the process ended and started again, and what was given up started that it depends on, or for it."""
    asked = state.found(name)
    if state.stopping or asked is None or asked.aside:
        return state
    dependants = {process.name for process in state.dependants(name)}
    for process in state.processes:
        given_up = process.phase is Phase.FAILED and process.pid is None
        if process.name == name:
            fresh = replace(process, asks=process.asks + 1, failures=0, excused=process.live)
            state = put(state, fresh)
            given_up = given_up or process.phase is Phase.BACKOFF
        elif process.name in dependants:
            state = put(state, replace(process, failures=0, excused=process.live))
        elif process.name not in asked.needs:
            continue
        if given_up:
            state = put(state, replace(state.process(process.name), phase=Phase.WAITING, since=now, failures=0))
    return state


def _stop(state: State, at_once: bool, now: float, actions: list[Action]) -> State:
    state = replace(state, stopping=True)
    for process in state.processes if at_once else ():
        if process.live and process.phase is not Phase.KILLING and process.pid is not None:
            state = _kill(state, process, process.reason, now, actions)
    return state


def _end_overdue(state: State, now: float, actions: list[Action]) -> State:
    for process in state.processes:
        due = deadline(process, state.policy)
        if due is None or now < due or process.pid is None:
            continue
        if process.phase is Phase.KILLING:
            # It hangs in the kernel, and holds its ports: nothing can take its place.
            reason = f"did not end within {state.policy.kill_timeout:g} s of SIGKILL"
            state = _give_up(state, replace(process, reason=reason), now)
            if state.failed is None and state.stopping:
                state = replace(state, failed=process.name)
            continue
        reason = process.reason
        if process.phase is Phase.STARTING:
            reason = f"was not ready within {state.policy.start_timeout:g} s"
        state = _kill(state, process, reason, now, actions)
    return state


def _end_unwanted(state: State, now: float, actions: list[Action]) -> State:
    """Kill what runs without what it needs; ask what is to be started again to end, after those that need it."""
    for process in () if state.stopping else state.processes:
        needed = any(other.live for other in state.dependants(process.name))
        unwanted = (process.excused and not needed) or process.dismissed
        if unwanted and process.pid is not None and process.phase in _RUNNING:
            state = _ask_to_end(state, process, now, actions)
    for process in state.processes:
        lost = next((need for need in process.needs if state.process(need).phase is not Phase.READY), None)
        if lost is not None and process.pid is not None and process.phase in {*_RUNNING, Phase.STOPPING}:
            # Every call of its to the GPU fails from now on: no request in flight can be waited for.
            cause = state.process(lost).reason
            reason = f"lost {lost}, which {cause}" if cause else f"ended with {lost}"
            state = _kill(state, replace(process, excused=True), reason, now, actions)
    return state


def _give_up_dependants(state: State, now: float, _actions: list[Action]) -> State:
    for process in state.processes:
        lost = next((need for need in process.needs if state.process(need).phase is Phase.FAILED), None)
        if lost is not None and process.phase in {Phase.WAITING, Phase.BACKOFF} and not state.stopping:
            state = _give_up(state, replace(process, reason=f"needs {lost}, which was given up"), now)
    return state


def _start(state: State, now: float, actions: list[Action]) -> State:
    for process in state.processes:
        due = deadline(process, state.policy)
        if process.phase is Phase.BACKOFF and due is not None and now >= due:
            process = replace(process, phase=Phase.WAITING, since=now)  # noqa: PLW2901
            state = put(state, process)
        if process.phase is Phase.WAITING and _may_start(state, process):
            actions.append(Spawn(process.name))
            started = replace(process, phase=Phase.STARTING, since=now, starts=process.starts + 1, excused=False)
            state = put(state, started)
    return state


def _may_start(state: State, process: Process) -> bool:
    return (
        all(state.process(need).phase is Phase.READY and not state.process(need).excused for need in process.needs)
        and (process.was_ready or all(state.process(name).was_ready for name in process.after))
        # Those that lost it are gone before it comes again.
        and not any(other.live for other in state.dependants(process.name))
    )


def _wind_down(state: State, now: float, actions: list[Action]) -> State:
    for process in state.processes:
        if process.phase in {Phase.WAITING, Phase.BACKOFF}:
            state = put(state, replace(process, phase=Phase.STOPPED, since=now))
    for process in state.processes:
        held = any(other.live for other in state.processes if process.name in {*other.needs, *other.after})
        if process.phase in _RUNNING and process.pid is not None and not held:
            state = _ask_to_end(state, process, now, actions)
    return state


def _ask_to_end(state: State, process: Process, now: float, actions: list[Action]) -> State:
    if process.phase is Phase.STARTING:
        # Nothing is in flight in a server that was not ready.
        return _kill(state, process, process.reason, now, actions)
    actions.append(Terminate(process.name))
    return put(state, replace(process, phase=Phase.STOPPING, since=now))


def _kill(state: State, process: Process, reason: str, now: float, actions: list[Action]) -> State:
    actions.append(Kill(process.name))
    return put(state, replace(process, phase=Phase.KILLING, since=now, reason=reason))
