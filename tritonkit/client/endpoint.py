"""What a server says about itself and its models, over HTTP with the standard library alone."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import quote, urlsplit

from tritonkit.client.access import OPEN, TOKEN_VARIABLE, Access, Tls
from tritonkit.client.ports import DEFAULT_PORTS
from tritonkit.errors import RequestFailed, UsageError

Protocol: TypeAlias = Literal["http", "grpc"]


@dataclass(frozen=True, order=True)
class ModelState:
    """One version of one model, as the server's repository index shows it.

    Attributes:
        name: the model's name.
        version: its version; empty for a model that was never loaded.
        state: ``READY``, ``LOADING``, ``UNLOADING`` or ``UNAVAILABLE``; empty when it was never loaded.
        reason: why it is not ready, in Triton's words; empty when there is nothing to say.
    """

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True)
class Addresses:
    """Where one server, or the gateway before several, listens; each ``host:port``.

    Attributes:
        http: its HTTP address.
        grpc: its gRPC address.
        access: what it asks of its clients, at both addresses.
        servers: the HTTP addresses of the servers behind a gateway, which ask for nothing; empty where none are known.
    """

    http: str
    grpc: str
    access: Access = OPEN
    servers: tuple[str, ...] = ()

    def endpoint(self, *, timeout: float = 5.0) -> Endpoint:
        """The HTTP address, to be asked; ``timeout`` is as for an ``Endpoint``."""
        return Endpoint(self.http, access=self.access, timeout=timeout)

    def behind(self) -> tuple[Endpoint, ...]:
        """Every server by itself, as far as they are known; else what is known of them."""
        return tuple(Endpoint(server) for server in self.servers) or (self.endpoint(),)


class Endpoint:
    """A server's HTTP address. Every call opens a connection of its own, so threads may share an endpoint."""

    def __init__(self, address: str, *, access: Access = OPEN, timeout: float = 5.0) -> None:
        """Nothing is sent yet.

        Args:
            address: ``host:port``; ``http://`` or ``https://`` before it is accepted, and the port defaults to 8000.
            access: what the server asks for; an ``https://`` address is asked over TLS whatever it says.
            timeout: seconds that one connection, or one wait for an answer, may take.

        Raises:
            UsageError: the address is not of that form.
        """
        self.host, self.port = parse_address(address)
        self.access = access
        self.timeout = timeout
        if address.startswith("https://") and access.tls is None:
            self.access = Access(access.token, Tls())

    @property
    def address(self) -> str:
        """``host:port``."""
        return self.neighbour(0)

    def neighbour(self, distance: int) -> str:
        """``host:port`` with a port that is ``distance`` higher: Triton's default for gRPC is one above HTTP."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port + distance}"

    def live(self) -> bool:
        """Whether the server answers at all; False when nothing can be reached."""
        return self._healthy("/v2/health/live")

    def ready(self) -> bool:
        """Whether the server says that it takes inferences; False when nothing can be reached."""
        return self._healthy("/v2/health/ready")

    def server_metadata(self) -> dict[str, Any]:
        """The server's ``name``, ``version`` and ``extensions``."""
        return self._object("GET", "/v2")

    def index(self) -> list[ModelState]:
        """Every model of the repository, loaded or not, sorted."""
        answer = self._ask("POST", "/v2/repository/index")
        if not isinstance(answer, list):
            raise RequestFailed(f"{self.address}: /v2/repository/index: expected a list, got: {answer!r:.200}")
        return sorted(
            ModelState(
                name=str(entry.get("name", "")),
                version=str(entry.get("version", "")),
                state=str(entry.get("state", "")),
                reason=str(entry.get("reason", "")),
            )
            for entry in answer
        )

    def metadata(self, model: str, version: str = "") -> dict[str, Any]:
        """A loaded model's ``inputs`` and ``outputs`` (shapes with the batch dimension) and ``versions``."""
        return self._object("GET", _model_path(model, version))

    def config(self, model: str, version: str = "") -> dict[str, Any]:
        """A loaded model's ModelConfig as JSON, with the defaults filled in."""
        return self._object("GET", f"{_model_path(model, version)}/config")

    def statistics(self, model: str, version: str = "") -> dict[str, Any]:
        """A loaded model's statistics since its load: one ``model_stats`` entry a version; times in ns."""
        return self._object("GET", f"{_model_path(model, version)}/stats")

    def every_statistics(self) -> dict[str, Any]:
        """The statistics of every loaded model, in the same form as those of one."""
        return self._object("GET", "/v2/models/stats")

    def shared_memory(self) -> list[dict[str, Any]]:
        """The regions of system shared memory that are registered.

        Raises:
            RequestFailed: the server cannot be reached, or takes none, as a gateway before several servers.
        """
        answer = self._ask("GET", "/v2/systemsharedmemory/status")
        if not isinstance(answer, list):
            raise _other_service(self.address)
        return answer

    def _healthy(self, path: str) -> bool:
        try:
            status, _ = self._exchange("GET", path)
        except (OSError, http.client.HTTPException):
            return False
        return status == http.client.OK

    def _object(self, method: str, path: str) -> dict[str, Any]:
        answer = self._ask(method, path)
        if not isinstance(answer, dict):
            raise _other_service(self.address)
        return answer

    def _ask(self, method: str, path: str) -> Any:
        try:
            status, body = self._exchange(method, path)
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(self.address, error) from error
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if status != http.client.OK:
            said = answer.get("error") if isinstance(answer, dict) else None
            words = said or body.decode(errors="replace")[:500] or f"HTTP {status}"
            raise RequestFailed(f"{self.address}: {words}", hint=token_hint(status))
        return answer

    def _exchange(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        if self.access.tls is not None:
            context = self.access.tls.context(ssl.SSLContext)
            connection = http.client.HTTPSConnection(self.host, self.port, timeout=self.timeout, context=context)
        try:
            connection.request(method, path, body=b"" if method == "POST" else None, headers=self.access.headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def parse_address(address: str) -> tuple[str, int]:
    """The host and port of ``host:port`` or ``[ipv6]:port``, with or without ``http://`` or ``https://`` before it.

    Raises:
        UsageError: it is none of these.
    """
    parts = None
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        host, port = parts.hostname, parts.port or DEFAULT_PORTS["http"]
    except ValueError:
        host, port = None, 0
    if parts is None or not host or parts.scheme not in {"http", "https"} or parts.path not in {"", "/"} or parts.query:
        raise UsageError(
            f"{address!r} is not the address of a server", hint="Give host:port, for example 127.0.0.1:8000."
        )
    return host, port


def unreachable(address: str, error: Exception) -> RequestFailed:
    """The error for a server that does not answer at ``address``."""
    reason = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        return RequestFailed(
            f"the certificate of {address} is not trusted: {error.verify_message}",
            hint="Name the certificates to trust with: --ca-certificate FILE",
        )
    if isinstance(error, ssl.SSLError):
        return RequestFailed(
            f"no TLS is spoken at {address} ({error.reason or error})", hint="Without TLS: --url http://host:port"
        )
    if isinstance(error, http.client.RemoteDisconnected):
        return RequestFailed(
            f"what listens at {address} hangs up", hint="Where it asks for TLS: --url https://host:port"
        )
    return RequestFailed(
        f"no server can be reached at {address} ({reason})",
        hint="Start one with: tritonkit up (or name a running server with --url host:port)",
    )


def token_hint(status: object) -> str | None:
    """What to do about a refusal with this status of HTTP or gRPC, where it is for want of a token."""
    if str(status) not in {"401", "StatusCode.UNAUTHENTICATED"}:
        return None
    return f"Bear one of the gateway's tokens: --token-file FILE (with --url also ${TOKEN_VARIABLE})"


def _other_service(address: str) -> RequestFailed:
    return RequestFailed(
        f"what answers at {address} is no Triton HTTP service", hint="Give the port for HTTP, not that for metrics."
    )


def _model_path(model: str, version: str) -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path
