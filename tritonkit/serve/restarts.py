"""Starting single processes of a running deployment again, as they are or changed, at somebody's request.

A server behind the gateway is drained first: HAProxy sends it no more requests, and those that it works on are
waited for. So nothing is lost where another server holds its models. One request is carried out at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tritonkit.errors import CommandFailed, LaunchFailed, RequestFailed, TritonkitError, UsageError, nearest
from tritonkit.serve.phases import Phase, Process, State
from tritonkit.serve.processes import Change, ProcessSpec

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
                yield from self._timed(self._restart(self._known(name), {}))
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

    def _known(self, name: str) -> str:
        names = [process.name for process in self._supervisor.state.processes]
        if name not in names:
            raise UsageError(f"no process {name!r} runs here{nearest(name, names)}")
        return name

    def _set(self, name: str, percentage: object) -> Iterator[dict[str, Any]]:
        replan = self._supervisor.replan
        if not isinstance(percentage, int | float) or isinstance(percentage, bool):
            raise UsageError(f"{percentage!r} is no percentage")
        if replan is None:
            raise UsageError("this deployment takes no changes")
        planned = {spec.name: spec for spec in replan(Change(name, float(percentage))).processes}
        before = {spec: self._supervisor.spec(spec) for spec in planned if self._of(spec, name)}
        changed = {spec: planned[spec] for spec, old in before.items() if planned[spec] != old}
        if not before:
            self._known(name)
        done: list[str] = []
        for spec in changed:
            try:
                yield from self._restart(spec, changed)
            except LaunchFailed as error:
                for one in [*done, spec]:
                    yield {"server": one, "step": "going back", "reason": error.args[0]}
                    yield from self._restart(one, before)
                raise LaunchFailed(
                    f"{error.args[0]}\n{name} runs as before.", process=spec, log=error.log, hint=error.hint
                ) from error
            done.append(spec)

    def _of(self, process: str, name: str) -> bool:
        """Whether a process of the plan is that of the name, or one of the spec's entry of that name."""
        base, _, rest = process.partition(name)
        spec = self._supervisor.spec(process)
        return spec.kind == "server" and not base and (not rest or rest.startswith(("-gpu", "-r")))

    def _restart(self, name: str, changed: Mapping[str, ProcessSpec]) -> Iterator[dict[str, Any]]:
        process = self._supervisor.state.process(name)
        if process.phase is Phase.FAILED and process.pid is not None:
            raise LaunchFailed(f"{name} {process.reason}: nothing can take its place", process=name)
        spec = self._supervisor.spec(name)
        if spec.kind == "gateway" and process.phase is Phase.READY and process.pid is not None:
            from tritonkit.serve import haproxy

            haproxy.reload(spec, process.pid)
            yield {"server": name, "step": "reloaded"}
            return
        servers = [name] if spec.kind == "server" else [one.name for one in self._supervisor.state.dependants(name)]
        gateway = self._gateway()
        try:
            if gateway is not None:
                yield from self._drained(gateway, servers)
            before = self._supervisor.state
            self._supervisor.restart(name, changed.get(name))
            yield {"server": name, "step": "restarting"}
            for one in dict.fromkeys([name, *servers]):
                ended = self._supervisor.wait(partial(_outcome, name, one, before))
                if ended.phase is not Phase.READY:
                    raise self._failure(ended)
                yield {"server": one, "step": "ready"}
        finally:
            if gateway is not None:
                for server in servers:
                    _told(gateway, server, "ready")
        if gateway is not None:
            # Only then may the next one be drained.
            _until_up(gateway, servers)

    def _gateway(self) -> HaproxySocket | None:
        if not any(spec.kind == "gateway" for spec in self._supervisor.plan.processes):
            return None
        from tritonkit.serve import routing

        specs = {spec.name: self._supervisor.spec(spec.name) for spec in self._supervisor.plan.processes}
        return routing.gateway(self._supervisor.state, specs)

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
            return LaunchFailed(f"{process.name}: the deployment is stopping", process=process.name)
        return diagnosis.failure(process.name, process.reason, self._supervisor.spec(process.name).log)


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
