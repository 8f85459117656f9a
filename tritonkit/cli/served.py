"""What a command serves: a spec, built first if it is not current, or a model repository as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tritonkit.cli.build import Assignments, write
from tritonkit.cli.console import messages

Targets = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[SPEC [OVERLAY]...|REPOSITORY]",
        help="A spec with its overlays, built first, or a model repository "
        "(default: ./spec.yaml, else ./model_repository).",
        show_default=False,
    ),
]

__all__ = ["Assignments", "Served", "Targets", "served"]


@dataclass(frozen=True)
class Served:
    """A repository to serve.

    Attributes:
        repository: its folder.
        spec: the spec that it was built from, if any.
        models: the models that it will hold, where ``dry_run`` left it unbuilt; None where it can be looked at.
    """

    repository: Path
    spec: Path | None = None
    models: tuple[str, ...] | None = None


def served(targets: Sequence[Path], assignments: Sequence[str], *, dry_run: bool = False) -> Served:
    """The repository that the arguments mean, built and current unless ``dry_run``.

    Raises:
        SpecError: the spec cannot be used, or there is none.
        RepositoryConflict: files that tritonkit did not write are in the way.
        ExportFailed: an artifact cannot be made; or the repository holds a plan for another TensorRT or GPU.
    """
    found = _found(list(targets), assignments, dry_run=dry_run)
    if not dry_run:
        from tritonkit.artifacts import fitness

        fitness.check(found.repository)
    return found


def _found(files: list[Path], assignments: Sequence[str], *, dry_run: bool) -> Served:
    if not files:
        from tritonkit.spec.document import DEFAULT_REPOSITORY, DEFAULT_SPEC

        repository, spec = Path(DEFAULT_REPOSITORY), Path(DEFAULT_SPEC)
        files = [repository if repository.is_dir() and not spec.exists() else spec]
    if len(files) == 1 and files[0].is_dir():
        if assignments:
            raise typer.BadParameter("--set changes a spec; a model repository has none to change")
        return Served(files[0])
    import os

    from tritonkit.cli.export import make
    from tritonkit.repository import build

    known = build.current_repository(files, assignments, os.environ)
    if known is not None:
        return Served(known[0], files[0])
    changes = build.compare(files, assignments, os.environ, make=None if dry_run else make)
    models = tuple(sorted({path.split("/")[0] for path in changes.planned}))
    if dry_run:
        return Served(changes.repository, files[0], models)
    write(changes)
    if changes.any:
        counts = {"created": changes.create, "updated": changes.update, "removed": changes.remove}
        summary = ", ".join(f"{len(paths)} {kind}" for kind, paths in counts.items() if paths)
        messages().print(f"built {changes.repository}: {summary}", markup=False)
    return Served(changes.repository, files[0])
