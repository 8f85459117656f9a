"""What the models of running servers do: rates from Triton's statistics, p99 from its latency summaries."""

from __future__ import annotations

import http.client
import re
import urllib.request
from collections.abc import Iterable, Mapping

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
    models: Iterable[str],
    p99_ms: Mapping[str, float],
) -> dict[str, Observation]:
    """What each model was asked for between two moments, on all servers that answered at both, in items a second.

    A model of which no server did is left out. Where a server was started anew meanwhile, what it did since counts.
    """
    return {
        did.model: Observation(_items(did) / seconds, p99_ms.get(did.model))
        for did in activity.between(before, after, models)
        if seconds > 0
    }


def _items(did: activity.Activity) -> float:
    """The items that were asked for, but for those that the cache had; a request that fails has as many as others."""
    computed = did.requests - did.cache_hits
    return did.inferences + did.failures * (did.inferences / computed if computed > 0 else 1.0)


def latencies_p99_ms(metrics: Iterable[str]) -> dict[str, float]:
    """The p99 of each model's requests within its servers, of the slowest of them; empty where Triton tells none.

    Args:
        metrics: where the servers answer for their metrics, as ``host:port``.
    """
    texts = []
    for address in metrics:
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=_TIMEOUT) as answer:
                texts.append(answer.read().decode())
        except (OSError, http.client.HTTPException):
            continue
    return slowest(texts)


def slowest(texts: Iterable[str]) -> dict[str, float]:
    """The p99 of each model in ms, the largest in these texts of Triton's metrics."""
    found: dict[str, float] = {}
    for text in texts:
        for match in _SUMMARY.finditer(text):
            value = float(match["value"]) / 1000
            # A model without requests has none: NaN, which is not above anything.
            if value > found.get(match["model"], 0.0):
                found[match["model"]] = value
    return found
