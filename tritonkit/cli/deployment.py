"""How a deployment looks on the terminal."""

from __future__ import annotations

import os
import sys
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import typer

from tritonkit.cli.console import messages
from tritonkit.errors import RequestFailed

# What asks a server or reads its log is imported where it is used: while the server starts, not before.
if TYPE_CHECKING:
    from types import TracebackType

    from tritonkit.client.endpoint import ModelState
    from tritonkit.serve import Deployment, Plan

FOLLOW_PERIOD = 0.2
# What is said of a process that comes into a phase, once the deployment was ready.
_CHANGES = {
    "backoff": "{reason}; it is started again",
    "waiting": "{reason}; it is started again after that",
    "failed": "{reason}; it is given up, and the others go on without it (start it with: tritonkit restart)",
    "ready": "is ready again",
}


class Screen:
    """What a foreground ``up`` shows: a spinner, the ready block, then restarts and the servers' complaints."""

    def __init__(self, plan: Plan) -> None:
        self._logs = [spec.log for spec in plan.processes]
        self._spinner = ExitStack()
        self._before: Deployment | None = None
        self._was_ready = False
        self._follower: Thread | None = None
        self._ended = Event()

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._follower is not None:
            # It has last words to show; a server that is gone makes it wait for nothing.
            self._follower.join(FOLLOW_PERIOD * 5)
        self._spinner.close()

    def changed(self, deployment: Deployment) -> None:
        """Show a new state; the first one comes when the servers have been started, and do not wait for this."""
        before, self._before = self._before, deployment
        if before is None:
            self._spinner.enter_context(spinner("starting"))
            return
        if not self._was_ready:
            if deployment.ready:
                self._was_ready = True
                self._spinner.close()
                _say(headline(deployment))
                # Off the supervisor's thread: this one asks the server, which may be slow to answer.
                self._follower = Thread(target=self._follow, args=(deployment,), daemon=True)
                self._follower.start()
            return
        if deployment.state == "stopping" != before.state:
            names = ", ".join(server.name for server in deployment.servers)
            _say(f"stopping {names} (a second Ctrl-C ends it at once)", err=True)
        for old, new in zip(before.servers, deployment.servers, strict=True):
            if old.phase != new.phase and deployment.state != "stopping":
                words = _CHANGES.get(new.phase)
                if words is not None and (new.phase, old.phase) != ("waiting", "backoff"):
                    _say(f"{new.name} " + words.format(reason=new.reason), err=True)

    def _follow(self, deployment: Deployment) -> None:
        from tritonkit.serve.diagnosis import loud_lines
        from tritonkit.serve.logs import Follower

        followers = [Follower(log, last=0) for log in self._logs]
        _say(guide(deployment, stop="Ctrl-C"))
        ended = False
        while not ended:
            ended = self._ended.wait(FOLLOW_PERIOD)
            for follower in followers:
                lines = follower.read()
                for line in loud_lines([*lines, *follower.rest()] if ended else lines):
                    _say(line, err=True)


def _say(text: str, *, err: bool = False) -> None:
    """Print, from any thread; what serves goes on when nobody reads it any more (`| head`)."""
    try:
        typer.echo(text, err=err)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, (sys.stderr if err else sys.stdout).fileno())
        os.close(nowhere)


def spinner(text: str) -> AbstractContextManager[object]:
    """A spinner on standard error while something lasts, where that is a terminal."""
    return messages().status(text) if sys.stderr.isatty() else nullcontext()


def headline(deployment: Deployment) -> str:
    """That a deployment has just become ready."""
    return f"ready in {time.time() - deployment.started:.1f} s"


def guide(deployment: Deployment, *, stop: str) -> str:
    """What a user needs to know of a deployment that is ready: addresses, models, what to do with it."""
    names = list(dict.fromkeys(model.name for model in models(deployment) if model.state == "READY"))
    lines = [addresses(deployment), f"  models   {', '.join(names) or 'none loaded'}"]
    example = _example(deployment, names)
    if example:
        lines.append(f"  try      {example}")
    return "\n".join([*lines, f"  stop     {stop}"])


def addresses(deployment: Deployment) -> str:
    """Where a deployment answers, one line an address."""
    scheme, secured = ("https", " (TLS)") if deployment.tls_certificate else ("http", "")
    return "\n".join(
        (
            f"  HTTP     {scheme}://{deployment.http}",
            f"  gRPC     {deployment.grpc}{secured}",
            f"  metrics  {scheme}://{deployment.metrics}/metrics",
        )
    )


def models(deployment: Deployment) -> list[ModelState]:
    """The models of every server that answers."""
    from tritonkit.client.endpoint import Endpoint

    found: list[ModelState] = []
    for server in deployment.servers:
        if server.kind != "server":
            continue
        try:
            found += Endpoint(server.http).index()
        except RequestFailed:
            continue
    return found


def duration(seconds: float) -> str:
    """Seconds as people say them: ``12 s``, ``5 min``, ``3.2 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _example(deployment: Deployment, names: list[str]) -> str | None:
    from tritonkit.client.endpoint import Endpoint

    described = []
    # The servers themselves ask for no token.
    holders = {model: server.http for server in deployment.servers for model in server.models}
    try:
        for name in names[:20]:
            described.append(Endpoint(holders.get(name, deployment.http)).metadata(name))
    except RequestFailed:
        return None
    # An ensemble is what a client calls; its members are the parts.
    described.sort(key=lambda model: model.get("platform") != "ensemble")
    if not described or not described[0].get("inputs"):
        return None
    inputs: list[dict[str, Any]] = described[0]["inputs"]
    given = " ".join(
        f"--input {tensor['name']}=@{'FILE' if tensor['datatype'] == 'BYTES' else 'VALUES.json'}" for tensor in inputs
    )
    return f"tritonkit infer {described[0]['name']} {given}"
