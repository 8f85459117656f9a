"""How one tritonserver is: while it starts, and for as long as it serves. One thread a server runs this."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tritonkit.client.endpoint import Endpoint
from tritonkit.errors import RequestFailed
from tritonkit.serve.diagnosis import tail, unusable_models
from tritonkit.serve.events import BecameReady, Event, Unusable
from tritonkit.serve.processes import ProcessSpec, ServerCheck
from tritonkit.serve.procfs import dead_children

START_PERIOD = 0.01
CHECK_PERIOD = 0.5
# tritonserver collects a stub that it ended itself, or whose failure it noticed, within about a second. One
# that stays uncollected was lost: while starting, the server then waits for it for ever.
LOST_WHILE_STARTING = 4.0
LOST_WHILE_READY = 0.9
ANSWER_TIMEOUT = 5.0
SILENT_CHECKS = 3


def watch(spec: ProcessSpec, pid: int, post: Callable[[Event], None], ended: threading.Event) -> None:
    """Post ``BecameReady`` when the server is ready, and ``Unusable`` once when it never will be or is no longer.

    Returns after ``Unusable``, or when ``ended`` is set.
    """
    check = spec.check
    assert isinstance(check, ServerCheck)  # noqa: S101 - the only kind so far
    event = _start(spec, check, pid, ended)
    if event is not None:
        post(event)
    if isinstance(event, BecameReady):
        reason = _serve(check, pid, ended)
        if reason:
            post(Unusable(spec.name, pid, reason))


def _start(spec: ProcessSpec, check: ServerCheck, pid: int, ended: threading.Event) -> Event | None:
    endpoint = Endpoint(check.http, timeout=ANSWER_TIMEOUT)
    stubs = _Stubs(pid)
    while not ended.wait(START_PERIOD):
        lost = stubs.lost(LOST_WHILE_STARTING)
        if lost:
            return Unusable(spec.name, pid, f"lost its Python stub process {lost} while a model was loading")
        # It listens only when all loading has ended.
        try:
            if endpoint.server_metadata().get("name") != check.server_id:
                continue
            bad = unusable_models(endpoint.index(), check.models, tail(spec.log))
        except RequestFailed:
            continue
        if bad:
            words = "\n".join(f"model {name}: {reason}" for name, reason in bad)
            return Unusable(spec.name, pid, f"cannot serve every model:\n{words}")
        return BecameReady(spec.name, pid)
    return None


def _serve(check: ServerCheck, pid: int, ended: threading.Event) -> str | None:
    endpoint = Endpoint(check.http, timeout=ANSWER_TIMEOUT)
    stubs = _Stubs(pid)
    silent = 0
    while not ended.wait(CHECK_PERIOD):
        # A server that lost a stub still calls itself ready, and every request to that model fails.
        lost = stubs.lost(LOST_WHILE_READY)
        if lost:
            return f"lost its Python stub process {lost}"
        silent = 0 if endpoint.live() else silent + 1
        if silent >= SILENT_CHECKS:
            return "does not answer health requests"
    return None


class _Stubs:
    """The stub processes of one server that have ended and that it has not collected."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._looked = 0.0
        self._since: dict[int, float] = {}

    def lost(self, patience: float) -> int | None:
        """A stub that has been dead and uncollected for ``patience`` seconds; None when there is none."""
        now = time.monotonic()
        if now - self._looked >= CHECK_PERIOD / 2:
            self._looked = now
            dead = dead_children(self._pid)
            self._since = {child: self._since.get(child, now) for child in dead}
        return next((child for child, since in self._since.items() if now - since >= patience), None)
