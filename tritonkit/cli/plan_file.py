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
        UsageError: the plan is made from this file, or it is there already.
    """
    if not target.exists():
        return
    for file in read:
        if file.exists() and target.samefile(file):
            raise UsageError(f"-o {target}: the plan is made from this file", hint="Choose another file with -o.")
    if not force:
        raise UsageError(f"{target} is there already", hint="Choose another file with -o, or replace it with --force")


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
