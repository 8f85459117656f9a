"""The example inputs that a repository's spec names, found again from the repository."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tritonkit.repository import manifest


def samples(repository: Path, environment: Mapping[str, str]) -> tuple[dict[str, dict[str, str]], Path]:
    """For each model that has ``samples``: for each input a path, a pattern or JSON text. And where paths start.

    There are none where tritonkit did not build the repository, or its spec is gone: a repository serves without its
    spec, and samples are only a convenience.

    Raises:
        SpecError: the spec is there and cannot be used.
    """
    inputs = manifest.read(repository).inputs
    files = [repository / path for path in inputs.spec] if inputs else []
    if inputs is None or not all(file.is_file() for file in files):
        return {}, repository
    from tritonkit.spec.loading import load

    loaded = load(files, inputs.assignments, environment)
    texts = {
        model: {name: value if isinstance(value, str) else json.dumps(value) for name, value in said.samples.items()}
        for model, said in loaded.spec.models.items()
        if said.samples
    }
    return texts, loaded.directory
