"""perf_analyzer's command line for one load level. Pure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tritonkit.bench.levels import Concurrency, Intervals, Level, RequestRate
from tritonkit.client.access import MASK, Access, Tls, certified_name
from tritonkit.client.endpoint import Addresses, Protocol, parse_address
from tritonkit.errors import RequestFailed

# In small letters, as gRPC wants the names of its metadata.
_AUTHORIZATION = "authorization:"
_MASKED = f"{_AUTHORIZATION}Bearer {MASK}"
# perf_analyzer calls a level stable by its last three windows.
WINDOWS = 3
SHORTEST_INTERVAL_MS = 1000
LONGEST_INTERVAL_MS = 20_000
# Enough requests in a window for its average to mean something.
REQUESTS_A_WINDOW = 50
# From so many threads it sends at a rate: its default, given all the same, as a thread's share is reckoned with.
THREADS = 4
# More than any three windows can differ by: they are taken as they come.
ANY_PERCENTAGE = 1_000_000.0


@dataclass(frozen=True)
class Measurement:
    """How long perf_analyzer looks, and when it believes what it sees.

    Attributes:
        interval_ms: one measurement window, in ms.
        stability_percentage: how far the last three windows may differ in throughput and in average latency.
        max_trials: after this many windows that differ by more, the level is unstable.
    """

    interval_ms: int = SHORTEST_INTERVAL_MS
    stability_percentage: float = 10.0
    max_trials: int = 10

    def as_it_comes(self) -> Measurement:
        """Three windows, however much they differ: the figures of a level that never was stable."""
        return Measurement(self.interval_ms, ANY_PERCENTAGE, WINDOWS)

    def over(self, seconds: float) -> Measurement:
        """Three windows that together last as long as a trace, taken as they come: a trace need not be steady."""
        return Measurement(max(int(seconds * 1000 / WINDOWS), 1), ANY_PERCENTAGE, WINDOWS)

    @property
    def deadline(self) -> float:
        """Seconds after which perf_analyzer no longer waits for windows, but for answers that never come."""
        return 60.0 + 3.0 * self.interval_ms / 1000 * (self.max_trials + WINDOWS)


def interval_for(latency: float) -> int:
    """A window, in ms, that fits a model whose single request takes ``latency`` seconds."""
    wanted = math.ceil(latency * 1000 * REQUESTS_A_WINDOW)
    return min(max(wanted, SHORTEST_INTERVAL_MS), LONGEST_INTERVAL_MS)


def argv(
    binary: Path, level: Level, server: Addresses, measurement: Measurement, *, data: Path, report: Path
) -> list[str]:
    """The command line that measures one level; without the token, which ``bearing`` puts in.

    Args:
        binary: perf_analyzer.
        level: the load.
        server: where to send it.
        measurement: how long to look.
        data: the input data, in perf_analyzer's JSON.
        report: where the CSV with the row is to go.
    """
    line = [str(binary), "-m", level.model]
    if level.version:
        line += ["-x", level.version]
    line += ["-i", level.protocol, *_reaching(level.protocol, server)]
    line += ["-b", str(level.batch_size), "--input-data", str(data)]
    if level.shared_memory != "none":
        line += ["--shared-memory", level.shared_memory]
    if level.sequence_length:
        line += ["--sequence-length", str(level.sequence_length)]
    if isinstance(level.load, Concurrency):
        line += ["--concurrency-range", str(level.load.requests)]
        line += ["--async", "--streaming"] if level.streaming else []
    else:
        # Synchronous requests would wait for answers and so send less than the rate.
        line += ["--async", *(["--streaming"] if level.streaming else []), "--max-threads", str(THREADS)]
    if isinstance(level.load, RequestRate):
        line += ["--request-rate-range", level.load.number, "--request-distribution", level.load.distribution]
    elif isinstance(level.load, Intervals):
        line += ["--request-intervals", str(level.load.file)]
    line += ["--measurement-interval", str(measurement.interval_ms)]
    line += ["--stability-percentage", f"{measurement.stability_percentage:g}"]
    line += ["--max-trials", str(measurement.max_trials)]
    return [*line, "-v", "--verbose-csv", "-f", str(report)]


def bearing(line: Sequence[str], access: Access) -> list[str]:
    """A command line as it is to be run: with the token, which perf_analyzer takes there and nowhere else.

    So whoever may look at the processes of this machine sees it while perf_analyzer runs.
    """
    if access.token is None:
        return list(line)
    return [_AUTHORIZATION + access.token.bearer if word == _MASKED else word for word in line]


def certified(server: Addresses, protocols: Iterable[Protocol]) -> Addresses:
    """The addresses under which perf_analyzer can ask a server that speaks TLS; others stay as they are.

    Raises:
        RequestFailed: the server cannot be reached; or gRPC is asked for, and its certificate has no name for it.
    """
    tls = server.access.tls
    if tls is None or not tls.own:
        return server
    if "grpc" not in protocols:
        return replace(server, http=_certified(server.http, tls) or server.http)
    grpc = _certified(server.grpc, tls)
    if grpc is None:
        raise RequestFailed(
            f"perf_analyzer compares names over gRPC, and the certificate of {server.grpc} has none that leads there",
            hint="Measure over HTTP, or take a certificate that names the address.",
        )
    return replace(server, http=_certified(server.http, tls) or server.http, grpc=grpc)


def _certified(address: str, tls: Tls) -> str | None:
    host, port = parse_address(address)
    name = certified_name(host, port, tls)
    return f"[{name}]:{port}" if name and ":" in name else f"{name}:{port}" if name else None


def _reaching(protocol: Protocol, server: Addresses) -> list[str]:
    address = server.grpc if protocol == "grpc" else server.http
    tls = server.access.tls
    line = ["-u", address if tls is None or protocol == "grpc" else f"https://{address}"]
    if tls is not None and protocol == "grpc":
        line += ["--ssl-grpc-use-ssl"]
        line += ["--ssl-grpc-root-certifications-file", str(tls.authorities)] if tls.authorities else []
    elif tls is not None:
        line += ["--ssl-https-ca-certificates-file", str(tls.authorities)] if tls.authorities else []
        line += ["--ssl-https-verify-host", "0"] if tls.own else []
    return [*line, "-H", _MASKED] if server.access.token is not None else line


def shell_line(line: Sequence[str], env: Mapping[str, str]) -> str:
    """A command line with the variables that it needs, fit for a shell."""
    return shlex.join([*(["env"] if env else []), *(f"{name}={value}" for name, value in env.items()), *line])
