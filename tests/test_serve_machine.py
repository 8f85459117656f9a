from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from tritonkit.serve.machine import step
from tritonkit.serve.phases import Phase, State, begin, next_deadline
from tritonkit.serve.processes import Check, DaemonCheck, GatewayCheck, Policy, ProcessSpec, ServerCheck, shown, twin

POLICY = Policy(
    start_timeout=10, stop_timeout=5, kill_timeout=7, max_restarts=2, backoff=1, backoff_limit=3, stable_after=60
)


def process(name: str, check: Check, *, needs: tuple[str, ...] = (), after: tuple[str, ...] = ()) -> ProcessSpec:
    folder = Path("/nowhere")
    return ProcessSpec(name, (name,), {}, folder, folder / "log", "mark", check, needs=needs, after=after)


def server(name: str, *models: str, needs: tuple[str, ...] = ()) -> ProcessSpec:
    return process(name, ServerCheck("127.0.0.1:1", name, models or ("m",)), needs=needs)


def daemon(name: str) -> ProcessSpec:
    return process(name, DaemonCheck(Path("/bin/mps"), Path("/pipe"), 0, "GPU-0"))


def gateway(*after: str) -> ProcessSpec:
    return process("gateway", GatewayCheck("127.0.0.1:2", Path("/haproxy.sock")), after=after)


Script = list[tuple[float, Event, list[Action], Phase]]


