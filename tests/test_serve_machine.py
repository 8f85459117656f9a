from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from tritonkit.serve.machine import LIVE, Phase, State, begin, next_deadline, step
from tritonkit.serve.processes import Policy

POLICY = Policy(
    start_timeout=10, stop_timeout=5, kill_timeout=7, max_restarts=2, backoff=1, backoff_limit=3, stable_after=60
)
Script = list[tuple[float, Event, list[Action], Phase]]


def run(script: Script, policy: Policy = POLICY) -> State:
    """Step one process "a" through a script of (time, event, actions that follow, phase that follows)."""
    state = begin(("a",), policy, 0)
    for now, event, actions, phase in script:
        state, done = step(state, event, now)
        assert (list(done), state.process("a").phase) == (actions, phase), (now, event)
    return state


START: Script = [
    (0, Tick(), [Spawn("a")], Phase.STARTING),
    (0, Spawned("a", 7), [], Phase.STARTING),
]
READY: Script = [*START, (2, BecameReady("a", 7), [], Phase.READY)]

SCRIPTS: dict[str, Script] = {
    "ready, then an orderly stop": [
        *READY,
        (3, StopAsked(), [Terminate("a")], Phase.STOPPING),
        (4, Tick(), [], Phase.STOPPING),
        (5, Exited("a", 7, 0), [Clean("a")], Phase.STOPPED),
    ],
    "a stop that takes too long": [
        *READY,
        (3, StopAsked(), [Terminate("a")], Phase.STOPPING),
        (8, Tick(), [Kill("a")], Phase.KILLING),
        (8.1, Exited("a", 7, -9), [Clean("a")], Phase.STOPPED),
    ],
    "a process that even SIGKILL does not end": [
        *READY,
        (3, StopAsked(at_once=True), [Kill("a")], Phase.KILLING),
        (9, Tick(), [], Phase.KILLING),
        (10, Tick(), [], Phase.FAILED),
        (11, Exited("a", 7, -9), [], Phase.FAILED),
    ],
    "a sick process that even SIGKILL does not end is not started again": [
        *READY,
        (4, Unusable("a", 7, "lost its stub"), [Kill("a")], Phase.KILLING),
        (11, Tick(), [], Phase.FAILED),
        (80, Tick(), [], Phase.FAILED),
    ],
    "a second stop does not wait": [
        *READY,
        (3, StopAsked(), [Terminate("a")], Phase.STOPPING),
        (3.5, StopAsked(at_once=True), [Kill("a")], Phase.KILLING),
        (3.6, StopAsked(at_once=True), [], Phase.KILLING),
        (4, Exited("a", 7, -9), [Clean("a")], Phase.STOPPED),
    ],
    "a stop while starting": [
        *START,
        (1, StopAsked(), [Kill("a")], Phase.KILLING),
        (1, Exited("a", 7, -9), [Clean("a")], Phase.STOPPED),
    ],
    "a stop between spawn and pid": [
        START[0],
        (0, StopAsked(), [], Phase.STARTING),
        (0, Spawned("a", 7), [Kill("a")], Phase.KILLING),
        (1, Exited("a", 7, -9), [Clean("a")], Phase.STOPPED),
    ],
    "a stop before the start": [(0, StopAsked(), [], Phase.STOPPED)],
    "never ready in time": [
        *START,
        (9.9, Tick(), [], Phase.STARTING),
        (10, Tick(), [Kill("a")], Phase.KILLING),
        (10, Exited("a", 7, -9), [Clean("a")], Phase.FAILED),
    ],
    "a model that does not load": [
        *START,
        (1, Unusable("a", 7, "model x: no"), [Kill("a")], Phase.KILLING),
        (1, BecameReady("a", 7), [], Phase.KILLING),
        (1, Exited("a", 7, -9), [Clean("a")], Phase.FAILED),
    ],
    "dead before it was ready": [*START, (1, Exited("a", 7, 1), [Clean("a")], Phase.FAILED)],
    "no such program": [START[0], (0, SpawnFailed("a", "no such file"), [], Phase.FAILED)],
    "dead after it was ready": [
        *READY,
        (4, Exited("a", 7, -11), [Clean("a")], Phase.BACKOFF),
        (4.9, Tick(), [], Phase.BACKOFF),
        (5, Tick(), [Spawn("a")], Phase.STARTING),
        (5, Spawned("a", 8), [], Phase.STARTING),
        (6, BecameReady("a", 8), [], Phase.READY),
    ],
    "a lost stub": [
        *READY,
        (4, Unusable("a", 7, "lost its stub"), [Kill("a")], Phase.KILLING),
        (4, Exited("a", 7, -9), [Clean("a")], Phase.BACKOFF),
    ],
    "a stop while waiting to restart": [
        *READY,
        (4, Exited("a", 7, 1), [Clean("a")], Phase.BACKOFF),
        (4.5, StopAsked(), [], Phase.STOPPED),
    ],
    "news of a process that is gone": [
        *READY,
        (4, Exited("a", 7, 1), [Clean("a")], Phase.BACKOFF),
        (5, Tick(), [Spawn("a")], Phase.STARTING),
        (5, Spawned("a", 8), [], Phase.STARTING),
        (5, BecameReady("a", 7), [], Phase.STARTING),
        (5, Unusable("a", 7, "old"), [], Phase.STARTING),
        (5, Exited("a", 7, 1), [], Phase.STARTING),
    ],
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_script(script: Script) -> None:
    run(script)


def test_a_process_that_cannot_be_ended_is_told_of() -> None:
    state = run(SCRIPTS["a process that even SIGKILL does not end"])
    assert state.over
    assert state.failed == "a"
    assert state.process("a").reason == "did not end within 7 s of SIGKILL"
    assert next_deadline(state) is None


def test_gives_up_after_the_last_restart_with_growing_waits() -> None:
    state = run(READY)
    now, pid, waits = 3.0, 7, []
    while not state.over:
        state, actions = step(state, Exited("a", pid, 1), now)
        assert actions == (Clean("a"),)
        deadline = next_deadline(state)
        if deadline is None:
            break
        waits.append(deadline - now)
        now, pid = deadline, pid + 1
        state, actions = step(state, Tick(), now)
        assert actions == (Spawn("a"),)
        state, _ = step(state, Spawned("a", pid), now)
        state, _ = step(state, BecameReady("a", pid), now + 1)
        now += 2
    assert waits == [1, 2]
    assert state.over
    assert state.failed == "a"
    assert state.process("a").phase is Phase.FAILED
    assert state.process("a").reason == "ended with exit code 1"


def test_a_stable_time_earns_fresh_restarts() -> None:
    state = run(READY, replace(POLICY, max_restarts=1))
    for pid in range(7, 12):
        state, _ = step(state, Exited("a", pid, 1), pid * 100)
        state, actions = step(state, Tick(), pid * 100 + 1)
        assert actions == (Spawn("a"),)
        state, _ = step(state, Spawned("a", pid + 1), pid * 100 + 1)
        state, _ = step(state, BecameReady("a", pid + 1), pid * 100 + 2)
    assert state.process("a").restarts == 5


def test_starts_in_order_and_stops_in_reverse() -> None:
    state, actions = step(begin(("a", "b"), POLICY, 0), Tick(), 0)
    assert actions == (Spawn("a"),)
    state, actions = step(state, Spawned("a", 1), 0)
    assert actions == ()
    state, actions = step(state, BecameReady("a", 1), 1)
    assert actions == (Spawn("b"),)
    state, _ = step(state, Spawned("b", 2), 1)
    assert not state.ready
    state, _ = step(state, BecameReady("b", 2), 2)
    assert state.ready
    state, actions = step(state, StopAsked(), 3)
    assert actions == (Terminate("b"),)
    state, actions = step(state, Exited("b", 2, 0), 4)
    assert actions == (Clean("b"), Terminate("a"))
    assert not state.over
    state, _ = step(state, Exited("a", 1, 0), 5)
    assert state.over


def test_one_that_fails_takes_the_others_down() -> None:
    state, _ = step(begin(("a", "b"), POLICY, 0), Tick(), 0)
    for event in (Spawned("a", 1), BecameReady("a", 1), Spawned("b", 2)):
        state, _ = step(state, event, 0)
    state, actions = step(state, Exited("b", 2, 1), 1)
    assert actions == (Clean("b"), Terminate("a"))
    state, _ = step(state, Exited("a", 1, 0), 2)
    assert state.over
    assert state.failed == "b"
    assert state.process("b").reason == "ended with exit code 1 before it was ready"


class World:
    """Processes that do what the machine's actions say, and nothing else."""

    def __init__(self) -> None:
        self.alive: dict[str, int] = {}
        self.asked: set[str] = set()
        self.pids = 0

    def act(self, action: Action) -> Event | None:
        if isinstance(action, Spawn):
            assert action.name not in self.alive, "started twice"
            self.pids += 1
            self.alive[action.name] = self.pids
            return Spawned(action.name, self.pids)
        if isinstance(action, Clean):
            assert action.name not in self.alive
        else:
            assert action.name in self.alive, "a signal to a process that is gone"
            self.asked.add(action.name)
        return None


@given(st.data())
def test_whatever_happens_a_deployment_that_is_over_has_no_process(data: st.DataObject) -> None:
    names = ("a", "b", "c")
    # In this world every process ends some time after it was killed.
    world, state, now = World(), begin(names, replace(POLICY, kill_timeout=1e9), 0), 0.0
    pending: list[Event] = [Tick()]
    for _ in range(data.draw(st.integers(5, 60))):
        state = drain(world, state, pending, now)
        now += data.draw(st.sampled_from([0.0, 0.5, 2.0, 11.0, 70.0]))
        name = data.draw(st.sampled_from(names))
        pid = data.draw(st.sampled_from([world.alive.get(name, 0), 1]))
        events: list[Event] = [
            Tick(), BecameReady(name, pid), Unusable(name, pid, "x"), Exited(name, pid, 1), StopAsked(),
        ]  # fmt: skip
        pending.append(data.draw(st.sampled_from(events)))
    pending.append(StopAsked())
    state = drain(world, state, pending, now)
    # From here on every process ends when it is told to, and time goes by.
    for _ in range(20):
        for name in sorted(world.asked & set(world.alive)):
            pending.append(Exited(name, world.alive[name], -9))
        now += 100
        state = drain(world, state, [*pending, Tick()], now)
        pending.clear()
    assert state.over
    assert not world.alive
    assert all(process.phase not in LIVE and process.pid is None for process in state.processes)


def drain(world: World, state: State, pending: list[Event], now: float) -> State:
    while pending:
        event = pending.pop(0)
        if isinstance(event, Exited):
            if world.alive.get(event.name) != event.pid:
                continue
            del world.alive[event.name]
            world.asked.discard(event.name)
        state, actions = step(state, event, now)
        pending[:0] = [said for action in actions if (said := world.act(action)) is not None]
        assert {process.name: process.pid for process in state.processes if process.pid is not None}.items() <= (
            world.alive.items()
        )
    return state
