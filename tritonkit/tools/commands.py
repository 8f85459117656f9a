"""Running programs, and the folder where tritonkit keeps what it downloads or assembles."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tritonkit.errors import CommandFailed, ToolMissing


def cache_directory() -> Path:
    """Tritonkit's own cache: ``$TRITONKIT_CACHE``, else ``tritonkit`` under the user's cache folder."""
    chosen = os.environ.get("TRITONKIT_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tritonkit"


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
    hint: str | None = None,
    say: str = "",
) -> str:
    """Run a program to its end, without a shell, and return what it wrote (both streams, as text).

    Args:
        argv: the program and its arguments.
        env: the whole environment; None passes on our own.
        cwd: the working directory; None keeps our own.
        timeout: seconds after which the program is killed; None waits for ever.
        hint: what the reader can do when it fails.
        say: what the program reads on its standard input.

    Raises:
        ToolMissing: there is no such program.
        CommandFailed: it ended with another exit code than 0, or ran past ``timeout``.
    """
    try:
        done = subprocess.run(
            list(argv),
            env=None if env is None else dict(env),
            cwd=cwd,
            timeout=timeout,
            input=say,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        raise ToolMissing(f"{argv[0]}: no such program", hint=hint) from error
    except subprocess.TimeoutExpired as error:
        written = error.stdout or b""
        text = written.decode(errors="replace") if isinstance(written, bytes) else written
        raise CommandFailed(argv, 124, f"{text}\n(killed after {timeout} s)", hint=hint) from error
    if done.returncode != 0:
        raise CommandFailed(argv, done.returncode, done.stdout, hint=hint)
    return done.stdout
