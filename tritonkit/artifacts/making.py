"""From recipes to artifacts in the cache: what is there already, and making what is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonkit.artifacts import cache, fetch, process, recipes
from tritonkit.artifacts.cache import Entry
from tritonkit.artifacts.recipes import Download, Given, Recipe, TorchRecipe

Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Made:
    """An artifact that is there.

    Attributes:
        entry: where, and what is known of it.
        seconds: how long it took; None if it was there already.
        before: what it was made from, where that was made too.
    """

    entry: Entry
    seconds: float | None = None
    before: Made | None = None

    @property
    def chain(self) -> tuple[Made, ...]:
        """Everything that was made on the way, the first one first."""
        return (*(self.before.chain if self.before else ()), self)

    @property
    def dependencies(self) -> dict[str, str]:
        """The user's files that it depends on, by path relative to the spec, with their digests."""
        return {
            path: digest
            for made in self.chain
            for record in made.entry.records.values()
            for path, digest in record.dependencies.items()
        }

    @property
    def tools(self) -> dict[str, str]:
        """The versions of the packages that had a hand in it."""
        return {
            name: version
            for made in self.chain
            for record in made.entry.records.values()
            for name, version in record.tools.items()
        }


def find_file(given: Given) -> Path | None:
    """A file to start from, if it is here."""
    return fetch.find(given) if isinstance(given, Download) else given


def find(recipe: Recipe) -> Made | None:
    """What a recipe would make today, if it is in the cache. Reads only.

    Raises:
        OSError: a file that the recipe names cannot be read.
    """
    before: Made | None = None
    starting: dict[str, Path] = {}
    given = recipe.weights if isinstance(recipe, TorchRecipe) else recipe.onnx
    if isinstance(given, TorchRecipe):
        before = find(given)
        if before is None:
            return None
        starting["onnx"] = before.entry.artifacts[0]
    elif given is not None:
        file = find_file(given)
        if file is None:
            return None
        starting["weights" if isinstance(recipe, TorchRecipe) else "onnx"] = file
    entry = cache.find(recipes.key(recipe, starting), recipe.directory)
    return Made(entry, before=before) if entry else None


def make(recipe: Recipe, report: Report) -> Made:
    """What a recipe makes, made now unless it is in the cache.

    Args:
        recipe: what to make.
        report: called with each stage and the share of it that is done.

    Raises:
        ExportFailed: it cannot be made, or computes something else than its source. Nothing was published.
        ToolMissing: a package is not installed.
        OSError: the disk refuses.
    """
    cache.sweep()
    before: Made | None = None
    starting: dict[str, Path] = {}
    given = recipe.weights if isinstance(recipe, TorchRecipe) else recipe.onnx
    if isinstance(given, TorchRecipe):
        before = make(given, report)
        starting["onnx"] = before.entry.artifacts[0]
    elif given is not None:
        starting["weights" if isinstance(recipe, TorchRecipe) else "onnx"] = _file(given, report)
    key = recipes.key(recipe, starting)
    known = cache.find(key, recipe.directory)
    if known is not None:
        return Made(known, before=before)
    begun = time.monotonic()
    with cache.staging() as staging:
        folder = staging / "made"
        folder.mkdir()
        process.make(recipe, starting, folder, report)
        entry = cache.publish(folder, key)
    return Made(entry, time.monotonic() - begun, before)


def bisect(recipe: TorchRecipe, report: Report) -> dict[str, Any] | None:
    """The first node of a module's ONNX file that departs from the module; None where none does. Publishes nothing.

    Raises:
        ExportFailed: the module cannot be converted.
        ToolMissing: a package is not installed.
    """
    starting = {} if recipe.weights is None else {"weights": _file(recipe.weights, report)}
    with cache.staging() as staging:
        folder = staging / "made"
        folder.mkdir()
        return process.bisect(recipe, starting, folder, report)


def _file(given: Given, report: Report) -> Path:
    return fetch.fetch(given, report) if isinstance(given, Download) else given
