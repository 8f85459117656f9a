"""A new process of a server takes over from the one that runs, behind the gateway, without a lost request.

It is started beside the old one, with ports, folders and a mark of its own, and must be ready as at any start. Then
the gateway loads a configuration with its addresses: a new worker of HAProxy takes all connections from then on, and
the old worker finishes those that it has with the old process. That is ended once the old worker is gone.
Until the gateway has changed over, the old process is left alone, and goes on if anything fails.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Container, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from tritonkit.errors import LaunchFailed, TritonkitError
from tritonkit.serve import haproxy, routing
from tritonkit.serve.events import Dismissed, SecondAsked, TookOver
from tritonkit.serve.gateway import KEEP_ALIVE
from tritonkit.serve.phases import Phase, Process, State
from tritonkit.serve.processes import Plan, ProcessSpec, twin

if TYPE_CHECKING:
    from tritonkit.serve.supervisor import Supervisor

_POLL = 0.05


class RunsAsBefore(LaunchFailed):
    """A new process did not take over, and the old one was left alone."""


def is_due(supervisor: Supervisor, name: str) -> bool:
    """Whether a process is a server behind the gateway that serves, and that no other one could stand in for."""
    state, specs = supervisor.state, supervisor.specs
    return (
        supervisor.replan is not None
        and not state.stopping
        and specs[name].kind == "server"
        and state.came_up
        and state.process(name).phase is Phase.READY
        and routing.gateway(state, specs) is not None
        and not routing.has_replicas(name, state, specs)
    )


def succeed(supervisor: Supervisor, name: str, plan: Plan) -> Iterator[dict[str, Any]]:
    """Replace a process by the one of ``plan`` that was planned beside it; what happens, step by step.

    Raises:
        RunsAsBefore: the new process did not come up, or did not stay up.
    """
    new = next(spec for spec in plan.processes if spec.name == twin(name))
    gateway = next(spec for spec in plan.processes if spec.kind == "gateway")
    yield {"server": new.shown, "step": "starting another process"}
    before: tuple[int, ...] = ()
    # The log is that of the old process, too.
    said = new.log.stat().st_size if new.log.exists() else 0
    supervisor.use(new)
    supervisor.post(SecondAsked(name))
    try:
        _until(supervisor, new, partial(_came_up, new.name), since=said)
        yield {"server": new.shown, "step": "ready"}
        before = _old_workers(supervisor)
        _change_over(supervisor, new, gateway)
    except (TritonkitError, OSError) as error:
        _dismiss(supervisor, new.name)
        log, hint = (error.log, error.hint) if isinstance(error, LaunchFailed) else (None, None)
        raise RunsAsBefore(
            f"{error.args[0] if isinstance(error, TritonkitError) else error}\n{new.shown} runs as before.",
            process=new.shown,
            log=log,
            hint=hint,
        ) from error
    yield {"server": new.shown, "step": "taking the requests"}
    _finish(supervisor, gateway.name, new.shown, before)
    _dismiss(supervisor, name)
    yield {"server": new.shown, "step": "the process before has ended"}


def _change_over(supervisor: Supervisor, new: ProcessSpec, gateway: ProcessSpec) -> None:
    before = supervisor.spec(gateway.name)
    try:
        _reload(supervisor, gateway, new)
        supervisor.post(TookOver(new.name))
        _until(supervisor, new, partial(took_over, new.name))
    except (TritonkitError, OSError):
        if supervisor.state.stopping:
            raise
        try:
            _reload(supervisor, before, new)
        except (TritonkitError, OSError):
            # Whatever it has taken of the new configuration: it starts with the one before.
            supervisor.use(before)
            supervisor.restart(before.name)
        raise


def _reload(supervisor: Supervisor, gateway: ProcessSpec, moved: ProcessSpec) -> None:
    with supervisor.routing:
        state = supervisor.state
        running = state.process(gateway.name)
        if state.stopping:
            raise _stopping(moved)
        # One that is asked to end would start a worker that knows of no end.
        if running.phase is not Phase.READY or running.pid is None:
            raise LaunchFailed("the gateway does not run", process=gateway.name)
        haproxy.reload(gateway, running.pid, moved={moved.shown})
        # When it is started again, then with this.
        supervisor.use(gateway)


def _until(supervisor: Supervisor, new: ProcessSpec, what: Any, *, since: int = 0) -> None:
    """Wait until ``what`` gives the process; raise unless that is ready, or has taken over already."""
    from tritonkit.serve import diagnosis

    process: Process = supervisor.wait(what)
    if process.phase is Phase.READY or not process.aside:
        return
    if process.phase in {Phase.STOPPING, Phase.STOPPED}:
        raise _stopping(new)
    raise diagnosis.failure(f"a second process of {new.shown}", process.reason, new.log, since=since)


def _stopping(new: ProcessSpec) -> LaunchFailed:
    return LaunchFailed(f"{new.shown}: the deployment is stopping", process=new.shown)


def _came_up(name: str, state: State) -> Process | None:
    process = state.found(name)
    if state.stopping:
        return Process(name, 0, phase=Phase.STOPPING, aside=True)
    return process if process is not None and process.phase in {Phase.READY, Phase.FAILED} else None


def took_over(name: str, state: State) -> Process | None:
    """The new process once it is its server's, or can no longer become so; None until then."""
    process = state.found(name)
    if process is not None and not process.aside and not state.stopping:
        # Whatever has become of it since: it is started again like any other.
        return process
    came_up = _came_up(name, state)
    return None if came_up is not None and came_up.phase is Phase.READY else came_up


def _gone(name: str, state: State) -> bool:
    """Whether a process has ended that was dismissed, or cannot be ended, or ends with all others."""
    process = state.found(name)
    return state.stopping or process is None or (process.phase is Phase.FAILED and process.dismissed)


def _dismiss(supervisor: Supervisor, name: str) -> None:
    """End the process of a server that requests do not go to, and remove what was written for it."""
    supervisor.post(Dismissed(name))
    supervisor.wait(partial(_gone, name))
    if supervisor.state.found(name) is None:
        for folder in supervisor.spec(name).folders:
            shutil.rmtree(folder.path, ignore_errors=True)


def _old_workers(supervisor: Supervisor) -> tuple[int, ...]:
    gateway = routing.gateway(supervisor.state, supervisor.specs)
    return gateway.workers(old=True) if gateway is not None else ()


def _finish(supervisor: Supervisor, gateway: str, server: str, before: Container[int]) -> None:
    """Wait until no worker of the gateway is left that may send the process before a request, or it is too late.

    ``before`` are the workers that were replaced before this change already.
    """
    pid = supervisor.state.process(gateway).pid
    # A client that is silent on an open connection may still send a request by it, until the gateway closes it.
    end = time.monotonic() + max(supervisor.plan.policy.stop_timeout, KEEP_ALIVE + 1)
    # One that is started again has no such workers; one that does not answer for a moment may have.
    while supervisor.state.process(gateway).pid == pid and time.monotonic() < end:
        with suppress(TritonkitError):
            asked = routing.gateway(supervisor.state, supervisor.specs)
            if asked is not None and not asked.may_follow(server, outlasting=before):
                return
        time.sleep(_POLL)
