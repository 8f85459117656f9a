"""Points of a profile that are of another version of a model than there is now, and taking points out for new ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import count
from pathlib import Path

from tritonkit.provision.profiles import Row, locked, read, write


def outdated(rows: Iterable[Row], fingerprints: Mapping[str, str]) -> tuple[str, ...]:
    """The models with points, alone or as neighbours, of another version than these fingerprints are of."""
    found = {
        model
        for row in rows
        for model, version in zip(row.key.models, row.fingerprint.split(";"), strict=False)
        if version and fingerprints.get(model, version) != version
    }
    return tuple(sorted(found))


def without(rows: Iterable[Row], models: Collection[str]) -> tuple[Row, ...]:
    """The points that none of these models has a part in."""
    return tuple(row for row in rows if not set(row.key.models) & set(models))


def take_out(path: Path, models: Collection[str]) -> Path | None:
    """Take out of a profile file all points that some models have a part in; where the file is kept as it was.

    It is None where there are no such points.

    Raises:
        SpecError: there is a file that is no profile.
        TritonkitError: it cannot be written.
    """
    with locked(path):
        rows = read(path) if path.exists() else ()
        left = without(rows, models)
        if len(left) == len(rows):
            return None
        numbered = (path.with_name(f"{path.name}.{number}") for number in count(1))
        before = next(each for each in numbered if not each.exists())
        write(before, rows)
        if left:
            write(path, left)
        else:
            # A profile has a point at least.
            path.unlink()
        return before
