"""What the models of running servers do: rates from Triton's statistics, p99 from its latency summaries."""

from __future__ import annotations

import http.client
import re
import urllib.request
from collections.abc import Collection, Mapping

from tritonkit.client import activity
from tritonkit.provision.controller import Observation

SUMMARIES = "--server-arg=--metrics-config=summary_latencies=true"
"""The option of ``tritonkit up`` with which Triton tells quantiles of its latencies."""

_SUMMARY = re.compile(
    r'^nv_inference_request_summary_us\{(?=[^}]*model="(?P<model>[^"]+)")(?=[^}]*quantile="0\.99")[^}]*\} '
    r"(?P<value>\S+)$",
    re.MULTILINE,
)
_TIMEOUT = 5.0


def observed(
    before: activity.Snapshots,
    after: activity.Snapshots,
    seconds: float,
    servers: Mapping[str, Collection[str]],
    p99_ms: Mapping[str, float],
) -> dict[str, Observation]:
    """What each model was asked for between two moments, on all servers that answered at both, in items a second.

    A model of which no server did is left out. Where a server was started anew meanwhile, what it did since counts.

    Args:
        before: the statistics of the servers, by their addresses.
        after: likewise, later.
        seconds: the time between the two.
        servers: by their addresses, the models to whose rates each server adds. Others may be loaded there: what an
            ensemble asks of its members is its own.
        p99_ms: the p99 of those of these models that have one.
    """
    found = {}
    for model in sorted({model for models in servers.values() for model in models}):
        there = {address: now for address, now in after.items() if model in servers.get(address, ())}
        for did in activity.between(before, there, [model]) if seconds > 0 else ():
            found[model] = Observation(_items(did) / seconds, p99_ms.get(model))
    return found


def _items(did: activity.Activity) -> float:
    """The items that were asked for, but for those that the cache had; a request that fails has as many as others."""
    computed = did.requests - did.cache_hits
    return did.inferences + did.failures * (did.inferences / computed if computed > 0 else 1.0)


def latencies_p99_ms(servers: Mapping[str, Collection[str]]) -> dict[str, float]:
    """The p99 of each model's requests within its servers, of the slowest of them; empty where Triton tells none.

    Args:
        servers: by where they answer for their metrics, as ``host:port``, the models of which each server tells.
    """
    found: dict[str, float] = {}
    for address, models in servers.items():
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=_TIMEOUT) as answer:
                text = answer.read().decode()
        except (OSError, http.client.HTTPException):
            continue
        for model, value in told(text).items():
            if model in models:
                found[model] = max(value, found.get(model, 0.0))
    return found


def told(text: str) -> dict[str, float]:
    """The p99 of each model in ms, of its slowest version, in a text of Triton's metrics."""
    found: dict[str, float] = {}
    for match in _SUMMARY.finditer(text):
        value = float(match["value"]) / 1000
        # A model without requests has none: NaN, which is not above anything.
        if value > found.get(match["model"], 0.0):
            found[match["model"]] = value
    return found
