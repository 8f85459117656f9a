"""What the models of running servers do: rates from Triton's statistics, p99 from its latency summaries."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tritonkit.client.endpoint import Endpoint
from tritonkit.errors import RequestFailed
from tritonkit.provision.controller import Observation

SUMMARIES = "--server-arg=--metrics-config=summary_latencies=true"
"""The option of ``tritonkit up`` with which Triton tells quantiles of its latencies."""

_SUMMARY = re.compile(
    r'^nv_inference_request_summary_us\{(?=[^}]*model="(?P<model>[^"]+)")(?=[^}]*quantile="0\.99")[^}]*\} '
    r"(?P<value>\S+)$",
    re.MULTILINE,
)
_TIMEOUT = 5.0


@dataclass(frozen=True)
class Watched:
    """One server: where it answers HTTP requests and metrics, and its models."""

    http: str
    metrics: str
    models: tuple[str, ...]


@dataclass(frozen=True)
class Counters:
    """What the servers had counted at some moment: requests by model, all replicas together."""

    time: float
    requests: Mapping[str, int]


def counters(servers: Sequence[Watched], now: float) -> Counters:
    """Everything counted so far; a server that does not answer is passed over: its successor counts from zero."""
    totals: dict[str, int] = {}
    for server in servers:
        for model in server.models:
            try:
                statistics = Endpoint(server.http).statistics(model)
            except RequestFailed:
                continue
            for version in statistics.get("model_stats", []):
                times = version.get("inference_stats", {})
                for outcome in ("success", "fail"):
                    totals[model] = totals.get(model, 0) + int(times.get(outcome, {}).get("count", 0))
    return Counters(now, totals)


def observed(before: Counters, after: Counters, p99_ms: Mapping[str, float]) -> dict[str, Observation]:
    """What each model did between two moments; one whose servers were started anew meanwhile is left out."""
    seconds = after.time - before.time
    return {
        model: Observation((count - before.requests[model]) / seconds, p99_ms.get(model))
        for model, count in after.requests.items()
        if seconds > 0 and model in before.requests and count >= before.requests[model]
    }


def latencies_p99_ms(servers: Sequence[Watched]) -> dict[str, float]:
    """The p99 of each model's requests within the servers, of its slowest replica; empty where Triton tells none."""
    found: dict[str, float] = {}
    for server in servers:
        try:
            with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=_TIMEOUT) as answer:
                text = answer.read().decode()
        except OSError:
            continue
        for model, value in parse_p99_ms(text).items():
            found[model] = max(value, found.get(model, 0.0))
    return found


def parse_p99_ms(text: str) -> dict[str, float]:
    """The p99 of each model in the text of Triton's metrics, in ms."""
    found = {}
    for match in _SUMMARY.finditer(text):
        value = float(match["value"]) / 1000
        if value == value:  # noqa: PLR0124 - a model without requests has none: NaN
            found[match["model"]] = value
    return found
