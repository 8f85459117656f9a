"""Profiles that tests plan from: computed from known curves, with a little noise."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tritonkit.provision.campaign import ring
from tritonkit.provision.profiles import Beside, Key, Row, write

PERCENTAGES = (10, 30, 100)
GPU_MEMORY_MIB = 81_920.0


@dataclass(frozen=True)
class Truth:
    """How a made-up model really behaves: the coefficients of its active time, and what neighbours do to it."""

    k1: float
    k2: float
    k3: float
    k4: float
    k5: float
    alpha: float = 0.3
    demand: float = 1.0
    item_ms: float = 0.03
    request_ms: float = 0.2
    delay_ms: float = 0.02
    memory_mib: float = 2000.0
    batches: tuple[int, ...] = (1, 4, 16)

    def active_ms(self, batch: int, percentage: float) -> float:
        return (self.k1 * batch * batch + self.k2 * batch + self.k3) / (percentage + self.k4) + self.k5

    def transfer_ms(self, batch: int) -> float:
        return self.item_ms * batch + self.request_ms

    def latency_ms(self, batch: int, percentage: float, pressure: float = 0.0, neighbours: int = 0) -> float:
        slowed = self.active_ms(batch, percentage) * (1 + self.alpha * pressure)
        return slowed + self.delay_ms * neighbours + self.transfer_ms(batch)


TRUTHS: Mapping[str, Truth] = {
    "bert": Truth(0.02, 38, 60, 6, 0.5, alpha=0.25, demand=0.8, memory_mib=2600),
    "captioner": Truth(0.05, 220, 420, 9, 2.0, alpha=0.35, demand=1.4, memory_mib=7800, batches=(1, 2, 8)),
    "mobilenet": Truth(0.0, 4.5, 22, 4, 0.35, alpha=0.6, demand=0.5, memory_mib=1100),
    "resnet50": Truth(0.01, 21, 55, 5, 0.6, alpha=0.4, demand=1.1, memory_mib=1900),
}


def rows(truths: Mapping[str, Truth] = TRUTHS, noise: float = 0.01, seed: int = 1) -> list[Row]:
    """Nine points of each model alone, and one beside each of two others."""
    rng = random.Random(seed)  # noqa: S311
    names = list(truths)
    found = []
    for name in names:
        truth = truths[name]

        def measured(time: float) -> float:
            return time * (1 + noise * rng.uniform(-1, 1))

        for percentage in PERCENTAGES:
            for batch in truth.batches:
                active, transfer = truth.active_ms(batch, percentage), truth.transfer_ms(batch)
                found.append(
                    Row(
                        Key(name, percentage, batch), measured(active + transfer), measured(batch * 1000 / active),
                        transfer, truth.memory_mib, GPU_MEMORY_MIB, 2,
                    )
                )  # fmt: skip
    for pair in ring(names) if len(names) > 1 else ():
        for name, other in (pair, pair[::-1]):
            truth = truths[name]
            beside = Beside(other, 70, truths[other].batches[1])
            pressure = truths[other].demand * 0.7
            time = truth.latency_ms(truth.batches[1], 30, pressure, 1)
            key = Key(name, 30, truth.batches[1], (beside,))
            found.append(Row(key, time * (1 + noise * rng.uniform(-1, 1))))
    return found


SPEC = """\
version: 1
models:
  bert:
    {body}
    slo: {{latency_p99: 60ms, rate: 150/s}}
  captioner:
    {body}
    slo: {{latency_p99: 0.4s, rate: 600/min}}
  mobilenet:
    {body}
    slo: {{latency_p99: 12ms, rate: 400/s}}
  resnet50:
    {body}
    slo: {{latency_p99: 30ms, rate: 300/s}}
"""
BODY = (
    'backend: python\n    source: src/\n    max_batch_size: 16\n    input: {X: "FP32[4]"}\n'
    '    output: {Y: "FP32[4]"}\n    instance_group: [{count: 1, kind: KIND_GPU}]'
)


def project(folder: Path, truths: Mapping[str, Truth] = TRUTHS) -> Path:
    """A folder with ``spec.yaml`` and ``profiles.csv``; the folder."""
    (folder / "src").mkdir(parents=True)
    (folder / "src/model.py").write_text("class TritonPythonModel:\n    pass\n")
    (folder / "spec.yaml").write_text(SPEC.format(body=BODY))
    write(folder / "profiles.csv", rows(truths))
    return folder
