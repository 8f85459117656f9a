"""Bringing a deployment up: for the time of a ``with`` block, or in the foreground; and taking it down."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tritonkit.errors import LaunchFailed, TritonkitError
from tritonkit.serve.processes import Change, Plan
from tritonkit.serve.state import Claim, Deployment, recorded
from tritonkit.serve.supervisor import Supervisor

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL = 0.02


@contextmanager
def up(plan: Plan, replan: Callable[[Change], Plan] | None = None) -> Iterator[Deployment]:
    """Serve ``plan`` for the time of a ``with`` block, which begins when every model is READY.

    Everything is stopped when the block ends, whatever ended it. ``replan`` is as for ``serve``.

    Raises:
        LaunchFailed: it did not come up, or it gave up while the block ran.
        TritonkitError: the project's state cannot be written.
    """
    claim = Claim(plan.project)
    try:
        supervisor = Supervisor(plan, claim, replan)
        settled = threading.Event()
        faults: list[BaseException] = []

        def on_change(deployment: Deployment) -> None:
            if deployment.ready:
                settled.set()

        def serve() -> None:
            try:
                supervisor.run(on_change)
            except BaseException as error:
                faults.append(error)
            finally:
                settled.set()

        thread = threading.Thread(target=serve, name="tritonkit-supervisor")
        try:
            thread.start()
            settled.wait()
            if not faults:
                yield supervisor.deployment
        except Exception as error:
            _end(supervisor, thread)
            if faults:
                # The block failed because the server did.
                raise faults[0] from error
            raise
        except BaseException:
            _end(supervisor, thread)
            raise
        _end(supervisor, thread)
        if faults:
            raise faults[0]
    finally:
        claim.release()


def _end(supervisor: Supervisor, thread: threading.Thread) -> None:
    if thread.ident is None:
        # The system had no thread left to give.
        return
    supervisor.stop()
    try:
        thread.join()
    except BaseException:
        # A second Ctrl-C: no more patience, but still nothing is left behind.
        supervisor.stop(at_once=True)
        thread.join()
        raise


def serve(
    plan: Plan,
    claim: Claim,
    on_change: Callable[[Deployment], None],
    replan: Callable[[Change], Plan] | None = None,
) -> signal.Signals:
    """Serve ``plan`` in this thread, the main one, until a signal asks for the end; which one it was.

    A first SIGINT, SIGTERM or SIGHUP stops everything in order, a second one at once.

    Args:
        plan: what to serve.
        claim: the right to do so in the plan's project; released at the end.
        on_change: called with every new state.
        replan: the plan with a change made, for those that are asked for while it runs; None allows none.

    Raises:
        LaunchFailed: it did not come up, or did not stay up.
    """
    received: list[int] = []
    try:
        supervisor = Supervisor(plan, claim, replan)

        def stop(number: int, _frame: FrameType | None) -> None:
            received.append(number)
            supervisor.stop(at_once=len(received) > 1)

        before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
        try:
            supervisor.run(on_change)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    finally:
        claim.release()
    return signal.Signals(received[0])


@dataclass(frozen=True)
class Stopped:
    """What ``down`` found and ended.

    Attributes:
        deployment: the deployment that was running, or None.
        killed: whether its supervisor had to be killed.
        leftover: processes of an earlier, killed run that were still there.
    """

    deployment: Deployment | None
    killed: bool
    leftover: int


def down(project: Path, *, margin: float = 60.0) -> Stopped:
    """Stop the deployment of ``project`` and wait for its end; nothing of it runs on return.

    Raises:
        LaunchFailed: a deployment is just coming up or going, and has not said yet which process it is.
        TritonkitError: it belongs to another user.

    Args:
        project: the project folder.
        margin: seconds for an orderly end beyond the stop timeouts of its servers; after that everything is killed.
    """
    deployment = recorded(project)
    try:
        # Where the lock is free nothing runs, whatever process the state file names.
        return Stopped(None, killed=False, leftover=_clean(project))
    except LaunchFailed:
        if deployment is None or not deployment.alive:
            raise
    # Those of one kind stop together, one kind after the other.
    timeout = margin + deployment.stop_timeout * len({server.kind for server in deployment.servers})
    _signal(deployment, signal.SIGTERM)
    # One that is stopped would take it when it is continued.
    _signal(deployment, signal.SIGCONT)
    killed = not _gone(deployment, timeout)
    if killed:
        _signal(deployment, signal.SIGKILL)
        _gone(deployment, margin)
    return Stopped(deployment, killed=killed, leftover=_clean(project) if killed else 0)


def _signal(deployment: Deployment, number: signal.Signals) -> None:
    try:
        if deployment.alive:
            os.kill(deployment.pid, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise TritonkitError(f"process {deployment.pid} of this deployment belongs to another user") from error


def _gone(deployment: Deployment, timeout: float) -> bool:
    end = time.monotonic() + timeout
    while deployment.alive:
        if time.monotonic() >= end:
            return False
        time.sleep(POLL)
    return True


def _clean(project: Path) -> int:
    if not (project / ".tritonkit").is_dir():
        return 0
    claim = Claim(project)
    claim.release()
    return claim.leftover
