"""The thin loop around ``machine.step``: start, watch and stop the processes of a plan.

Everything that happens is one event in one queue: a child ended, a health watcher saw something, a stop was
asked for. The thread that calls ``run`` is the one that starts the children, and the kernel kills them when
that thread ends.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from tritonkit.errors import LaunchFailed
from tritonkit.serve import events, machine, warden
from tritonkit.serve.processes import Plan, ProcessSpec
from tritonkit.serve.state import Claim, Deployment, ServerState, began
from tritonkit.tools.launcher import tied

_ISOLATED_PYTHON = (sys.executable, "-I", "-S")


class Supervisor:
    """Runs one plan."""

    def __init__(self, plan: Plan, claim: Claim) -> None:
        """Nothing is started yet; the project is ``claim``'s."""
        self._plan = plan
        self._claim = claim
        self._specs = {spec.name: spec for spec in plan.processes}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._ended: dict[str, threading.Event] = {}
        self._events: queue.SimpleQueue[events.Event] = queue.SimpleQueue()
        self._state = machine.begin(tuple(self._specs), plan.policy, time.monotonic())
        self._started = time.time()
        self._deployment = self._record()

    @property
    def deployment(self) -> Deployment:
        """How the deployment is."""
        return self._deployment

    def stop(self, *, at_once: bool = False) -> None:
        """Ask for the stop; may be called from any thread and from a signal handler.

        Args:
            at_once: kill, and leave no time for requests in flight.
        """
        self._events.put(events.StopAsked(at_once))

    def run(self, on_change: Callable[[Deployment], None]) -> None:
        """Serve until the stop is asked for; on return, or raise, nothing of the plan runs any more.

        Args:
            on_change: called with every new state, in this thread.

        Raises:
            LaunchFailed: a process did not come up, or did not stay up.
        """
        for spec in self._plan.processes:
            if os.path.lexists(spec.log):
                spec.log.replace(spec.log.with_suffix(".log.1"))
        with ExitStack() as until_cleaned:
            try:
                self._loop(on_change, lambda: until_cleaned.enter_context(self._warden()))
            finally:
                for ended in self._ended.values():
                    ended.set()
                for spec in self._plan.processes:
                    warden.clean(spec.mark)
                    shutil.rmtree(spec.cwd, ignore_errors=True)
        if self._state.failed is not None:
            raise self._failure(self._state.failed)

    def _loop(self, on_change: Callable[[Deployment], None], guard: Callable[[], object]) -> None:
        event: events.Event = events.Tick()
        guarded = False
        while True:
            before = self._state
            self._state, actions = machine.step(self._state, event, time.monotonic())
            for action in actions:
                self._act(action)
            if not guarded:
                # Everything that can be done while the first server starts is done then. Until it has a stub,
                # nothing outlives us that the warden would have to end.
                guard()
                guarded = True
            if self._state != before:
                self._deployment = self._record()
                # A full disk must not end what serves; `status` is out of date then.
                with suppress(OSError):
                    self._claim.write(self._deployment)
                on_change(self._deployment)
            if self._state.over:
                return
            event = self._next_event()

    def _next_event(self) -> events.Event:
        deadline = machine.next_deadline(self._state)
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return events.Tick()

    def _act(self, action: events.Action) -> None:
        spec = self._specs[action.name]
        if isinstance(action, events.Spawn):
            self._spawn(spec)
        elif isinstance(action, events.Terminate):
            self._children[spec.name].send_signal(signal.SIGTERM)
        elif isinstance(action, events.Kill):
            self._children[spec.name].kill()
        else:
            self._ended[spec.name].set()
            warden.clean(spec.mark)

    def _spawn(self, spec: ProcessSpec) -> None:
        try:
            shutil.rmtree(spec.cwd, ignore_errors=True)
            spec.cwd.mkdir(parents=True)
            with spec.log.open("ab") as log:
                # A session of its own: Ctrl-C at the terminal is for the supervisor alone.
                child = subprocess.Popen(
                    tied(spec.argv),
                    env=dict(spec.env),
                    cwd=spec.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            self._events.put(events.SpawnFailed(spec.name, f"could not be started: {error}"))
            return
        ended = threading.Event()
        self._children[spec.name], self._ended[spec.name] = child, ended
        self._events.put(events.Spawned(spec.name, child.pid))
        for target, arguments in (
            (_wait, (spec.name, child, self._events.put)),
            (_watch, (spec, child.pid, self._events.put, ended)),
        ):
            threading.Thread(target=target, args=arguments, daemon=True).start()

    def _warden(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*_ISOLATED_PYTHON, warden.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        assert process.stdin is not None  # noqa: S101 - for the type checker
        process.stdin.write(f"{self._plan.deployment}\n")
        process.stdin.flush()
        return process

    def _record(self) -> Deployment:
        now, wall = time.monotonic(), time.time()
        return Deployment(
            id=self._plan.deployment,
            pid=os.getpid(),
            began=began(os.getpid()),
            started=self._started,
            project=self._plan.project,
            repository=self._plan.repository,
            spec=self._plan.spec,
            stop_timeout=self._plan.policy.stop_timeout,
            ready=self._state.ready,
            servers=tuple(
                ServerState(
                    name=process.name,
                    phase=process.phase.value,
                    pid=process.pid,
                    restarts=process.restarts,
                    since=wall - (now - process.since),
                    reason=process.reason,
                    http=self._specs[process.name].addresses["http"],
                    log=self._specs[process.name].log,
                )
                for process in self._state.processes
            ),
            **self._plan.addresses,
        )

    def _failure(self, name: str) -> LaunchFailed:
        from tritonkit.serve import diagnosis

        process, spec = self._state.process(name), self._specs[name]
        words = diagnosis.tail(spec.log)
        message = f"{name} {process.reason}"
        if process.failures > 1:
            message = f"{name} failed {process.failures} times in a row; at last it {process.reason}"
        if "\n" not in process.reason:
            complaints = diagnosis.last_errors(words)
            message += f"\nThe end of its log:\n{complaints}" if complaints else ""
        return LaunchFailed(f"{message}\nIts log: {spec.log}", process=name, log=spec.log, hint=diagnosis.hint(message))


def _watch(spec: ProcessSpec, pid: int, post: Callable[[events.Event], None], ended: threading.Event) -> None:
    # Imported while the server starts, not before.
    from tritonkit.serve import health

    health.watch(spec, pid, post, ended)


def _wait(name: str, child: subprocess.Popen[bytes], post: Callable[[events.Event], None]) -> None:
    post(events.Exited(name, child.pid, child.wait()))
