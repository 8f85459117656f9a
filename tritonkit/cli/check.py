"""``tritonkit check``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritonkit.cli.build import Assignments
from tritonkit.cli.console import messages, output, print_json
from tritonkit.errors import SpecError

if TYPE_CHECKING:
    from tritonkit.repository.inspection import Inspection, Located

_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}
# As GitHub's workflow commands call them.
_ANNOTATIONS = {"error": "error", "warning": "warning", "info": "notice"}


class Format(str, Enum):
    """How findings are printed."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


class Server(str, Enum):
    """Which tritonserver will load the models."""

    ANY = "any"
    BUNDLED = "bundled"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("check", epilog="Example: tritonkit check spec.yaml; tritonkit check model_repository/ --gpus 1")(check)


def check(
    targets: Annotated[
        list[Path],
        typer.Argument(help="A spec, then its overlays; or the folder of a model repository.", show_default=False),
    ],
    assignments: Assignments = None,
    form: Annotated[Format, typer.Option("--format", help="How to print what is found.")] = Format.TEXT,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=0, help="How many GPUs each server will see.", show_default="not known")
    ] = None,
    release: Annotated[
        str | None,
        typer.Option("--release", metavar="YY.MM", help="Triton's release, as in 24.10.", show_default="not known"),
    ] = None,
    server: Annotated[
        Server, typer.Option("--server", help="Any tritonserver, or the one that pip installs with tritonkit.")
    ] = Server.ANY,
    artifacts: Annotated[
        bool, typer.Option("--artifacts/--no-artifacts", help="Look at the models' files, or only at what is said.")
    ] = True,
) -> None:
    """Tell what Triton would refuse, and why, before a server starts; exit 2 where it would refuse something."""
    import os
    from dataclasses import replace

    from tritonkit.modelconfig.rules.rule import Machine
    from tritonkit.repository import inspection

    repository = len(targets) == 1 and targets[0].is_dir()
    if repository and assignments:
        raise typer.BadParameter("a repository has nothing to set; name a spec", param_hint="--set")
    machine = inspection.BUNDLED if server is Server.BUNDLED else Machine()
    machine = replace(machine, gpus=gpus, release=_release(release) or machine.release)
    try:
        if repository:
            found = inspection.inspect_repository(targets[0], machine, artifacts=artifacts)
        else:
            found = inspection.inspect_spec(targets, assignments or [], os.environ, machine, artifacts=artifacts)
    except SpecError as error:
        if form is Format.TEXT:
            raise
        found = inspection.unreadable(error)
    _PRINTERS[form](found)
    if found.refused:
        raise typer.Exit(SpecError.exit_code)


def _release(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    year, point, month = text.partition(".")
    if not point or not (year.isdigit() and month.isdigit()):
        raise typer.BadParameter(f"expected a release such as 24.10, found '{text}'", param_hint="--release")
    return int(year), int(month)


def _print_text(found: Inspection) -> None:
    from rich.text import Text

    console = output()
    for finding in found.findings:
        severity = finding.severity.value
        line = Text(f"{_place(finding)}: ")
        line.append(f"{severity} {finding.code}", style=_STYLES[severity])
        line.append(f" {finding.path}: {finding.message}" if finding.path else f" {finding.message}")
        console.print(line)
        if finding.triton:
            console.print(Text(f"    Triton: {finding.triton}", style="dim"))
        if finding.instead:
            console.print(Text(f"    write: {finding.instead}"))
    counts = _counts(found)
    checked = f"{found.models} {'model' if found.models == 1 else 'models'} checked"
    named = [f"{count} {name if count == 1 else f'{name}s'}" for name, count in counts.items() if count]
    messages().print(f"{checked}: {', '.join(named) or 'nothing to object to'}", markup=False)


def _print_json(found: Inspection) -> None:
    from dataclasses import asdict

    findings = [{**asdict(finding), "severity": finding.severity.value} for finding in found.findings]
    print_json({"models": found.models, "refused": found.refused, "counts": _counts(found), "findings": findings})


def _print_github(found: Inspection) -> None:
    for finding in found.findings:
        words = [f"{finding.path}: {finding.message}" if finding.path else finding.message]
        if finding.triton:
            words.append(f"Triton: {finding.triton}")
        if finding.instead:
            words.append(f"write: {finding.instead}")
        place = f"file={_property(finding.file)}" + (f",line={finding.line}" if finding.line else "")
        kind = _ANNOTATIONS[finding.severity.value]
        typer.echo(f"::{kind} {place},title={_property(finding.code)}::{_data(chr(10).join(words))}")


_PRINTERS = {Format.TEXT: _print_text, Format.JSON: _print_json, Format.GITHUB: _print_github}


def _counts(found: Inspection) -> dict[str, int]:
    from tritonkit.modelconfig.findings import Severity

    return {severity.value: found.count(severity) for severity in Severity}


def _place(finding: Located) -> str:
    return f"{finding.file}:{finding.line}" if finding.line else finding.file


def _data(text: str) -> str:
    """Text as GitHub's workflow commands take it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
