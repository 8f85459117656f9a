"""From an existing model repository to a spec that builds it again, without loss."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonkit.errors import Fault, RepositoryConflict, SpecError
from tritonkit.modelconfig.description import describe, describe_steps
from tritonkit.modelconfig.text import parse, same
from tritonkit.repository.existing import CONFIG, ExistingModel, ExistingRepository, read
from tritonkit.repository.layout import plan
from tritonkit.repository.model_folder import EMPTY_FOLDER, ModelFolder
from tritonkit.repository.named_files import CONFIGS, named_files
from tritonkit.repository.placement import is_clutter
from tritonkit.repository.surroundings import Surroundings
from tritonkit.spec.document import DEFAULT_REPOSITORY
from tritonkit.spec.faults import Faults
from tritonkit.spec.loading import load
from tritonkit.spec.schema import OWN_KEYS, Model, is_name
from tritonkit.spec.writing import dump

# What a reader looks for first.
_FIRST = ("verbatim", "name", "platform", "backend", "runtime", "ensemble", "source", "versions")

_OTHER_REPOSITORY = "built_repository"


@dataclass(frozen=True)
class Imported:
    """A spec that was made from a repository.

    Attributes:
        spec: the file that was written.
        models: the names of its models.
        verbatim: those of them whose fields could only be taken word by word.
        left_out: what lies at the repository's top and is no model: names, each with the reason.
        placeholders: texts that look like a template's, by model; they are kept as they are.
    """

    spec: Path
    models: tuple[str, ...]
    verbatim: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    placeholders: Mapping[str, tuple[str, ...]]


def import_repository(directory: Path, output: Path, *, skip: frozenset[str] = frozenset()) -> Imported:
    """Write the spec of an existing repository. The repository stays as it is; the spec's paths lead into it.

    Args:
        directory: the repository.
        output: the spec to write.
        skip: names of models to leave out.

    Raises:
        SpecError: a model cannot be read, or cannot be said; nothing was written. All faults are in it.
        RepositoryConflict: there is a file at ``output``.
    """
    if output.exists():
        message = f"{output}: stands in the way; a spec is not written over"
        raise RepositoryConflict(message, hint="name another file with --output")
    existing = read(directory, skip)
    faults = list(existing.faults)
    if output.resolve().is_relative_to(directory.resolve()):
        faults.append(Fault(str(output), 0, "", f"lies inside {directory}, which it describes; write it elsewhere"))
    if faults:
        raise SpecError(faults, hint="fill templates in first, or leave a model out with --skip NAME")
    if not existing.models:
        raise SpecError([Fault(str(directory), 0, "", f"holds no model: no folder with a {CONFIG} or a version")])
    repository = _repository(directory, output.parent)
    said = {model.name: _say(model, output, output.parent / repository) for model in existing.models}
    top = {"version": 1, **({} if repository == DEFAULT_REPOSITORY else {"repository": repository}), "models": said}
    _write(output, f"# Made from {directory.name} by tritonkit import.\n{dump(top)}", existing)
    return Imported(
        output,
        tuple(said),
        tuple(name for name, model in said.items() if model.get("verbatim")),
        existing.left_out,
        {model.name: model.placeholders for model in existing.models if model.placeholders},
    )


def _write(output: Path, text: str, existing: ExistingRepository) -> None:
    """Write the spec, and give it its name only once building it is known to give the repository again."""
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        planned = {file.path: file for file in plan(load([partial], [], {}), check=False).files}
        for model in existing.models:
            built = planned[f"{model.name}/{CONFIG}"].content or b""
            if not same(parse(built.decode()), model.config):
                raise AssertionError(f"the spec of {model.name} says something else than its {CONFIG}")
            for path in model.files:
                source = planned[f"{model.name}/{path}"].source
                if source is not None and not source.samefile(model.folder / path):
                    raise AssertionError(f"the spec of {model.name} takes {source} for {path}")
        partial.rename(output)
    finally:
        partial.unlink(missing_ok=True)


def _repository(directory: Path, folder: Path) -> str:
    """Where the spec builds to: never into the repository that its sources lie in."""
    default, taken = (folder / DEFAULT_REPOSITORY).resolve(), directory.resolve()
    apart = not default.is_relative_to(taken) and not taken.is_relative_to(default)
    return DEFAULT_REPOSITORY if apart else _OTHER_REPOSITORY


def _say(model: ExistingModel, output: Path, repository: Path) -> dict[str, Any]:
    """What the spec says of a model: as its users would write it if that says the same, else word by word."""
    faults = Faults(str(model.folder), {})
    directory = output.parent
    # A file that the model names and does not have must not be found in the spec itself, once that is written.
    named = {os.path.abspath(directory / file.name) for file in named_files(model.config) if "\0" not in file.name}
    forms = (_as_written, _word_by_word)[os.path.abspath(output) in named :]
    for said in (form(model, directory) for form in forms):
        faults = Faults(str(model.folder), {})
        if _builds(said, model, directory, repository, faults):
            return said
    faults.raise_if_any()
    raise AssertionError(f"{model.folder} cannot be said")


def _builds(said: dict[str, Any], model: ExistingModel, directory: Path, repository: Path, faults: Faults) -> bool:
    """Whether building what is said gives the model's configuration and files again."""
    own = {key: value for key, value in said.items() if key in OWN_KEYS}
    if "versions" in own:
        own["versions"] = {str(number): source for number, source in own["versions"].items()}
    fields = {key: value for key, value in said.items() if key not in OWN_KEYS}
    surroundings = Surroundings(directory, repository, check=False, faults=faults)
    built = ModelFolder(model.name, Model(**own, fields=fields), surroundings)
    if len(faults) or not same(built.config, model.config):
        return False
    paths = {file.path.removeprefix(f"{model.name}/") for file in built.files if not file.path.endswith(EMPTY_FOLDER)}
    return paths == {path for path in model.files if not path.endswith(EMPTY_FOLDER)}


