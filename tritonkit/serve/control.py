"""The supervisor's own socket: how another terminal asks a deployment that runs to do something.

A request is one line of JSON with a ``command``; the answers are lines of JSON, of which the last has ``done`` or
``error``. Only processes of the same user, or of root, are listened to. What is asked for is done to its end also
when nobody waits for it any more.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tritonkit.errors import LaunchFailed, TritonkitError, UsageError

Answer = Mapping[str, Any]
_LONGEST_REQUEST = 64 * 1024
_REQUEST_TIMEOUT = 5.0
_PAUSE = 0.2
_BY_EXIT_CODE = {kind.exit_code: kind for kind in (TritonkitError, LaunchFailed, UsageError)}


class ControlServer:
    """Listens on a Unix socket, and answers each request in a thread of its own."""

    def __init__(self, path: Path, answer: Callable[[Mapping[str, Any]], Iterator[Answer]]) -> None:
        """Listen.

        Args:
            path: the socket, in a folder that nobody else may enter.
            answer: gives the answers to a request, without the last; what it raises becomes the last one.
        """
        self._answer = answer
        self._closed = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._closed.set()
        # A thread that waits in accept() is not woken by close() alone.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            except (OSError, RuntimeError):
                # Closed; or the system has no file, or no thread, to give for the moment.
                self._closed.wait(_PAUSE)

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if peer(connection) not in {0, os.getuid()}:
                return
            connection.settimeout(_REQUEST_TIMEOUT)
            line = connection.makefile("rb").readline(_LONGEST_REQUEST)
            listening = True
            for answer in self._answers(line):
                if listening:
                    try:
                        connection.sendall(json.dumps(answer, default=str).encode() + b"\n")
                    except OSError:
                        listening = False

    def _answers(self, line: bytes) -> Iterator[Answer]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError("not an object")
        except ValueError as error:
            yield {"error": f"no request: {error}", "hint": None, "exit_code": 1}
            return
        try:
            yield from self._answer(request)
        except TritonkitError as error:
            yield {"error": error.args[0], "hint": error.hint, "exit_code": error.exit_code}
        except OSError as error:
            yield {"error": str(error), "hint": None, "exit_code": TritonkitError.exit_code}
        else:
            yield {"done": True}


def ask(path: Path, request: Mapping[str, Any]) -> Iterator[Answer]:
    """Send a request to the supervisor that listens on ``path``; its answers as they come, without the last.

    Raises:
        UsageError: it refuses what is asked for.
        LaunchFailed: it could not be done.
        TritonkitError: nobody listens there, or not of this user; or the supervisor ended meanwhile.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(path))
        except OSError as error:
            raise TritonkitError(
                f"the supervisor cannot be reached at {path}: {error.strerror or error}",
                hint="See what runs with: tritonkit status",
            ) from error
        if peer(connection) not in {0, os.getuid()}:
            raise TritonkitError(f"{path} is listened on by another user")
        connection.sendall(json.dumps(request).encode() + b"\n")
        for line in connection.makefile("rb"):
            answer = json.loads(line)
            if "error" in answer:
                kind = _BY_EXIT_CODE.get(answer["exit_code"], TritonkitError)
                failure = kind(answer["error"], hint=answer["hint"])
                failure.exit_code = answer["exit_code"]
                raise failure
            if "done" in answer:
                return
            yield answer
    raise TritonkitError("the supervisor ended before it was done", hint="See why with: tritonkit logs supervisor")


def peer(connection: socket.socket) -> int:
    """The user whose process is at the other end of a Unix socket."""
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)
