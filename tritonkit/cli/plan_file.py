"""The file that ``tritonkit provision`` writes: where it may stand, and that it serves what was planned."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tritonkit.errors import Fault, SpecError, UsageError

if TYPE_CHECKING:
    from tritonkit.provision.packing import Packing


def check_target(target: Path, read: Sequence[Path], *, force: bool) -> None:
    """Refuse a place for a plan before anything is planned.

    Raises:
        UsageError: the plan is made from this file; it is there already, or is no plan; or its folder takes no file.
    """
    if target.is_dir():
        raise UsageError(f"-o {target}: is a folder", hint=f"Name a file in it: -o {target / 'plan.yaml'}")
    folder = target.resolve().parent
    if not folder.is_dir():
        raise UsageError(f"-o {target}: there is no folder {folder}", hint="Make it, or choose another file with -o.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"-o {target}: nothing can be written into {folder}", hint="Choose another file with -o.")
    if not target.exists():
        return
    for file in read:
        if file.exists() and target.samefile(file):
            raise UsageError(f"-o {target}: the plan is made from this file", hint="Choose another file with -o.")
    if not _is_plan(target):
        raise UsageError(
            f"-o {target}: is there already, and no plan that tritonkit made", hint="Choose another file with -o."
        )
    if not force:
        raise UsageError(f"{target} is there already", hint="Choose another file with -o, or replace it with --force")


def _is_plan(file: Path) -> bool:
    from tritonkit.provision.overlay import MADE_BY

    if not file.is_file():
        return False
    beginning = f"{MADE_BY}tritonkit ".encode()
    try:
        with file.open("rb") as source:
            return source.read(len(beginning)) == beginning
    except OSError:
        return False


def write(target: Path, text: str) -> None:
    """Put a plan in its place, whole or not at all; behind a link, what it leads to is replaced."""
    from tritonkit.provision.files import put

    put(target.resolve(), text)


def check_plan(packing: Packing, text: str, name: str, files: Sequence[Path], assignments: Sequence[str]) -> None:
    """Refuse a plan that Triton would refuse, or that is not what is served, before it stands anywhere.

    Args:
        packing: the plan.
        text: its overlay.
        name: its file, for messages.
        files: those of the spec.
        assignments: what is set beside them when it is served.

    Raises:
        UsageError: what is set overrides the plan.
        SpecError: the rules find errors in the spec with the plan.
    """
    from tritonkit.modelconfig.rules.rule import Machine
    from tritonkit.provision.overlay import departures
    from tritonkit.repository.inspection import inspect_spec
    from tritonkit.spec.loading import load

    with TemporaryDirectory(prefix="tritonkit-plan-") as scratch:
        plan = Path(scratch) / "plan.yaml"
        plan.write_text(text)
        both = [*files, plan]
        if other := departures(packing, load(both, assignments, os.environ)):
            raise UsageError(
                f"--set goes before a plan, and the plan needs other values: {', '.join(other)}",
                hint="Write what is set into the spec, or into an overlay of it.",
            )
        found = inspect_spec(both, assignments, os.environ, Machine(), artifacts=False)
    if found.errors:
        raise SpecError(
            [
                Fault(name if each.file == str(plan) else each.file, each.line, each.path, each.message)
                for each in found.errors
            ],
            hint="The spec with the plan would be refused, so the plan was not written.",
        )
