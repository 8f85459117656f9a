"""What the commands share: tables, JSON, progress bars, and how an error leaves the program."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from tritonkit.errors import TritonkitError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


class Terminated(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt, so that every ``finally`` runs on the way out."""


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated


class ErrorGroup(TyperGroup):
    """A command group that ends with one clear message and the exit code of the error's kind."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command; turn what it raises into a message and an exit code."""
        signal.signal(signal.SIGTERM, _terminate)
        try:
            if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
                # As ``main`` left it; where it is ignored it stays so.
                signal.signal(signal.SIGINT, signal.default_int_handler)
            return super().invoke(ctx)
        except TritonkitError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            else:
                print_error(error)
            raise typer.Exit(error.exit_code) from error
        except BrokenPipeError:
            # The reader of our output went away (`| head`); Python would complain again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except OSError as error:
            # A disk that is full or a folder that is not ours: no fault of the program, so no traceback.
            if ctx.params.get("debug"):
                traceback.print_exc()
            else:
                # A write to a full disk does not say which file it was.
                print_error(TritonkitError(f"{_at_fault(error)}: {error.strerror or error}"))
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Terminated:
            raise typer.Exit(TERMINATED) from None


def _at_fault(error: OSError) -> str:
    # Of a copy that fails for want of space Python names both ends; the disk that is full is the target's.
    full = error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename2 is not None
    return str((error.filename2 if full else error.filename) or "the system refused")


def output() -> Console:
    """The console for results (standard output)."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # Nobody looks at it yet: a file or a pipe gets lines as long as they are.
        console.width = 200
    return console


def messages() -> Console:
    """The console for everything that is not a result (standard error)."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def print_error(error: TritonkitError) -> None:
    """Print what went wrong on standard error, and below it what to do."""
    console = messages()
    console.print("[bold red]error:[/]", end=" ")
    console.print(error.args[0], markup=False)
    if error.hint:
        console.print("[bold]hint:[/]", end=" ")
        console.print(error.hint, markup=False)


def print_json(value: Any) -> None:
    """Print a value as indented JSON, and nothing else, on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_json_line(value: Any) -> None:
    """Print a value as one line of JSON on standard output, at once: for what reads along."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")
    sys.stdout.flush()


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None = None,
    right: Sequence[str] = (),
    narrow: bool = False,
) -> None:
    """Print a table on standard output; the columns named in ``right`` are aligned to the right.

    A narrow one has less space between its columns.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=narrow)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    output().print(table)


@contextmanager
def progress(*, transient: bool = True) -> Iterator[Progress]:
    """A progress bar on standard error, drawn only where that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = messages()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=transient,
        disable=not console.is_terminal,
    ) as bars:
        yield bars


def advance(bars: Progress, task: TaskID, words: str) -> None:
    """One more of a task is done: shown on its bar, or said in a line on standard error where no bar is drawn."""
    from rich.markup import escape

    bars.update(task, advance=1, description=escape(words))
    if bars.disable:
        (shown,) = (each for each in bars.tasks if each.id == task)
        bars.console.print(f"{words} ({shown.completed:g} of {shown.total:g})", markup=False)
