"""A search over simulated servers comes within 5% of the grid's best, in far fewer points."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from tritonkit.bench.axes import combined
from tritonkit.bench.levels import Axes, Concurrency, levels, recorded
from tritonkit.bench.objective import Objective, read_objective
from tritonkit.bench.plan import Item
from tritonkit.bench.records import Record, Repeat
from tritonkit.bench.search import Found, search
from tritonkit.bench.soundness import judged
from tritonkit.errors import SpecError

COUNTS, DELAYS, BATCHES = [1, 2, 4, 8], [0, 100, 500, 2000], [1, 2, 4, 8]
CONCURRENCIES = tuple(range(1, 32, 2))


def grid() -> list[Item]:
    deployments = combined({"models.m.count": COUNTS, "models.m.delay": DELAYS}, [])
    wanted = levels(["m"], Axes(tuple(Concurrency(value) for value in CONCURRENCIES), tuple(BATCHES)))
    return [Item(deployment, (level,)) for deployment in deployments for level in wanted]


def simulated(seed: int, noise: float) -> Callable[[Item], Record]:
    """A server with so many workers on limited hardware, whose overheads the seed draws."""
    drawn = random.Random(seed)  # noqa: S311
    base, each, cores = drawn.uniform(500, 3000), drawn.uniform(100, 900), drawn.choice([2, 4, 6])
    thrash = drawn.uniform(0, 0.15)

    def measure(item: Item) -> Record:
        level = item.levels[0]
        count = item.deployment.configuration["models.m.count"]
        delay = item.deployment.configuration["models.m.delay"]
        concurrency = recorded(level.load).value
        merged = min(max(concurrency / count, 1), 1 + delay / 400) * level.batch_size
        slow = max(1.0, count / cores) * (1 + thrash * max(0, count - cores))
        service = (base + each * merged) * slow + delay * 0.3
        capacity = count * merged / service * 1e6
        latency = max(service, concurrency * level.batch_size / capacity * 1e6)
        jitter = 1 + noise * random.Random(repr((seed, item.labels))).uniform(-1, 1)  # noqa: S311
        rate = concurrency * level.batch_size / latency * 1e6 * jitter
        repeat = Repeat(rate, latency, latency, latency, latency * 1.1, latency * 1.4, requests=10_000)
        plain = Record("", item.labels[0], "m", recorded(level.load), "ok", item.deployment.configuration)
        return judged(Record(**{**vars(plain), "repeats": (repeat,)}), cores=1000)

    return measure


def best_of_grid(objective: Objective, measure: Callable[[Item], Record], items: list[Item]) -> float | None:
    values = [objective.value(record) for record in map(measure, items) if objective.met(record)]
    return max((value for value in values if value is not None), default=None)


def found(objective: Objective, measure: Callable[[Item], Record], items: list[Item]) -> Found:
    asked: list[Item] = []

    def once(item: Item) -> Record:
        assert item not in asked
        asked.append(item)
        return measure(item)

    result = search(items, objective, once)
    assert result.measured == len(asked)
    assert result.grid == len(COUNTS) * len(DELAYS) * len(BATCHES) * len(CONCURRENCIES)
    return result


SEEDS = 5
GOALS = [
    ("max-throughput", ["p99<20ms"]),
    ("max-throughput", ["p99<8ms", "p50<=5ms"]),
    ("max-throughput", []),
    ("min-p99", ["throughput>500"]),
]


@pytest.mark.parametrize(("goal", "limits"), GOALS)
def test_within_5_percent_of_the_best_in_far_fewer_points(goal: str, limits: list[str]) -> None:
    objective = read_objective(goal, limits)
    assert objective is not None
    shares, items = [], grid()
    for seed, noise in itertools.product(range(SEEDS), (0.0, 0.01)):
        measure = simulated(seed, noise)
        best, result = best_of_grid(objective, measure, items), found(objective, measure, items)
        if best is None:
            assert result.best is None
            continue
        assert result.best is not None
        assert objective.met(result.best)
        value = objective.value(result.best)
        assert value is not None
        assert value >= best - 0.05 * abs(best), (seed, noise)
        shares.append(result.measured / result.grid)
    assert len(shares) >= SEEDS
    assert max(shares) < 0.2
    assert sum(shares) / len(shares) < 0.15


def test_limits_that_nothing_keeps_to() -> None:
    objective = read_objective("max-throughput", ["p99<1us"])
    assert objective is not None
    result = found(objective, simulated(0, 0.0), grid())
    assert result.best is None
    assert result.nearest is not None


def test_points_that_cannot_be_built_are_passed_by() -> None:
    objective = read_objective("max-throughput", ["p99<20ms"])
    assert objective is not None
    whole = simulated(3, 0.0)

    def measure(item: Item) -> Record:
        plain = whole(item)
        if item.deployment.configuration["models.m.count"] == 1:
            return judged(Record(**{**vars(plain), "repeats": (), "error": "no", "status": "unbuilt"}), 4)
        return plain

    result = found(objective, measure, grid())
    best = best_of_grid(objective, measure, grid())
    assert result.best is not None
    assert best is not None
    assert (objective.value(result.best) or 0) >= 0.95 * best


@pytest.mark.parametrize(
    ("text", "metric", "bound"),
    [
        ("p99<20ms", "latency_p99", 20_000.0),
        ("p50 <= 0.5 s", "latency_p50", 500_000.0),
        ("throughput>100", "throughput", 100.0),
        ("throughput>=1e3/s", "throughput", 1000.0),
        ("queue<300us", "queue", 300.0),
        ("gpu_percent<90%", "gpu_percent", 90.0),
    ],
)
def test_limits(text: str, metric: str, bound: float) -> None:
    objective = read_objective("max-throughput", [text])
    assert objective is not None
    assert (objective.limits[0].metric, objective.limits[0].bound) == (metric, bound)


@pytest.mark.parametrize("text", ["p99<20", "p99=20ms", "p98<20ms", "throughput<20ms", "p99<ms", "p99<20 hours", ""])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(SpecError):
        read_objective("max-throughput", [text])


def test_models_together_are_no_grid() -> None:
    objective: Any = read_objective("max-throughput", [])
    items = [Item(item.deployment, item.levels * 2, "pair") for item in grid()[:1]]
    with pytest.raises(SpecError, match="measured, not searched"):
        search(items, objective, simulated(0, 0.0))
