"""The program's commands, each imported from its module when it is meant, and not before."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, cast

import typer
from typer.main import get_group

from tritonkit.cli.console import ErrorGroup

# The module of each command, in the order of `--help`.
MODULES = {
    "init": "init",
    "build-repo": "build",
    "export": "export",
    "check": "check",
    "import": "import_repository",
    "schema": "schema",
    "doctor": "doctor",
    "infer": "infer",
    "bench": "bench",
    "report": "report",
    "compare": "compare",
    "convert": "convert",
    "up": "serve",
    "status": "running",
    "logs": "running",
    "restart": "running",
    "down": "running",
    "profile": "profile",
    "provision": "provision",
    "autoscale": "autoscale",
    "top": "top",
    "mps": "mps",
    "render": "render",
}


class Program(ErrorGroup):
    """The group of all commands."""

    def __init__(self, **attributes: Any) -> None:
        """As Typer makes a group, with the commands of ``MODULES``."""
        super().__init__(**attributes)
        self._hold(Commands())

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - they are the same everywhere
        """Their names, without a look at them."""
        return list(self.commands)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show what each command is for. Their options, of which nothing is shown, take the most time to read."""
        self._hold(Commands(with_options=False))
        super().format_help(ctx, formatter)

    def _hold(self, commands: Commands) -> None:
        # Typer only reads them.
        self.commands = cast("MutableMapping[str, Any]", commands)


class Commands(Mapping[str, Any]):
    """Every command by its name; a module is imported for the first of its commands that is asked for."""

    def __init__(self, *, with_options: bool = True) -> None:
        """Nothing is imported yet.

        Args:
            with_options: whether the commands can be run; those that cannot still say what they are for.
        """
        self._with_options = with_options
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made.update(self._of_module(MODULES[name]))
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)

    def _of_module(self, module: str) -> MutableMapping[str, Any]:
        program = typer.Typer()
        importlib.import_module(f"tritonkit.cli.{module}").register(program)
        if not self._with_options:
            for command in program.registered_commands:
                command.callback = _without_options(command.callback)
        return get_group(program).commands


def _without_options(command: Any) -> Callable[[], None]:
    def described() -> None: ...

    # What Typer takes the name and the help from.
    described.__name__, described.__doc__ = command.__name__, command.__doc__
    return described
