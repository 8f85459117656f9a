"""``tritonkit doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from tritonkit.cli.console import messages, print_json, print_table
from tritonkit.errors import ToolMissing


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(epilog="Example: tritonkit doctor --install")(doctor)


def doctor(
    install: Annotated[
        bool,
        typer.Option(
            "--install",
            help="Get what building, serving and benchmarking on a CPU lack: Python packages into this environment, "
            "perf_analyzer into tritonkit's cache.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Tell what is here and what is missing, with the command that installs it; exit 3 if serving lacks something."""
    from dataclasses import asdict

    from rich.text import Text

    from tritonkit import doctor

    findings = doctor.examine()
    if install:
        doctor.install(findings, messages().print)
        findings = doctor.examine()
    lacking = [finding for finding in findings if finding.required and not finding.usable]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        marks = {True: Text("ok", "green"), False: Text("missing", "red"), None: Text("-", "dim")}
        rows = [
            (
                marks[True if finding.usable else False if finding.required else None],
                finding.name,
                finding.serves,
                finding.found if finding.usable else f"{finding.problem}; {finding.remedy}".removesuffix("; "),
            )
            for finding in findings
        ]
        print_table(["", "what", "for", "found, or how to get it"], rows)
    if lacking:
        names = ", ".join(finding.name for finding in lacking)
        raise ToolMissing(
            f"serving on this machine lacks: {names}", hint="; ".join(doctor.remedies(findings, tried=install))
        )
