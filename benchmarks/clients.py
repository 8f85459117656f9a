"""Clients that cost next to nothing: requests are made beforehand, and sent as bytes over connections that stay open.

The same for every contestant, so that what a client library costs is charged to none of them: HTTP/1.1, and as much
of HTTP/2 as one gRPC call after another needs.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

TIMEOUT = 60
FRAME = 16384
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
INITIAL_WINDOW_SIZE = 4
INFER = "/inference.GRPCInferenceService/ModelInfer"


class Connection(Protocol):
    """One client's connection."""

    def ask(self) -> bytes:
        """Send the request; the body of its answer, which must be a success."""

    def close(self) -> None:
        """Hang up."""


def drive(connections: Sequence[Connection], seconds: float) -> int:
    """Let every client ask again and again for so long; how many answers came."""
    end = time.monotonic() + seconds

    def client(connection: Connection) -> int:
        done = 0
        while time.monotonic() < end:
            connection.ask()
            done += 1
        return done

    with ThreadPoolExecutor(len(connections)) as pool:
        return sum(pool.map(client, connections))


def http(path: str, body: bytes, **headers: str) -> bytes:
    """A POST of ``body``; a header's name has underscores for its hyphens."""
    fields = {"Host": "localhost", "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class HttpConnection:
    """One request over HTTP/1.1, as ``http`` makes it."""

    def __init__(self, address: str, request: bytes) -> None:
        self._socket = _connected(address)
        self._request = request

    def ask(self) -> bytes:
        """Send the request; the body of the answer, which must be a 200."""
        self._socket.sendall(self._request)
        held = b""
        while b"\r\n\r\n" not in held:
            # With more workers uvicorn sends an answer in two parts, the second only when the first is acknowledged.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            held += _received(self._socket)
        head, _, body = held.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"not a success: {held.decode(errors='replace')}")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += _received(self._socket)
        return body

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class GrpcConnection:
    """One message to one unary method over HTTP/2, within the windows that the server grants."""

    def __init__(self, address: str, message: bytes, *, path: str = INFER) -> None:
        self._socket = _connected(address)
        self._held = self._told = b""
        self._stream = -1
        self._initial = self._connection = 65535
        self._window = 0
        block = b"\x83\x86" + b"".join(
            name + bytes([len(value)]) + value
            for name, value in (
                (b"\x04", path.encode()),
                (b"\x01", b"localhost"),
                (b"\x0f\x10", b"application/grpc"),
                (b"\x00\x02te", b"trailers"),
            )
        )
        body = struct.pack(">BI", 0, len(message)) + message
        chunks = [body[start : start + FRAME] for start in range(0, len(body), FRAME)]
        flags = [0] * (len(chunks) - 1) + [END_STREAM]
        frames = [
            _frame(HEADERS, END_HEADERS, block),
            *(_frame(DATA, flag, chunk) for flag, chunk in zip(flags, chunks, strict=True)),
        ]
        # All frames of a request lie in one buffer; only the stream's number in their heads changes.
        self._request = bytearray(b"".join(frames))
        self._ends, self._sizes, start = [], [0, *map(len, chunks)], 0
        self._heads = []
        for frame in frames:
            self._heads.append(start + 5)
            start += len(frame)
            self._ends.append(start)
        grant = struct.pack(">I", 2**31 - 1 - 65535)
        self._socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, b"") + _frame(WINDOW_UPDATE, 0, grant)
        )

    def ask(self) -> bytes:
        """Send the message; the one that answers it. An answer without a message is an error's."""
        self._stream += 2
        self._window = self._initial
        for head in self._heads:
            struct.pack_into(">I", self._request, head, self._stream)
        view, sent, body, ended = memoryview(self._request), 0, b"", False
        while not ended:
            last = sent
            # Frames go out whole, as many as both windows have room for.
            while last < len(self._ends) and self._sizes[last] <= min(self._window, self._connection):
                self._window -= self._sizes[last]
                self._connection -= self._sizes[last]
                last += 1
            if last > sent:
                self._socket.sendall(view[self._ends[sent - 1] if sent else 0 : self._ends[last - 1]])
                sent = last
            more, ended = self._take()
            body += more
        if len(body) < 5:
            raise RuntimeError(f"not a success: the server ended the call without a message: {self._told!r}")
        return body[5:]

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _take(self) -> tuple[bytes, bool]:
        """Heed what the server has sent, at least one frame: data of this stream, and whether it ended."""
        held = self._held + _received(self._socket)
        while len(held) < 9 or len(held) < 9 + int.from_bytes(held[:3], "big"):
            held += _received(self._socket)
        data, ended, start = b"", False, 0
        while len(held) - start >= 9:
            length = int.from_bytes(held[start : start + 3], "big")
            if len(held) - start < 9 + length:
                break
            kind, flags = held[start + 3], held[start + 4]
            stream = int.from_bytes(held[start + 5 : start + 9], "big")
            payload = held[start + 9 : start + 9 + length]
            start += 9 + length
            if kind == WINDOW_UPDATE:
                self._granted(stream, int.from_bytes(payload, "big"))
            elif kind in {DATA, HEADERS} and stream == self._stream:
                data += payload if kind == DATA else b""
                self._told = payload if kind == HEADERS else self._told
                ended = bool(flags & END_STREAM)
            elif kind == SETTINGS and not flags & ACK:
                self._settle(payload)
            elif kind == PING and not flags & ACK:
                self._socket.sendall(_frame(PING, ACK, payload))
            elif kind == GOAWAY or (kind == RST_STREAM and stream == self._stream):
                raise RuntimeError(f"the server gave up the call: {payload!r}")
        self._held = held[start:]
        return data, ended

    def _granted(self, stream: int, bytes_more: int) -> None:
        if stream == 0:
            self._connection += bytes_more
        elif stream == self._stream:
            self._window += bytes_more

    def _settle(self, payload: bytes) -> None:
        for key, value in struct.iter_unpack(">HI", payload):
            if key == INITIAL_WINDOW_SIZE:
                self._window += value - self._initial
                self._initial = value
        self._socket.sendall(_frame(SETTINGS, ACK, b""))


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + bytes(4) + payload


def _connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Python's own timeouts would cost a poll a call.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", TIMEOUT, 0))
    return connection


def _received(connection: socket.socket) -> bytes:
    more = connection.recv(65536)
    if not more:
        raise ConnectionError("the server closed the connection")
    return more
