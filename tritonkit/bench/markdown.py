"""Studies and comparisons as Markdown, short enough for a pull request. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tritonkit.bench import figures
from tritonkit.bench.compare import Change, Comparison
from tritonkit.bench.objective import Limit
from tritonkit.bench.records import Record, Study
from tritonkit.bench.report_front import front
from tritonkit.bench.report_summary import reason, summary
from tritonkit.bench.titles import series

_NAMES = {"throughput": "infer/s"}
_SPECIAL = "\\`*_[<>|~"


def report(study: Study, limits: Sequence[Limit] = ()) -> str:
    """A study: its summary, and a row a point."""
    optimal = front(study.records)
    rows = [
        (
            f"{series(record)} ★" if record.label in optimal else series(record),
            str(record.load),
            *(_figure(record, metric) for metric in ("throughput", "latency_p50", "latency_p99", "queue", "compute")),
            record.limit if record.limit != "none" else "-",
            record.status if record.status == "ok" else _doubt(record),
        )
        for record in study.records
    ]
    columns = ("configuration", "load", "infer/s", "p50 ms", "p99 ms", "queue ms", "compute ms", "limit", "status")
    lines = [f"### {escaped(study.name)}", ""]
    lines += [f"- {escaped(sentence.text)}" for sentence in summary(study, limits)]
    lines += ["", *table(columns, rows, right=range(2, 7)), "", "★ on the Pareto front of throughput and p99."]
    return "\n".join(lines) + "\n"


def comparison(held: Comparison, broken: Sequence[str]) -> str:
    """What changed, the broken conditions first; then a row a point."""
    lines = [f"### {escaped(held.names[0])} → {escaped(held.names[1])}", ""]
    lines += [f"- **Failed:** {escaped(text)}" for text in broken]
    lines += [f"- {escaped(text)}" for text in told(held)]
    metrics = list(held.smallest)
    columns = ("point", *(heading(metric) for metric in metrics))
    rows = []
    for pair in held.pairs:
        changes = {change.metric: change for change in pair.changes}
        rows.append((pair.title, *(cell(changes[metric]) if metric in changes else "-" for metric in metrics)))
    return "\n".join([*lines, "", *table(columns, rows, right=range(1, len(columns)))]) + "\n"


def told(held: Comparison) -> Iterator[str]:
    """A comparison in words, the most important first."""
    for text in held.surroundings:
        yield f"NOT THE SAME SURROUNDINGS: {text}"
    for pair in held.pairs:
        if pair.broke:
            yield f"{pair.title}: was {pair.before.status}, is {pair.after.status}"
    changed = held.significant
    worse = sum(change.worse for _, change in changed)
    count = sum(len(pair.changes) for pair in held.pairs)
    if changed:
        yield f"{len(changed)} of {count} figures changed: {worse} for the worse, {len(changed) - worse} for the better"
    elif held.unjudged < len(held.pairs):
        yield f"none of {count} figures changed by more than noise"
    if held.unjudged:
        yield f"{held.unjudged} of {len(held.pairs)} points have too few repeats to tell change from noise"
    for where, titles in zip(held.names, held.only, strict=True):
        for title in titles:
            yield f"only in {where}: {title}"


def heading(metric: str) -> str:
    """A metric as the heading of a column."""
    return _NAMES.get(metric, f"{metric.removeprefix('latency_')} ms")


def cell(change: Change) -> str:
    """A change as the cell of a table."""
    scale = 1 if change.metric == "throughput" else 1000
    mark = {True: "worse" if change.worse else "better", False: "", None: "?"}[change.significant]
    return f"{change.before / scale:.4g} → {change.after / scale:.4g} ({change.change:+.1%}) {mark}".rstrip()


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> list[str]:
    """The lines of a Markdown table; columns in ``right`` are aligned to the right."""
    rule = " | ".join("---:" if index in right else "---" for index in range(len(columns)))
    body = [" | ".join(escaped(cell) for cell in row) for row in rows]
    return [f"| {line} |" for line in (" | ".join(columns), rule, *body)]


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return "".join(f"\\{each}" if each in _SPECIAL else each for each in " ".join(text.split()))


def _figure(record: Record, metric: str) -> str:
    value = figures.median(record, metric)
    if value is None:
        return "-"
    return f"{value:.1f}" if metric == "throughput" else f"{value / 1000:.2f}"


def _doubt(record: Record) -> str:
    why = reason(record)
    return why if why.startswith(record.status) else f"{record.status}: {why}"
