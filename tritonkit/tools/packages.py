"""The Python packages of this environment."""

from __future__ import annotations

import importlib.metadata


def version(distribution: str) -> str | None:
    """The installed version of a distribution, without importing it; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements(distribution: str, extra: str) -> tuple[str, ...]:
    """What one of a distribution's extras asks for, as its metadata states it.

    Nothing for an extra that it does not have, nor for a distribution that is not installed.
    """
    try:
        stated = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(text.split(";")[0].strip() for text in stated if f'extra == "{extra}"' in text.replace("'", '"'))
