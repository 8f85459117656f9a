"""The thin loop around ``machine.step``: start, watch and stop the processes of a plan.

Everything that happens is one event in one queue: a child ended, a health watcher saw something, a stop was
asked for. The thread that calls ``run`` is the one that starts the children, and the kernel kills them when
that thread ends.
"""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TypeVar

from tritonkit.errors import LaunchFailed, TritonkitError
from tritonkit.serve import endings, events, machine, phases, runtime, warden
from tritonkit.serve.phases import State
from tritonkit.serve.processes import Change, Plan, ProcessSpec
from tritonkit.serve.record import fingerprint, record
from tritonkit.serve.state import Claim, Deployment
from tritonkit.tools.launcher import tied

T = TypeVar("T")
UPKEEP_PERIOD = 2.0
CONTROL = "control.sock"


class Supervisor:
    """Runs one plan."""

    def __init__(self, plan: Plan, claim: Claim, replan: Callable[[Change], Plan] | None = None) -> None:
        """Nothing is started yet.

        Args:
            plan: what to run.
            claim: the right to do so in the plan's project.
            replan: the plan with a change made, for changes that are asked for while it runs; None allows none.
        """
        self.plan = plan
        self.replan = replan
        # Held by whoever tells the gateway which servers to use, or takes what it knows of them to another worker.
        self.routing = threading.Lock()
        self._claim = claim
        self._specs = {spec.name: spec for spec in plan.processes}
        self._next_specs: dict[str, ProcessSpec] = {}
        self._repositories: dict[str, str] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._ended: dict[str, threading.Event] = {}
        self._events: queue.SimpleQueue[events.Event] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._over = False
        self._runtime = runtime.runtime_directory(plan.deployment)
        self._state = phases.begin(plan.processes, plan.policy, time.monotonic())
        self._told = self._state
        self._started = time.time()
        self._deployment = self._record()

    @property
    def deployment(self) -> Deployment:
        """How the deployment is."""
        return self._deployment

    @property
    def state(self) -> State:
        """How its processes are, as it was last written down."""
        return self._told

    @property
    def specs(self) -> dict[str, ProcessSpec]:
        """What each process was last started with, by its name, those that have ended for good included."""
        return dict(self._specs)

    def spec(self, name: str) -> ProcessSpec:
        """What a process was last started with."""
        return self._specs[name]

    def use(self, spec: ProcessSpec) -> None:
        """Have ``spec`` be what its process is started with next, or has taken while it runs."""
        self._specs[spec.name] = spec

    def post(self, event: events.Event) -> None:
        """Have something happen to the processes; from any thread."""
        self._events.put(event)

    def restart(self, name: str, spec: ProcessSpec | None = None) -> None:
        """Ask for the end of a process and its new start, with ``spec`` from then on; from any thread."""
        if spec is not None:
            self._next_specs[name] = spec
        self._events.put(events.RestartAsked(name))

    def wait(self, what: Callable[[State], T | None]) -> T:
        """The first true value of ``what``, asked of each new state once it is written; from any thread but the loop's.

        Raises:
            LaunchFailed: the supervisor has ended, and it was not true in its last state.
        """
        with self._changed:
            while not (value := what(self._told)):
                if self._over:
                    raise LaunchFailed("the deployment has ended meanwhile", hint="See why with: tritonkit logs")
                self._changed.wait()
            return value

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
        for spec in self.plan.processes:
            if os.path.lexists(spec.log):
                spec.log.replace(spec.log.with_suffix(".log.1"))
        with ExitStack() as until_cleaned:
            for ports in self.plan.held:
                until_cleaned.callback(ports.release)
            if len(self.plan.processes) > 1:
                # A single server has no sockets: those of the supervisor itself come while it starts.
                runtime.create(self._runtime)
            try:
                self._loop(on_change, until_cleaned)
            finally:
                with self._changed:
                    self._over = True
                    self._changed.notify_all()
                for ended in self._ended.values():
                    ended.set()
                # A request from another terminal may still be adding to them.
                for spec in list(self._specs.values()):
                    warden.clean(spec.mark)
                    shutil.rmtree(spec.cwd, ignore_errors=True)
                runtime.remove(self._runtime)
        if self._state.failed is not None:
            raise self._failure(self._state.failed)

    def _loop(self, on_change: Callable[[Deployment], None], until_cleaned: ExitStack) -> None:
        event: events.Event = events.Tick()
        keep: Callable[[], None] | None = None
        kept = time.monotonic()
        while True:
            before = self._state
            self._state, actions = machine.step(before, event, time.monotonic())
            for action in actions:
                self._act(action)
            if keep is None:
                # Everything that can be done while the first process starts is done then. Until it has a stub,
                # nothing outlives us that the warden would have to end.
                keep = self._surround(until_cleaned)
            if self._state != before:
                self._deployment = self._record()
                # A full disk must not end what serves; `status` is out of date then.
                with suppress(OSError):
                    self._claim.write(self._deployment)
                # Who waits for a state finds it written down.
                with self._changed:
                    self._told = self._state
                    self._changed.notify_all()
                on_change(self._deployment)
            if self._state.over:
                return
            event = self._next_event(kept + UPKEEP_PERIOD)
            if time.monotonic() >= kept + UPKEEP_PERIOD:
                keep()
                kept = time.monotonic()

    def _surround(self, until_cleaned: ExitStack) -> Callable[[], None]:
        """Start what is around the processes; what must be called from time to time to keep it there."""
        from tritonkit.serve.control import ControlServer
        from tritonkit.serve.guard import Guard
        from tritonkit.serve.restarts import Restarts

        runtime.create(self._runtime)
        until_cleaned.callback(os.close, runtime.hold(self._runtime))
        guard = Guard(self.plan.deployment, self._runtime)
        until_cleaned.callback(guard.close)
        control = ControlServer(self._runtime / CONTROL, Restarts(self).answer)
        until_cleaned.callback(control.close)

        def keep() -> None:
            # A full disk, or a system that has no process left to give, must not end what serves.
            with suppress(OSError):
                guard.keep()
            try:
                self._claim.keep(self._deployment)
            except LaunchFailed:
                raise
            except (TritonkitError, OSError):
                return

        return keep

    def _next_event(self, latest: float) -> events.Event:
        deadline = phases.next_deadline(self._state)
        until = latest if deadline is None else min(latest, deadline)
        try:
            return self._events.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return events.Tick()

    def _act(self, action: events.Action) -> None:
        name = action.name
        if isinstance(action, events.Spawn):
            self._specs[name] = self._next_specs.pop(name, self._specs[name])
            self._spawn(self._specs[name])
        elif isinstance(action, events.Terminate):
            endings.ask(self._specs[name], self._children[name], self._ended[name])
        elif isinstance(action, events.Kill):
            endings.force(self._specs[name], self._children[name])
        elif isinstance(action, events.Clean):
            self._ended[name].set()
            warden.clean(self._specs[name].mark)
        elif any(spec.kind == "gateway" for spec in self.plan.processes):
            # Not in this thread: the gateway may be slow to answer.
            threading.Thread(target=self._route, args=(name,), daemon=True).start()

    def _route(self, name: str) -> None:
        from tritonkit.serve import routing

        with self.routing:
            # As it is by now: of two threads the one that was started last need not come last.
            routing.route(name, self._state, self._specs)

    def _spawn(self, spec: ProcessSpec) -> None:
        try:
            shutil.rmtree(spec.cwd, ignore_errors=True)
            spec.cwd.mkdir(parents=True)
            if spec.folders:
                self._write(spec)
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
        if not spec.folders or spec.shown not in self._repositories:
            # A view of the repository keeps the configurations that it was planned with.
            self._repositories[spec.shown] = fingerprint(self.plan.repository) if spec.kind == "server" else ""

    @staticmethod
    def _write(spec: ProcessSpec) -> None:
        from tritonkit.serve import folders

        for folder in spec.folders:
            folders.write(folder)

    def _record(self) -> Deployment:
        ahead = time.time() - time.monotonic()
        control = self._runtime / CONTROL
        return record(self.plan, self._state, self._specs, self._repositories, control, self._started, ahead)

    def _failure(self, name: str) -> LaunchFailed:
        from tritonkit.serve import diagnosis

        process = self._state.process(name)
        reason = process.reason
        if process.failures > 1:
            reason = f"failed {process.failures} times in a row; at last it {reason}"
        return diagnosis.failure(self._specs[name].shown, reason, self._specs[name].log)


def _watch(spec: ProcessSpec, pid: int, post: Callable[[events.Event], None], ended: threading.Event) -> None:
    # Imported while the server starts, not before.
    from tritonkit.serve import health

    health.watch(spec, pid, post, ended)


def _wait(name: str, child: subprocess.Popen[bytes], post: Callable[[events.Event], None]) -> None:
    post(events.Exited(name, child.pid, child.wait()))
