"""The Python packages of this environment."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def version(distribution: str) -> str | None:
    """The installed version of a distribution, without importing it; None where it is not installed."""
    # Imported here: a build that asks of no package should not pay for looking them up.
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def requirements(distribution: str, extra: str) -> tuple[str, ...]:
    """What one of a distribution's extras asks for, as its metadata states it.

    Nothing for an extra that it does not have, nor for a distribution that is not installed.
    """
    from importlib import metadata

    try:
        stated = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return ()
    return tuple(text.split(";")[0].strip() for text in stated if f'extra == "{extra}"' in text.replace("'", '"'))


def installed(names: Collection[str]) -> dict[str, str | None]:
    """The version of each distribution; None for one that is not installed."""
    return {name: version(name) for name in names}


def outdated(then: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The packages that have another version now than then, each with both; one that is gone changes nothing."""
    return {name: (then[name], now) for name, now in installed(then).items() if now is not None and now != then[name]}