def _as_written(model: ExistingModel, directory: Path) -> dict[str, Any]:
    config = type(model.config)()
    config.CopyFrom(model.config)
    placed: set[str] = set()
    for named in list(named_files(config)):
        place = f"{named.folder}/{named.name}" if named.folder else named.name
        if named.folder is not None and not named.absolute and "/" not in named.name and place in model.files:
            named.rename(_relative(model.folder / place, directory))
            placed.add(place)
    fields = describe(config)
    if fields.pop("name", "") == "":
        fields["name"] = ""
    steps = describe_steps(config)
    if steps is None:
        _leave_open(config, fields)
    else:
        del fields["platform"], fields["ensemble_scheduling"]
        fields["ensemble"] = steps
    expected: dict[str, None] | None = None if steps is None else {"1": None}
    return _ordered({**fields, **_folder(model, directory, placed, expected)})


def _leave_open(config: Any, fields: dict[str, Any]) -> None:
    """Say what the configuration leaves to Triton, where a spec that said nothing would have it filled in."""
    if config.HasField("ensemble_scheduling"):
        return
    if not config.backend and not config.platform:
        fields["backend"] = ""
    if not config.instance_group:
        fields["instance_group"] = []
    elif isinstance(fields["instance_group"], list):
        fields["instance_group"] = [{**group, "count": group.get("count", 0)} for group in fields["instance_group"]]


def _word_by_word(model: ExistingModel, directory: Path) -> dict[str, Any]:
    return _ordered({"verbatim": True, **describe(model.config), **_folder(model, directory, set(), None)})


def _ordered(said: dict[str, Any]) -> dict[str, Any]:
    return {
        key: said[key] for key in (*(key for key in _FIRST if key in said), *(key for key in said if key not in _FIRST))
    }


def _folder(
    model: ExistingModel, directory: Path, placed: set[str], expected: dict[str, None] | None
) -> dict[str, Any]:
    """The keys that place the model's files, but for those that its fields place.

    Args:
        model: the model.
        directory: the folder that the spec's paths start from.
        placed: the files that its fields place.
        expected: the versions that need not be said.
    """
    versions: dict[str, str | None] = {}
    configs: dict[str, str] = {}
    rest = [path for path in model.files if path not in placed]
    for number in model.versions:
        inside = [path for path in rest if path.startswith(f"{number}/") and not _hidden(path)]
        versions[number] = _relative(model.folder / number, directory) if inside else None
        empty = [path for path in rest if path.startswith(f"{number}/")] == [f"{number}/{EMPTY_FOLDER}"]
        if empty and not (model.folder / number / EMPTY_FOLDER).stat().st_size:
            # Building keeps an empty folder in just this way.
            inside = [f"{number}/{EMPTY_FOLDER}"]
        rest = [path for path in rest if path not in set(inside)]
    for path in list(rest):
        folder, _, name = path.partition("/")
        variant = name.removesuffix(".pbtxt")
        if folder == CONFIGS and name.endswith(".pbtxt") and "/" not in name and is_name(variant):
            configs[variant] = _relative(model.folder / path, directory)
            rest.remove(path)
    said: dict[str, Any] = {}
    if versions.keys() == {"1"} and versions["1"] is not None:
        said["source"] = versions["1"]
    elif versions != expected:
        said["versions"] = {int(number): source for number, source in versions.items()}
    files = dict(_files(model, directory, rest))
    return {**said, **({"files": files} if files else {}), **({"configs": configs} if configs else {})}


def _files(model: ExistingModel, directory: Path, rest: list[str]) -> Iterator[tuple[str, str]]:
    """Where more files go and come from: whole folders where they are meant as a whole."""
    tops = dict.fromkeys(path.partition("/")[0] for path in rest)
    for top in tops:
        below = [path for path in rest if path == top or path.startswith(f"{top}/")]
        held = [path for path in model.files if path.startswith(f"{top}/")]
        if below == held and not any(map(_hidden, held)):
            yield top, _relative(model.folder / top, directory)
        else:
            yield from ((path, _relative(model.folder / path, directory)) for path in below)


def _hidden(path: str) -> bool:
    return any(map(is_clutter, path.split("/")))


def _relative(path: Path, directory: Path) -> str:
    # The repository's own links are kept: it is the path that is said, not what it leads to today.
    return Path(os.path.relpath(path.absolute(), directory.resolve())).as_posix()
