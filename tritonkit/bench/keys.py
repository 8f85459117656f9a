"""Digests that tell whether two points measured the same thing."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tritonkit.bench.levels import Level
from tritonkit.tools import digests


def of_text(text: str) -> str:
    """The digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def of_point(defined_by: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The digest of everything that defines a point."""
    return of_text(json.dumps([defined_by, inputs], sort_keys=True, default=str))


def of_level(level: Level) -> dict[str, Any]:
    """A level without where its files lie."""
    values = asdict(level)
    values["load"] = {name: value for name, value in asdict(level.load).items() if name != "file"}
    values["load"]["kind"] = type(level.load).__name__
    return values


def of_inputs(
    given: Mapping[str, str], samples: Mapping[str, Mapping[str, str]], folder: Path | None
) -> dict[str, str]:
    """The digest of each file that inputs are read from, by its path."""
    start = folder or Path()
    texts = [text[1:] for text in given.values() if text.startswith("@")]
    texts += [str(start / text) for values in samples.values() for text in values.values()]
    found: dict[str, str] = {}
    for text in texts:
        try:
            files = sorted(glob.glob(text))
            found.update({name: digests.of_file(Path(name)) for name in files if Path(name).is_file()})
        except (OSError, ValueError):
            # No path but a value, which counts as it is written.
            continue
    return found
