"""What each axis of a study does: the change from its first value to each other one, all else equal. Pure."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tritonkit.bench import figures
from tritonkit.bench.records import Record
from tritonkit.bench.report_front import sound
from tritonkit.bench.titles import axis, value_text

COUNTED = ("throughput", "latency_p50", "latency_p99")
_TOGETHER = "models loaded"
_LOADS = {"concurrency": "concurrency", "request_rate": "request rate", "intervals": "rate of arrivals"}


@dataclass(frozen=True)
class Effect:
    """One axis from one value to another.

    Attributes:
        axis: what is varied.
        before: the value to start from: the first in the order of the study.
        after: another value.
        model: the model.
        changes: for each of ``COUNTED`` the geometric mean of the changes, as a share, over the points that are equal
            in all else.
        points: how many pairs of points that is.
    """

    axis: str
    before: str
    after: str
    model: str
    changes: Mapping[str, float]
    points: int


def effects(records: Sequence[Record]) -> list[Effect]:
    """The effects of every axis with more than one value, model by model.

    Points that are not sound are left out. Of the load only the lowest and the highest are compared, and what other
    models do to one is told by the interference.
    """
    measured = [record for record in records if sound(record) and all(_median(record, name) for name in COUNTED)]
    found: list[Effect] = []
    for model in dict.fromkeys(record.model for record in measured):
        mine = [record for record in measured if record.model == model]
        axes = {record.label: _axes(record) for record in mine}
        for name in dict.fromkeys(name for values in axes.values() for name in values if name != _TOGETHER):
            found += _of_axis(name, model, mine, axes)
    return found


def _of_axis(
    name: str, model: str, records: Sequence[Record], axes: Mapping[str, Mapping[str, str]]
) -> Iterator[Effect]:
    """Compare the values of one axis over the points that are equal in all others."""
    # A named deployment is its configuration: with another name, that is another one, too.
    ignored = {name, *(each for values in axes.values() for each in values if _belongs(each, name))}
    groups: dict[str, dict[str, Record]] = {}
    for record in records:
        mine = axes[record.label]
        rest = json.dumps([(each, value) for each, value in mine.items() if each not in ignored])
        if name in mine:
            groups.setdefault(rest, {}).setdefault(mine[name], record)
    values = list(dict.fromkeys(value for group in groups.values() for value in group))
    if name in _LOADS.values():
        counts = Counter(value for group in groups.values() for value in group)
        common = sorted((value for value in values if counts[value] == max(counts.values())), key=float)
        values = [common[0], common[-1]] if len(common) > 1 else common
    for other in values[1:]:
        pairs = [(group[values[0]], group[other]) for group in groups.values() if values[0] in group and other in group]
        if pairs:
            changes = {metric: _ratio(pairs, metric) - 1 for metric in COUNTED}
            yield Effect(name, values[0], other, model, changes, len(pairs))


def _belongs(each: str, name: str) -> bool:
    return name == "deployment" and each.startswith("configuration ")


def _axes(record: Record) -> dict[str, str]:
    """What may vary from point to point, and its value, as text."""
    configuration = {f"configuration {axis(path)}": value_text(value) for path, value in record.configuration.items()}
    return {
        "experiment": record.experiment,
        "deployment": record.variant,
        **configuration,
        "batch size": str(record.batch_size),
        "protocol": record.protocol,
        "shared memory": record.shared_memory,
        "streaming": str(record.streaming).lower(),
        _TOGETHER: ", ".join(record.together) or record.model,
        "kind of load": record.load.kind,
        "arrivals": record.load.distribution,
        _LOADS.get(record.load.kind, record.load.kind): f"{record.load.value:g}",
    }


def _ratio(pairs: Sequence[tuple[Record, Record]], metric: str) -> float:
    ratios = [_median(after, metric) / _median(before, metric) for before, after in pairs]
    return math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))


def _median(record: Record, metric: str) -> float:
    return figures.median(record, metric) or 0.0
