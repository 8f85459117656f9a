"""What /proc says: children, when a process began, what it uses and has open, who holds a port.

A process may go away between two reads; every function takes that as "not there".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
# The inode of the first namespace of processes, the same in every kernel.
FIRST_NAMESPACE = 0xEFFFFFFC
_LISTEN = "0A"


@dataclass(frozen=True)
class Usage:
    """What one process has used and holds.

    Attributes:
        began: when it began, in clock ticks since boot; with the pid it names one process.
        cpu: seconds of CPU time since then.
        resident: bytes of memory that it holds now, what it shares with others included.
    """

    began: int
    cpu: float
    resident: int


def usage(pid: int) -> dict[int, Usage]:
    """What a process and each of its living descendants use, by pid; empty when there is no such process."""
    found: dict[int, Usage] = {}
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        fields = _stat(one)
        if fields is None or one in found:
            continue
        ticks = int(fields[11]) + int(fields[12])
        found[one] = Usage(
            int(fields[19]), ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        )
        waiting += _children(one)
    return found


def counts_as_the_kernel() -> bool:
    """Whether a process has the number here that the kernel, and so a driver, knows it by; not in a container."""
    try:
        return (PROC / "self" / "ns" / "pid").stat().st_ino == FIRST_NAMESPACE
    except OSError:
        return False


def start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None when there is no such process."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def is_running(pid: int, began: int) -> bool:
    """Whether ``pid`` is still the process that began at ``began``, and is no zombie."""
    fields = _stat(pid)
    return fields is not None and int(fields[19]) == began and fields[0] not in {"Z", "X"}


def dead_children(pid: int) -> frozenset[int]:
    """The children of ``pid`` that have ended and that it has not collected."""
    return frozenset(child for child in _children(pid) if is_dead(child))


def is_dead(pid: int) -> bool:
    """Whether the process has ended and was not collected."""
    return (_stat(pid) or ["X"])[0] == "Z"


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process (not a debugger), so that it does nothing until it is continued."""
    return (_stat(pid) or ["X"])[0] == "T"


def descendants(pid: int) -> list[int]:
    """The children of ``pid``, theirs, and so on; the dead ones that nobody has collected included."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = [child for child in _children(waiting.pop()) if child not in found]
        found += children
        waiting += children
    return found


def port_holder(port: int) -> str | None:
    """Who listens on a TCP port: ``PID (command line)``; None when it cannot be told (another user's)."""
    inodes = set(_listening(port))
    if not inodes:
        return None
    for pid in _pids():
        try:
            for link in (PROC / str(pid) / "fd").iterdir():
                if os.readlink(link) in inodes:
                    return f"{pid} ({command(pid)})"
        except OSError:
            continue
    return None


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())


def _stat(pid: int) -> list[str] | None:
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name stands in parentheses and may itself hold spaces and parentheses.
    return text.rpartition(")")[2].split()


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        threads = list((PROC / str(pid) / "task").iterdir())
    except OSError:
        return found
    for thread in threads:
        try:
            found += map(int, (thread / "children").read_text().split())
        except OSError:
            continue
    return found


def _listening(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield f"socket:[{fields[9]}]"


def command(pid: int) -> str | None:
    """The beginning of a process's command line; None when there is no such process."""
    words = arguments(pid)
    if words is None:
        return None
    text = " ".join(words[:3])
    return f"{text} ..." if len(words) > 3 else text


def arguments(pid: int) -> list[str] | None:
    """A process's command line, word by word; None when there is no such process."""
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return None
    return [word.decode(errors="replace") for word in words]
