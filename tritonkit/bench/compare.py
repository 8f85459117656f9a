"""What changed between two studies: point by point, and whether it is more than noise. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tritonkit.bench import figures
from tritonkit.bench.records import Record, Study
from tritonkit.bench.report_provenance import surroundings
from tritonkit.bench.significance import FEWEST, LEVEL, Difference, difference, holm
from tritonkit.bench.titles import identity, title
from tritonkit.errors import BenchmarkFailed, Fault, SpecError

SMALLEST: Mapping[str, float] = {"throughput": 0.05, "latency_p50": 0.05, "latency_p99": 0.10}
"""The figures that are compared, and the smallest change of each that counts."""
_OTHERS = 0.05
_CONDITION = re.compile(r"(throughput|avg|p50|p90|p95|p99)\s*([<>])\s*([+-]?\d+(?:\.\d+)?)\s*%")


@dataclass(frozen=True)
class Change:
    """One figure of one point, before and after.

    Attributes:
        metric: which, as in ``figures.METRICS``.
        before: the median of the earlier repeats.
        after: the median of the later ones.
        change: how much more that is, as a share: 0.1 is 10% more.
        low: lower end of the 95% confidence interval of the change; None with too few repeats.
        high: upper end of the same.
        p: the chance of a false call, adjusted for the number of figures compared; None with too few repeats.
        significant: whether it is more than noise and more than the smallest change that counts; None when nobody
            can tell, with too few repeats.
    """

    metric: str
    before: float
    after: float
    change: float
    low: float | None
    high: float | None
    p: float | None
    significant: bool | None

    @property
    def worse(self) -> bool:
        """Whether the change is to the bad: less throughput, or more time."""
        return (self.change < 0) == (self.metric == "throughput")


@dataclass(frozen=True)
class Pair:
    """A point of both studies.

    Attributes:
        title: the point in words.
        before: in the earlier study.
        after: in the later one.
        changes: every figure that both have; empty where one has none.
    """

    title: str
    before: Record
    after: Record
    changes: tuple[Change, ...]

    @property
    def broke(self) -> bool:
        """Whether there were figures and now there are none, or requests that fail."""
        bad = ("failed", "unbuilt")
        return self.after.status in bad and self.before.status not in bad


@dataclass(frozen=True)
class Comparison:
    """Two studies, held against each other.

    Attributes:
        names: of the two studies.
        pairs: the points of both, in the order of the later study.
        only: titles of the points that only the earlier study has, and that only the later one has.
        surroundings: what else is different: versions and hardware, in sentences.
        smallest: the smallest change of each figure that counts.
    """

    names: tuple[str, str]
    pairs: tuple[Pair, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    surroundings: tuple[str, ...]
    smallest: Mapping[str, float]

    @property
    def significant(self) -> list[tuple[Pair, Change]]:
        """Every change that is called one."""
        return [(pair, change) for pair in self.pairs for change in pair.changes if change.significant]

    @property
    def unjudged(self) -> int:
        """Points with too few repeats to tell noise from change."""
        return sum(any(change.significant is None for change in pair.changes) for pair in self.pairs)

    def as_json(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {
            "before": self.names[0],
            "after": self.names[1],
            "surroundings": list(self.surroundings),
            "smallest": dict(self.smallest),
            "points": [
                {
                    "title": pair.title,
                    "before": {"label": pair.before.label, "status": pair.before.status},
                    "after": {"label": pair.after.label, "status": pair.after.status},
                    "changes": [asdict(change) for change in pair.changes],
                }
                for pair in self.pairs
            ],
            "only_before": list(self.only[0]),
            "only_after": list(self.only[1]),
        }


@dataclass(frozen=True)
class Condition:
    """A limit to a change, as in ``p99>+10%``.

    Attributes:
        text: as it was given.
        metric: which figure.
        limit: the change that is too much, as a share.
        above: whether more than it is too much, or less.
    """

    text: str
    metric: str
    limit: float
    above: bool

    def broken(self, change: Change) -> bool:
        """Whether a change is beyond the limit, and not noise as far as anybody can tell."""
        beyond = change.change > self.limit if self.above else change.change < self.limit
        return beyond and change.significant is not False


def condition(text: str) -> Condition:
    """Read ``p99>+10%`` or ``throughput<-5%``.

    Raises:
        SpecError: it is nothing of the kind.
    """
    found = _CONDITION.fullmatch(text.strip())
    if not found:
        expected = "expected FIGURE>+N% or FIGURE<-N%, with throughput, avg, p50, p90, p95 or p99"
        raise SpecError([Fault("--fail-if", 0, "", f"{expected}, got {text!r}")], hint="For example: 'p99>+10%'")
    name, side, limit = found.groups()
    metric = name if name == "throughput" else f"latency_{name}"
    return Condition(text.strip(), metric, float(limit) / 100, side == ">")


def compare(
    before: Study, after: Study, *, conditions: Sequence[Condition] = (), smallest: float | None = None
) -> Comparison:
    """Hold two studies against each other, point by point.

    Args:
        before: the earlier study.
        after: the later one.
        conditions: their figures are compared as well; a limit below the smallest change that counts lowers that.
        smallest: the smallest change of any figure that counts; None for ``SMALLEST``.

    Raises:
        BenchmarkFailed: they have no point in common.
    """
    limits = dict(SMALLEST if smallest is None else dict.fromkeys(SMALLEST, smallest))
    for each in conditions:
        usual = limits.get(each.metric, _OTHERS if smallest is None else smallest)
        limits[each.metric] = min(usual, abs(each.limit))
    earlier = {identity(record): record for record in before.records}
    later = {identity(record): record for record in after.records}
    pairs = [
        Pair(title(record), earlier[key], record, tuple(_changes(earlier[key], record, limits)))
        for key, record in later.items()
        if key in earlier
    ]
    only = (
        tuple(title(record) for key, record in earlier.items() if key not in later),
        tuple(title(record) for key, record in later.items() if key not in earlier),
    )
    if not pairs:
        raise BenchmarkFailed(
            f"{before.name} and {after.name} have no point in common",
            hint="A point is the same with the same model, load, batch size, protocol and configuration.",
        )
    names = (before.name, after.name)
    return Comparison(names, tuple(_judged(pairs, limits)), only, tuple(_surroundings(before, after)), limits)


def broken(comparison: Comparison, conditions: Sequence[Condition]) -> list[str]:
    """Every breach of a condition, in words; a point that does not work any more breaks all of them."""
    found = []
    for pair in comparison.pairs if conditions else ():
        if pair.broke:
            found.append(f"{pair.title}: {pair.after.status}: {pair.after.error or ', '.join(pair.after.notes)}")
        for each in conditions:
            for change in pair.changes:
                if change.metric == each.metric and each.broken(change):
                    doubt = f" (fewer than {FEWEST} repeats: it may be noise)" if change.significant is None else ""
                    found.append(f"{pair.title}: {each.text}: {change.change:+.1%}{doubt}")
    return found


def _changes(before: Record, after: Record, limits: Mapping[str, float]) -> Iterator[Change]:
    for metric, smallest in limits.items():
        values = figures.values(before, metric), figures.values(after, metric)
        found: Difference | None = difference(*values, smallest)
        medians = figures.median(before, metric), figures.median(after, metric)
        if found is not None and medians[0] is not None and medians[1] is not None:
            yield Change(metric, medians[0], medians[1], found.change, found.low, found.high, found.p, None)


def _judged(pairs: Sequence[Pair], limits: Mapping[str, float]) -> Iterator[Pair]:
    """The pairs, with every chance adjusted for the number of them."""
    chances = [change.p for pair in pairs for change in pair.changes if change.p is not None]
    adjusted = iter(holm(chances))
    for pair in pairs:
        changes = []
        for change in pair.changes:
            if change.p is None:
                changes.append(change)
                continue
            p = next(adjusted)
            # One repeat gone wrong moves the mean of logarithms, and not the median.
            moved = max(1 + change.change, 1 / (1 + change.change)) > 1 + limits[change.metric]
            changes.append(replace(change, p=p, significant=p < LEVEL and moved))
        yield replace(pair, changes=tuple(changes))


def _surroundings(before: Study, after: Study) -> Iterator[str]:
    first, last = surroundings(before), surroundings(after)
    for name in dict.fromkeys([*first, *last]):
        if first.get(name) != last.get(name):
            yield f"{name}: {first.get(name, 'not said')} before, {last.get(name, 'not said')} after"
