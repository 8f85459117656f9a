"""How one process is: while it starts, and for as long as it serves. One thread a process runs this.

What is judged, for every kind of process:

- the process and all that it started: one that SIGSTOP has stopped for ``STOPPED`` seconds does nothing any more;
- of a server, a Python stub that died: it is never started again, and the server calls itself ready for ever. Its
  death is seen at once, and told (``Suspected``); whether the server itself has ended it, a little later;
- whether it answers, in its own way (``server_health``, ``daemon_health``, ``gateway_health``), within ``SILENT``
  seconds;
- of a server, where that was asked for, whether every model answers requests (``probes``).
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from tritonkit.errors import TritonkitError
from tritonkit.serve.events import BecameReady, Event, Suspected, Unusable
from tritonkit.serve.processes import DaemonCheck, ProcessSpec, ServerCheck
from tritonkit.serve.procfs import dead_children, descendants, is_stopped

START_PERIOD = 0.01
CHECK_PERIOD = 0.5
# tritonserver collects a stub that it ended itself, or whose failure it noticed, within about a second. One
# that stays uncollected was lost: while starting, the server then waits for it for ever.
LOST_WHILE_STARTING = 4.0
LOST_WHILE_READY = 0.9
STOPPED = 2.0
SILENT = 15.0


class Health(Protocol):
    """What one kind of process can be asked."""

    def ready(self) -> bool:
        """Whether it is ready, asked while it starts.

        Raises:
            TritonkitError: it never will be.
        """

    def answers(self) -> bool:
        """Whether it answers at all, asked when it was ready."""

    def fault(self) -> str | None:
        """Why it must be started again though it answers, in words that follow its name; None while all is well."""

    def close(self) -> None:
        """Ask no more."""


def watch(spec: ProcessSpec, pid: int, post: Callable[[Event], None], ended: threading.Event) -> None:
    """Post ``BecameReady`` when the process is ready, and ``Unusable`` once when it never will be or is no longer.

    Returns after ``Unusable``, or when ``ended`` is set.
    """
    health = _health(spec, pid)
    family = _Family(spec, pid)
    try:
        reason = _until_ready(health, family, ended)
        if not ended.is_set() and reason is None:
            post(BecameReady(spec.name, pid))
            reason = _while_ready(health, family, ended, lambda suspect: post(Suspected(spec.name, pid, suspect)))
        if reason is not None:
            post(Unusable(spec.name, pid, reason))
    finally:
        family.close()
        health.close()


def _health(spec: ProcessSpec, pid: int) -> Health:
    check = spec.check
    if isinstance(check, ServerCheck):
        from tritonkit.serve.server_health import ServerHealth

        return ServerHealth(spec, check, pid)
    if isinstance(check, DaemonCheck):
        from tritonkit.serve.daemon_health import DaemonHealth

        return DaemonHealth(check)
    from tritonkit.serve.gateway_health import GatewayHealth

    return GatewayHealth(check)


def _until_ready(health: Health, family: _Family, ended: threading.Event) -> str | None:
    while not ended.wait(START_PERIOD):
        family.look()
        lost = family.fault(LOST_WHILE_STARTING)
        if lost:
            return f"{lost} while it was starting"
        try:
            if health.ready():
                return None
        except TritonkitError as error:
            return str(error.args[0])
    return None


def _while_ready(health: Health, family: _Family, ended: threading.Event, tell: Callable[[bool], None]) -> str | None:
    answered = time.monotonic()
    suspect = False
    while not family.wait(ended, CHECK_PERIOD):
        family.look()
        if suspect != family.suspect:
            suspect = family.suspect
            tell(suspect)
        fault = family.fault(LOST_WHILE_READY) or health.fault()
        if fault:
            return fault
        if suspect or health.answers():
            # What is suspect is judged by what it is suspected of, without waiting for an answer.
            answered = time.monotonic()
        elif time.monotonic() - answered >= SILENT:
            return f"did not answer for {SILENT:g} s"
    return None


class _Family:
    """A process and what it started."""

    def __init__(self, spec: ProcessSpec, pid: int) -> None:
        self._pid = pid
        # Others than tritonserver collect their children, and end when they must.
        self._has_stubs = isinstance(spec.check, ServerCheck)
        self._looked = float("-inf")
        self._dead: dict[int, float] = {}
        self._stopped: dict[int, float] = {}
        # By process, what becomes readable when it ends.
        self._ends: dict[int, int] = {}

    @property
    def suspect(self) -> bool:
        """Whether one of them is dead or stopped at this moment."""
        return bool(self._dead or self._stopped)

    def look(self) -> None:
        """See how they are; no more often than they change in earnest."""
        now = time.monotonic()
        if now - self._looked < CHECK_PERIOD / 4:
            return
        self._looked = now
        children = descendants(self._pid)
        if self._has_stubs:
            self._dead = {child: self._dead.get(child, now) for child in dead_children(self._pid)}
            self._observe([child for child in children if child not in self._dead])
        stopped = [one for one in (self._pid, *children) if is_stopped(one)]
        self._stopped = {one: self._stopped.get(one, now) for one in stopped}

    def wait(self, ended: threading.Event, period: float) -> bool:
        """Wait until one of the children ends, and not longer than ``period`` seconds; whether ``ended`` is set."""
        poll = select.poll()
        for descriptor in self._ends.values():
            poll.register(descriptor, select.POLLIN)
        if not self._ends:
            return ended.wait(period)
        if poll.poll(period * 1000):
            self._looked = float("-inf")
        return ended.is_set()

    def fault(self, patience: float) -> str | None:
        """What is wrong with one of them, in words that follow the process's name; None while nothing is.

        A child may have been dead for ``patience`` seconds, in which the process itself collects those it has ended.
        """
        now = time.monotonic()
        for child, since in self._dead.items():
            if now - since >= patience:
                return f"lost its Python stub process {child}"
        for one, since in self._stopped.items():
            if now - since >= STOPPED:
                return "was stopped by a signal" if one == self._pid else f"has a child process {one} that was stopped"
        return None

    def close(self) -> None:
        """Look no more."""
        self._observe([])

    def _observe(self, children: Sequence[int]) -> None:
        for child in self._ends.keys() - set(children):
            os.close(self._ends.pop(child))
        for child in set(children) - self._ends.keys():
            # Where that is not to be had, the next look sees it.
            with suppress(OSError):
                self._ends[child] = os.pidfd_open(child)
