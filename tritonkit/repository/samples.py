"""The example inputs that a repository's spec names, found again from the repository."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tritonkit.repository import manifest


def samples(repository: Path, model: str, environment: Mapping[str, str]) -> tuple[dict[str, str], Path]:
    """The ``samples`` of a model: for each input a path, a pattern or JSON text; and the folder that paths start from.

    Both are empty-handed where tritonkit did not build the repository, or its spec is gone: a repository serves
    without its spec, and samples are only a convenience.

    Raises:
        SpecError: the spec is there and cannot be used.
    """
    inputs = manifest.read(repository).inputs
    files = [repository / path for path in inputs.spec] if inputs else []
    if inputs is None or not all(file.is_file() for file in files):
        return {}, repository
    from tritonkit.spec.loading import load

    loaded = load(files, inputs.assignments, environment)
    known = loaded.spec.models.get(model)
    given = known.samples if known else {}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    return texts, loaded.directory
