"""``tritonkit import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritonkit.cli.console import messages, print_json


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("import", epilog="Example: tritonkit import /models --output spec.yaml")(import_repository)


def import_repository(
    directory: Annotated[Path, typer.Argument(help="The model repository.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The spec to write.")] = Path("spec.yaml"),
    skip: Annotated[list[str] | None, typer.Option("--skip", metavar="NAME", help="Leave this model out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make a spec of an existing model repository: building it gives equal configurations, and the same files."""
    from tritonkit.repository import importing

    done = importing.import_repository(directory, output, skip=frozenset(skip or ()))
    if as_json:
        print_json(
            {
                "spec": str(done.spec),
                "models": list(done.models),
                "verbatim": list(done.verbatim),
                "left_out": dict(done.left_out),
                "placeholders": {name: list(words) for name, words in done.placeholders.items()},
            }
        )
        return
    console = messages()
    for name, reason in done.left_out:
        console.print(f"left out: {name} ({reason})", markup=False)
    for name, words in done.placeholders.items():
        shown = ", ".join(words)
        console.print(f"{name}: {shown} looks like a template that was not filled in; kept as it is", markup=False)
    console.print(
        f"{done.spec}: {len(done.models)} models; build it with: tritonkit build-repo {done.spec}", markup=False
    )
