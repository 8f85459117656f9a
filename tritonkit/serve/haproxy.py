"""A running HAProxy gateway, through the socket of its master process: states, drains, sessions, reloads, its end."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tritonkit.errors import RequestFailed
from tritonkit.serve import folders
from tritonkit.serve.gateway import CONFIG, STATES, local_socket
from tritonkit.serve.processes import GatewayCheck, ProcessSpec
from tritonkit.tools.commands import run

# The HAProxy backend whose servers carry the checks and the states that all others follow.
_LEADING = "http-all"
# What statistics are asked of, in HAProxy's bits.
_FRONTENDS, _SERVERS = 1, 4
# Those that clients ask; the others are for the gateway itself.
_ASKED = re.compile(r"^0x\S+ .*\bfe=(?:http|grpc|metrics) ", re.MULTILINE)
_POLL = 0.02
# Seconds that a client without a pause between its requests has to be told to connect anew.
_LAST_ANSWERS = 1.0


class HaproxySocket:
    """The control socket of one gateway. Every call opens a connection of its own, so threads may share it.

    Every method raises ``RequestFailed`` when the gateway does not answer in time, or knows no such server.
    """

    def __init__(self, control: Path, *, timeout: float = 5.0) -> None:
        """Nothing is sent yet.

        Args:
            control: ``GatewayCheck.control``.
            timeout: seconds that one answer may take.
        """
        self._control = control
        self._timeout = timeout

    def drain(self, server: str) -> None:
        """Send a server no new requests; it finishes those that it has."""
        self._set(server, "drain")

    def ready(self, server: str) -> None:
        """Send a drained server requests again, for as long as its health checks are good."""
        self._set(server, "ready")

    def sessions(self, server: str) -> int:
        """How many requests a server works on, those sent by workers that a reload has replaced included."""
        counts = [
            int(row["scur"])
            for worker in (*self.workers(), *self.workers(old=True))
            for row in self._statistics(f"@!{worker}")
            if row["svname"] == server and row["# pxname"].startswith(("http-", "grpc-"))
        ]
        if not counts:
            raise RequestFailed(f"the gateway knows no server {server!r}")
        return sum(counts)

    def requests(self) -> int:
        """How many requests of clients all workers have in hand; an open connection without one is none."""
        workers = (*self.workers(), *self.workers(old=True))
        return sum(len(_ASKED.findall(self.ask(f"@!{worker} show sess"))) for worker in workers)

    def may_follow(self, server: str, *, outlasting: Container[int] = ()) -> bool:
        """Whether a worker that a reload has replaced may have requests for a server, or get some.

        Args:
            server: the server.
            outlasting: the workers that an earlier reload has replaced. Their gRPC clients were told long ago to
                connect anew, so only an HTTP connection or a request that they work on counts.
        """
        return any(worker not in outlasting or self._reaches(worker, server) for worker in self.workers(old=True))

    def states(self) -> dict[str, str]:
        """The state of every server by its name, in HAProxy's words: ``UP``, ``DOWN``, ``DRAIN``, ``MAINT``."""
        return {
            row["svname"]: row["status"].split(" ")[0]
            for row in self._statistics("@1")
            if row["# pxname"] == _LEADING and row["svname"] != "BACKEND"
        }

    def workers(self, *, old: bool = False) -> tuple[int, ...]:
        """The PID of the worker that takes connections, or of those that only finish what they have."""
        section, found = "", []
        for line in self.ask("show proc").splitlines():
            if line.startswith("# "):
                section = line[2:].strip()
            elif section == ("old workers" if old else "workers"):
                found.append(int(line.split()[0]))
        return tuple(found)

    def server_states(self, moved: Container[str] = ()) -> str:
        """The states of all servers but those in ``moved``, in the form that a new worker reads them."""
        lines = self.ask("@1 show servers state").splitlines(keepends=True)
        # The fourth word of a line is the server's name.
        return "".join(line for line in lines if [*line.split(), *[""] * 4][3] not in moved)

    def ask(self, command: str) -> str:
        """The answer to one command of HAProxy's master: ``@1`` before it hands it on to the worker."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                end = time.monotonic() + self._timeout
                connection.settimeout(self._timeout)
                connection.connect(str(self._control))
                connection.sendall(f"{command}\n".encode())
                connection.shutdown(socket.SHUT_WR)
                parts = []
                while part := connection.recv(65536):
                    parts.append(part)
                    connection.settimeout(max(0.001, end - time.monotonic()))
        except OSError as error:
            reason = "no answer in time" if isinstance(error, TimeoutError) else str(error)
            raise RequestFailed(f"the gateway cannot be reached at {self._control} ({reason})") from error
        return b"".join(parts).decode(errors="replace")

    def _set(self, server: str, state: str) -> None:
        said = self.ask(f"@1 set server {_LEADING}/{server} state {state}").strip()
        if said:
            raise RequestFailed(f"the gateway did not set {server} to {state}: {said}")

    def _reaches(self, worker: int, server: str) -> bool:
        held = (
            row["scur"]
            for row in self._statistics(f"@!{worker}", _FRONTENDS | _SERVERS)
            if (row["# pxname"], row["svname"]) == ("http", "FRONTEND")
            or (row["svname"] == server and row["# pxname"].startswith(("http-", "grpc-")))
        )
        return any(int(count) for count in held)

    def _statistics(self, worker: str, kinds: int = _SERVERS) -> list[dict[str, str]]:
        # -1: of all proxies, and all of that kind in them.
        return list(csv.DictReader(self.ask(f"{worker} show stat -1 {kinds} -1").strip().splitlines()))


def answers(check: GatewayCheck, *, timeout: float = 5.0) -> bool:
    """Whether the gateway answers requests; False when it cannot be reached within ``timeout`` seconds.

    It is asked on its own socket, which has no TLS and no tokens, by the code that answers clients.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(str(local_socket(check.control.parent)))
            connection.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
            serves = connection.recv(64).split(b" ")[1:2] == [b"200"]
        # The master listens a moment later than its worker.
        return serves and bool(HaproxySocket(check.control, timeout=timeout).workers())
    except (OSError, RequestFailed):
        return False


