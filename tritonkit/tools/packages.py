"""Versions of installed Python packages, told without importing them."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def installed(names: Collection[str]) -> dict[str, str | None]:
    """The version of each distribution; None for one that is not installed."""
    found: dict[str, str | None] = {}
    if not names:
        return found
    # Imported here: most repositories were made by no package, and to see that they are current should take no time.
    from importlib import metadata

    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def outdated(then: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The packages that have another version now than then, each with both; one that is gone changes nothing."""
    return {name: (then[name], now) for name, now in installed(then).items() if now is not None and now != then[name]}
