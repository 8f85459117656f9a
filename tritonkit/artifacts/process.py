"""Asking a worker process for one artifact, and hearing how far it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tritonkit import errors
from tritonkit.artifacts.recipes import Recipe, TorchRecipe
from tritonkit.artifacts.worker import Job
from tritonkit.errors import ExportFailed, TritonkitError

_LOG_LINES = 15


Report = Callable[[str, float], None]


def make(recipe: Recipe, starting: Mapping[str, Path], folder: Path, report: Report) -> None:
    """Make the artifacts of a recipe in a folder. The worker never outlives this call, nor this process.

    Args:
        recipe: what to make.
        starting: the local files of what it starts from, by the recipe's field.
        folder: an empty folder; what the worker prints goes to ``log`` beside it.
        report: called with each stage and how much of it is done.

    Raises:
        ExportFailed: it could not be made; with the worker's last words where it crashed.
        ToolMissing: a package is not installed.
    """
    _ask(recipe, starting, folder, report, bisect=False)


def bisect(recipe: TorchRecipe, starting: Mapping[str, Path], folder: Path, report: Report) -> dict[str, Any] | None:
    """The first node of a module's ONNX file that departs from it, as ``bisect.Departure`` has it; None for none.

    Raises:
        ExportFailed: the module cannot be converted.
        ToolMissing: a package is not installed.
    """
    found: dict[str, Any] | None = _ask(recipe, starting, folder, report, bisect=True)["departure"]
    return found


def _ask(recipe: Recipe, starting: Mapping[str, Path], folder: Path, report: Report, *, bisect: bool) -> dict[str, Any]:
    """Run a worker to its end; the last thing it told that was no stage."""
    from pydantic import TypeAdapter

    reading, writing = os.pipe()
    job = TypeAdapter(Job).dump_json(Job(recipe, starting, folder, os.getpid(), writing, bisect))
    log = folder.with_name("log")
    outcome: dict[str, Any] = {}
    with log.open("wb") as written:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tritonkit.artifacts.worker"],
            stdin=subprocess.PIPE,
            stdout=written,
            stderr=subprocess.STDOUT,
            pass_fds=[writing],
        )
    os.close(writing)
    try:
        assert worker.stdin is not None  # noqa: S101 - it was asked for
        with os.fdopen(reading, encoding="utf-8") as events:
            try:
                with worker.stdin as stream:
                    stream.write(job)
            except BrokenPipeError:
                # It ended before it read anything; its log says why.
                pass
            for line in events:
                event = json.loads(line)
                if "stage" in event:
                    report(event["stage"], event["done"])
                else:
                    outcome = event
        worker.wait()
    finally:
        worker.kill()
        worker.wait()
    if "error" in outcome:
        kind = getattr(errors, outcome["kind"], ExportFailed)
        if not (isinstance(kind, type) and issubclass(kind, TritonkitError)):
            kind = ExportFailed
        raise kind(outcome["error"], hint=outcome["hint"])
    if worker.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:])
        how = f"killed by signal {-worker.returncode}" if worker.returncode < 0 else f"exit code {worker.returncode}"
        raise ExportFailed(f"the export ended unexpectedly ({how}):\n{tail}".rstrip(":\n"))
    return outcome
