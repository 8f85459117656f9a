"""``tritonkit schema``."""

from __future__ import annotations

import typer

from tritonkit.cli.console import print_json


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("schema", epilog="Example: tritonkit schema > spec.schema.json")(schema)


def schema() -> None:
    """Print the JSON Schema of a spec, from which editors complete and explain every key, Triton's among them."""
    from tritonkit.modelconfig.json_schema import spec_schema

    print_json(spec_schema())
