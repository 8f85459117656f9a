"""Building a model repository from a spec, and telling whether it is current."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tritonkit import __version__
from tritonkit.errors import Fault, SpecError
from tritonkit.repository import changes, manifest
from tritonkit.repository.changes import Changes
from tritonkit.repository.manifest import Inputs
from tritonkit.resources import CONFIG_TEMPLATE, templates_directory
from tritonkit.spec.document import DEFAULT_REPOSITORY
from tritonkit.spec.glance import peek
from tritonkit.spec.servers import Server, servers_of
from tritonkit.tools import digests, nvidia_smi, packages
from tritonkit.tools.commands import cache_directory

if TYPE_CHECKING:
    from tritonkit.artifacts.making import Made
    from tritonkit.repository.origins import Origins

    Make: TypeAlias = Callable[[Origins], Mapping[str, Made | Path]]


class Current(NamedTuple):
    """A repository that need not be built again.

    Attributes:
        repository: its folder.
        files: how many files it has.
        servers: how its spec spreads the models over servers, as written in the spec's file.
    """

    repository: Path
    files: int
    servers: tuple[Server, ...]


def compare(
    files: Sequence[Path],
    assignments: Sequence[str],
    environment: Mapping[str, str],
    output: Path | None = None,
    *,
    check: bool = True,
    templates: Path | None = None,
    make: Make | None = None,
) -> Changes:
    """Plan a spec's repository and hold it against the disk. Reads only, unless it may make artifacts.

    Args:
        files: the spec, then its overlays.
        assignments: ``PATH=VALUE`` options, applied last.
        environment: where ``${NAME}`` is looked up.
        output: the repository; None takes the one that the spec names.
        check: whether to refuse what Triton would refuse.
        templates: a folder of templates that go before tritonkit's own.
        make: fetches and makes into the cache what the spec needs; None makes nothing.

    Raises:
        SpecError: the spec, an artifact or a template cannot be used; nothing was written.
        ArtifactsMissing: something has yet to be made, and ``make`` was not given.
    """
    # Imported here: an unchanged rebuild needs none of it, and should take no longer than looking.
    from tritonkit.repository import origins, resolution
    from tritonkit.repository.layout import plan
    from tritonkit.spec.loading import load

    generator = _generator(check, templates)
    loaded = load(files, assignments, environment)
    planned = origins.plan(loaded)
    if planned.work:
        # What has to be made may take long: whatever is wrong with the spec is said before.
        loaded.faults.raise_if_any()
    resolved = resolution.rewrite(planned, (make or resolution.made_before)(planned))
    repository = output or loaded.repository
    layout = plan(resolved.loaded, repository=repository, check=check, templates=templates)
    read: dict[Path, str] = {}
    folders: dict[Path, str] = {}
    for source, where in layout.sources.items():
        if _is_cached(source):
            continue
        try:
            if source.is_dir():
                folders[source] = _of_listing(source)
            read.update({file: digests.of_source(file) for file in _files_of(source) if file not in read})
        except OSError as error:
            loaded.faults.add(where, f"{error.filename or source} cannot be read: {error.strerror}")
    loaded.faults.raise_if_any()
    made_from = [loaded.directory / path for path in resolved.dependencies]
    read.update({file: digests.of_source(file) for file in (*files, *made_from)})
    inputs = Inputs(
        generator=generator,
        spec=tuple(_relative(file, repository) for file in files),
        assignments=tuple(assignments),
        variables={name: _of_variable(value) for name, value in sorted(loaded.variables.items())},
        files={_relative(file, repository): digest for file, digest in read.items()},
        folders={_relative(folder, repository): digest for folder, digest in folders.items()},
        tools=resolved.tools,
        compute_capabilities=planned.here,
        servers=servers_of(loaded),
    )
    return changes.compare(repository, layout.files, inputs)


def current_repository(
    files: Sequence[Path],
    assignments: Sequence[str],
    environment: Mapping[str, str],
    output: Path | None = None,
    *,
    check: bool = True,
    templates: Path | None = None,
) -> Current | None:
    """The repository that was made from exactly these inputs and is as it was made, told without planning it.

    None where only ``compare`` can tell.
    """
    repository = output
    if repository is None and len(files) == 1 and not assignments:
        named = peek(files[0], "repository", DEFAULT_REPOSITORY)
        repository = files[0].parent / named if named else None
    if repository is None:
        return None
    recorded = manifest.read(repository)
    generator = _generator(check, templates)
    if recorded.inputs is None or not _is_current(
        repository, recorded, recorded.inputs, generator, files, assignments, environment
    ):
        return None
    return Current(
        repository, len(recorded.files), tuple(server.written_in(str(files[0])) for server in recorded.inputs.servers)
    )


def _is_current(
    repository: Path,
    recorded: manifest.Manifest,
    inputs: Inputs,
    generator: str,
    files: Sequence[Path],
    assignments: Sequence[str],
    environment: Mapping[str, str],
) -> bool:
    asked = (generator, tuple(_relative(file, repository) for file in files), tuple(assignments))
    if asked != (inputs.generator, inputs.spec, inputs.assignments):
        return False
    if packages.outdated(inputs.tools):
        return False
    if inputs.compute_capabilities not in (None, nvidia_smi.compute_capabilities() or inputs.compute_capabilities):
        # Plans for the GPUs that were there; without a GPU here they can only be kept.
        return False
    if any(_of_variable(environment.get(name)) != digest for name, digest in inputs.variables.items()):
        return False
    try:
        return (
            all(_of_listing(repository / folder) == digest for folder, digest in inputs.folders.items())
            and all(digests.of_source(repository / path) == digest for path, digest in inputs.files.items())
            and all(changes.found(repository, path) == digest for path, digest in recorded.files.items())
        )
    except OSError:
        return False


def _is_cached(source: Path) -> bool:
    # What was made or fetched follows from the spec, its dependencies and the tools, all of which are recorded.
    return source.is_relative_to(cache_directory())


def _generator(check: bool, templates: Path | None) -> str:
    """What makes the repository, apart from its inputs: a build that checks nothing vouches for less."""
    words = [__version__, _own_templates(), *([] if check else ["unchecked"])]
    if templates is not None:
        words.append(_digest_of_templates(templates))
    return " ".join(words)


@lru_cache(maxsize=1)
def _own_templates() -> str:
    return digests.of_file(templates_directory() / CONFIG_TEMPLATE)[:16]


def _digest_of_templates(folder: Path) -> str:
    from tritonkit.repository.placement import folder_files

    if not folder.is_dir():
        raise SpecError([Fault(str(folder), 0, "", "no such folder; expected one of templates")])
    if not (folder / CONFIG_TEMPLATE).is_file():
        message = f"holds none of the templates: {CONFIG_TEMPLATE}"
        raise SpecError([Fault(str(folder), 0, "", message)], hint=f"copy one from {templates_directory()}")
    # A template may include any other file of its folder.
    held = [f"{file.relative_to(folder).as_posix()} {digests.of_file(file)}" for file in folder_files(folder)]
    return digests.of_bytes("\n".join(held).encode())[:16]


def _files_of(source: Path) -> list[Path]:
    from tritonkit.repository.placement import folder_files

    return folder_files(source) if source.is_dir() else [source]


def _relative(path: Path, repository: Path) -> str:
    return Path(os.path.relpath(os.path.realpath(path), os.path.realpath(repository))).as_posix()


def _of_variable(value: str | None) -> str | None:
    # Environment variables may hold any bytes, which Python shows as lone surrogates.
    return None if value is None else digests.of_bytes(value.encode(errors="surrogateescape"))


def _of_listing(folder: Path) -> str:
    from tritonkit.repository.placement import folder_files

    return digests.of_bytes("\n".join(file.relative_to(folder).as_posix() for file in folder_files(folder)).encode())
