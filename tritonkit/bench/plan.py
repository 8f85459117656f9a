"""What a study measures, worked out before anything runs. Frozen values only."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tritonkit.bench.axes import Deployment
from tritonkit.bench.levels import Level
from tritonkit.bench.preparation import Wish
from tritonkit.client.endpoint import Protocol

_SEPARATOR = "--"
_LONGEST = 200


@dataclass(frozen=True)
class Item:
    """What is measured in one go: a level, or several of different models at the same time.

    Attributes:
        deployment: where.
        levels: what.
        group: the name of models that are loaded together; empty for one alone.
        experiment: the part of the study that it belongs to.
    """

    deployment: Deployment
    levels: tuple[Level, ...]
    group: str = ""
    experiment: str = field(default="", compare=False)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each level's point: the names of their folders, different for every point of a study."""
        parts = [self.deployment.label, f"with-{self.group}" if self.group else ""]
        start = _SEPARATOR.join(part for part in parts if part)
        return tuple(
            _SEPARATOR.join(part for part in (start, level.label) if part)[-_LONGEST:] for level in self.levels
        )


@dataclass(frozen=True)
class Service:
    """Another HTTP service that is measured beside Triton's models.

    Attributes:
        name: what its points are called.
        command: the program; ``{port}`` stands for a free port, ``{python}`` for the running Python.
        folder: where it is started.
        path: where requests are posted.
        body: what is posted.
        content_type: what that is.
        ready: a path that answers 200 once it is ready; empty when an open port says so.
        environment: variables on top of ours.
        concurrencies: the requests in flight to measure with.
        experiment: the part of the study that it belongs to.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    path: str
    body: bytes
    content_type: str
    ready: str
    environment: Mapping[str, str]
    concurrencies: tuple[int, ...]
    experiment: str = ""

    def label(self, clients: int) -> str:
        """The label of one of its points."""
        return f"service-{quote(self.name, safe=' ')}-c{clients}"


@dataclass(frozen=True)
class Target:
    """What the models come from; one of the first three, or none where the project's own is meant.

    Attributes:
        spec: the spec's file and its overlays.
        repository: a model repository, served as it is.
        url: a server that runs.
        grpc_url: its gRPC address.
        token_file: a file with the token that it asks for; None where it is known otherwise, or none is asked for.
        ca_certificate: a file with the certificates to trust, with https://; None trusts the system's.
    """

    spec: tuple[Path, ...] = ()
    repository: Path | None = None
    url: str | None = None
    grpc_url: str | None = None
    token_file: Path | None = None
    ca_certificate: Path | None = None


@dataclass(frozen=True)
class Plan:
    """A study, ready to run.

    Attributes:
        name: its name.
        document: the study as it was given.
        target: what it measures.
        items: the points, in the order of the study.
        wish: data and measurement.
        warmup: seconds of load before each point.
        repeats: how often each point is measured.
        seed: of the order.
        files: text of files that perf_analyzer reads, by path: intervals between requests.
        services: other services to measure.
    """

    name: str
    document: Mapping[str, Any]
    target: Target
    items: tuple[Item, ...]
    wish: Wish
    warmup: float = 0.0
    repeats: int = 1
    seed: int = 0
    files: Mapping[Path, str] = field(default_factory=dict)
    services: tuple[Service, ...] = ()

    @property
    def labels(self) -> list[str]:
        """The label of every point, in the order of the study."""
        models = [label for item in self.items for label in item.labels]
        return models + [service.label(clients) for service in self.services for clients in service.concurrencies]

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """Each deployment once, in the order in which the items name them."""
        return tuple(dict.fromkeys(item.deployment for item in self.items))

    @property
    def protocols(self) -> set[Protocol]:
        """How the models are asked."""
        return {level.protocol for item in self.items for level in item.levels}

    def of(self, deployment: Deployment) -> list[Item]:
        """What is measured of one deployment."""
        return [item for item in self.items if item.deployment == deployment]


def shuffled(items: Sequence[Any], seed: int, *names: object) -> list[Any]:
    """The items in an order that the seed and the names decide, and nothing else."""
    order = list(items)
    random.Random(repr((seed, *names))).shuffle(order)  # noqa: S311 - an order, no secret
    return order
