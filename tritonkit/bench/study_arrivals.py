"""The arrivals and workloads of a study's file, read into times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from tritonkit.bench.levels import Intervals
from tritonkit.errors import SpecError, nearest
from tritonkit.spec.faults import Faults, Path, shown

if TYPE_CHECKING:
    from tritonkit.bench.arrivals import Times

_MODEL = "*"


def read_arrivals(raw: Mapping[str, Any], start: FilePath, faults: Faults) -> dict[str, tuple[Times, float]]:
    """The times of each of a study's arrivals, and how long they last."""
    found = {}
    for name, value in raw.items():
        where: Path = ("arrivals", name)
        seed = value.get("seed", 0) if isinstance(value, dict) else 0
        told = read_workload(value, [_MODEL], seed, start, where, faults)
        if _MODEL in told:
            found[name] = told[_MODEL]
    return found


def read_workload(
    raw: Any, models: Sequence[str], seed: int, start: FilePath, where: Path, faults: Faults
) -> dict[str, tuple[Times, float]]:
    """The arrival times of each model in a workload, and how long they last; nothing where it has a fault.

    Args:
        raw: the name of a preset, or a mapping with ``preset`` or ``rates`` and values of a workload; or ``trace``.
        models: the models, the most popular first.
        seed: used where ``raw`` gives none.
        start: where paths start.
        where: its place.
        faults: told what is wrong.
    """
    given = {"preset": raw} if isinstance(raw, str) else raw
    if not isinstance(given, dict):
        faults.add(where, f"expected the name of a workload or a mapping, found {shown(raw)}")
        return {}
    if "trace" in given:
        return _trace(given, models, start, where, faults)
    from tritonkit.bench.arrivals import generate

    workload = _workload(given, where, faults)
    if workload is None:
        return {}
    if not isinstance(given.get("seed", seed), int):
        faults.add((*where, "seed"), f"expected a whole number, found {shown(given['seed'])}")
        return {}
    times = generate(workload, models, given.get("seed", seed))
    return _loaded({model: (found, workload.seconds) for model, found in times.items()}, where, faults)


def as_load(name: str, times: Times, seconds: float, folder: FilePath) -> tuple[Intervals, str]:
    """Arrivals as a load, and the text of its file."""
    from tritonkit.bench import arrivals

    return arrivals.as_load(name, times, seconds, folder / "arrivals")


def _workload(given: Mapping[str, Any], where: Path, faults: Faults) -> Any:
    from tritonkit.bench.arrivals import PRESETS, Rates, Workload, preset

    changes = {key: value for key, value in given.items() if key not in ("preset", "seed")}
    known = {each.name for each in fields(Workload)}
    for key in [key for key in changes if key not in known]:
        faults.add((*where, key), f"unknown key{nearest(key, known | {'preset', 'seed', 'trace'})}")
        return None
    rates = changes.get("rates")
    try:
        if rates is not None:
            changes["rates"] = Rates(**rates)
        workload = preset(given["preset"], **changes) if "preset" in given else Workload(**changes)
    except KeyError:
        faults.add((*where, "preset"), f"there is no workload '{given['preset']}'{nearest(given['preset'], PRESETS)}")
        return None
    except TypeError as error:
        faults.add(where, f"no workload: {error}")
        return None
    numbers = [workload.seconds, workload.interval, workload.scale]
    if not all(isinstance(number, (int, float)) and 0 < number < 1e6 for number in numbers):
        faults.add(where, "seconds, interval and scale are numbers above 0")
        return None
    return workload


def _trace(
    given: Mapping[str, Any], models: Sequence[str], start: FilePath, where: Path, faults: Faults
) -> dict[str, tuple[Times, float]]:
    from tritonkit.bench.arrivals import read_trace

    names = {"trace", "column", "model_column", "seconds", "speed"}
    for key in [key for key in given if key not in names]:
        faults.add((*where, key), f"unknown key{nearest(key, names)}")
        return {}
    try:
        speed = float(given.get("speed", 1.0))
        seconds = float(given["seconds"]) if "seconds" in given else None
        columns = {key: str(given[key]) for key in ("column", "model_column") if key in given}
        traced = read_trace(start / str(given["trace"]), **columns)
    except SpecError as error:
        faults.add((*where, "trace"), str(error.faults[0]))
        return {}
    except ValueError as error:
        faults.add(where, f"expected numbers for speed and seconds: {error}")
        return {}
    if not (0 < speed < 1e6) or (seconds is not None and seconds <= 0):
        faults.add(where, "speed and seconds are numbers above 0")
        return {}
    if list(models) == [_MODEL]:
        import numpy as np

        traced = {_MODEL: np.sort(np.concatenate(list(traced.values())))}
    missing = [model for model in models if model not in traced]
    if missing:
        faults.add((*where, "trace"), f"the trace has no requests to {', '.join(missing)}{nearest(missing[0], traced)}")
        return {}
    times = {model: traced[model] / speed for model in models}
    length = seconds or max(float(found[-1]) for found in times.values()) * (1 + 1 / max(map(len, times.values())))
    cut = {model: (found[found < length], length) for model, found in times.items()}
    return _loaded(cut, where, faults)


def _loaded(found: Mapping[str, tuple[Times, float]], where: Path, faults: Faults) -> dict[str, tuple[Times, float]]:
    few = [model for model, (times, _) in found.items() if len(times) < 2]
    if few:
        words = "it has" if few == [_MODEL] else f"{', '.join(few)}: it has"
        faults.add(where, f"{words} fewer than two requests: make it longer, or raise 'scale'")
        return {}
    return dict(found)