def run(script: Script, policy: Policy = POLICY) -> State:
    """Step one process "a" through a script of (time, event, actions that follow, phase that follows)."""
    state = begin((server("a"),), policy, 0)
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
        (11, Exited("a", 7, -9), [Clean("a")], Phase.FAILED),
    ],
    "a sick process that even SIGKILL does not end is not started again": [
        *READY,
        (4, Unusable("a", 7, "lost its stub"), [Avoid("a"), Kill("a")], Phase.KILLING),
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
        (4, Exited("a", 7, -11), [Avoid("a"), Clean("a")], Phase.BACKOFF),
        (4.9, Tick(), [], Phase.BACKOFF),
        (5, Tick(), [Spawn("a")], Phase.STARTING),
        (5, Spawned("a", 8), [], Phase.STARTING),
        (6, BecameReady("a", 8), [Use("a")], Phase.READY),
    ],
    "a lost stub": [
        *READY,
        (4, Unusable("a", 7, "lost its stub"), [Avoid("a"), Kill("a")], Phase.KILLING),
        (4, Exited("a", 7, -9), [Clean("a")], Phase.BACKOFF),
    ],
    "a stop while waiting to restart": [
        *READY,
        (4, Exited("a", 7, 1), [Avoid("a"), Clean("a")], Phase.BACKOFF),
        (4.5, StopAsked(), [], Phase.STOPPED),
    ],
    "under suspicion, and then trusted": [
        *READY,
        (4, Suspected("a", 7, True), [Avoid("a")], Phase.READY),
        (4, Suspected("a", 7, True), [], Phase.READY),
        (5, Suspected("a", 7, False), [Use("a")], Phase.READY),
    ],
    "under suspicion, and rightly": [
        *READY,
        (4, Suspected("a", 7, True), [Avoid("a")], Phase.READY),
        (5, Unusable("a", 7, "lost its stub"), [Kill("a")], Phase.KILLING),
        (5, Suspected("a", 7, False), [], Phase.KILLING),
        (5, Exited("a", 7, -9), [Clean("a")], Phase.BACKOFF),
        (6, Tick(), [Spawn("a")], Phase.STARTING),
        (6, Spawned("a", 8), [], Phase.STARTING),
        (7, BecameReady("a", 8), [Use("a")], Phase.READY),
    ],
    "asked to start again": [
        *READY,
        (4, RestartAsked("a"), [Avoid("a"), Terminate("a")], Phase.STOPPING),
        (4.5, RestartAsked("a"), [], Phase.STOPPING),
        (5, Exited("a", 7, 0), [Clean("a"), Spawn("a")], Phase.STARTING),
        (5, Spawned("a", 8), [], Phase.STARTING),
        (5, Exited("a", 8, 1), [Clean("a")], Phase.BACKOFF),
        (5.5, RestartAsked("a"), [Spawn("a")], Phase.STARTING),
    ],
    "asked to start again, and not ending": [
        *READY,
        (4, RestartAsked("a"), [Avoid("a"), Terminate("a")], Phase.STOPPING),
        (9, Tick(), [Kill("a")], Phase.KILLING),
        (9, Exited("a", 7, -9), [Clean("a"), Spawn("a")], Phase.STARTING),
    ],
    "asked to start again while starting": [
        START[0],
        (0, RestartAsked("a"), [], Phase.STARTING),
        (0, Spawned("a", 7), [Kill("a")], Phase.KILLING),
        (0, Exited("a", 7, -9), [Clean("a"), Spawn("a")], Phase.STARTING),
    ],
    "asked to start again and to stop": [
        *READY,
        (4, RestartAsked("a"), [Avoid("a"), Terminate("a")], Phase.STOPPING),
        (5, StopAsked(), [], Phase.STOPPING),
        (6, RestartAsked("a"), [], Phase.STOPPING),
        (7, Exited("a", 7, 0), [Clean("a")], Phase.STOPPED),
    ],
    "news of a process that is gone": [
        *READY,
        (4, Exited("a", 7, 1), [Avoid("a"), Clean("a")], Phase.BACKOFF),
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
        assert actions[-1] == Clean("a")
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


def stepped(state: State, now: float, *script: tuple[Event, list[Action]]) -> State:
    """Step a deployment through events at one time, each with the actions that follow, but for those of the gateway."""
    for event, actions in script:
        state, done = step(state, event, now)
        assert [action for action in done if not isinstance(action, Avoid | Use)] == actions, event
    return state


FULL = (
    daemon("mps"),
    server("a", needs=("mps",)),
    server("b", needs=("mps",)),
    server("c"),
    gateway("a", "b", "c"),
)


def full(policy: Policy = POLICY) -> State:
    """A daemon with two servers, a server without one, and the gateway, all ready; pids 1 to 5."""
    state = stepped(
        begin(FULL, policy, 0),
        0,
        (Tick(), [Spawn("mps"), Spawn("c")]),
        (Spawned("mps", 1), []),
        (Spawned("c", 4), []),
        (BecameReady("c", 4), []),
        (BecameReady("mps", 1), [Spawn("a"), Spawn("b")]),
        (Spawned("a", 2), []),
        (Spawned("b", 3), []),
        (BecameReady("b", 3), []),
        (BecameReady("a", 2), [Spawn("gateway")]),
        (Spawned("gateway", 5), []),
    )
    assert (state.word, state.came_up) == ("starting", False)
    state = stepped(state, 0, (BecameReady("gateway", 5), []))
    assert (state.word, state.came_up) == ("ready", True)
    return state


def test_starts_what_can_start_and_stops_in_reverse() -> None:
    state = stepped(
        full(),
        1,
        (StopAsked(), [Terminate("gateway")]),
        (Exited("gateway", 5, 0), [Clean("gateway"), Terminate("a"), Terminate("b"), Terminate("c")]),
        (Exited("c", 4, 0), [Clean("c")]),
        (Exited("a", 2, 0), [Clean("a")]),
        (Exited("b", 3, 0), [Clean("b"), Terminate("mps")]),
    )
    assert not state.over
    assert stepped(state, 2, (Exited("mps", 1, 0), [Clean("mps")])).over


def test_a_dead_daemon_takes_its_servers_along_and_comes_back_before_them() -> None:
    state = stepped(
        full(),
        1,
        (Exited("mps", 1, -9), [Clean("mps"), Kill("a"), Kill("b")]),
        (Exited("a", 2, -9), [Clean("a")]),
    )
    assert state.word == "degraded"
    assert state.process("a").reason == "lost mps, which was ended by signal 9"
    assert state.process("c").phase is Phase.READY
    # Its wait is over, but one of its servers still runs.
    state = stepped(state, 3, (Tick(), []), (Exited("b", 3, -9), [Clean("b"), Spawn("mps")]))
    state = stepped(state, 4, (Spawned("mps", 6), []), (BecameReady("mps", 6), [Spawn("a"), Spawn("b")]))
    assert [state.process(name).failures for name in ("mps", "a", "b")] == [1, 0, 0]
    assert [state.process(name).restarts for name in ("mps", "a", "b", "c")] == [1, 1, 1, 0]


def test_servers_get_no_requests_from_their_end_until_they_are_ready_again() -> None:
    state, actions = step(full(), Exited("mps", 1, -9), 1)
    assert set(actions[:3]) == {Avoid("mps"), Avoid("a"), Avoid("b")}, "before they are killed"
    state, _ = step(state, Exited("a", 2, -9), 1)
    state, _ = step(state, Exited("b", 3, -9), 1)
    state, _ = step(state, Tick(), 2)
    state, _ = step(state, Spawned("mps", 6), 2)
    state, actions = step(state, BecameReady("mps", 6), 2)
    assert {Use("a"), Use("b")}.isdisjoint(actions)
    state, _ = step(state, Spawned("a", 7), 2)
    state, actions = step(state, BecameReady("a", 7), 3)
    assert actions == (Use("a"),)


def test_a_daemon_that_hangs_takes_its_servers_along() -> None:
    state = stepped(full(), 1, (Unusable("mps", 1, "is stopped"), [Kill("mps"), Kill("a"), Kill("b")]))
    state = stepped(state, 1, (Exited("mps", 1, -9), [Clean("mps")]), (Exited("a", 2, -9), [Clean("a")]))
    stepped(state, 5, (Exited("b", 3, -9), [Clean("b"), Spawn("mps")]))


def test_a_daemon_that_is_asked_to_start_again() -> None:
    """Its clients end before it, each in its own time: what they compute is not cut off."""
    state = stepped(
        full(),
        1,
        (RestartAsked("mps"), [Terminate("a"), Terminate("b")]),
        (Exited("a", 2, 0), [Clean("a")]),
    )
    state = stepped(
        state,
        6,
        (Tick(), [Kill("b")]),
        (Exited("b", 3, -9), [Clean("b"), Terminate("mps")]),
        (Exited("mps", 1, 0), [Clean("mps"), Spawn("mps")]),
        (Spawned("mps", 6), []),
        (BecameReady("mps", 6), [Spawn("a"), Spawn("b")]),
    )
    assert [state.process(name).failures for name in ("mps", "a", "b")] == [0, 0, 0]
    assert [state.process(name).restarts for name in ("mps", "a", "b", "c")] == [1, 1, 1, 0]


def test_a_daemon_that_ends_before_its_clients_have() -> None:
    state = stepped(
        full(),
        1,
        (RestartAsked("mps"), [Terminate("a"), Terminate("b")]),
        (Exited("mps", 1, -9), [Clean("mps"), Kill("a"), Kill("b")]),
        (Exited("b", 3, -9), [Clean("b")]),
        (Exited("a", 2, -9), [Clean("a"), Spawn("mps")]),
    )
    assert [state.process(name).failures for name in ("mps", "a", "b")] == [0, 0, 0]


def test_a_server_that_is_given_up_leaves_its_replica_alone() -> None:
    state = full(replace(POLICY, max_restarts=0))
    state = stepped(state, 1, (Exited("a", 2, 1), [Clean("a")]))
    assert (state.word, state.process("a").phase) == ("degraded", Phase.FAILED)
    state = stepped(state, 100, (Tick(), []))
    # Somebody mended it.
    state = stepped(state, 101, (RestartAsked("a"), [Spawn("a")]), (Spawned("a", 7), []), (BecameReady("a", 7), []))
    assert state.word == "ready"


def test_the_last_server_of_a_model_that_is_given_up_fails_the_deployment() -> None:
    specs = (server("a", "m"), server("b", "m", "n"), server("c", "m"))
    state = begin(specs, replace(POLICY, max_restarts=0), 0)
    state, _ = step(state, Tick(), 0)
    for pid, name in enumerate("abc"):
        state, _ = step(state, Spawned(name, pid), 0)
        state, _ = step(state, BecameReady(name, pid), 0)
    state = stepped(state, 1, (Exited("a", 0, 1), [Clean("a")]))
    assert not state.stopping
    state = stepped(state, 1, (Exited("b", 1, 1), [Clean("b"), Terminate("c")]), (Exited("c", 2, 0), [Clean("c")]))
    assert (state.over, state.failed) == (True, "b")


def test_a_daemon_that_is_given_up_gives_up_its_servers() -> None:
    state = full(replace(POLICY, max_restarts=0))
    lost = stepped(
        state,
        1,
        (Exited("mps", 1, 1), [Clean("mps"), Kill("a"), Kill("b")]),
        (Exited("a", 2, -9), [Clean("a")]),
        (Exited("b", 3, -9), [Clean("b")]),
    )
    assert [lost.process(name).phase for name in ("mps", "a", "b", "c")] == [Phase.FAILED] * 3 + [Phase.READY]
    assert lost.process("a").reason == "needs mps, which was given up"
    # One word brings all of them back, whichever of them it names.
    again = stepped(lost, 2, (RestartAsked("mps"), [Spawn("mps")]))
    assert again.process("a").phase is Phase.WAITING
    again = stepped(lost, 2, (RestartAsked("a"), [Spawn("mps")]))
    assert again.process("b").phase is Phase.FAILED

    alone = begin((daemon("mps"), server("a", needs=("mps",))), replace(POLICY, max_restarts=0), 0)
    for event in (Tick(), Spawned("mps", 1), BecameReady("mps", 1), Spawned("a", 2), BecameReady("a", 2)):
        alone, _ = step(alone, event, 0)
    alone = stepped(alone, 1, (Exited("mps", 1, 1), [Clean("mps"), Kill("a")]), (Exited("a", 2, -9), [Clean("a")]))
    assert (alone.over, alone.failed) == (True, "mps")


def test_a_gateway_that_is_given_up_fails_the_deployment() -> None:
    state = full(replace(POLICY, max_restarts=0))
    stop: list[Action] = [Clean("gateway"), Terminate("a"), Terminate("b"), Terminate("c")]
    assert stepped(state, 1, (Exited("gateway", 5, 1), stop)).failed == "gateway"


def test_one_that_cannot_be_killed_is_not_started_a_second_time() -> None:
    state = stepped(full(), 1, (Unusable("a", 2, "is stopped"), [Kill("a")]))
    state = stepped(state, 8, (Tick(), []))
    assert (state.word, state.process("a").phase, state.process("a").pid) == ("degraded", Phase.FAILED, 2)
    state = stepped(state, 9, (RestartAsked("a"), []))
    stepped(state, 10, (Exited("a", 2, -9), [Clean("a")]), (RestartAsked("a"), [Spawn("a")]))


def test_one_that_fails_to_start_takes_the_others_down() -> None:
    state = stepped(
        begin((server("a"), server("b")), POLICY, 0),
        0,
        (Tick(), [Spawn("a"), Spawn("b")]),
        (Spawned("a", 1), []),
        (BecameReady("a", 1), []),
        (Spawned("b", 2), []),
        (Exited("b", 2, 1), [Clean("b"), Terminate("a")]),
        (Exited("a", 1, 0), [Clean("a")]),
    )
    assert (state.over, state.failed) == (True, "b")
    assert state.process("b").reason == "ended with exit code 1 before it was ready"


def test_one_that_dies_before_the_others_are_ready_is_started_again() -> None:
    state = stepped(
        begin((server("a"), server("b")), POLICY, 0),
        0,
        (Tick(), [Spawn("a"), Spawn("b")]),
        (Spawned("a", 1), []),
        (BecameReady("a", 1), []),
        (Exited("a", 1, 1), [Clean("a")]),
    )
    stepped(state, 1, (Tick(), [Spawn("a")]))


def second(*, ready: bool) -> State:
    """The full deployment with a second process of "c", pid 6, and what it was when that was asked for."""
    state = stepped(full(), 1, (SecondAsked("c"), [Spawn("c+")]), (Spawned("c+", 6), []), (SecondAsked("c"), []))
    assert (state.word, state.process("c+").aside, state.process("gateway").after) == (
        "ready", True, ("a", "b", "c", "c+"),
    )  # fmt: skip
    return stepped(state, 2, (BecameReady("c+", 6), [])) if ready else state


def test_a_second_process_of_a_server_takes_over() -> None:
    state = stepped(second(ready=True), 3, (TookOver("c+"), []))
    used, first = state.process("c+"), state.process("c")
    assert (used.aside, used.serves, used.restarts) == (False, ("m",), 1)
    assert (first.aside, first.phase, first.serves) == (True, Phase.READY, ())
    state, actions = step(state, Dismissed("c"), 4)
    assert actions == (Terminate("c"),), "the gateway knows the new one by the same name: it is not avoided"
    state, actions = step(state, Exited("c", 4, 0), 5)
    assert (actions, state.found("c"), state.word) == ((Clean("c"),), None, "ready")
    assert state.process("gateway").after == ("a", "b", "c+")
    # It is a server as any other from then on, and its next process has the first name again.
    state, actions = step(state, Exited("c+", 6, 1), 6)
    assert actions == (Avoid("c+"), Clean("c+"))
    state = stepped(state, 9, (Tick(), [Spawn("c+")]), (Spawned("c+", 7), []), (BecameReady("c+", 7), []))
    stepped(state, 9, (SecondAsked("c+"), [Spawn("c")]))


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize("event", [Exited("c+", 6, 1), Unusable("c+", 6, "lost its stub")])
def test_a_second_process_that_fails_leaves_the_first_one_alone(ready: bool, event: Event) -> None:
    state, actions = step(second(ready=ready), event, 3)
    if isinstance(event, Unusable):
        assert actions == (Kill("c+"),)
        state, actions = step(state, Exited("c+", 6, -9), 3)
    assert actions == (Clean("c+"),)
    assert (state.process("c+").phase, state.word) == (Phase.FAILED, "ready")
    state = stepped(state, 100, (Tick(), []), (TookOver("c+"), []), (Dismissed("c+"), []))
    assert (state.found("c+"), state.process("c").aside) == (None, False)


def test_the_first_process_may_end_while_the_second_one_starts() -> None:
    state = stepped(second(ready=False), 2, (Exited("c", 4, -9), [Clean("c")]))
    assert (state.word, state.process("c").phase) == ("degraded", Phase.BACKOFF)
    state = stepped(state, 2, (BecameReady("c+", 6), []), (TookOver("c+"), []))
    assert state.word == "ready"
    state = stepped(state, 50, (Tick(), []), (Dismissed("c"), []))
    assert state.found("c") is None


@pytest.mark.parametrize("ready", [False, True])
def test_both_processes_of_a_server_are_stopped_after_the_gateway(ready: bool) -> None:
    stop: list[Action] = [*map(Terminate, "abc"), Terminate("c+") if ready else Kill("c+")]
    stepped(
        second(ready=ready),
        3,
        (StopAsked(), [Terminate("gateway")]),
        (TookOver("c+"), []),
        (Exited("gateway", 5, 0), [Clean("gateway"), *stop]),
    )


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
        elif not isinstance(action, Avoid | Use):
            assert action.name in self.alive, "a signal to a process that is gone"
            self.asked.add(action.name)
        return None


@st.composite
def plans(draw: st.DrawFn) -> tuple[ProcessSpec, ...]:
    """Daemons, servers that need one of them or none and share models or do not, and perhaps a gateway."""
    daemons = [daemon(f"mps-{index}") for index in range(draw(st.integers(0, 2)))]
    servers = [
        server(
            f"server-{index}",
            *draw(st.sampled_from([("m",), ("m", "n"), ("n",)])),
            needs=draw(st.sampled_from([(), *((spec.name,) for spec in daemons)])),
        )
        for index in range(draw(st.integers(1, 4)))
    ]
    if draw(st.booleans()):
        return (*daemons, *servers, gateway(*(spec.name for spec in servers)))
    return (*daemons, *servers)


@given(st.data())
def test_whatever_happens(data: st.DataObject) -> None:
    """No process runs without what it needs, none is started twice, and a stop ends them all."""
    specs = data.draw(plans())
    servers = [name for spec in specs if spec.kind == "server" for name in (spec.name, twin(spec.name))]
    names = [*servers, *(spec.name for spec in specs if spec.kind != "server")]
    # In this world every process ends some time after it was killed.
    policy = replace(POLICY, kill_timeout=1e9, max_restarts=data.draw(st.sampled_from([0, 1, 5])))
    world, state, now = World(), begin(specs, policy, 0), 0.0
    state = drain(world, state, [Tick()], now)
    for _ in range(data.draw(st.integers(5, 60))):
        if data.draw(st.booleans()):
            # Most of the time all goes well.
            ready: list[Event] = [
                BecameReady(name, pid) for name, pid in world.alive.items() if name not in world.asked
            ]
            gone: list[Event] = [Exited(name, world.alive[name], -9) for name in sorted(world.asked)]
            state = drain(world, state, [*ready, *gone], now)
        now += data.draw(st.sampled_from([0.0, 0.5, 2.0, 11.0, 70.0]))
        name = data.draw(st.sampled_from(names))
        pid = data.draw(st.sampled_from([world.alive.get(name, 0), 1]))
        events: list[Event] = [
            Tick(), BecameReady(name, pid), Unusable(name, pid, "x"), Exited(name, pid, 1), RestartAsked(name),
            Suspected(name, pid, data.draw(st.booleans())),
            *(kind(name) for kind in (SecondAsked, TookOver, Dismissed) if name in servers),
            *([StopAsked()] if data.draw(st.integers(0, 9)) == 0 else []),
        ]  # fmt: skip
        state = drain(world, state, [data.draw(st.sampled_from(events))], now)
        if not state.stopping:
            covered = {served for one in state.processes if one.phase is not Phase.FAILED for served in one.serves}
            assert covered == {served for spec in specs for served in spec.models or (spec.name,) if spec.kind != "mps"}
            assert {spec.name for spec in specs} == {shown(one.name) for one in state.processes if not one.aside}
    state = drain(world, state, [StopAsked()], now)
    # From here on every process ends when it is told to, and time goes by.
    for _ in range(20):
        gone = [Exited(name, world.alive[name], -9) for name in sorted(world.asked & set(world.alive))]
        now += 100
        state = drain(world, state, [*gone, Tick()], now)
    assert state.over
    assert not world.alive
    assert all(not one.live and one.pid is None for one in state.processes)
    assert next_deadline(state) is None


def drain(world: World, state: State, pending: list[Event], now: float) -> State:
    while pending:
        event = pending.pop(0)
        if isinstance(event, Exited):
            if world.alive.get(event.name) != event.pid:
                continue
            del world.alive[event.name]
            world.asked.discard(event.name)
        state, actions = step(state, event, now)
        for action in actions:
            if isinstance(action, Spawn):
                one = state.process(action.name)
                assert all(state.process(need).phase is Phase.READY for need in one.needs)
                assert one.was_ready or all(state.process(name).was_ready for name in one.after)
            if isinstance(action, Terminate) and state.stopping:
                held = [one.name for one in state.processes if action.name in {*one.needs, *one.after} and one.live]
                assert not held, "what others still need, or come after, is not ended"
        pending[:0] = [said for action in actions if (said := world.act(action)) is not None]
        assert {one.name: one.pid for one in state.processes if one.pid is not None}.items() <= world.alive.items()
        for one in state.processes:
            if one.phase in {Phase.STARTING, Phase.READY} and one.pid is not None:
                assert all(state.process(need).phase is Phase.READY for need in one.needs)
        due = next_deadline(state)
        # A past deadline would be waited for with no pause. Only what is just being started may have one.
        assert (
            due is None or due > now or any(one.phase is Phase.STARTING and one.pid is None for one in state.processes)
        )
    return state
