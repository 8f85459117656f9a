"""Starting single processes of a running deployment again, as they are or changed, at somebody's request.

Where another server holds its models, a server behind the gateway is drained first: HAProxy sends it no more requests,
and those that it works on are waited for. Else a new process takes over from it (``succession``). So nothing is lost.
One request is carried out at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tritonkit.errors import CommandFailed, LaunchFailed, RequestFailed, SpecError, TritonkitError, UsageError, nearest
from tritonkit.serve.phases import Phase, Process, State
from tritonkit.serve.processes import Change, ProcessSpec, shown
from tritonkit.spec.servers import is_of

if TYPE_CHECKING:
    from tritonkit.serve.control import Answer
    from tritonkit.serve.haproxy import HaproxySocket
    from tritonkit.serve.supervisor import Supervisor

_POLL = 0.05
# The gateway looks at a server more often than that.
_SEEN_UP = 10.0


class Restarts:
    """Answers the requests ``restart`` and ``set`` of one deployment."""

    def __init__(self, supervisor: Supervisor) -> None:
        """Nothing is done yet."""
        self._supervisor = supervisor
        self._turn = threading.Lock()

    def answer(self, request: Mapping[str, Any]) -> Iterator[Answer]:
        """What happens, step by step, each as the process's name, a word for the step and the seconds since.

        Raises:
            UsageError: there is no such command or process, or another request is still carried out.
            LaunchFailed: a process did not come up again.
        """
        if not self._turn.acquire(blocking=False):
            raise UsageError("another restart is under way", hint="See it with: tritonkit status")
        try:
            command, name = request.get("command"), str(request.get("server", ""))
            if command == "restart":
                yield from self._timed(self._restart_each(self._meant(name)))
            elif command == "set":
                yield from self._timed(self._set(name, request.get("percentage")))
            else:
                raise UsageError(f"unknown command {command!r}{nearest(str(command), ('restart', 'set'))}")
        finally:
            self._turn.release()

    @staticmethod
    def _timed(steps: Iterator[dict[str, Any]]) -> Iterator[Answer]:
        began = time.monotonic()
        for step in steps:
            yield {**step, "seconds": round(time.monotonic() - began, 2)}

    def _meant(self, name: str) -> list[str]:
        """The process of that name, or those of the spec's server of that name."""
        names = {process.name: shown(process.name) for process in self._in_use()}
        exactly = [process for process, known in names.items() if known == name]
        meant = exactly or [process for process in names if self._of(process, name)]
        if not meant:
            raise UsageError(f"no process {name!r} runs here{nearest(name, names.values())}")
        return meant

    def _in_use(self) -> list[Process]:
        return [process for process in self._supervisor.state.processes if not process.aside]

    def _restart_each(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        for name in names:
            yield from self._renew(Change(shown(name)), name, {})

    def _renew(self, change: Change, name: str, changed: Mapping[str, ProcessSpec]) -> Iterator[dict[str, Any]]:
        """Have another process take over where that is due and there is room for it, or else restart this one."""
        from tritonkit.serve import room, succession

        replan = self._supervisor.replan
        if replan is not None and succession.is_due(self._supervisor, name):
            try:
                planned = replan(replace(change, beside=name, running=self._running()))
                reason = room.lack(self._supervisor.spec(name))
            except SpecError as error:
                reason = "; ".join(dict.fromkeys(fault.message for fault in error.faults))
            if not reason:
                yield from succession.succeed(self._supervisor, name, planned)
                return
            yield {"server": shown(name), "step": "no room for another process", "reason": reason}
        yield from self._restart(name, changed)

    def _running(self) -> tuple[ProcessSpec, ...]:
        specs = self._supervisor.specs
        return tuple(specs[process.name] for process in self._in_use() if specs[process.name].kind == "server")

    def _set(self, name: str, percentage: object) -> Iterator[dict[str, Any]]:
        from tritonkit.serve.succession import RunsAsBefore

        replan = self._supervisor.replan
        if not isinstance(percentage, int | float) or isinstance(percentage, bool):
            raise UsageError(f"{percentage!r} is no percentage")
        if replan is None:
            raise UsageError("this deployment takes no changes")
        change = Change(name, float(percentage), running=self._running())
        planned = {spec.name: spec for spec in replan(change).processes}
        before = {spec: self._supervisor.spec(spec) for spec in planned if self._of(spec, name)}
        changed = {spec: planned[spec] for spec, old in before.items() if planned[spec] != old}
        if not before:
            self._meant(name)
        # Several of one name are replicas of each other.
        start_again = self._restart if len(changed) > 1 else partial(self._renew, change)
        done: list[str] = []
        # Those that serve come last: until then others do so for them.
        for spec in sorted(changed, key=self._serves):
            try:
                yield from start_again(spec, changed)
            except RunsAsBefore:
                raise
            except LaunchFailed as error:
                for one in [*done, spec]:
                    yield {"server": shown(one), "step": "going back", "reason": error.args[0]}
                    yield from self._restart(one, before)
                raise LaunchFailed(
                    f"{error.args[0]}\n{name} runs as before.", process=spec, log=error.log, hint=error.hint
                ) from error
            done.append(spec)

    def _serves(self, name: str) -> tuple[bool, bool]:
        process = self._supervisor.state.process(name)
        return process.phase is Phase.READY, not process.avoided

    def _of(self, process: str, name: str) -> bool:
        """Whether a process of the plan is that of the name, or one of the spec's entry of that name."""
        return self._supervisor.spec(process).kind == "server" and is_of(shown(process), name)

    def _restart(self, name: str, changed: Mapping[str, ProcessSpec]) -> Iterator[dict[str, Any]]:
        state = self._supervisor.state
        process = state.process(name)
        if process.phase is Phase.FAILED and process.pid is not None:
            raise LaunchFailed(f"{shown(name)} {process.reason}: nothing can take its place", process=shown(name))
        spec = self._supervisor.spec(name)
        if spec.kind == "gateway" and process.phase is Phase.READY and process.pid is not None and not state.stopping:
            from tritonkit.serve import haproxy

            with self._supervisor.routing:
                haproxy.reload(spec, process.pid)
            yield {"server": name, "step": "reloaded"}
            return
        servers = [name] if spec.kind == "server" else [one.name for one in state.dependants(name)]
        gateway = self._gateway()
        try:
            if gateway is not None:
                yield from self._drained(gateway, [shown(server) for server in servers])
            before = self._supervisor.state
            self._supervisor.restart(name, changed.get(name))
            yield {"server": shown(name), "step": "restarting"}
            for one in dict.fromkeys([name, *servers]):
                ended = self._supervisor.wait(partial(_outcome, name, one, before))
                if ended.phase is not Phase.READY:
                    raise self._failure(ended)
                yield {"server": shown(one), "step": "ready"}
        finally:
            if gateway is not None:
                for server in servers:
                    _told(gateway, shown(server), "ready")
        if gateway is not None:
            # Only then may the next one be drained.
            _until_up(gateway, [shown(server) for server in servers])

    def _gateway(self) -> HaproxySocket | None:
        if not any(spec.kind == "gateway" for spec in self._supervisor.plan.processes):
            return None
        from tritonkit.serve import routing

        return routing.gateway(self._supervisor.state, self._supervisor.specs)

    def _drained(self, gateway: HaproxySocket, servers: Sequence[str]) -> Iterator[dict[str, Any]]:
        asked = [server for server in servers if _told(gateway, server, "drain")]
        end = time.monotonic() + self._supervisor.plan.policy.stop_timeout
        for server in asked:
            yield {"server": server, "step": "draining"}
            sessions = 0
            while (sessions := _sessions(gateway, server)) and time.monotonic() < end:
                time.sleep(_POLL)
            yield {"server": server, "step": "drained", "requests": sessions}

    def _failure(self, process: Process) -> LaunchFailed:
        from tritonkit.serve import diagnosis

        if process.phase in {Phase.READY, Phase.STOPPING, Phase.STOPPED}:
            name = shown(process.name)
            return LaunchFailed(f"{name}: the deployment is stopping", process=name)
        return diagnosis.failure(shown(process.name), process.reason, self._supervisor.spec(process.name).log)


def _outcome(asked: str, name: str, before: State, state: State) -> Process | None:
    """A process once it is ready again after ``asked`` was asked to start again, or cannot become so; else None."""
    process = state.process(name)
    if state.stopping:
        return process if process.phase is not Phase.READY else replace(process, phase=Phase.STOPPING)
    if state.process(asked).asks == before.process(asked).asks:
        return None
    again = process.phase is Phase.READY and process.starts > before.process(name).starts
    return process if again or process.failures or process.phase is Phase.FAILED else None


def _told(gateway: HaproxySocket, server: str, word: str) -> bool:
    from tritonkit.serve import routing

    return routing.tell(gateway, server, word)


def _until_up(gateway: HaproxySocket, servers: Sequence[str]) -> None:
    end = time.monotonic() + _SEEN_UP
    while time.monotonic() < end:
        try:
            states = gateway.states()
        except TritonkitError:
            return
        if all(states.get(server) == "UP" for server in servers):
            return
        time.sleep(_POLL)


def _sessions(gateway: HaproxySocket, server: str) -> int:
    try:
        return gateway.sessions(server)
    except (CommandFailed, RequestFailed):
        return 0
