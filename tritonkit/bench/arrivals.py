"""When requests are sent: seeded generators of arrival times, and recorded traces. Times are seconds from the start.

The same arguments and the same seed make the same times, on every machine.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tritonkit.bench.levels import Intervals
from tritonkit.errors import Fault, SpecError

Times = NDArray[np.float64]
# perf_analyzer wants whole microseconds.
_MICRO = 1_000_000


@dataclass(frozen=True)
class Rates:
    """How many requests a second there are on average in each interval of a workload.

    Attributes:
        kind: ``constant`` (``mean`` in every interval), ``lognormal`` (drawn anew for every interval) or ``burst``
            (two log-normal rates, quiet and busy, with a Markov chain between them).
        mean: requests a second of ``constant``.
        mu: mean of the logarithm of the rate; of ``burst``, while it is quiet.
        sigma: its standard deviation.
        busy_mu: ``mu`` of ``burst`` while it is busy.
        busy_sigma: likewise.
        leave_quiet: the chance, after each interval, that a quiet time ends.
        leave_busy: and that a busy one does.
    """

    kind: Literal["constant", "lognormal", "burst"] = "constant"
    mean: float = 1.0
    mu: float = 1.0
    sigma: float = 1.0
    busy_mu: float = 4.5
    busy_sigma: float = 0.3
    leave_quiet: float = 0.3
    leave_busy: float = 0.7

    def draw(self, count: int, random: np.random.Generator) -> Times:
        """The rate in each of ``count`` intervals."""
        if self.kind == "constant":
            return np.full(count, self.mean)
        if self.kind == "lognormal":
            return random.lognormal(self.mu, self.sigma, count)
        quiet = random.lognormal(self.mu, self.sigma, count)
        busy = random.lognormal(self.busy_mu, self.busy_sigma, count)
        return np.where(self._busy(random.random(count)), busy, quiet)

    def _busy(self, chances: Times) -> NDArray[np.bool_]:
        states, busy = np.zeros(len(chances), dtype=bool), False
        for index, chance in enumerate(chances):
            states[index] = busy
            if chance < (self.leave_busy if busy else self.leave_quiet):
                busy = not busy
        return states


@dataclass(frozen=True)
class Workload:
    """Requests to several models: a rate for every interval, shared out by popularity.

    Attributes:
        rates: the rate of all models together.
        seconds: how long it is.
        interval: seconds for which a rate holds.
        spacing: how requests are spaced within an interval: ``poisson`` or ``constant``.
        popularity: how requests are shared out over the models: ``even``, ``zipf`` (by rank, the first the most
            popular) or ``dirichlet`` (drawn once).
        exponent: of ``zipf``.
        concentration: of ``dirichlet``.
        scale: multiplies every rate: the same shape for a smaller or a larger machine.
    """

    rates: Rates
    seconds: float = 300.0
    interval: float = 20.0
    spacing: Literal["poisson", "constant"] = "poisson"
    popularity: Literal["even", "zipf", "dirichlet"] = "dirichlet"
    exponent: float = 1.05
    concentration: float = 1.0
    scale: float = 1.0


PRESETS: Mapping[str, Workload] = {
    "light": Workload(Rates("lognormal", mu=1.0, sigma=1.0)),
    "heavy": Workload(Rates("lognormal", mu=4.5, sigma=0.3)),
    "burst": Workload(Rates("burst")),
    "skewed": Workload(Rates("burst"), popularity="zipf"),
}
"""Workloads that published work on co-location is measured with, by name."""


def constant(rate: float, seconds: float) -> Times:
    """Times that are ``1 / rate`` apart."""
    return (np.arange(round(rate * seconds)) + 0.5) / rate


def poisson(rate: float, seconds: float, random: np.random.Generator) -> Times:
    """The times of a Poisson process: as many as chance has it, each as likely as any other."""
    return np.sort(random.uniform(0, seconds, random.poisson(rate * seconds)))


def shares(workload: Workload, models: int, random: np.random.Generator) -> Times:
    """The share of all requests that each model gets; they add up to 1."""
    if workload.popularity == "zipf":
        weights = 1.0 / np.arange(1, models + 1) ** workload.exponent
        return np.asarray(weights / weights.sum())
    if workload.popularity == "dirichlet":
        return random.dirichlet(np.full(models, workload.concentration))
    return np.full(models, 1 / models)


def generate(workload: Workload, models: Sequence[str], seed: int) -> dict[str, Times]:
    """The arrival times of each model."""
    random = np.random.default_rng(seed)
    parts = shares(workload, len(models), random)
    count = int(np.ceil(workload.seconds / workload.interval))
    rates = workload.rates.draw(count, random) * workload.scale
    times: dict[str, list[Times]] = {model: [] for model in models}
    for index, rate in enumerate(rates):
        start = index * workload.interval
        length = min(workload.interval, workload.seconds - start)
        for model, part in zip(models, parts, strict=True):
            drawn = poisson(rate * part, length, random) if workload.spacing == "poisson" else None
            times[model].append(start + (constant(rate * part, length) if drawn is None else drawn))
    return {model: np.concatenate(found) for model, found in times.items()}


def preset(name: str, **changes: Any) -> Workload:
    """One of ``PRESETS`` with some of its values changed.

    Raises:
        KeyError, TypeError: there is no such preset, or no such value.
    """
    return replace(PRESETS[name], **changes)


def read_trace(path: Path, column: str = "timestamp", model_column: str = "model") -> dict[str, Times]:
    """The arrival times in a CSV file, by model; times count from the earliest of them.

    Args:
        path: a CSV file with a header. One row is one request.
        column: the column with the time of a request, in seconds (of any clock).
        model_column: the column with the name of its model. Where there is none, all are of the model ``*``.

    Raises:
        SpecError: it cannot be read, or a row has no time.
    """
    found: dict[str, list[float]] = {}
    try:
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            if column not in (rows.fieldnames or ()):
                known = ", ".join(rows.fieldnames or ())
                raise SpecError([Fault(str(path), 1, "", f"a trace has a column '{column}'; this one has: {known}")])
            for row in rows:
                time = float(row[column])
                if not np.isfinite(time):
                    raise ValueError(f"{row[column]!r} is no time")
                found.setdefault(row.get(model_column) or "*", []).append(time)
    except OSError as error:
        raise SpecError([Fault(str(path), 0, "", f"cannot be read: {error.strerror}")]) from error
    except (ValueError, TypeError) as error:
        raise SpecError([Fault(str(path), rows.line_num, column, f"expected seconds: {error}")]) from error
    if not found:
        raise SpecError([Fault(str(path), 0, "", "the trace has no requests")])
    start = min(min(times) for times in found.values())
    return {model: np.sort(np.array(times)) - start for model, times in found.items()}


def intervals(times: Times, seconds: float) -> NDArray[np.int64]:
    """The waits before each request, in whole microseconds, that perf_analyzer plays over and over.

    Rounding never adds up, and all of them together take ``seconds``: a second round begins where the first ends.
    """
    marks = np.round(np.append(times, seconds + times[0]) * _MICRO).astype(np.int64)
    return np.diff(marks)


def as_load(name: str, times: Times, seconds: float, folder: Path) -> tuple[Intervals, str]:
    """Arrivals as a load, and the text of its file, which goes to ``load.file`` in ``folder``.

    Raises:
        ValueError: there are fewer than two requests, which is no load.
    """
    if len(times) < 2:
        raise ValueError(f"{len(times)} requests in {seconds:g} s are no load")
    text = "".join(f"{wait}\n" for wait in intervals(times, seconds))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Intervals(name, len(times) / seconds, seconds, digest, folder / f"{digest[:16]}.txt"), text
