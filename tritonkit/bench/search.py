"""Finding the best point of a study without measuring all of them.

Two things are taken for granted, as they hold for servers under load: with more load the throughput does not fall
far, and the latency does not fall. So under limits the loads that keep to them come first, and halving finds the last
of them. Over everything else, one coordinate is changed at a time, from the best point so far, until nothing is gained;
then everything that is left gets a look. Bounds that follow from the first assumption end most of them after one or two
points, where the best so far cannot be reached.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tritonkit.bench.levels import Concurrency, Level, recorded
from tritonkit.bench.objective import Objective
from tritonkit.bench.plan import Item
from tritonkit.bench.records import Record
from tritonkit.errors import Fault, SpecError

# Gains below this are noise, and not worth further points.
WORTH = 0.02


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        best: the best point that keeps to the limits, or None.
        nearest: where there is none, the point that comes nearest.
        measured: how many points were looked at.
        grid: how many there are.
    """

    best: Record | None
    nearest: Record | None
    measured: int
    grid: int


@dataclass(frozen=True)
class _Arm:
    """Everything about a point but its load: the values of its coordinates, and its items by growing load."""

    values: Mapping[str, str]
    items: tuple[Item, ...]


def search(items: Sequence[Item], objective: Objective, measure: Callable[[Item], Record]) -> Found:
    """Find the best of some items.

    Args:
        items: the grid: one level each.
        objective: what is best.
        measure: measures an item; asked at most once for each.

    Raises:
        SpecError: models together cannot be searched.
    """
    if any(item.group for item in items):
        raise SpecError([Fault("--find", 0, "", "models that are loaded together are measured, not searched")])
    return _Search(_arms(items, objective), objective, measure, len(items)).run()


class _Search:
    def __init__(
        self, arms: Sequence[_Arm], objective: Objective, measure: Callable[[Item], Record], grid: int
    ) -> None:
        self.arms = {_key(arm.values): arm for arm in arms}
        self.choices = {
            name: _ordered({arm.values[name]: None for arm in arms}) for name in (arms[0].values if arms else {})
        }
        self.objective = objective
        self.measure = measure
        self.grid = grid
        self.seen: dict[Item, Record] = {}
        self.done: set[str] = set()
        self.best: tuple[float, Item] | None = None

    def run(self) -> Found:
        current = next(iter(self.arms.values()))
        self._climb_loads(current, len(current.items) // 2)
        before: tuple[float, Item] | None = None
        while self.best != before:
            before = self.best
            for name, values in self.choices.items():
                for value in values:
                    self._visit({**self._home(current).values, name: value})
        # What only pays together with something else is not on that way. With a good point known, a look is cheap.
        for arm in self.arms.values():
            self._visit(arm.values)
        best = self.seen[self.best[1]] if self.best else None
        return Found(best, None if best else self._nearest(), len(self.seen), self.grid)

    def _home(self, current: _Arm) -> _Arm:
        if self.best is None:
            return current
        item = self.best[1]
        return next(arm for arm in self.arms.values() if item in arm.items)

    def _visit(self, values: Mapping[str, str]) -> None:
        """Look at an arm, if there is one with these values that was not looked at."""
        arm = self.arms.get(_key(values))
        if arm is not None and _key(arm.values) not in self.done:
            self._climb_loads(arm, self._hint(arm))

    def _hint(self, arm: _Arm) -> int:
        """The place of the best load so far among an arm's."""
        if self.best is None:
            return len(arm.items) // 2
        value = recorded(self.best[1].levels[0].load).value
        distances = [abs(recorded(item.levels[0].load).value - value) for item in arm.items]
        return distances.index(min(distances))

    def _climb_loads(self, arm: _Arm, start: int) -> None:
        """Find the last load that keeps to the limits, as far as that may be worth it."""
        self.done.add(_key(arm.values))
        low, high = -1, len(arm.items)
        place = start
        while low + 1 < high:
            met, value = self._look(arm.items[place])
            if met:
                low = place
                last = len(arm.items) - 1
                if place < last and high == len(arm.items):
                    # Nothing is known above: the far end tells whether there is anything to gain.
                    far, reach = self._look(arm.items[last])
                    if far or not self._gains(reach, value):
                        return
                    high = last
            else:
                high = place
                if not self._gains(value, None):
                    # Less load serves no more, and this is not enough.
                    return
            place = (low + high) // 2

    def _gains(self, reach: float | None, over: float | None) -> bool:
        """Whether a value that may be reached is worth further points."""
        known = [value for value in (over, self.best[0] if self.best else None) if value is not None]
        if reach is None or not known:
            return True
        best = max(known)
        return reach > best + WORTH * abs(best)

    def _look(self, item: Item) -> tuple[bool, float | None]:
        if item not in self.seen:
            self.seen[item] = self.measure(item)
        record = self.seen[item]
        value, met = self.objective.value(record), self.objective.met(record)
        if met and value is not None and (self.best is None or value > self.best[0]):
            self.best = (value, item)
        return met, value

    def _nearest(self) -> Record | None:
        measured = [record for record in self.seen.values() if record.repeats]
        return max(measured, key=lambda one: sum(limit.holds(one) for limit in self.objective.limits), default=None)


def _arms(items: Sequence[Item], objective: Objective) -> list[_Arm]:
    """The items by everything but their load, each list in the order in which the goal grows and limits tighten."""
    grouped: dict[str, list[Item]] = {}
    values: dict[str, dict[str, str]] = {}
    for item in items:
        coordinates = _coordinates(item)
        grouped.setdefault(_key(coordinates), []).append(item)
        values[_key(coordinates)] = coordinates
    names = list(dict.fromkeys(name for each in values.values() for name in each))
    return [
        _Arm(
            {name: values[key].get(name, "null") for name in names},
            tuple(sorted(of_arm, key=lambda one: recorded(one.levels[0].load).value, reverse=not objective.largest)),
        )
        for key, of_arm in grouped.items()
    ]


def _coordinates(item: Item) -> dict[str, str]:
    level: Level = replace(item.levels[0], load=Concurrency(1))
    load = recorded(item.levels[0].load)
    fields = {name: json.dumps(value) for name, value in vars(level).items() if name != "load"}
    deployment = {path: json.dumps(value, sort_keys=True) for path, value in item.deployment.configuration.items()}
    name = {"variant": item.deployment.name} if item.deployment.name else {}
    return {**name, **deployment, **fields, "kind": load.kind, "distribution": load.distribution}


def _key(values: Mapping[str, str]) -> str:
    return json.dumps({name: value for name, value in values.items() if value != "null"}, sort_keys=True)


def _ordered(values: Mapping[str, Any]) -> list[str]:
    """Numbers by size, anything else as the study has it."""
    if all(_number(value) is not None for value in values):
        return sorted(values, key=lambda value: _number(value) or 0.0)
    return list(values)


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
