"""Running one perf_analyzer: in a process group of its own, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tritonkit.tools.launcher import tied

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - POSIX shared memory lies there on Linux
# perf_analyzer talks to the server directly; a proxy would be measured along, or refuse.
_PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
# Asked to stop, it waits for the requests in flight, then removes its shared memory.
_GRACE = 5.0


def run(argv: Sequence[str], env: Mapping[str, str], log: Path, *, deadline: float, regions: Iterable[str]) -> bool:
    """Run perf_analyzer to its end, however that comes about.

    Interrupted (KeyboardInterrupt or any other exception), it is stopped before the exception goes on.

    Args:
        argv: its command line, with an absolute path first.
        env: variables on top of our own.
        log: where everything that it writes is appended.
        deadline: seconds after which it is stopped.
        regions: the shared memory that it makes, by name; empty when it makes none. What it leaves is removed.

    Returns:
        Whether it ended by itself. Its exit code is not told: it says nothing.
    """
    inherited = {name: value for name, value in os.environ.items() if name.lower() not in _PROXIES}
    places = (_place(region) for region in regions)
    made = [place for place in places if place is not None and not place.exists()]
    # SIGINT lets it remove its shared memory also when we are killed; without any, nothing is to be waited for.
    end_with_us = signal.SIGINT if made else signal.SIGKILL
    process = None
    try:
        with log.open("ab") as sink, _interrupts_held_back():
            process = subprocess.Popen(
                tied(argv, end_with_us),
                env=inherited | dict(env),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process.wait(deadline)
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process is not None:
            _stop(process)
        for place in made:
            place.unlink(missing_ok=True)
    return True


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait for the end of the block: a process must not start without our knowing of it."""
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # Signals are for the main thread; those that are ignored must stay so for the process, too.
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {number: handler for number, handler in before.items() if in_main and callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, _frame: held.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for waiting in held:
            signal.raise_signal(waiting)


def _place(region: str) -> Path | None:
    """Where a region lies; None for a name that it cannot have, and that might lead elsewhere."""
    # As POSIX has it: slashes in front are passed over.
    name = region.lstrip("/")
    return None if "/" in name else _SHARED_MEMORY / name


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                continue
