"""From what a spec names to what is there: what it needs, made or fetched, and the spec with that in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tritonkit.artifacts import fetch, making, recipes
from tritonkit.artifacts.making import Made
from tritonkit.artifacts.recipes import Download, PlanRecipe, TorchRecipe
from tritonkit.errors import ArtifactsMissing, ExportFailed, ToolMissing
from tritonkit.repository.origins import Origins, sources_of
from tritonkit.repository.placement import FILENAMES
from tritonkit.spec.loading import LoadedSpec
from tritonkit.spec.schema import Model


@dataclass(frozen=True)
class Resolved:
    """A spec of which every source is a path.

    Attributes:
        loaded: the spec, with what was made in the place of what it was made from.
        made: what was made or fetched, by place.
    """

    loaded: LoadedSpec
    made: Mapping[str, Made | Path]

    @property
    def dependencies(self) -> dict[str, str]:
        """The user's files that artifacts were made from, by path relative to the spec, with their digests."""
        made = [value for value in self.made.values() if isinstance(value, Made)]
        return {path: digest for value in made for path, digest in value.dependencies.items()}

    @property
    def tools(self) -> dict[str, str]:
        """The version of each package that made an artifact."""
        made = [value for value in self.made.values() if isinstance(value, Made)]
        return {name: version for value in made for name, version in sorted(value.tools.items())}


def find(origins: Origins) -> dict[str, Made | Path | None]:
    """What is in the cache of all that a spec needs; None for what has yet to be fetched or made. Reads only."""
    found: dict[str, Made | Path | None] = {}
    for name, origin in origins.work.items():
        found[name] = fetch.find(origin) if isinstance(origin, Download) else making.find(origin)
    return found


def make(origins: Origins, name: str, report: making.Report) -> Made | Path:
    """Fetch or make what one place needs.

    Raises:
        ExportFailed: it cannot be; what there was before stays as it is. The message begins with the place.
        ToolMissing: a package is not installed.
        OSError: the disk refuses.
    """
    origin = origins.work[name]
    try:
        return fetch.fetch(origin, report) if isinstance(origin, Download) else making.make(origin, report)
    except (ExportFailed, ToolMissing) as error:
        raise type(error)(f"{name}: {error.args[0]}", hint=error.hint) from error


def forget(origins: Origins) -> None:
    """Let everything that lies under a URL be fetched anew."""
    for origin in origins.work.values():
        first = origin.onnx if isinstance(origin, PlanRecipe) else origin
        start = first.weights if isinstance(first, TorchRecipe) else first
        if isinstance(start, Download):
            fetch.forget(start)


def made_before(origins: Origins) -> Mapping[str, Made | Path]:
    """What a spec needs, where all of it is in the cache.

    Raises:
        ArtifactsMissing: something has yet to be fetched or made.
    """
    found = find(origins)
    missing = {name: described(origins.work[name]) for name, made in found.items() if made is None}
    if missing:
        raise ArtifactsMissing(missing, hint=f"tritonkit export {origins.loaded.files[0]}")
    return {name: made for name, made in found.items() if made is not None}


def described(origin: Download | TorchRecipe | PlanRecipe) -> str:
    """A step in a few words: ``torch nets:cnn -> model.onnx``."""
    if isinstance(origin, Download):
        return origin.url
    if isinstance(origin, TorchRecipe):
        return f"torch {origin.factory} -> {origin.filename}"
    names = ", ".join(recipes.plan_filenames(origin).values())
    onnx = origin.onnx
    first = onnx.name if isinstance(onnx, Path) else described(onnx)
    return f"{first} -> {names}"


def rewrite(origins: Origins, made: Mapping[str, Made | Path]) -> Resolved:
    """The spec with a path for every source; one that is not made stays as it is."""
    loaded = origins.loaded
    models = dict(loaded.spec.models)
    for place, origin in origins.origins.items():
        name, _, number = place.partition("/")
        there = made.get(place, origin)
        if isinstance(there, Made):
            models[name] = _loaded_by(models[name], there, origins.backends.get(name))
        path = there.entry.folder if isinstance(there, Made) else there
        # A path that stands in the spec is left alone: errors quote it as it is written.
        written = dict(sources_of(models[name])).get(number or None)
        if isinstance(path, Path) and not (isinstance(written, str) and place not in made):
            models[name] = _with_source(models[name], number, path)
    spec = loaded.spec.model_copy(update={"models": models})
    return Resolved(replace(loaded, spec=spec), made)


def _loaded_by(model: Model, made: Made, backend: str | None) -> Model:
    """The model with the fields by which Triton finds what was made."""
    fields = dict(model.fields)
    if backend and not fields.get("backend") and not fields.get("platform"):
        fields["backend"] = backend
    names = sorted(made.entry.records)
    if len(names) == 1 and names[0] != FILENAMES.get(backend or ""):
        fields.setdefault("default_model_filename", names[0])
    elif len(names) > 1:
        capabilities = {record.compute_capability: name for name, record in made.entry.records.items()}
        fields.setdefault("cc_model_filenames", {str(key): capabilities[key] for key in sorted(capabilities, key=str)})
    return model.model_copy(update={"fields": fields})


def _with_source(model: Model, number: str, path: Path) -> Model:
    if not number:
        return model.model_copy(update={"source": str(path.absolute())})
    return model.model_copy(update={"versions": {**(model.versions or {}), number: str(path.absolute())}})