def reload(spec: ProcessSpec, pid: int, *, moved: Container[str] = (), timeout: float = 30.0) -> None:
    """Have a running gateway take a new configuration. No connection is refused, and no request is cut.

    The worker that ran so far ends when its last request has; the states of the servers are handed on.

    Args:
        spec: the gateway as it shall be; of the process that runs only its files may differ.
        pid: the running HAProxy.
        moved: the servers that have other addresses: what was known of them is forgotten, and they are taken for well.
        timeout: seconds until the new worker answers.

    Raises:
        CommandFailed: HAProxy refuses the configuration; nothing has changed.
        RequestFailed: the gateway did not take it in time.
    """
    check = spec.check
    assert isinstance(check, GatewayCheck)  # noqa: S101 - for the type checker
    (folder,) = spec.folders
    staged = folder.path.with_name(f"{folder.path.name}.new")
    gateway = HaproxySocket(check.control, timeout=timeout)
    try:
        folders.write(replace(folder, path=staged))
        run([spec.argv[0], "-c", "-f", str(staged / CONFIG)], timeout=timeout)
        before = gateway.workers()
        (staged / STATES).write_text(gateway.server_states(moved))
        for name in folder.files:
            (staged / name).replace(folder.path / name)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    os.kill(pid, signal.SIGUSR2)
    end = time.monotonic() + timeout
    while not _taken(gateway, before) or not answers(check):
        if time.monotonic() > end:
            raise RequestFailed(f"the gateway did not take its new configuration within {timeout:g} s")
        time.sleep(_POLL)
    # A worker that starts later must not take these states for the present ones.
    (folder.path / STATES).write_text(folder.files[STATES])


def stop(check: GatewayCheck, send: Callable[[int], None], ended: threading.Event) -> None:
    """Have a running gateway take no connections any more, and end as soon as it has answered what it was asked.

    By itself it would wait for clients that keep a connection open in silence, as a reload does for their sake.

    Args:
        check: the gateway.
        send: sends its master a signal.
        ended: set once it has ended, by this or otherwise.
    """
    send(signal.SIGUSR1)
    gateway = HaproxySocket(check.control, timeout=1.0)
    told: tuple[int, ...] = ()
    answered = time.monotonic() + _LAST_ANSWERS
    while not ended.wait(_POLL):
        with suppress(RequestFailed):
            workers = gateway.workers()
            if workers != told:
                # A reload that was under way may have started one that knows of no end.
                send(signal.SIGUSR1)
                told = workers
            elif time.monotonic() > answered and not gateway.requests():
                send(signal.SIGTERM)
                return


def _taken(gateway: HaproxySocket, before: tuple[int, ...]) -> bool:
    try:
        now = gateway.workers()
    except RequestFailed:
        # The master starts itself anew meanwhile.
        return False
    return bool(now) and now != before
