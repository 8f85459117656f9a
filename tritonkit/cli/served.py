"""What a command serves: a spec, built first if it is not current, or a model repository as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritonkit.cli.build import Assignments, write
from tritonkit.cli.console import messages

if TYPE_CHECKING:
    from tritonkit.repository.changes import Changes
    from tritonkit.serve.stored_models import StoredModel
    from tritonkit.spec.servers import Server

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
        servers: how the spec spreads them over servers.
    """

    repository: Path
    spec: Path | None = None
    models: Mapping[str, StoredModel] | None = None
    servers: tuple[Server, ...] = ()


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
        return Served(known.repository, files[0], servers=known.servers)
    changes = build.compare(files, assignments, os.environ, make=None if dry_run else make)
    servers = changes.inputs.servers
    if dry_run:
        return Served(changes.repository, files[0], _planned(changes), servers)
    write(changes)
    if changes.any:
        counts = {"created": changes.create, "updated": changes.update, "removed": changes.remove}
        summary = ", ".join(f"{len(paths)} {kind}" for kind, paths in counts.items() if paths)
        messages().print(f"built {changes.repository}: {summary}", markup=False)
    return Served(changes.repository, files[0], servers=servers)


def _planned(changes: Changes) -> dict[str, StoredModel]:
    """The models that a repository will hold once it is built."""
    from tritonkit.serve.stored_models import CONFIG, VARIANTS, StoredModel

    entries: dict[str, set[str]] = {}
    configs: dict[str, dict[str, str]] = {}
    for path, (file, _) in changes.planned.items():
        name, _, rest = path.partition("/")
        entries.setdefault(name, set())
        top = rest.partition("/")[0]
        if top in (CONFIG, VARIANTS):
            content = file.content if file.content is not None else file.source and file.source.read_bytes()
            configs.setdefault(name, {})[rest] = (content or b"").decode()
        else:
            entries[name].add(top)
    # As the build will write it, and absolute, since links will lead there.
    repository = changes.repository.resolve()
    return {
        name: StoredModel(name, repository / name, tuple(sorted(held)), configs.get(name, {}))
        for name, held in sorted(entries.items())
    }
