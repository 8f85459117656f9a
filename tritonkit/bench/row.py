"""What perf_analyzer reports for one load level: its CSV, and what only its log says."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tritonkit.client.activity import Activity
from tritonkit.errors import BenchmarkFailed

# With request rates perf_analyzer judges the throughput alone, and only warns when latencies keep rising.
_UNSTABLE = ("Failed to obtain stable measurement", "Request latency is not stabilizing")

_COLUMNS = {
    "throughput": "Inferences/Second",
    "latency_avg": "Avg latency",
    "latency_p50": "p50 latency",
    "latency_p90": "p90 latency",
    "latency_p95": "p95 latency",
    "latency_p99": "p99 latency",
    "client_send": "Client Send",
    "client_recv": "Client Recv",
    "network": "Network+Server Send/Recv",
    "queue": "Server Queue",
    "compute_input": "Server Compute Input",
    "compute_infer": "Server Compute Infer",
    "compute_output": "Server Compute Output",
}
_REQUIRED = ("throughput", "latency_p50", "latency_p90", "latency_p95", "latency_p99")
_PASS = re.compile(r"Pass \[\d+\] throughput: (\S+) infer/sec\. Avg latency: (\d+) usec")
_REQUESTS = re.compile(r"^\s*Request count: (\d+)", re.MULTILINE)
_SENT = re.compile(r"Avg send request rate: (\S+) infer/sec")
_DELAYED = re.compile(r"(\d+(?:\.\d+)?)% of the requests were delayed")
_CHATTER = re.compile(
    r"Pass \[\d+\] throughput|\*\*\*|Batch size:|Service Kind:|Using |Stabilizing|Measurement window:"
    r"|Minimum number|Request concurrency:|Request Rate:|Successfully read"
)
_THREAD = re.compile(r"^Thread \[\d+\] had error: ")
_PASS_ERROR = re.compile(r"^Pass \[\d+\] cb::Error: ")


@dataclass(frozen=True)
class Row:
    """The figures of one load level; every time in microseconds.

    Attributes:
        throughput: inferences a second; a request with a batch of 8 is 8 inferences.
        latency_p50: half of the requests took at most this long, as the client sees it; p90 to p99 likewise.
        latency_avg: the mean of the same; None where perf_analyzer leaves it out, as for those below.
        client_send: the client's own time to send a request.
        client_recv: and to receive the answer.
        network: between client and server, both ways, with the server's own sending and receiving; for an
            ensemble, with the time that its requests spend between and in the queues of its members.
        queue: waiting in the server for an instance; nothing for an ensemble, which has none of its own.
        compute_input: copying inputs to where the model wants them.
        compute_infer: the model itself.
        compute_output: copying outputs.
    """

    throughput: float
    latency_p50: float
    latency_p90: float
    latency_p95: float
    latency_p99: float
    latency_avg: float | None = None
    client_send: float | None = None
    client_recv: float | None = None
    network: float | None = None
    queue: float | None = None
    compute_input: float | None = None
    compute_infer: float | None = None
    compute_output: float | None = None

    @property
    def compute(self) -> float | None:
        """The server's compute times together."""
        parts = (self.compute_input, self.compute_infer, self.compute_output)
        known = [part for part in parts if part is not None]
        return sum(known) if known else None


@dataclass(frozen=True)
class Window:
    """One measurement window.

    Attributes:
        throughput: inferences a second.
        latency_avg: in microseconds.
    """

    throughput: float
    latency_avg: float


def parse(text: str) -> Row:
    """The one row of a perf_analyzer CSV. Columns are found by name; those not known are passed over.

    Raises:
        BenchmarkFailed: there is no row, more than one, or a column that every report has is missing.
    """
    rows = list(csv.DictReader(io.StringIO(text.strip())))
    if len(rows) != 1:
        raise BenchmarkFailed(f"perf_analyzer's report holds {len(rows)} rows instead of one")
    values = {field: _number(rows[0], column) for field, column in _COLUMNS.items()}
    missing = [_COLUMNS[field] for field in _REQUIRED if values[field] is None]
    if missing:
        raise BenchmarkFailed(f"perf_analyzer's report has no column {', '.join(missing)}")
    return Row(**values)  # type: ignore[arg-type]


def summed(row: Row, server: Sequence[Activity]) -> Row:
    """The row of a model that several servers have, with the times in the server from the sums over all of them.

    perf_analyzer asks for statistics before and after each window, and a gateway sends that to any one of them: so
    its differences are between servers.

    Args:
        row: what perf_analyzer reports.
        server: what the model did, then each member of an ensemble.
    """
    asked = server[0].requests if server else 0
    if not asked:
        return replace(row, network=None, queue=None, compute_input=None, compute_infer=None, compute_output=None)
    # An ensemble computes nothing itself, and has no queue.
    computing = server[1:] or server[:1]
    times = {
        part: sum(getattr(one, part) * one.requests for one in computing) / asked
        for part in ("compute_input", "compute_infer", "compute_output")
    }
    times["queue"] = 0.0 if server[1:] else server[0].queue
    known = (row.latency_avg, row.client_send, row.client_recv)
    network = None
    if row.latency_avg is not None:
        network = max(0.0, row.latency_avg - sum(times.values()) - sum(value or 0.0 for value in known[1:]))
    return replace(row, network=network, **times)


def windows(log: str) -> tuple[Window, ...]:
    """The measurement windows that a log tells of, in order."""
    return tuple(Window(float(rate), float(latency)) for rate, latency in _PASS.findall(log))


def unsettled(log: str) -> bool:
    """Whether perf_analyzer complains that its windows never became alike."""
    return any(complaint in log for complaint in _UNSTABLE)


def requests(log: str) -> int | None:
    """How many requests the row of this log rests on; None when it does not say."""
    found = _REQUESTS.findall(log)
    return int(found[-1]) if found else None


def sent(log: str) -> float | None:
    """The requests a second that perf_analyzer sent; None when it does not say, as when it kept the rate."""
    found = _SENT.findall(log)
    return float(found[-1]) if found else None


def delayed(log: str) -> float:
    """The percentage of requests that perf_analyzer itself sent too late; 0 when it kept the rate."""
    found = _DELAYED.findall(log)
    return float(found[-1]) if found else 0.0


def words(log: str) -> str:
    """perf_analyzer's own words for what went wrong, the server's answer first, each complaint once."""
    lines = [line.strip() for line in log.splitlines()]
    # What the threads tell is the server's answer; the rest is what perf_analyzer makes of it.
    said = [_THREAD.sub("", line) for line in lines if _THREAD.match(line)]
    others = (line for line in lines if line and not _THREAD.match(line) and not _CHATTER.match(line))
    said += [_PASS_ERROR.sub("", line) for line in others]
    return "\n".join(list(dict.fromkeys(said))[:8]) or "it said nothing"


def _number(row: Mapping[str, str | None], column: str) -> float | None:
    text = (row.get(column) or "").strip()
    try:
        return float(text) if text else None
    except ValueError:
        raise BenchmarkFailed(f"perf_analyzer's report has {text!r} in column {column}") from None
