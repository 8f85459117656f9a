"""A study in a few sentences: what is best, what each axis does, what cannot be believed and why. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tritonkit.bench import figures
from tritonkit.bench.colocation import Interference, interference
from tritonkit.bench.objective import Limit
from tritonkit.bench.records import Record, Study
from tritonkit.bench.report_effects import Effect, effects
from tritonkit.bench.report_front import sound
from tritonkit.bench.titles import others, title

Kind: TypeAlias = Literal["best", "effect", "limit", "warning"]
# A change that a reader would not act on is left to the table.
_WORTH_TELLING = 0.05
_MOST_EFFECTS = 8
_MOST_WARNINGS = 12
_WHY = {
    "unstable": "perf_analyzer's windows, or the repeats, did not agree",
    "overloaded": "more was asked than is served, so latencies grow with the time of the measurement",
    "client-limited": "perf_analyzer could not send what was asked",
    "failed": "there are no figures, or requests failed",
    "unbuilt": "the deployment could not be built or started",
}


@dataclass(frozen=True)
class Sentence:
    """One sentence of the summary.

    Attributes:
        kind: what it is about.
        text: the sentence.
    """

    kind: Kind
    text: str


def best(records: Sequence[Record], limits: Sequence[Limit]) -> Record | None:
    """The sound point with the highest throughput within the limits, a stable one first; None where there is none."""
    fit = [record for record in records if sound(record) and all(limit.holds(record) for limit in limits)]
    stable = [record for record in fit if record.status == "ok"]
    return max(stable or fit, key=lambda each: _of(each, "throughput"), default=None)


def summary(study: Study, limits: Sequence[Limit] = ()) -> list[Sentence]:
    """The study in words, the most wanted first."""
    return [
        *_best(study.records, limits),
        *_together(interference(study.records)),
        *_effects(effects(study.records)),
        *_limits(study.records),
        *_warnings(study),
    ]


def _best(records: Sequence[Record], limits: Sequence[Limit]) -> Iterator[Sentence]:
    bounds = " and ".join(limit.text for limit in limits)
    for model in dict.fromkeys(record.model for record in records):
        mine = [record for record in records if record.model == model]
        found = best(mine, limits)
        within = f" with {bounds}" if limits else ""
        if found is not None:
            doubt = "" if found.status == "ok" else ", which was not stable"
            yield Sentence("best", f"The highest throughput of {model}{within} is {_told(found)}{doubt}.")
        elif limits and (fastest := _fastest(mine)) is not None:
            text = f"No sound point of {model} has {bounds}; the lowest p99 is that of {_told(fastest)}."
            yield Sentence("warning", text)
        else:
            yield Sentence("warning", f"No point of {model} can be believed.")


def _fastest(records: Sequence[Record]) -> Record | None:
    return min(filter(sound, records), key=lambda each: _of(each, "latency_p99"), default=None)


def _told(record: Record) -> str:
    p50, p99 = (milliseconds(_of(record, metric)) for metric in ("latency_p50", "latency_p99"))
    where = title(record).removeprefix(f"{record.model}, ")
    return f"{_of(record, 'throughput'):.4g} inferences/s at {where} (p50 {p50}, p99 {p99})"


def _together(found: Sequence[Interference]) -> Iterator[Sentence]:
    if found:
        worst = max(found, key=lambda each: each.p99_ratio)
        record = worst.together
        yield Sentence(
            "effect",
            f"Loaded together, {record.model} suffers most: beside {', '.join(others(record))} its p99 is "
            f"{worst.p99_ratio:.2g} times that alone, with {worst.throughput_kept:.0%} of its throughput "
            f"({record.load}).",
        )


def _effects(found: Sequence[Effect]) -> Iterator[Sentence]:
    def size(effect: Effect) -> float:
        return max(abs(change) for change in effect.changes.values())

    telling = [effect for effect in found if size(effect) >= _WORTH_TELLING]
    for effect in sorted(telling, key=size, reverse=True)[:_MOST_EFFECTS]:
        changes = (effect.changes[name] for name in ("throughput", "latency_p50", "latency_p99"))
        told = "throughput {:+.0%}, p50 {:+.0%}, p99 {:+.0%}".format(*changes)
        over = "" if effect.points == 1 else f", over {effect.points} pairs of points"
        name = effect.axis.removeprefix("configuration ")
        yield Sentence("effect", f"{effect.model}, {name} {effect.before} to {effect.after}: {told}{over}.")
    if found and not telling:
        yield Sentence("effect", f"No axis changes throughput or latency by {_WORTH_TELLING:.0%} or more.")


def _limits(records: Sequence[Record]) -> Iterator[Sentence]:
    counts = Counter(record.limit for record in records if record.repeats and record.limit != "none")
    if counts:
        told = ", ".join(f"{limit} ({_points(count)})" for limit, count in counts.most_common())
        yield Sentence("limit", f"What limited the throughput: {told}.")


def _warnings(study: Study) -> Iterator[Sentence]:
    planned = len(study.document.get("planned", study.records))
    if planned > len(study.records):
        state = study.document.get("state", "incomplete")
        yield Sentence("warning", f"{planned - len(study.records)} of {_points(planned)} were not measured: {state}.")
    doubtful = [record for record in study.records if record.status != "ok"]
    for status, count in Counter(record.status for record in doubtful).items():
        yield Sentence("warning", f"{_points(count)} {status}: {_WHY[status]}.")
    # Noise has no story of its own to tell; what fails has.
    telling = [record for record in doubtful if record.status != "unstable"]
    for record in telling[:_MOST_WARNINGS]:
        yield Sentence("warning", f"{title(record)}: {reason(record)}")
    if len(telling) > _MOST_WARNINGS:
        yield Sentence("warning", f"{len(telling) - _MOST_WARNINGS} more are marked in the table.")
    single = sum(len(record.repeats) == 1 for record in study.records)
    if single:
        yield Sentence("warning", f"{_points(single)} measured once only, so that nobody can tell noise from effect.")


def reason(record: Record) -> str:
    """Why a point needs care, on one line."""
    return (record.error or ", ".join(record.notes) or record.evidence or record.status).split("\n")[0]


def milliseconds(microseconds: float) -> str:
    """A time for people to read."""
    value = microseconds / 1000
    return f"{value:.3g} ms" if value < 1000 else f"{value:.0f} ms"


def _points(count: int) -> str:
    return "1 point" if count == 1 else f"{count} points"


def _of(record: Record, metric: str) -> float:
    return figures.median(record, metric) or 0.0
