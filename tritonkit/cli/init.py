"""``tritonkit init``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tritonkit.cli.console import output, print_table


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("init", epilog="Example: tritonkit init digits && cd digits && tritonkit build-repo spec.yaml")(init)


def init(
    starter: Annotated[
        str | None, typer.Argument(help="The starter to copy; left out, all are listed.", show_default=False)
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Copy into this folder, not into ./STARTER.", show_default=False
        ),
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="List the starters.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the files that would be written; write none.")
    ] = False,
) -> None:
    """Copy a starter: a small project that works as it is. Files that are there are never overwritten."""
    from tritonkit import starters

    if starter is None or list_only:
        print_table(["starter", "what it is"], [(each.name, each.summary) for each in starters.available()])
        return
    chosen = starters.find(starter)
    folder = target or Path(chosen.name)
    if dry_run:
        output().print("\n".join(str(path) for path in starters.plan(chosen, folder)), markup=False)
        return
    written = starters.copy(chosen, folder)
    enter = [] if folder.resolve() == Path.cwd() else [f"cd {shlex.quote(str(folder))}"]
    output().print(f"{folder}: {len(written)} files. Next:\n", markup=False)
    output().print("\n".join(f"    {command}" for command in (*enter, *chosen.commands)), markup=False)
