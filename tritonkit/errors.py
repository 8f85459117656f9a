"""Everything that tritonkit raises on purpose.

::

    TritonkitError            exit 1
    ├── SpecError             exit 2   file:line, dotted path, what was expected
    ├── UsageError            exit 2   what was asked for on the command line, and what can be asked for
    ├── RepositoryConflict    exit 1   files in the way that tritonkit did not write
    ├── ArtifactsMissing      exit 1   what is still to be exported, where nothing may be made
    ├── RequestFailed         exit 1   a server that cannot be reached, or that refuses a request
    ├── ToolMissing           exit 3   which program, extra or driver, how to install it
    ├── CommandFailed         exit 4   argv, return code, last output lines
    ├── ExportFailed          exit 4   which artifact, and why nothing was published
    ├── LaunchFailed          exit 5   which process, which state, its log's path and last lines
    ├── BenchmarkFailed       exit 6   which load level, and perf_analyzer's own words
    └── Infeasible            exit 7   which objective cannot be met, and by how much

The library raises; only the command line prints and exits. A message says what is wrong and where;
``hint`` says what to do about it.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class TritonkitError(Exception):
    """The root of every error that tritonkit raises on purpose.

    Attributes:
        hint: what the reader can do about it, or None.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n{self.hint}" if self.hint else message


@dataclass(frozen=True, order=True)
class Fault:
    """One thing wrong in what the user wrote.

    Attributes:
        file: the file at fault.
        line: line in the file, counted from 1; 0 where no line can be named.
        path: dotted path of the value (``models.digits.backend``); empty for the file as a whole.
        message: what is wrong, and what was expected.
    """

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest known one, or all of them where none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""


class SpecError(TritonkitError):
    """What the user wrote cannot be used; every fault that was found is in ``faults``."""

    exit_code = 2

    def __init__(self, faults: Sequence[Fault], *, hint: str | None = None) -> None:
        self.faults = tuple(sorted(faults))
        super().__init__("\n".join(str(fault) for fault in self.faults), hint=hint)


class UsageError(TritonkitError):
    """What was asked for cannot be: an option, an argument or a name that is wrong by itself."""

    exit_code = 2


class RepositoryConflict(TritonkitError):
    """Files that tritonkit did not write, or that were edited since, stand where it would write."""


class ArtifactsMissing(TritonkitError):
    """Artifacts that a spec needs are not made yet, and the caller asked for nothing to be made.

    Attributes:
        artifacts: what has to be made, in words, by model.
    """

    def __init__(self, artifacts: Mapping[str, str], *, hint: str | None = None) -> None:
        self.artifacts = artifacts
        super().__init__("\n".join(f"{name}: {what} is not made yet" for name, what in artifacts.items()), hint=hint)


class RequestFailed(TritonkitError):
    """A server could not be reached, or refused a request; the message holds its own words."""


class ToolMissing(TritonkitError):
    """A program, an optional package or a driver is not installed; ``hint`` says how to install it."""

    exit_code = 3


class CommandFailed(TritonkitError):
    """A program that tritonkit ran did not succeed."""

    exit_code = 4

    def __init__(self, argv: Sequence[str], returncode: int, output: str, *, hint: str | None = None) -> None:
        self.argv = tuple(argv)
        self.returncode = returncode
        self.output = output
        tail = "\n".join(output.strip().splitlines()[-20:])
        super().__init__(f"{shlex.join(argv)} ended with exit code {returncode}:\n{tail}", hint=hint)


class ExportFailed(TritonkitError):
    """An artifact could not be made, or did not compute what its source computes."""

    exit_code = 4


class LaunchFailed(TritonkitError):
    """A deployment did not come up, or did not stay up.

    Attributes:
        process: name of the process at fault, or None when it is the deployment as a whole.
        log: that process's log, or None when it never wrote one.
    """

    exit_code = 5

    def __init__(
        self, message: str, *, process: str | None = None, log: Path | None = None, hint: str | None = None
    ) -> None:
        self.process = process
        self.log = log
        super().__init__(message, hint=hint)


class BenchmarkFailed(TritonkitError):
    """A load level could not be measured."""

    exit_code = 6


class Infeasible(TritonkitError):
    """No plan meets every objective."""

    exit_code = 7
