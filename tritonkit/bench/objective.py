"""What a search looks for: the best of one figure, within limits of others. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tritonkit.bench import figures
from tritonkit.bench.records import Record
from tritonkit.errors import Fault, SpecError, nearest

_SHORT = {name.removeprefix("latency_"): name for name in figures.METRICS}
_UNITS = {"us": 1.0, "µs": 1.0, "ms": 1e3, "s": 1e6, "/s": 1.0, "%": 1.0, "": 1.0}
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_LIMIT = re.compile(r"\s*([a-z0-9_]+)\s*(<=|>=|<|>)\s*([0-9.]+(?:e[0-9]+)?)\s*(\S*)\s*")


@dataclass(frozen=True)
class Limit:
    """A bound on one figure; ``text`` as it was given."""

    metric: str
    relation: str
    bound: float
    text: str

    def holds(self, record: Record) -> bool:
        """Whether a record keeps to it; one without the figure does not."""
        value = figures.median(record, self.metric)
        return value is not None and _COMPARE[self.relation](value, self.bound)


@dataclass(frozen=True)
class Objective:
    """What is looked for.

    Attributes:
        metric: the figure.
        largest: whether the largest is the best.
        limits: what a point must keep to.
    """

    metric: str
    largest: bool
    limits: tuple[Limit, ...]

    def value(self, record: Record) -> float | None:
        """How good a record is, larger being better; None where nothing was measured."""
        found = figures.median(record, self.metric)
        return None if found is None else found if self.largest else -found

    def met(self, record: Record) -> bool:
        """Whether a record keeps to every limit, and its figures can be believed."""
        sound = record.status in ("ok", "unstable")
        return sound and self.value(record) is not None and all(limit.holds(record) for limit in self.limits)


def read_objective(find: str | None, limits: Sequence[str]) -> Objective | None:
    """``--find max-throughput --subject-to 'p99<20ms'``; None where nothing is to be found.

    Raises:
        SpecError: it is no goal or no limit.
    """
    if find is None:
        if limits:
            raise SpecError([Fault("--subject-to", 0, "", "it limits a search: give --find max-throughput as well")])
        return None
    which, dash, name = find.partition("-")
    if not dash or which not in ("max", "min"):
        message = f"expected max-FIGURE or min-FIGURE, as in max-throughput, got {find!r}"
        raise SpecError([Fault("--find", 0, "", message)])
    return Objective(_metric("--find", name), which == "max", tuple(_limit(text) for text in limits))


def _limit(text: str) -> Limit:
    found = _LIMIT.fullmatch(text)
    if found is None:
        raise SpecError([Fault("--subject-to", 0, "", f"expected a limit such as 'p99<20ms', got {text!r}")])
    name, relation, number, unit = found.groups()
    metric = _metric("--subject-to", name)
    timed = figures.METRICS[metric] == "µs"
    if unit not in _UNITS or (timed and unit not in ("us", "µs", "ms", "s")) or (not timed and unit.endswith("s") and
                                                                                unit != "/s"):  # fmt: skip
        wanted = "us, ms or s" if timed else "no unit, /s or %"
        raise SpecError([Fault("--subject-to", 0, "", f"{text!r}: {name} is given in {wanted}")])
    return Limit(metric, relation, float(number) * _UNITS[unit], text)


def _metric(option: str, name: str) -> str:
    if name not in _SHORT and name not in figures.METRICS:
        raise SpecError([Fault(option, 0, "", f"there is no figure {name!r}{nearest(name, _SHORT)}")])
    return _SHORT.get(name, name)
