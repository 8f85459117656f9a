"""``tritonkit convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tritonkit.cli.console import messages


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("convert", epilog="Example: tritonkit convert results/ --to model-analyzer -o config.yaml")(convert)


def convert(
    sources: Annotated[
        list[Path], typer.Argument(help="A study's folder, or CSV files of perf_analyzer.", show_default=False)
    ],
    to: Annotated[
        Literal["model-analyzer", "aiperf"],
        typer.Option("--to", help="A Model Analyzer configuration, or command lines of AIPerf."),
    ],
    target: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file, or AIPerf's folder.", show_default="printed; aiperf/"),
    ] = None,
    repository: Annotated[
        str, typer.Option("--repository", help="The model repository that Model Analyzer is to profile.")
    ] = "model_repository",
    url: Annotated[str, typer.Option("--url", help="The server that AIPerf is to ask.")] = "http://127.0.0.1:8000",
    subject_to: Annotated[
        list[str] | None,
        typer.Option("--subject-to", metavar="LIMIT", help="A limit for Model Analyzer, as in 'p99<20ms'."),
    ] = None,
) -> None:
    """Hand a study to another tool: the same models, loads and configurations, in its own form."""
    from tritonkit.bench import report_source
    from tritonkit.bench.interchange_inputs import FOLDER
    from tritonkit.bench.objective import read_objective

    study = report_source.read(sources)
    inputs = sources[0].resolve() / FOLDER
    objective = read_objective("max-throughput", subject_to or [])
    if to == "aiperf":
        from tritonkit.bench import interchange_aiperf

        script = interchange_aiperf.write(study, inputs, target or Path("aiperf"), url)
        messages().print(f"command lines: {script} (start it in its folder)", markup=False)
        return
    from tritonkit.bench import interchange_model_analyzer

    text = interchange_model_analyzer.config(study, inputs, repository, objective.limits if objective else ())
    if target is None:
        typer.echo(text, nl=False)
    else:
        target.write_text(text, encoding="utf-8")
        messages().print(f"configuration: {target}", markup=False)
