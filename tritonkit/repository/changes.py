"""What a planned repository would change on disk, and carrying it out."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from tritonkit.errors import RepositoryConflict
from tritonkit.repository import manifest
from tritonkit.repository.manifest import Inputs, Manifest
from tritonkit.repository.placement import RepositoryFile
from tritonkit.tools import digests


@dataclass(frozen=True)
class Changes:
    """The difference between a plan and the disk.

    Attributes:
        repository: the repository's folder.
        planned: every file of the plan, with its digest, by path.
        create: paths that are not there yet.
        update: paths that tritonkit wrote, and that would be written anew.
        remove: paths that tritonkit wrote, and that the plan no longer has.
        unchanged: paths that are there as planned.
        foreign: paths in the way that tritonkit did not write.
        edited: paths that tritonkit wrote, and that somebody changed or replaced since.
        found: the digest of every file that would be written anew or removed.
        recorded: the manifest as it stands.
        inputs: what the plan was made from.
    """

    repository: Path
    planned: Mapping[str, tuple[RepositoryFile, str]]
    create: tuple[str, ...]
    update: tuple[str, ...]
    remove: tuple[str, ...]
    unchanged: tuple[str, ...]
    foreign: tuple[str, ...]
    edited: tuple[str, ...]
    found: Mapping[str, str]
    recorded: Manifest
    inputs: Inputs

    @property
    def any(self) -> bool:
        """Whether a file of the repository differs from the plan."""
        return bool(self.create or self.update or self.remove or self.foreign or self.edited)

    def check_conflicts(self) -> None:
        """Refuse what would overwrite or delete somebody else's work.

        Raises:
            RepositoryConflict: there are foreign or edited files.
        """
        if self.foreign:
            message = _named(self.repository, self.foreign, "stands in the way, and was not written by tritonkit")
            raise RepositoryConflict(message, hint="move it away, or build into another folder with --output")
        if self.edited:
            message = _named(self.repository, self.edited, "was changed since tritonkit wrote it")
            raise RepositoryConflict(message, hint="carry the change over to the spec, then build with --force")


def compare(repository: Path, files: tuple[RepositoryFile, ...], inputs: Inputs) -> Changes:
    """Hold planned files against a repository on disk. Reads only.

    Raises:
        OSError: a source or a file of the repository cannot be read.
    """
    recorded = manifest.read(repository)
    planned = {file.path: (file, _digest(file)) for file in files}
    stands: dict[str, str] = {}
    kinds: dict[str, list[str]] = {
        kind: [] for kind in ("create", "update", "remove", "unchanged", "foreign", "edited")
    }
    for path, (_, wanted) in planned.items():
        found = _found(repository, path)
        if found is None:
            kinds["create"].append(path)
            continue
        stands[path] = found
        if found == wanted:
            kinds["unchanged"].append(path)
        elif path not in recorded.paths:
            kinds["foreign"].append(path)
        else:
            kinds["update" if recorded.owns(path, found) else "edited"].append(path)
    for path in recorded.paths - planned.keys():
        found = _found(repository, path)
        if found is not None:
            stands[path] = found
            kinds["remove" if recorded.owns(path, found) else "edited"].append(path)
    return Changes(
        repository,
        planned,
        found=stands,
        recorded=recorded,
        inputs=inputs,
        **{kind: tuple(sorted(paths)) for kind, paths in kinds.items()},
    )


def apply(changes: Changes, *, force: bool = False, report: Callable[[], None] = lambda: None) -> None:
    """Write a plan into its repository.

    Every file is first written in full beside the repository, then all are moved in, one rename each. A run that is
    killed leaves whole files, and a manifest that owns both the old and the new ones: the next run completes it.

    Args:
        changes: from ``compare``.
        force: also replace files that tritonkit wrote and that were edited since; never foreign ones.
        report: called after each file that was written.

    Raises:
        RepositoryConflict: foreign or (without ``force``) edited files, or another build at work here.
        OSError: the disk refuses.
    """
    if force:
        planned_edits = tuple(path for path in changes.edited if path in changes.planned)
        dropped_edits = tuple(path for path in changes.edited if path not in changes.planned)
        changes = replace(
            changes, edited=(), update=changes.update + planned_edits, remove=changes.remove + dropped_edits
        )
    changes.check_conflicts()
    final = Manifest({path: digest for path, (_, digest) in changes.planned.items()}, changes.inputs)
    if not changes.any and changes.recorded == final:
        return
    repository = changes.repository
    repository.mkdir(parents=True, exist_ok=True)
    with _locked(repository), _staging(repository) as staging:
        written = changes.create + changes.update
        for index, path in enumerate(written):
            _stage(changes.planned[path][0], staging / str(index))
            report()
        # From here until the end the manifest owns the old files and the new ones.
        before = {path: changes.found[path] for path in (*changes.update, *changes.remove)}
        manifest.write(repository, Manifest(final.files, replaced=before))
        for folder in sorted({(repository / path).parent for path in written}):
            folder.mkdir(parents=True, exist_ok=True)
        for index, path in enumerate(written):
            (staging / str(index)).replace(repository / path)
        for path in changes.remove:
            (repository / path).unlink(missing_ok=True)
            _prune(repository, path)
        manifest.write(repository, final)


def _digest(file: RepositoryFile) -> str:
    if file.content is not None:
        return digests.of_bytes(file.content)
    assert file.source is not None  # noqa: S101 - one of the two is given
    return digests.of_file(file.source)


def _found(repository: Path, path: str) -> str | None:
    """The digest of a file of the repository; None if there is nothing, and no digest at all if it is no plain file."""
    target = repository / path
    try:
        if target.is_symlink() or any(
            (repository / parent).is_symlink() for parent in PurePosixPath(path).parents[:-1]
        ):
            return "a link"
        return digests.of_file(target)
    except FileNotFoundError:
        return None
    except (IsADirectoryError, NotADirectoryError):
        return "no plain file"


def _stage(file: RepositoryFile, target: Path) -> None:
    if file.content is not None:
        target.write_bytes(file.content)
    elif file.source is not None:
        shutil.copyfile(file.source, target)
        # Programs and libraries of a model keep their executable bit; nothing else of the source's mode matters.
        target.chmod(0o755 if os.access(file.source, os.X_OK) else 0o644)


def _prune(repository: Path, path: str) -> None:
    for parent in PurePosixPath(path).parents[:-1]:
        try:
            (repository / parent).rmdir()
        except OSError:
            return


def _named(repository: Path, paths: tuple[str, ...], words: str) -> str:
    shown = "\n".join(f"{repository / path}: {words}" for path in paths[:10])
    return shown if len(paths) <= 10 else f"{shown}\n... and {len(paths) - 10} more"


@contextmanager
def _locked(repository: Path) -> Iterator[None]:
    folder = os.open(repository, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise RepositoryConflict(f"{repository}: another build is at work here", hint="wait for it to end") from None
    finally:
        os.close(folder)


@contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    """A fresh folder on the repository's file system; what a killed run left in it is swept away."""
    root = repository.resolve()
    # Beside the repository, since Triton takes every folder inside it for a model.
    beside = root.parent / f".{root.name}.tritonkit-staging"
    inside = root / ".tritonkit-staging"
    staging = beside if root.parent.stat().st_dev == root.stat().st_dev and os.access(root.parent, os.W_OK) else inside
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir()
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
