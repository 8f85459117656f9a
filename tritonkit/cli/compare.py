"""``tritonkit compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritonkit.cli.console import messages, output, print_json, print_table

if TYPE_CHECKING:
    from tritonkit.bench.compare import Comparison


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("compare", epilog="Example: tritonkit compare main/ branch/ --fail-if 'p99>+10%'")(compare)


def compare(
    before: Annotated[Path, typer.Argument(help="The earlier study's folder, or a CSV of perf_analyzer.")],
    after: Annotated[Path, typer.Argument(help="The later one.")],
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if", metavar="LIMIT", help="Exit with 6 where a point breaks it: 'p99>+10%', 'throughput<-5%'."
        ),
    ] = None,
    smallest: Annotated[
        float | None,
        typer.Option(
            "--smallest",
            metavar="PERCENT",
            min=0.0,
            help="The smallest change that counts.",
            show_default="5; 10 for p99",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
) -> None:
    """Say what changed from one study to another, point by point, and whether it is more than noise."""
    from dataclasses import replace

    from tritonkit.bench import compare as comparing
    from tritonkit.bench import markdown, report_source
    from tritonkit.errors import BenchmarkFailed

    if as_json and as_markdown:
        raise typer.BadParameter("one of --json and --markdown", param_hint="--markdown")
    conditions = [comparing.condition(text) for text in fail_if or []]
    # A CSV does not name its model: two of them are taken to be about the same one.
    read = {path: report_source.read([path], model=before.stem) for path in (before, after)}
    studies = [replace(read[path], name=str(path)) for path in (before, after)]
    share = None if smallest is None else smallest / 100
    found = comparing.compare(*studies, conditions=conditions, smallest=share)
    broken = comparing.broken(found, conditions)
    if as_json:
        print_json({**found.as_json(), "broken": broken})
    elif as_markdown:
        typer.echo(markdown.comparison(found, broken), nl=False)
    else:
        _print(found)
    if broken:
        raise BenchmarkFailed("\n".join(broken), hint="These are the limits of --fail-if.")


def _print(found: Comparison) -> None:
    from rich.text import Text

    from tritonkit.bench import markdown

    # Loud, and before any figure: what follows may be about another machine.
    for text in list(markdown.told(found))[: len(found.surroundings)]:
        messages().print(Text(text, style="bold yellow"))
    metrics = list(found.smallest)
    rows: list[Sequence[object]] = []
    for pair in found.pairs:
        changes = {change.metric: change for change in pair.changes}
        cells = []
        for metric in metrics:
            change = changes.get(metric)
            style = (
                {True: "bold red" if change.worse else "bold green"}.get(bool(change.significant)) if change else None
            )
            cells.append(Text(markdown.cell(change) if change else "-", style=style or ""))
        rows.append([pair.title, *cells])
    columns = ["point", *(markdown.heading(metric) for metric in metrics)]
    print_table(columns, rows, title=f"{found.names[0]} -> {found.names[1]}: medians of the repeats", right=columns[1:])
    for text in list(markdown.told(found))[len(found.surroundings) :]:
        output().print(Text(text))
