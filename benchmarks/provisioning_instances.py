"""Problems for provisioning, made from seeds: models with the shapes that are met, rates and objectives beside them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from tritonkit.provision.choices import Terms, Workload
from tritonkit.provision.curves import Curve, Extent, Fitted
from tritonkit.provision.prediction import Behaviour

GPU_MEMORY_MIB = 81_920.0


@dataclass(frozen=True)
class Instance:
    """One problem: what to serve, and what is known of it."""

    seed: int
    workloads: tuple[Workload, ...]
    behaviours: dict[str, Behaviour]
    terms: Terms


def instances(count: int = 100, first_seed: int = 0) -> list[Instance]:
    return [instance(seed) for seed in range(first_seed, first_seed + count)]


def instance(seed: int) -> Instance:
    """Four to forty models, most of them small, as in a fleet where few models get most requests."""
    rng = random.Random(seed)  # noqa: S311 - problems, not secrets
    count = rng.choice((4, 6, 8, 10, 12, 16, 20, 24, 32, 40))
    behaviours = {f"m{number:02}": _behaviour(rng, f"m{number:02}") for number in range(count)}
    workloads = tuple(_workload(rng, each, count) for each in behaviours.values())
    return Instance(seed, workloads, behaviours, Terms(memory_mib=GPU_MEMORY_MIB - 1024))


def _behaviour(rng: random.Random, name: str) -> Behaviour:
    # Milliseconds of a single item on a whole GPU, from a small classifier to a small language model.
    alone = math.exp(rng.uniform(math.log(0.6), math.log(12)))
    overhead = rng.uniform(0.15, 0.5) * alone
    k4 = rng.uniform(0.0, 25.0)
    work = (alone - overhead) * (100 + k4)
    # What an item more costs, beside the first one: batching pays by as much as this is below 1.
    item = rng.uniform(0.1, 0.6) * work
    most = rng.choice((8, 16, 32))
    extent = Extent((10.0, 100.0), (1, most), ((10.0, most),))
    shape = Fitted(rng.uniform(0, 0.004) * item, item, work - item, k4, overhead, 0.0, extent)
    # Fits are not true: this is what is known of how far they are off.
    curve = Curve(shape, rng.uniform(0.005, 0.05), rng.uniform(0.1, 0.3), extent, (), rng.uniform(0.01, 0.05), ())
    return Behaviour(
        name,
        curve,
        alpha=rng.uniform(0.05, 0.8),
        demand=rng.uniform(0.3, 1.6),
        delay_ms=0.02,
        memory_mib=rng.choice((900.0, 1400.0, 2200.0, 3600.0, 7800.0, 16_000.0)),
        clients=rng.choice((1, 2, 3)),
        doubt=rng.uniform(0, 0.1),
    )


def _workload(rng: random.Random, behaviour: Behaviour, count: int) -> Workload:
    # At half of the GPU a request takes a fourth to a fortieth of its SLO.
    slo = round(behaviour.curve.latency_ms(1, 50) * math.exp(rng.uniform(math.log(4), math.log(40))), 1)
    whole = 1000 / behaviour.curve.active_ms(1, 100)
    # One to five GPUs' worth of bare computing in all, in parts that differ by an order of magnitude.
    rate = whole * math.exp(rng.gauss(0, 0.8)) * rng.uniform(1, 4) / count
    return Workload(behaviour.model, slo, round(min(rate, 1.5 * whole), 1))
