"""A deployment whose supervisor lives on in a session of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tritonkit.errors import LaunchFailed, TritonkitError
from tritonkit.serve.deployment import serve
from tritonkit.serve.diagnosis import tail
from tritonkit.serve.processes import Change, Plan
from tritonkit.serve.state import Claim, Deployment, ServerState, directory, running


class Detached:
    """A supervisor that was started in the background."""

    def __init__(self, plan: Plan, claim: Claim, replan: Callable[[Change], Plan] | None = None) -> None:
        """Fork the supervisor, which takes ``claim`` over. Only a process with one thread may do this.

        Args:
            plan: what to serve.
            claim: the right to do so in the plan's project.
            replan: as for ``deployment.serve``.
        """
        self._plan = plan
        self._log = directory(plan.project) / "logs" / "supervisor.log"
        sys.stdout.flush()
        sys.stderr.flush()
        self._reader, writer = os.pipe()
        # Ctrl-C is for this process, which ends the other: until that has a session of its own, it takes none.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._pid = os.fork()
        if self._pid != 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        else:
            os.close(self._reader)
            _supervise(plan, claim, replan, self._log, writer)
        os.close(writer)
        claim.release(forget=False)

    def wait(self) -> Deployment:
        """Return when every model is READY.

        Raises:
            LaunchFailed: it did not come up; nothing of it runs any more.
        """
        try:
            with open(self._reader, encoding="utf-8") as reader:
                said = reader.readline()
        except BaseException:
            # Ctrl-C while it starts: what was begun is taken back.
            os.kill(self._pid, signal.SIGTERM)
            os.waitpid(self._pid, 0)
            raise
        answer = json.loads(said) if said else {"message": self._died()}
        if "message" in answer:
            os.waitpid(self._pid, 0)
            log = answer.get("log")
            raise LaunchFailed(
                answer["message"],
                process=answer.get("process"),
                log=Path(log) if log else None,
                hint=answer.get("hint"),
            )
        return running(self._plan.project)

    def _died(self) -> str:
        return f"the supervisor ended before the server was ready:\n{tail(self._log).strip()}"


def _supervise(plan: Plan, claim: Claim, replan: Callable[[Change], Plan] | None, log: Path, writer: int) -> None:
    """The forked process: it never returns."""
    code = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        log.unlink(missing_ok=True)
        words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        for source, target in ((nothing, 0), (words, 1), (words, 2)):
            os.dup2(source, target)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        waiting = [writer]

        shown: dict[str, ServerState] = {}

        def on_change(deployment: Deployment) -> None:
            for server in deployment.servers:
                before = shown.get(server.name)
                if before is None or (before.phase, before.pid) != (server.phase, server.pid):
                    reason = f" ({server.reason})" if server.reason else ""
                    _note(f"{server.name} {server.phase}, pid {server.pid}{reason}")
                shown[server.name] = server
            if deployment.ready and waiting:
                _answer(waiting.pop(), {})

        try:
            code = 128 + serve(plan, claim, on_change, replan)
            _note("stopped")
        except TritonkitError as error:
            _note(str(error))
            code = error.exit_code
            if waiting:
                _answer(
                    waiting.pop(),
                    {
                        "message": error.args[0],
                        "hint": error.hint,
                        "process": getattr(error, "process", None),
                        "log": str(getattr(error, "log", None) or log),
                    },
                )
    except BrokenPipeError:
        _note("stopped: nobody waits any more for this start")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not exit(): what the parent had open and registered is not this process's to finish.
        os._exit(code)


def _answer(writer: int, answer: dict[str, str | None]) -> None:
    with open(writer, "w", encoding="utf-8") as pipe:
        pipe.write(json.dumps(answer) + "\n")


def _note(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)
