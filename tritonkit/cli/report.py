"""``tritonkit report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritonkit.cli.console import messages


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("report", epilog="Example: tritonkit report results/ --subject-to 'p99<20ms'")(report)


def report(
    sources: Annotated[
        list[Path], typer.Argument(help="A study's folder, or CSV files of perf_analyzer.", show_default=False)
    ],
    target: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write.", show_default="report.html in the study's folder"),
    ] = None,
    subject_to: Annotated[
        list[str] | None,
        typer.Option("--subject-to", metavar="LIMIT", help="What the best point keeps to, as in 'p99<20ms'."),
    ] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, for a pull request, instead of writing HTML.")
    ] = False,
    model: Annotated[
        str, typer.Option("--model", help="The model that CSV files are about.", show_default="each file's name")
    ] = "",
) -> None:
    """Show a study: one HTML file that works offline, with a summary in words, tables, plots, and CSV of everything."""
    from tritonkit.bench import report_source
    from tritonkit.bench.objective import read_objective

    objective = read_objective("max-throughput", subject_to or [])
    limits = objective.limits if objective else ()
    study = report_source.read(sources, model=model)
    if as_markdown:
        from tritonkit.bench import markdown

        text = markdown.report(study, limits)
        if target is None:
            typer.echo(text, nl=False)
            return
        target.write_text(text, encoding="utf-8")
    else:
        from tritonkit.bench import report as page

        target = target or (sources[0] if sources[0].is_dir() else Path()) / page.FILE
        page.write(study, target, limits=limits)
    messages().print(f"report: {target}", markup=False)
