"""Which version of a model measurements are of: a digest of all that makes it fast or slow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tritonkit.artifacts import recipes
from tritonkit.artifacts.recipes import Asking, PlanRecipe, Tolerances, TorchRecipe
from tritonkit.repository import origins
from tritonkit.repository.origins import Origin
from tritonkit.repository.placement import folder_files
from tritonkit.spec.loading import LoadedSpec
from tritonkit.tools import digests

_LENGTH = 12
# Plans set these, and a warm-up is over before anything is measured.
_UNCOUNTED = frozenset({"max_batch_size", "dynamic_batching", "model_warmup"})


def fingerprints(loaded: LoadedSpec) -> dict[str, str]:
    """For each model of a spec a digest of its sources, its further files and its configuration; makes nothing.

    Of an ensemble its members count, too. Left out are the batches and what Triton waits for, which every plan sets,
    and what has no part in computing: examples, objectives, warm-ups. Nothing depends on where the files lie. Faults
    in sources are added to the spec's.

    Raises:
        OSError: a file that a model is made from cannot be read.
    """
    known = origins.plan(loaded).origins
    return {name: _digest(_said(name, loaded, known, ())) for name in loaded.spec.models}


def _said(name: str, loaded: LoadedSpec, known: Mapping[str, Origin], within: tuple[str, ...]) -> dict[str, Any]:
    model = loaded.spec.models[name]
    members = [step.model for step in model.ensemble or ()]
    return {
        "sources": {
            place.partition("/")[2]: _origin(origin)
            for place, origin in known.items()
            if place.partition("/")[0] == name
        },
        "files": {place: _origin(loaded.directory / path) for place, path in model.files.items()},
        "fields": {key: value for key, value in model.fields.items() if key not in _UNCOUNTED},
        "members": [
            _said(member, loaded, known, (*within, name))
            for member in members
            if member in loaded.spec.models and member not in (*within, name)
        ],
    }


def _origin(origin: Origin) -> Any:
    if isinstance(origin, Path) and origin.is_dir():
        return {file.relative_to(origin).as_posix(): digests.of_file(file) for file in folder_files(origin)}
    if isinstance(origin, TorchRecipe):
        # How the artifact is proved does not change it.
        return recipes.key(replace(origin, asking=Asking(), tolerances=Tolerances()), {})
    return recipes.key(origin, {}) if isinstance(origin, PlanRecipe) else origin


def _digest(said: Mapping[str, Any]) -> str:
    text = json.dumps(recipes.plain(said), sort_keys=True, default=str)
    return digests.of_bytes(text.encode())[:_LENGTH]
