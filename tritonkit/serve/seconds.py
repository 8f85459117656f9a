"""The rules for a second process of a server beside the one that serves. Pure, as ``machine``, which asks them.

It is started ``aside``, under the server's other name. Once it is ready and the gateway sends it the requests, the two
change places: it is the server's process from then on, and the first one is aside until it is dismissed.
"""

from __future__ import annotations

from dataclasses import replace

from tritonkit.serve.events import Dismissed, SecondAsked, TookOver
from tritonkit.serve.phases import Phase, Process, State, put
from tritonkit.serve.processes import twin

_WAITS = frozenset({Phase.WAITING, Phase.BACKOFF})


def step(state: State, event: SecondAsked | TookOver | Dismissed, now: float) -> State:
    """The state after an event about a second process; the same where the event comes too late."""
    if state.stopping:
        return state
    if isinstance(event, SecondAsked):
        return _begin(state, event.name, now)
    found = state.found(event.name)
    if found is None or not found.aside:
        return state
    if isinstance(event, TookOver):
        return _change_places(state, found)
    # One that runs is asked to end by the rule for what is unwanted.
    phase = Phase.STOPPED if found.phase in _WAITS else found.phase
    return put(state, replace(found, phase=phase, dismissed=True))


def forget(state: State) -> State:
    """The state without what was dismissed and has ended."""
    gone = {process.name for process in state.processes if process.dismissed and not process.live and not process.pid}
    if not gone:
        return state
    return replace(
        state,
        processes=tuple(
            replace(process, after=tuple(name for name in process.after if name not in gone))
            for process in state.processes
            if process.name not in gone
        ),
    )


def _begin(state: State, name: str, now: float) -> State:
    first, second = state.found(name), twin(name)
    if not state.came_up or first is None or first.aside or state.found(second) is not None:
        return state
    processes: list[Process] = []
    for process in state.processes:
        if name in process.after:
            # It stops before this one, too.
            processes.append(replace(process, after=(*process.after, second)))
            continue
        processes.append(process)
        if process.name == name:
            processes.append(Process(second, now, process.needs, aside=True))
    return replace(state, processes=tuple(processes))


def _change_places(state: State, second: Process) -> State:
    first = state.found(twin(second.name))
    if first is None or second.phase is not Phase.READY:
        return state
    # What is aside is not started again.
    phase = Phase.FAILED if first.phase in _WAITS else first.phase
    used = replace(second, aside=False, serves=first.serves, starts=first.starts + 1, asks=first.asks)
    return put(put(state, used), replace(first, phase=phase, aside=True, serves=()))
