"""Generated arrivals have the statistics that their names promise, and a trace is played as it was recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tritonkit.bench.arrivals import (
    PRESETS,
    Rates,
    Workload,
    as_load,
    constant,
    generate,
    intervals,
    poisson,
    preset,
    read_trace,
    shares,
)
from tritonkit.errors import SpecError

LONG = 200_000


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_constant_arrivals_are_evenly_apart() -> None:
    times = constant(50, 10)
    assert len(times) == 500
    assert np.allclose(np.diff(times), 0.02)
    assert 0 < times[0] < times[-1] < 10


def test_poisson_waits_are_exponential_and_counts_have_the_variance_of_their_mean() -> None:
    times = poisson(100, 400, generator())
    waits = np.diff(times)
    assert stats.kstest(waits, "expon", args=(0, 1 / 100)).pvalue > 0.001
    # And a wrong rate, or even spacing, would be seen.
    assert stats.kstest(waits, "expon", args=(0, 1 / 90)).pvalue < 0.001
    counts = np.histogram(times, bins=400, range=(0, 400))[0]
    assert counts.mean() == pytest.approx(100, rel=0.02)
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize(("mu", "sigma"), [(1.0, 1.0), (4.5, 0.3)])
def test_lognormal_rates(mu: float, sigma: float) -> None:
    rates = Rates("lognormal", mu=mu, sigma=sigma).draw(LONG, generator())
    assert rates.mean() == pytest.approx(np.exp(mu + sigma**2 / 2), rel=0.03)
    assert np.log(rates).std() == pytest.approx(sigma, rel=0.02)
    assert stats.kstest(np.log(rates[:2000]), "norm", args=(mu, sigma)).pvalue > 0.001


def test_a_burst_is_busy_as_often_as_its_chain_says() -> None:
    rates = Rates("burst", mu=0, sigma=0, busy_mu=5, busy_sigma=0, leave_quiet=0.3, leave_busy=0.7)
    busy = rates.draw(LONG, generator()) > 10
    # The stationary share of a two-state chain, and the mean length of a visit.
    assert busy.mean() == pytest.approx(0.3 / (0.3 + 0.7), abs=0.01)
    changes = np.flatnonzero(np.diff(busy.astype(int)))
    lengths = np.diff(changes)
    visits = (lengths[::2], lengths[1::2])
    quiet, loud = sorted(visits, key=lambda found: -found.mean())
    assert quiet.mean() == pytest.approx(1 / 0.3, rel=0.03)
    assert loud.mean() == pytest.approx(1 / 0.7, rel=0.03)
    assert not busy[0]


def test_popularity() -> None:
    zipf = shares(PRESETS["skewed"], 6, generator())
    assert zipf[0] / zipf[4] == pytest.approx(5**1.05)
    assert zipf.sum() == pytest.approx(1)
    drawn = np.array([shares(PRESETS["heavy"], 4, generator(seed)) for seed in range(4000)])
    assert np.allclose(drawn.sum(axis=1), 1)
    # Dirichlet(1, 1, 1, 1): each share is Beta(1, 3).
    assert stats.kstest(drawn[:, 0], "beta", args=(1, 3)).pvalue > 0.001
    assert shares(Workload(Rates(), popularity="even"), 4, generator()).tolist() == [0.25] * 4


def test_a_workload_keeps_its_rates_and_shares_interval_by_interval() -> None:
    workload = Workload(Rates("constant", mean=300), seconds=95, interval=10, popularity="zipf", exponent=1.0)
    times = generate(workload, ["a", "b", "c"], seed=4)
    total = sum(len(found) for found in times.values())
    assert total == pytest.approx(300 * 95, rel=0.03)
    assert len(times["a"]) / total == pytest.approx(6 / 11, rel=0.05)
    assert all(found[0] >= 0 and found[-1] < 95 and (np.diff(found) >= 0).all() for found in times.values())
    even = generate(replace(workload, spacing="constant"), ["a"], seed=4)["a"]
    assert np.allclose(np.diff(even)[:100], 1 / 300)


def test_a_seed_decides_everything() -> None:
    def drawn(seed: int) -> list[float]:
        return [float(time) for time in generate(preset("burst", seconds=60), ["a", "b"], seed)["b"]]

    assert drawn(1) == drawn(1) != drawn(2)
    scaled = generate(preset("heavy", seconds=60, scale=0.1), ["a"], 1)["a"]
    assert len(scaled) == pytest.approx(0.1 * len(generate(preset("heavy", seconds=60), ["a"], 1)["a"]), rel=0.15)


def test_intervals_are_whole_microseconds_whose_rounding_never_adds_up(tmp_path: Path) -> None:
    times = poisson(3000, 30, generator())
    waits = intervals(times, 30)
    assert waits.sum() == 30_000_000
    assert np.abs(np.cumsum(waits)[:-1] / 1e6 + times[0] - times[1:]).max() < 1e-6
    load, text = as_load("mine", times, 30, tmp_path)
    assert load.per_second == len(times) / 30
    assert [int(line) for line in text.split()] == waits.tolist()
    assert load.file.parent == tmp_path
    with pytest.raises(ValueError, match="no load"):
        as_load("mine", times[:1], 30, tmp_path)


def test_traces(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("timestamp,model,tokens\n105.5,b,1\n100,a,2\n101,b,3\n103.25,a,4\n")
    found = {model: times.tolist() for model, times in read_trace(file).items()}
    assert found == {"a": [0, 3.25], "b": [1, 5.5]}
    file.write_text("TIME\n1\n2\n")
    assert read_trace(file, column="TIME")["*"].tolist() == [0, 1]
    for text, message in (
        ("time\n1\n", "has a column 'timestamp'; this one has: time"),
        ("timestamp\nx\n", r"trace\.csv:2: timestamp: expected seconds: could not convert"),
        ("timestamp\nnan\n", "'nan' is no time"),
        ("timestamp\n", "has no requests"),
    ):
        file.write_text(text)
        with pytest.raises(SpecError, match=message):
            read_trace(file)
