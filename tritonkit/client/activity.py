"""What the server did meanwhile: differences of its own statistics, which count everything since a model's load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tritonkit.client.endpoint import Endpoint


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

    @property
    def average_batch(self) -> float | None:
        """Items in one execution, on average; None when there was none."""
        return self.inferences / self.executions if self.executions else None


Snapshot = Mapping[str, Mapping[str, Any]]


def snapshot(endpoint: Endpoint, models: Iterable[str]) -> Snapshot:
    """The statistics of these models now.

    Raises:
        RequestFailed: the server cannot be reached, or has no such model.
    """
    return {model: endpoint.statistics(model) for model in models}


def everything(endpoint: Endpoint) -> Snapshot:
    """The statistics of every loaded model now, for one request to the server.

    Raises:
        RequestFailed: the server cannot be reached.
    """
    models: dict[str, dict[str, Any]] = {}
    for version in endpoint.every_statistics().get("model_stats", []):
        models.setdefault(version["name"], {"model_stats": []})["model_stats"].append(version)
    return models


def between(before: Snapshot, after: Snapshot) -> tuple[Activity, ...]:
    """What each model of both snapshots did from one to the other."""
    return tuple(together(model, [(before[model], after[model])]) for model in before if model in after)


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
        compute=change["compute_ns"] / computed / 1000 if computed else 0.0,
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
        for name in ("compute_input", "compute_infer", "compute_output"):
            totals["compute_ns"] += int(times.get(name, {}).get("ns", 0))
        for batch in version.get("batch_stats", []):
            totals[f"batch {batch['batch_size']}"] += int(batch["compute_infer"]["count"])
            totals["busy_ns"] += sum(
                int(batch[part]["ns"]) for part in ("compute_input", "compute_infer", "compute_output")
            )
    return totals
