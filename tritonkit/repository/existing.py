"""A model repository as it stands on disk, whoever made it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from tritonkit.errors import Fault, SpecError
from tritonkit.modelconfig import protobuf
from tritonkit.modelconfig.text import parse
from tritonkit.repository import manifest
from tritonkit.repository.placement import all_files
from tritonkit.spec.paths import is_plain
from tritonkit.spec.schema import is_name, is_version

CONFIG = "config.pbtxt"
MAX_BYTES = 8 * 1024 * 1024
"""A larger config.pbtxt is refused unread."""

_PLACEHOLDER = re.compile(r"\$\{[^}\n]*\}")

# Left behind by interpreters and desktops; no model loads them. Other hidden files may belong to one.
_LITTER = frozenset({"__pycache__", ".ipynb_checkpoints", ".DS_Store", "Thumbs.db"})


@dataclass(frozen=True)
class ExistingModel:
    """One model of a repository.

    Attributes:
        name: its folder's name.
        folder: its folder.
        config: what its config.pbtxt says; an empty message where it has none.
        placeholders: the ``${...}`` in that text, which a template would have filled in.
        versions: the numbers of its versions, in order, as words.
        files: every file of the folder but config.pbtxt and litter, by its path there, in order.
    """

    name: str
    folder: Path
    config: Any
    placeholders: tuple[str, ...]
    versions: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class ExistingRepository:
    """A repository.

    Attributes:
        directory: its folder.
        models: the models that can be read, in order of their names.
        left_out: what else lies at its top: names, each with the reason why it is no model.
        faults: why models cannot be read.
    """

    directory: Path
    models: tuple[ExistingModel, ...]
    left_out: tuple[tuple[str, str], ...]
    faults: tuple[Fault, ...]


def read(directory: Path, skip: frozenset[str] = frozenset()) -> ExistingRepository:
    """Read every model of a repository. Model files are listed, not opened.

    Args:
        directory: the repository.
        skip: names of folders to leave out.

    Raises:
        SpecError: it is no model repository at all.
    """
    if not directory.is_dir():
        raise SpecError([Fault(str(directory), 0, "", "no such folder; expected a model repository")])
    if (directory / CONFIG).is_file():
        message = f"is a model's folder, with a {CONFIG}; expected a repository, which has a folder for each model"
        raise SpecError([Fault(str(directory), 0, "", message)], hint=f"name the folder above it: {directory.parent}")
    models: list[ExistingModel] = []
    left_out: list[tuple[str, str]] = []
    faults: list[Fault] = []
    for entry in sorted(directory.iterdir()):
        if entry.name == manifest.NAME:
            continue
        reason = "left out as asked" if entry.name in skip else _no_model(entry)
        if reason is not None:
            left_out.append((entry.name, reason))
            continue
        try:
            models.append(_read_model(entry))
        except SpecError as error:
            faults.extend(error.faults)
        except OSError as error:
            faults.append(Fault(error.filename or str(entry), 0, "", f"cannot be read: {error.strerror}"))
    return ExistingRepository(directory, tuple(models), tuple(left_out), tuple(faults))


def _no_model(entry: Path) -> str | None:
    if entry.name.startswith(".") or entry.name in _LITTER:
        return "hidden"
    if not entry.is_dir():
        return "no folder"
    try:
        held = {child.name for child in entry.iterdir()}
    except OSError:
        return None
    return None if CONFIG in held or any(map(is_version, held)) else f"neither a {CONFIG} nor a version's folder"


def _read_model(folder: Path) -> ExistingModel:
    if not is_name(folder.name):
        message = "a model's name has letters, digits, '_', '-' and '.', begins with none of the last two, and is short"
        raise SpecError([Fault(str(folder), 0, "", message)])
    config, placeholders = _read_config(folder / CONFIG)
    versions = sorted((entry.name for entry in folder.iterdir() if is_version(entry.name) and entry.is_dir()), key=int)
    paths = [file.relative_to(folder) for file in all_files(folder)]
    kept = [path for path in paths if path != Path(CONFIG) and not _LITTER.intersection(path.parts)]
    files = tuple(path.as_posix() for path in kept)
    for path in files:
        if not is_plain(path):
            message = f"the name of the file {path!r} is not UTF-8 text, or has a backslash"
            raise SpecError([Fault(str(folder), 0, "", message)])
    return ExistingModel(folder.name, folder, config, placeholders, tuple(versions), files)


def _read_config(file: Path) -> tuple[Any, tuple[str, ...]]:
    if not file.exists():
        return protobuf.empty(), ()
    if file.stat().st_size > MAX_BYTES or not file.is_file():
        raise SpecError([Fault(str(file), 0, "", f"no file of at most {MAX_BYTES:,} bytes")])
    try:
        text = file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise SpecError([Fault(str(file), 0, "", f"not UTF-8 text (byte {error.start})")]) from None
    placeholders = tuple(_placeholders(text))
    try:
        return parse(text), tuple(dict.fromkeys(word for _, word in placeholders))
    except text_format.ParseError as error:
        if not placeholders:
            raise SpecError(
                [Fault(str(file), error.GetLine() or 0, "", f"is no ModelConfig: {_words(error)}")]
            ) from None
    found = [
        Fault(str(file), line, "", f"a template: {word} is not filled in, and only then it can be read")
        for line, word in placeholders
    ]
    raise SpecError(found)


def _placeholders(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.lstrip().startswith("#"):
            yield from ((number, match.group()) for match in _PLACEHOLDER.finditer(line))


def _words(error: text_format.ParseError) -> str:
    # The message begins with line and column, which the fault says in its own way.
    return str(error).split(" : ", 1)[-1]
