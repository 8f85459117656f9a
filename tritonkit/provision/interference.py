"""What neighbours on a GPU do to a model, from the points that were measured beside them.

A batch beside n neighbours takes ``active (1 + alpha pressure) + delay n``. Pressure is the sum of the neighbours'
demands on cache and memory bandwidth: each one's own demand times its share of the GPU. This is iGniter's form, with
measured slowdowns in place of hardware counters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritonkit.provision.curves import Curve
from tritonkit.provision.fitting import optimizer
from tritonkit.provision.profiles import Key, Row

# With nothing measured: a neighbour on the whole GPU would take a quarter more.
ASSUMED_ALPHA = 0.25
# How strongly an unknown is held to its starting value: far less than by any measurement.
_HOLD = 0.01
# A delay of a millisecond would be a long one, and a slowdown is easily taken for one.
_HOLD_DELAY = 0.1
_LARGEST = 20.0
# What the fit leaves of an influence that is none; a batch takes microseconds at least.
_NOTHING = 1e-6


@dataclass(frozen=True)
class Sensitivity:
    """How a model bears neighbours, and how it is one.

    Attributes:
        alpha: the relative slowdown for each unit of pressure.
        demand: the pressure that it is itself, at the whole GPU; 1 is usual.
        measured: whether any of it was measured.
        doubt: what alpha is off by, on average, at the points that were measured beside others.
        off: the largest relative error at one of these points.
    """

    alpha: float
    demand: float
    measured: bool
    doubt: float = 0.0
    off: float = 0.0


@dataclass(frozen=True)
class Interference:
    """Of all models of a profile.

    Attributes:
        models: by name.
        delay_ms: the scheduling delay for each neighbour.
    """

    models: Mapping[str, Sensitivity]
    delay_ms: float


@dataclass(frozen=True)
class _Observation:
    """One point beside others, its own time taken apart."""

    key: Key
    model: int
    measured_ms: float
    alone_ms: float
    active_ms: float
    shares: tuple[tuple[int, float], ...]


def interference(rows: Sequence[Row], curves: Mapping[str, Curve]) -> Interference:
    """What the points with neighbours say; points whose models were not measured alone say nothing.

    Raises:
        ToolMissing: scipy is not installed.
    """
    names = sorted(curves)
    place = {name: index for index, name in enumerate(names)}
    alone = {row.key: row.latency_ms for row in rows if not row.key.beside}
    # In one order, whatever that of the file: sums of floating point numbers depend on it.
    beside = sorted((row for row in rows if row.key.beside), key=lambda row: str(row.key))
    seen = [_observation(row, curves, place, alone) for row in beside]
    observations = [each for each in seen if each is not None]
    if not observations:
        return Interference({name: Sensitivity(ASSUMED_ALPHA, 1.0, measured=False) for name in names}, 0.0)
    count = len(names)
    least_squares: Callable[..., Any] = optimizer().least_squares
    fits = []
    for start_alpha, start_delay in ((ASSUMED_ALPHA, 0.0), (0.05, 0.0), (1.0, 0.0), (ASSUMED_ALPHA, 0.1)):
        start = [start_alpha] * count + [1.0] * count + [start_delay]
        fits.append(
            least_squares(
                _errors,
                start,
                _slopes,
                bounds=([0.0] * len(start), [_LARGEST] * len(start)),
                args=(observations, count),
                max_nfev=100,
                # The dense one hands small matrices to threads on every core: slow where cores are busy.
                tr_solver="lsmr",
            )
        )
    best = min(range(len(fits)), key=lambda index: (round(float(fits[index].cost), 12), index))
    values = [float(value) if value > _NOTHING else 0.0 for value in fits[best].x]
    bore = {each.model for each in observations}
    were = {neighbour for each in observations for neighbour, _ in each.shares}
    # What nothing was measured of is taken to be as bad as the worst that was.
    worst_alpha = max(values[index] for index in bore)
    worst_demand = max(values[count + index] for index in were)
    doubts = {
        index: [_doubt(each, values, count) for each in observations if each.model == index] for index in sorted(bore)
    }
    offs = {
        index: max(abs(_predicted(each, values, count) / each.measured_ms - 1) for each in observations
                   if each.model == index)
        for index in sorted(bore)
    }  # fmt: skip
    models = {
        name: Sensitivity(
            values[index] if index in bore else worst_alpha,
            values[count + index] if index in were else worst_demand,
            measured=index in bore and index in were,
            doubt=sum(doubts[index]) / len(doubts[index]) if index in bore else 0.0,
            off=offs.get(index, 0.0),
        )
        for index, name in enumerate(names)
    }
    return Interference(models, values[-1])


def _observation(
    row: Row, curves: Mapping[str, Curve], place: Mapping[str, int], alone: Mapping[Key, float]
) -> _Observation | None:
    key = row.key
    if key.model not in curves or any(neighbour.model not in curves for neighbour in key.beside):
        return None
    own = curves[key.model]
    active = own.active_ms(key.batch_size, key.thread_percentage)
    # Measured alone at the same point, the slowdown is free of the curve's own error.
    single = alone.get(Key(key.model, key.thread_percentage, key.batch_size))
    base = own.latency_ms(key.batch_size, key.thread_percentage) if single is None else single
    if base == float("inf"):
        return None
    if active == float("inf"):
        active = base
    shares = tuple((place[each.model], each.thread_percentage / 100) for each in key.beside)
    return _Observation(key, place[key.model], row.latency_ms, base, active, shares)


def _predicted(each: _Observation, values: Sequence[float], count: int) -> float:
    pressure = sum(values[count + neighbour] * share for neighbour, share in each.shares)
    return each.alone_ms + each.active_ms * values[each.model] * pressure + values[-1] * len(each.shares)


def _doubt(each: _Observation, values: Sequence[float], count: int) -> float:
    """By how much the model's alpha would have to change for this point to be predicted as it was measured."""
    # Neighbours that press on nothing leave nothing to divide by: then it is held against the usual demand.
    pressure = sum((values[count + neighbour] or 1.0) * share for neighbour, share in each.shares)
    return abs(each.measured_ms - _predicted(each, values, count)) / (each.active_ms * pressure)


def _errors(values: Any, observations: Sequence[_Observation], count: int) -> list[float]:
    values = [float(value) for value in values]
    found = [_predicted(each, values, count) / each.measured_ms - 1 for each in observations]
    held = [_HOLD * (value - ASSUMED_ALPHA) for value in values[:count]]
    held += [_HOLD * (value - 1.0) for value in values[count:-1]]
    return [*found, *held, _HOLD_DELAY * values[-1]]


def _slopes(values: Any, observations: Sequence[_Observation], count: int) -> Any:
    """The derivatives of ``_errors``: one line an error, one column an unknown."""
    import numpy

    values = [float(value) for value in values]
    slopes = numpy.zeros((len(observations) + len(values), len(values)))
    for line, each in enumerate(observations):
        relative = each.active_ms / each.measured_ms
        for neighbour, share in each.shares:
            slopes[line, each.model] += relative * values[count + neighbour] * share
            slopes[line, count + neighbour] += relative * values[each.model] * share
        slopes[line, -1] = len(each.shares) / each.measured_ms
    for place in range(len(values)):
        slopes[len(observations) + place, place] = _HOLD if place < len(values) - 1 else _HOLD_DELAY
    return slopes
