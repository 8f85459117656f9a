"""Repeats as a busy machine gives them, seeded: what the comparison has to see through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from report_studies import record, repeat, study

from tritonkit.bench.records import Study


@dataclass(frozen=True)
class Noise:
    """How a machine disturbs its figures; every share is a standard deviation of the logarithm.

    Attributes:
        run: from run to run: other memory, other cores.
        drift: within a run, from one measurement to the next, with ``memory``.
        memory: the correlation of a measurement's drift with that of the one before.
        tail: what p99 has on top.
        hiccup: the chance that something else runs during a measurement, which makes it a fifth slower.
    """

    run: float = 0.015
    drift: float = 0.03
    memory: float = 0.6
    tail: float = 0.08
    hiccup: float = 0.05


def measured(random: np.random.Generator, noise: Noise, *, repeats: int = 3, slower: float = 1.0) -> Study:
    """A study of four levels of one model, measured in shuffled order.

    Args:
        random: where the noise comes from.
        noise: how much of it.
        repeats: measurements of each level.
        slower: what every latency is multiplied with.
    """
    levels = (1, 2, 4, 8)
    order = random.permutation(np.repeat(np.arange(len(levels)), repeats))
    machine = random.normal(0, noise.run)
    wander = random.normal(0, noise.drift)
    found: dict[int, list[tuple[float, float]]] = {index: [] for index in range(len(levels))}
    for index in order:
        innovation = noise.drift * (1 - noise.memory**2) ** 0.5
        wander = noise.memory * wander + random.normal(0, innovation)
        disturbed = 1.2 if random.random() < noise.hiccup else 1.0
        latency = 1000 * (levels[index] + 1) * slower * disturbed * np.exp(machine + wander)
        tail = 2 * latency * np.exp(random.normal(0, noise.tail))
        found[int(index)].append((float(latency), float(tail)))
    records = []
    for index, level in enumerate(levels):
        measurements = tuple(repeat(1e6 * level / latency, latency, latency_p99=tail) for latency, tail in found[index])
        records.append(record("digits", level, [], repeats=measurements))
    return study(records)
