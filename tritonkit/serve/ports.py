"""TCP ports: free ones, and who holds the ones that are not."""

from __future__ import annotations

import errno
import random
import socket
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from tritonkit.errors import LaunchFailed, TritonkitError, UsageError
from tritonkit.serve.procfs import port_holder

# The ports that the kernel gives to outgoing connections.
_LENT = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST, _HIGHEST = 20_000, 65_535
_TRIES = 100


class Held(dict[str, int]):
    """A port for each service, by the service's name, of which those that were found here are kept.

    Until ``release``, or the end of this object, whoever looks for a free port gets none of them. A server that sets
    SO_REUSEADDR, as tritonserver and HAProxy do, listens on them nevertheless.
    """

    def __init__(self, chosen: Mapping[str, int], keepers: ExitStack) -> None:
        super().__init__(chosen)
        self.release = weakref.finalize(self, keepers.close)


def choose(address: str, wanted: Mapping[str, int]) -> Held:
    """The ports to listen on: the wanted ones, after a look that they are free, and a free one for each 0.

    Args:
        address: the IPv4 address to listen on.
        wanted: a port for each service, by the service's name.

    Raises:
        LaunchFailed: a port is taken; the message names the service, the port and who holds it.
        UsageError: two services want one port, or the address cannot be listened on.
    """
    fixed = [port for port in wanted.values() if port]
    for port in wanted.values():
        if port and fixed.count(port) > 1:
            both = " and ".join(name for name, asked in wanted.items() if asked == port)
            raise UsageError(f"port {port} is asked for twice ({both})")
    chosen = {}
    with ExitStack() as looked_at, ExitStack() as found:
        for service, port in wanted.items():
            # All are held until the last is chosen, so that no port is chosen twice.
            bound = (looked_at if port else found).enter_context(_bound(address, service, port))
            chosen[service] = bound.getsockname()[1]
        return Held(chosen, found.pop_all())


def resolve(host: str) -> str:
    """The IPv4 address of ``host``. tritonserver does not listen on names, nor on IPv6 with all its services.

    Raises:
        UsageError: it has none.
    """
    try:
        if not host:
            raise OSError("it is empty")
        # Python loads its tables of international names for every text, not for bytes.
        name = host.encode() if host.isascii() else host
        return str(socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"--host {host!r}: no IPv4 address ({error})", hint="Give an IPv4 address of this machine, or 127.0.0.1."
        ) from error


def join(address: str, port: int) -> str:
    """``host:port`` for a client on this machine; the address that means all becomes the loopback one."""
    reached = "127.0.0.1" if address == "0.0.0.0" else address  # noqa: S104 - compared, not bound
    return f"{reached}:{port}"


def _bound(address: str, service: str, port: int) -> socket.socket:
    for candidate in (port,) if port else (*_candidates(), 0):
        try:
            return _listening(address, port) if port else _kept(address, candidate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or candidate == port:
                raise _refused(address, service, port, error) from error
    raise AssertionError("the last candidate is 0 or the wanted port")


def _candidates() -> list[int]:
    """Ports that may be free, and stay so: one that an outgoing connection may get can be in use at a restart."""
    try:
        first, last = map(int, _LENT.read_text().split())
    except (OSError, ValueError):
        return []
    kept = [*range(_LOWEST, first), *range(max(_LOWEST, last + 1), _HIGHEST + 1)]
    return random.sample(kept, min(_TRIES, len(kept)))


def _listening(address: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # As tritonserver does: connections that have just ended do not hold a port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener


def _kept(address: str, port: int) -> socket.socket:
    """Bound, and not listening: nobody else is to choose the port in the seconds that a server takes until it binds."""
    keeper = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        keeper.bind((address, port))
        # Only now: with it, this bind would have gone through beside another's that keeps the port.
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError:
        keeper.close()
        raise
    return keeper


def _refused(address: str, service: str, port: int, error: OSError) -> TritonkitError:
    option = f"--{service}-port"
    if error.errno == errno.EADDRINUSE:
        holder = port_holder(port)
        return LaunchFailed(
            f"{service} port {port} is in use" + (f" by process {holder}" if holder else ""),
            hint=f"Stop that program, or choose another port ({option} 0 takes a free one).",
        )
    if error.errno == errno.EACCES:
        return UsageError(
            f"{service} port {port} may not be listened on by this user", hint=f"Choose {option} above 1023."
        )
    return UsageError(f"cannot listen on {address}:{port} ({service}): {error.strerror}")
