"""What the server did meanwhile: differences of its own statistics, which count everything since a model's load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tritonkit.client.endpoint import Addresses, Endpoint
from tritonkit.errors import RequestFailed

_PARTS = ("compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class Activity:
    """One model's work between two moments, whoever asked for it.

    Attributes:
        model: its name.
        requests: requests that succeeded.
        failures: requests that failed.
        inferences: items computed; a request with a batch of 8 is 8.
        executions: calls of the model; with dynamic batching one call may serve many requests.
        queue: mean time a request waited for an instance, in microseconds.
        compute: mean time that its instance took for a request (input, inference and output), in microseconds;
            all that its steps took, for an ensemble.
        compute_input: the part of it for copying inputs; ``compute_output`` for outputs, ``compute_infer`` the rest.
        batches: how many executions there were of each batch size.
        cache_hits: requests that the response cache answered.
        busy: time that instances spent computing, all executions together, in microseconds.
    """

    model: str
    requests: int
    failures: int
    inferences: int
    executions: int
    queue: float
    compute: float
    batches: Mapping[int, int]
    cache_hits: int
    busy: float = 0.0
    compute_input: float = 0.0
    compute_infer: float = 0.0
    compute_output: float = 0.0

    @property
    def average_batch(self) -> float | None:
        """Items in one execution, on average; None when there was none."""
        return self.inferences / self.executions if self.executions else None


Snapshot = Mapping[str, Mapping[str, Any]]
Snapshots = Mapping[str, Snapshot]
"""Of each server, by its address."""


def everything(endpoint: Endpoint) -> Snapshot:
    """The statistics of every loaded model now, for one request to the server.

    Raises:
        RequestFailed: the server cannot be reached.
    """
    models: dict[str, dict[str, Any]] = {}
    for version in endpoint.every_statistics().get("model_stats", []):
        models.setdefault(version["name"], {"model_stats": []})["model_stats"].append(version)
    return models


def snapshots(server: Addresses) -> Snapshots:
    """The statistics of every server behind an address now, without those that do not answer.

    Where they are not known, the address is asked: a gateway has the models of all servers in one list.
    """
    found = {}
    for endpoint in server.behind():
        try:
            found[endpoint.address] = everything(endpoint)
        except RequestFailed:
            continue
    return found


def between(before: Snapshots, after: Snapshots, models: Iterable[str]) -> tuple[Activity, ...]:
    """What each of these models did from one moment to the other, on all servers that answered at both."""
    did = []
    for model in models:
        servers = [
            (before[server].get(model, {}), now[model])
            for server, now in after.items()
            if server in before and model in now
        ]
        did += [together(model, servers)] if servers else []
    return tuple(did)


def replicas(seen: Snapshots, model: str) -> int:
    """How many servers have this model, the same version of it."""
    versions = Counter(
        version.get("version")
        for statistics in seen.values()
        for version in statistics.get(model, {}).get("model_stats", [])
    )
    return max(versions.values(), default=0)


def together(model: str, servers: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Activity:
    """What one model did on several servers at once.

    Args:
        model: its name.
        servers: its statistics on each server, before and after; an empty ``before`` counts from its load.
    """
    change: Counter[str] = Counter()
    for before, after in servers:
        change.update(_change(_totals(before), _totals(after)))
    waits, computed = change["queue"], change["compute_infer"]
    return Activity(
        model=model,
        requests=change["success"],
        failures=change["fail"],
        inferences=change["inferences"],
        executions=change["executions"],
        queue=change["queue_ns"] / waits / 1000 if waits else 0.0,
        compute=sum(change[f"{part}_ns"] for part in _PARTS) / computed / 1000 if computed else 0.0,
        **{part: change[f"{part}_ns"] / computed / 1000 if computed else 0.0 for part in _PARTS},
        batches={
            int(key.removeprefix("batch ")): count
            for key, count in sorted(change.items())
            if key.startswith("batch ") and count
        },
        cache_hits=change["cache_hit"],
        busy=change["busy_ns"] / 1000,
    )


def _change(first: Counter[str], last: Counter[str]) -> Counter[str]:
    # A model that was loaded again in between counts from zero: then the later figures are all there is.
    return last - first if all(last[key] >= first[key] for key in first) else last


def _totals(statistics: Mapping[str, Any]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for version in statistics.get("model_stats", []):
        times = version.get("inference_stats", {})
        totals["inferences"] += int(version.get("inference_count", 0))
        totals["executions"] += int(version.get("execution_count", 0))
        for name in ("success", "fail", "queue", "compute_infer", "cache_hit"):
            totals[name] += int(times.get(name, {}).get("count", 0))
        totals["queue_ns"] += int(times.get("queue", {}).get("ns", 0))
        for name in _PARTS:
            totals[f"{name}_ns"] += int(times.get(name, {}).get("ns", 0))
        for batch in version.get("batch_stats", []):
            totals[f"batch {batch['batch_size']}"] += int(batch["compute_infer"]["count"])
            totals["busy_ns"] += sum(int(batch[part]["ns"]) for part in _PARTS)
    return totals
