"""From what runs to other percentages that hold other rates. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tritonkit.provision.choices import STEP, WHOLE, Choice, Terms, Workload
from tritonkit.provision.fleet import Fleet, Place, Share, menu
from tritonkit.provision.placement import Item, settle


@dataclass(frozen=True)
class Change:
    """Another percentage for one server, which is started again with it.

    Attributes:
        server: the server.
        name: the model that it is about; the server's name where no model of it is planned for.
        gpu: its GPU.
        before: the percentage that it has.
        after: the one that it is to have.
    """

    server: str
    name: str
    gpu: int | str
    before: float
    after: float

    def __str__(self) -> str:
        return f"{self.name} on GPU {self.gpu}: {self.before:g} % -> {self.after:g} %"


def follow(current: Fleet, workloads: Sequence[Workload], terms: Terms) -> tuple[tuple[Choice, ...], ...] | None:
    """For each GPU the percentages for other rates, changing as little as can be; None where none hold them.

    Models and batches stay where they are, and a GPU of which no model's rate changes stays as it is. Who is asked for
    no less than before keeps at least its percentage while there is room: a server whose percentage changes is started
    again. Servers without a planned model are left a step each.
    """
    wanted = {each.model: each for each in workloads}
    found = []
    for share in current:
        if all(wanted[choice.workload.model].rate == choice.workload.rate for choice in share.choices):
            found.append(share.choices)
            continue
        settled = _settled(share, wanted, terms, keeping=True) or _settled(share, wanted, terms, keeping=False)
        if settled is None:
            return None
        found.append(settled)
    return tuple(found)


def differences(current: Fleet, following: Sequence[Sequence[Choice]]) -> tuple[Change, ...]:
    """What leads from what runs to other percentages: what shrinks goes first, so that none of them sum up to more.

    They do for the time in which one process takes over from another, as each has its percentage then. Where the
    percentages of a GPU change, its servers without a planned model give way as far as they must, and get
    back what there is of that which they were given.

    Args:
        current: what runs.
        following: for each GPU what its planned models are to have.
    """
    found = []
    for share, chosen in zip(current, following, strict=True):
        pairs = [
            _change(place, after.workload.model, after.thread_percentage)
            for before, after, place in zip(share.choices, chosen, share.places, strict=True)
            if before.thread_percentage != after.thread_percentage
        ]
        if pairs:
            room = WHOLE - sum(choice.thread_percentage for choice in chosen)
            pairs += [
                _change(place, place.server, percentage)
                for place, percentage in zip(share.others, _rest(share.others, room), strict=True)
                if percentage != place.thread_percentage
            ]
        found += pairs
    return tuple(sorted(found, key=lambda each: (each.after > each.before, each.name, str(each.gpu))))


def _settled(share: Share, wanted: Mapping[str, Workload], terms: Terms, *, keeping: bool) -> tuple[Choice, ...] | None:
    items = []
    for choice in share.choices:
        workload = wanted[choice.workload.model]
        possible = menu(choice, workload, terms)
        if keeping and possible and workload.rate >= choice.workload.rate:
            least = min(choice.thread_percentage, possible[-1].thread_percentage)
            possible = tuple(each for each in possible if each.thread_percentage >= least)
        items.append(Item(workload.model, choice.replicas, possible))
    settled = settle(items, terms)
    if settled is None or sum(choice.thread_percentage for choice in settled) > WHOLE - STEP * len(share.others):
        return None
    return settled


def _change(place: Place, name: str, after: float) -> Change:
    return Change(
        place.server, name, place.gpu if place.gpu is not None else "", place.thread_percentage or WHOLE, after
    )


def _rest(others: Sequence[Place], room: float) -> list[float]:
    """What the servers without a planned model have of this room: what they were given, the largest giving way."""
    given = [each.asked or each.thread_percentage or WHOLE for each in others]
    while sum(given) > room:
        largest = given.index(max(given))
        given[largest] = max(given[largest] - 1, given[largest] - (sum(given) - room))
    return given
