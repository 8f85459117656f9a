"""The tables of ``backends_cpu.py``: what each contestant does, and the ratios that are aimed at."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

IN_PROCESS = "onnxruntime in process, all cores"
HERE, STUBS = "Triton", "Triton in stubs"
SHARED = ("http + shared memory", "grpc + shared memory")


class Measured(NamedTuple):
    """Inferences a second, and the milliseconds of a processor that one costs the clients, the server, the stubs."""

    rate: float
    client: float = 0.0
    server: float = 0.0
    stubs: float = 0.0

    @property
    def cost(self) -> float:
        """All of them, in milliseconds of a processor."""
        return sum(self[1:])


def medians(rounds: Sequence[Mapping[str, Measured]]) -> dict[str, Measured]:
    """Of every contestant over all rounds, each figure by itself."""
    return {
        name: Measured(*(statistics.median(figures) for figures in zip(*(each[name] for each in rounds), strict=True)))
        for name in rounds[0]
    }


def lean(name: str) -> str:
    """The endpoint with as many processes as a contestant has."""
    return f"FastAPI, lean, {2 if ', 2 ' in name else 1} workers"


def table(title: str, found: Mapping[str, Measured]) -> str:
    """All contestants in Markdown; each is compared with the endpoint with as many processes."""
    best = found[IN_PROCESS].rate
    heads = (
        title,
        "inferences/s",
        "of in process",
        "of lean, as many",
        "clients, ms",
        "server, ms",
        "stubs, ms",
        "sum",
    )
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for name, one in found.items():
        costs = " | ".join(f"{cost:.2f}" if cost else "" for cost in (*one[1:], one.cost))
        ratios = f"{one.rate / best:.2f} | {one.rate / found[lean(name)].rate:.2f}"
        lines.append(f"| {name} | {one.rate:.0f} | {ratios} | {costs} |")
    return "\n".join([*lines, ""])


def ratios(groups: Sequence[str], found: Mapping[str, Mapping[str, Measured]]) -> str:
    """The rates as parts of others' in Markdown, with what is aimed at; in brackets the same by processor time.

    Args:
        groups: how the instances are arranged, by name.
        found: the medians, by the type of the input.
    """
    lines = [f"| | aim | {' | '.join(found)} |", "|---|---:|" + "---:|" * len(found)]

    def add(label: str, aim: str, name: str, other: str, *, cost: bool = True) -> None:
        cells = []
        for each in found.values():
            one, than = each[name], each[other]
            by_cost = f" ({than.cost / one.cost:.2f})" if cost else ""
            cells.append(f"{one.rate / than.rate:.2f}{by_cost}")
        lines.append(f"| {label} | {aim} | {' | '.join(cells)} |")

    for group in groups:
        for protocol in SHARED:
            name = f"{HERE}, {group}, {protocol}"
            add(f"{group}, {protocol}, of lean with as many processes", "2", name, lean(name))
    for group in groups:
        name = f"{HERE}, {group}, grpc"
        add(f"{group}, gRPC, of lean with as many processes", "1", name, lean(name))
    for group in groups:
        if ", 2 " in f", {group}":
            add(f"{group}, {SHARED[0]}, of in process", "0.5", f"{HERE}, {group}, {SHARED[0]}", IN_PROCESS, cost=False)
    for group in groups:
        for protocol in ("http", "grpc", *SHARED):
            label = f"{group}, {protocol}, of the same in stubs"
            add(label, "-", f"{HERE}, {group}, {protocol}", f"{STUBS}, {group}, {protocol}")
    return "\n".join([*lines, ""])
