"""What to measure of each model, and measuring it: a file that grows by a line a point, and is gone on with later."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import groupby, pairwise
from pathlib import Path

from tritonkit.errors import BenchmarkFailed, Fault, LaunchFailed, RequestFailed, SpecError, TritonkitError
from tritonkit.provision import profiles
from tritonkit.provision.outdated import outdated
from tritonkit.provision.profiles import Beside, Key, Row

# The time goes about with 1 / percentage. Most plans give a model less than half of a GPU: closer looks pay there.
PERCENTAGES = (10.0, 20.0, 50.0, 100.0)
# A profile of larger batches than this would say little of requests with objectives.
LARGEST_BATCH = 32

Server = tuple[str, float]
"""A model and its thread percentage."""
Measure = Callable[[Key], Row]
"""Measures one point on servers that run."""
Open = Callable[[tuple[Server, ...]], AbstractContextManager[Measure]]
"""Brings servers up for the time of a block: the one thing that measuring needs others for."""


def points(
    largest: Mapping[str, int],
    percentages: Sequence[float] = PERCENTAGES,
    *,
    chosen: Sequence[int] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> tuple[Key, ...]:
    """What to measure: each model alone at every percentage and batch, and pairs of them beside one another.

    Args:
        largest: the models, and the largest batch that each takes.
        percentages: the thread percentages.
        chosen: the batches, of which each model gets those that it takes; None takes three or four of each model.
        pairs: which models to measure beside one another; None takes a ring of all.
    """
    names = sorted(largest)
    sizes = {name: _fitting(chosen, largest[name]) if chosen else batches(largest[name]) for name in names}
    names = [name for name in names if sizes[name]]
    found = [Key(name, percentage, batch) for name in names for percentage in percentages for batch in sizes[name]]
    # Two splits of the GPU: what a neighbour's share does cannot be told from one.
    splits = [value for value in sorted(percentages) if value <= 50][-2:]
    for one, other in ring(names) if pairs is None else [pair for pair in pairs if set(pair) <= set(names)]:
        for own in splits:
            for first, second in ((one, other), (other, one)):
                beside = Beside(second, 100 - own, _middle(sizes[second]))
                found.append(Key(first, own, _middle(sizes[first]), (beside,)))
    return tuple(dict.fromkeys(found))


def ring(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each model with the next one. In an even ring a chord tells how every second one bears every other second one."""
    if len(names) < 3:
        return list(pairwise(names))
    pairs = list(zip(names, [*names[1:], *names[:1]], strict=True))
    return [*pairs, (names[0], names[2])] if len(names) > 3 and len(names) % 2 == 0 else pairs


def batches(largest: int) -> tuple[int, ...]:
    """One, two, the largest, and a power of two between: small batches cost in steps, large ones in proportion."""
    most = min(largest, LARGEST_BATCH)
    between = 2 ** round(math.log2(2 * most) / 2)
    return tuple(sorted({1, min(2, most), min(between, most), most}))


def _fitting(chosen: Sequence[int], largest: int) -> tuple[int, ...]:
    return tuple(size for size in chosen if size <= largest)


def _middle(batches: Sequence[int]) -> int:
    return batches[len(batches) // 2]


def known(file: Path, device: str, fingerprints: Mapping[str, str]) -> tuple[Row, ...]:
    """The rows of a profile file that points of this device may be added to; none where there is no file.

    Args:
        file: the profile.
        device: what is measured on.
        fingerprints: of the models that are measured, as they are now.

    Raises:
        SpecError: there is a file that is no profile, or that was measured on another device, or of other versions of
            these models.
    """
    rows = profiles.read(file) if file.exists() else ()
    before = profiles.device(rows, str(file))
    if before and before != device:
        message = f"was measured on {before}, and this is {device}; a profile is of one device"
        raise SpecError([Fault(str(file), 0, "", message)], hint="Choose another file with --profile.")
    message = "its points are of another version of this model: its files or its configuration have changed since"
    if faults := [Fault(str(file), 0, model, message) for model in outdated(rows, fingerprints)]:
        hint = (
            "Measure it anew with --fresh, or into another file with --profile. If it runs as before, empty the cells "
            "of these points in the column fingerprint."
        )
        raise SpecError(faults, hint=hint)
    return rows


def pending(wanted: Iterable[Key], rows: Iterable[Row]) -> tuple[Key, ...]:
    """The points that are not measured yet."""
    known = {row.key for row in rows}
    return tuple(key for key in wanted if key not in known)


def groups(keys: Iterable[Key]) -> Iterator[tuple[tuple[Server, ...], list[Key]]]:
    """The points by the servers that they need, so that these start as seldom as can be."""
    ordered = sorted(keys, key=lambda key: (len(key.beside), servers_of(key), key.batch_size))
    for servers, group in groupby(ordered, key=servers_of):
        yield servers, list(group)


def servers_of(key: Key) -> tuple[Server, ...]:
    """The servers that a point needs."""
    own = (key.model, key.thread_percentage)
    return tuple(sorted([own, *((each.model, each.thread_percentage) for each in key.beside)]))


def run(
    wanted: Sequence[Key], file: Path, opened: Open, told: Callable[[Key, Row | TritonkitError], None]
) -> tuple[tuple[Row, ...], Mapping[Key, TritonkitError]]:
    """Measure what a profile file does not have yet; it is complete after every point.

    Others may add to the file at the same time: what they have measured is not measured again.

    Args:
        wanted: the points.
        file: the profile; other points in it are kept.
        opened: brings servers up.
        told: is called with each point that was measured, or with why it could not be.

    Returns:
        All rows of the file, and why each point that is not among them could not be measured.

    Raises:
        SpecError: there is a file already that is no profile.
    """
    rows = profiles.read(file) if file.exists() else ()
    failed: dict[Key, TritonkitError] = {}

    for servers, keys in groups(pending(wanted, rows)):
        rows = profiles.read(file) if file.exists() else ()
        left = list(pending(keys, rows))
        found = {row.key: row for row in rows}
        for key in keys:
            if key in found:
                told(key, found[key])
        if not left:
            continue
        try:
            with opened(servers) as measure:
                while left:
                    row = measure(left[0])
                    rows = profiles.add(file, row)
                    told(left.pop(0), row)
        except (BenchmarkFailed, LaunchFailed, RequestFailed, SpecError) as error:
            # The servers may be beyond use: what else they were to measure is not tried.
            for key in left:
                failed[key] = error
                told(key, error)
    return rows, failed
