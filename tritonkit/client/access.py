"""What a server asks of its clients: a bearer token, TLS. And what is never written down of it."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tritonkit.errors import RequestFailed, UsageError

TOKEN_VARIABLE = "TRITONKIT_TOKEN"  # noqa: S105 - the name of a variable
MASK = "***"
_TOKEN = re.compile(r"[!-~]{16,}")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

_Context = TypeVar("_Context", bound=ssl.SSLContext)


class Token:
    """A bearer token. Printed, copied into a record or turned into JSON, it does not show itself."""

    def __init__(self, text: str, origin: str) -> None:
        """A token that came from ``origin``, as messages name it.

        Raises:
            UsageError: it is none.
        """
        if not is_token(text):
            raise UsageError(f"{origin}: holds no token of 16 or more characters without a space")
        self._text = text

    def __repr__(self) -> str:
        return MASK

    @property
    def bearer(self) -> str:
        """The value of the ``authorization`` header."""
        return f"Bearer {self._text}"


@dataclass(frozen=True)
class Tls:
    """How the certificate of a server is judged.

    Attributes:
        authorities: a PEM file with the certificates to trust; None trusts those of the system.
        own: the first certificate of that file is the server's own: that one alone is trusted, whatever its names.
    """

    authorities: Path | None = None
    own: bool = False

    def roots(self) -> str | None:
        """The certificates to trust, as PEM; None for those of the system.

        Raises:
            UsageError: the file cannot be read, or holds none.
        """
        if self.authorities is None:
            return None
        try:
            found = _CERTIFICATE.findall(self.authorities.read_text("ascii", errors="replace"))
        except OSError as error:
            raise UsageError(f"{self.authorities}: cannot be read: {error.strerror}") from error
        if not found:
            raise UsageError(f"{self.authorities}: holds no certificate", hint="A PEM file is expected.")
        # Neither a key nor, of the server's own chain, another authority is taken along.
        return "\n".join(found[:1] if self.own else found) + "\n"

    def context(self, kind: Callable[[int], _Context]) -> _Context:
        """A client's context of this kind: ``ssl.SSLContext``, or gevent's.

        Raises:
            UsageError: the certificates cannot be read.
        """
        context = kind(ssl.PROTOCOL_TLS_CLIENT)
        roots = self.roots()
        if roots is None:
            context.load_default_certs()
            return context
        try:
            context.load_verify_locations(cadata=roots)
        except ssl.SSLError as error:
            raise UsageError(f"{self.authorities}: no certificates: {error.reason or error}") from error
        if self.own:
            context.check_hostname = False
            # It may have been issued by somebody who is not in the file.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


@dataclass(frozen=True)
class Access:
    """What is shown to a server, and how the server is known.

    Attributes:
        token: the token that every request bears; None for none.
        tls: None speaks without TLS.
    """

    token: Token | None = None
    tls: Tls | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What every request bears: headers of HTTP, metadata of gRPC."""
        return {} if self.token is None else {"authorization": self.token.bearer}


OPEN = Access()
"""A server that asks for nothing."""


def is_token(text: str) -> bool:
    """Whether a text can be a token."""
    return _TOKEN.fullmatch(text) is not None


def tokens_of(text: str) -> list[str]:
    """The lines of a tokens file that are to be tokens; ``#`` begins a comment."""
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def read_token(file: Path) -> Token:
    """The first token of a file.

    Raises:
        UsageError: it cannot be read, or holds none.
    """
    try:
        found = tokens_of(file.read_text("ascii", errors="replace"))
    except OSError as error:
        raise UsageError(f"{file}: the tokens cannot be read: {error.strerror}") from error
    return Token(found[0] if found else "", str(file))


def certified_name(host: str, port: int, tls: Tls) -> str | None:
    """The name that the certificate of a server has for ``host``: that itself, or one that leads there.

    Clients that always compare the two are given this one.

    Returns:
        None where the certificate has no such name.

    Raises:
        RequestFailed: the server cannot be reached, or its certificate is not trusted.
    """
    names = certified_names(host, port, tls)
    if host in names:
        return host
    for name in names:
        try:
            if host in {str(entry[4][0]) for entry in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)}:
                return name
        except OSError:
            continue
    return None


def certified_names(host: str, port: int, tls: Tls, *, timeout: float = 5.0) -> list[str]:
    """The names and addresses in the certificate of a server.

    Raises:
        RequestFailed: the server cannot be reached, or its certificate is not trusted.
    """
    try:
        with (
            socket.create_connection((host, port), timeout) as plain,
            tls.context(ssl.SSLContext).wrap_socket(plain, server_hostname=host) as secured,
        ):
            certificate = secured.getpeercert() or {}
    except OSError as error:
        raise RequestFailed(f"{host}:{port}: no TLS can be spoken there ({error})") from error
    entries: Any = certificate.get("subjectAltName", ())
    return [name for kind, name in entries if kind in ("DNS", "IP Address")]
