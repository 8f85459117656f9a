"""What a planned repository would change on disk, and carrying it out."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from tritonkit.errors import RepositoryConflict
from tritonkit.repository import bytecode, manifest
from tritonkit.repository.manifest import Inputs, Manifest
from tritonkit.repository.placement import RepositoryFile
from tritonkit.tools import digests

A_LINK = "a link"
IN_THE_WAY = "no plain file"

_BLOCK = 1024 * 1024


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
        found: what stands at each path: a file's digest, or why there is none; paths where nothing stands are left out.
        executable: the planned paths of files that may be run.
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
    executable: frozenset[str]
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
            hint = "move it away, or build into another folder with --output"
            if self.recorded == Manifest():
                # A record that was deleted, or left behind in a copy, makes all files look like somebody else's.
                hint += f"; if tritonkit built this once, its record {manifest.NAME} is missing: restore that"
            raise RepositoryConflict(message, hint=hint)
        if self.edited:
            message = _named(self.repository, self.edited, "was changed since tritonkit wrote it")
            raise RepositoryConflict(message, hint="carry the change over to the spec, then build with --force")


def compare(repository: Path, files: tuple[RepositoryFile, ...], inputs: Inputs) -> Changes:
    """Hold planned files against a repository on disk. Reads only.

    Raises:
        OSError: a source or a file of the repository cannot be read.
        SpecError: the record of what tritonkit wrote there cannot be used.
    """
    planned = {file.path: (file, _digest(file)) for file in files}
    executable = frozenset(file.path for file in files if file.source and digests.is_executable(file.source))
    return _held_against(repository, planned, executable, inputs)


def _held_against(
    repository: Path, planned: Mapping[str, tuple[RepositoryFile, str]], executable: frozenset[str], inputs: Inputs
) -> Changes:
    recorded = manifest.read(repository)
    stands = {path: there for path in planned.keys() | recorded.paths if (there := found(repository, path)) is not None}
    kinds: dict[str, list[str]] = {
        kind: [] for kind in ("create", "update", "remove", "unchanged", "foreign", "edited")
    }
    leaving: set[str] = set()
    for path in recorded.paths - planned.keys():
        # Where a file that tritonkit wrote is a folder now, or lies behind a link, nothing of tritonkit's is left.
        if stands.get(path, IN_THE_WAY) != IN_THE_WAY:
            leaving.add(path)
            kinds["remove" if recorded.owns(path, stands[path]) else "edited"].append(path)
    for path, (_, wanted) in planned.items():
        there = stands.get(path)
        if there is None or (there == IN_THE_WAY and _gives_way(repository, path, leaving)):
            kinds["create"].append(path)
        elif there == wanted:
            runs = path in executable
            # Where the disk keeps no such bit, it was written in vain once, and is not written again.
            done = recorded.inputs is not None and path in recorded.files
            as_wanted = done and runs == (path in recorded.executable)
            as_wanted = as_wanted or runs == digests.is_executable(repository / path)
            kinds["unchanged" if as_wanted else "update"].append(path)
        elif there == IN_THE_WAY or path not in recorded.paths:
            kinds["foreign"].append(path)
        else:
            kinds["update" if recorded.owns(path, there) else "edited"].append(path)
    return Changes(
        repository,
        planned,
        found=stands,
        executable=executable,
        recorded=recorded,
        inputs=inputs,
        **{kind: tuple(sorted(paths)) for kind, paths in kinds.items()},
    )


def _gives_way(repository: Path, path: str, leaving: Set[str]) -> bool:
    """Whether all that stands in a planned file's way is what tritonkit wrote, and removes in the same build."""
    if any(parent.as_posix() in leaving for parent in PurePosixPath(path).parents):
        return True
    target = repository / path
    inside = [(entry, entry.relative_to(repository).as_posix()) for entry in target.rglob("*")]
    emptied = {parent.as_posix() for name in leaving for parent in PurePosixPath(name).parents}
    return bool(inside) and all(
        name in leaving or (name in emptied and not entry.is_symlink()) for entry, name in inside
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
        RepositoryConflict: foreign or (without ``force``) edited files; another build at work here; or the repository
            or a source is not what it was when they were compared. No file of the repository was touched.
        OSError: the disk refuses.
    """
    compared = changes
    if force:
        planned_edits = tuple(path for path in changes.edited if path in changes.planned)
        dropped_edits = tuple(path for path in changes.edited if path not in changes.planned)
        changes = replace(
            changes, edited=(), update=changes.update + planned_edits, remove=changes.remove + dropped_edits
        )
    changes.check_conflicts()
    files = {path: digest for path, (_, digest) in changes.planned.items()}
    final = Manifest(files, changes.inputs, executable=changes.executable)
    if not changes.any and changes.recorded == final:
        return
    repository = changes.repository
    repository.mkdir(parents=True, exist_ok=True)
    with _locked(repository), _staging(repository) as staging:
        now = _held_against(repository, changes.planned, changes.executable, changes.inputs)
        if not now.any and now.recorded == final:
            # Another build of the same was quicker.
            return
        if now != compared:
            message = f"{repository}: was changed since this build looked, perhaps by another build"
            raise RepositoryConflict(message, hint="build again")
        written = changes.create + changes.update
        for index, path in enumerate(written):
            try:
                _stage(*changes.planned[path], staging / str(index), executable=path in changes.executable)
            except OSError as error:
                # A write to a full disk does not say where.
                raise OSError(error.errno, error.strerror, error.filename or str(repository / path)) from error
            report()
        # From here until the end the manifest owns the old files and the new ones.
        before = {path: changes.found[path] for path in (*changes.update, *changes.remove)}
        manifest.write(repository, replace(final, inputs=None, replaced=before))
        blocking = _blocking(changes.remove, written)
        _remove(repository, (path for path in changes.remove if path in blocking))
        for folder in sorted({(repository / path).parent for path in written}):
            folder.mkdir(parents=True, exist_ok=True)
        for index, path in enumerate(written):
            (staging / str(index)).replace(repository / path)
        _remove(repository, (path for path in changes.remove if path not in blocking))
        manifest.write(repository, final)


def _blocking(removed: Iterable[str], written: Iterable[str]) -> frozenset[str]:
    """The removed files that stand where a written one needs a folder, or in a folder where one needs its place."""
    files = frozenset(written)
    folders = {parent.as_posix() for path in files for parent in PurePosixPath(path).parents}
    return frozenset(
        path
        for path in removed
        if path in folders or any(parent.as_posix() in files for parent in PurePosixPath(path).parents)
    )


def _remove(repository: Path, paths: Iterable[str]) -> None:
    for path in paths:
        (repository / path).unlink(missing_ok=True)
        bytecode.remove(repository / path)
        _prune(repository, path)


def _digest(file: RepositoryFile) -> str:
    if file.content is not None:
        return digests.of_bytes(file.content)
    assert file.source is not None  # noqa: S101 - one of the two is given
    return digests.of_file(file.source)


def found(repository: Path, path: str) -> str | None:
    """What stands at a path of a repository, which is never looked for through a link.

    Returns:
        The file's digest; ``A_LINK``; ``IN_THE_WAY`` where a folder or something else stands there, or where a file or
        a link stands for one of its folders; None for nothing.

    Raises:
        OSError: the file cannot be read.
    """
    parts = path.split("/")
    try:
        for length in range(1, len(parts)):
            if not stat.S_ISDIR((repository / "/".join(parts[:length])).lstat().st_mode):
                return IN_THE_WAY
        mode = (repository / path).lstat().st_mode
        if stat.S_ISLNK(mode):
            return A_LINK
        return digests.of_file(repository / path) if stat.S_ISREG(mode) else IN_THE_WAY
    except FileNotFoundError:
        return None


def _stage(file: RepositoryFile, digest: str, target: Path, *, executable: bool) -> None:
    """Write a planned file in full. What was planned is what is written: the record must not claim anything else."""
    if file.content is not None:
        target.write_bytes(file.content)
        return
    assert file.source is not None  # noqa: S101 - one of the two is given
    copied = hashlib.sha256()
    with digests.open_regular(file.source) as source, target.open("wb") as stream:
        while block := source.read(_BLOCK):
            copied.update(block)
            stream.write(block)
    if copied.hexdigest() != digest:
        message = f"{file.source}: was changed while it was being copied"
        raise RepositoryConflict(message, hint="build again once it is written")
    # Programs and libraries of a model keep their executable bit; nothing else of the source's mode matters.
    target.chmod(0o755 if executable else 0o644)


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
