"""The ``tritonkit`` program: its commands, and the options that every command shares."""

from __future__ import annotations

from typing import Annotated

import typer

from tritonkit import __version__
from tritonkit.cli.program import Program

app = typer.Typer(
    name="tritonkit",
    cls=Program,
    help="One YAML file to a tuned, isolated, multi-model deployment of NVIDIA Triton Inference Server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: tritonkit init digits && cd digits && tritonkit build-repo spec.yaml && tritonkit up",
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"tritonkit {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options before the command; ``debug`` is read where errors are printed."""
