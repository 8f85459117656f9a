"""How deployments come up: the one thing that measuring leaves to others. What it needs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tritonkit.bench.axes import Deployment
from tritonkit.client.endpoint import Addresses


@dataclass(frozen=True)
class Built:
    """A deployment that can be brought up.

    Attributes:
        digest: of everything that is served: equal digests serve the same.
        repository: what is served, to verify it against; None where it cannot be looked at.
        samples: for each model the values of its inputs that its spec gives.
        samples_folder: where the paths in ``samples`` start.
    """

    digest: str
    repository: Path | None = None
    samples: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    samples_folder: Path | None = None


@dataclass(frozen=True)
class Running:
    """A deployment that is up.

    Attributes:
        server: where it answers.
        processes: its processes at any moment; none where they are another machine's.
        gpus: the UUIDs of its GPUs.
    """

    server: Addresses
    processes: Callable[[], Iterable[int]] = tuple
    gpus: tuple[str, ...] = ()


class Deployer(Protocol):
    """How deployments come up: the one thing that measuring leaves to others."""

    @property
    def owned(self) -> bool:
        """Whether it starts the servers itself, so that one that died can be brought up again."""

    def build(self, deployment: Deployment) -> Built:
        """Make what is to be served."""

    def up(self, deployment: Deployment, built: Built) -> AbstractContextManager[Running]:
        """Serve it for the time of a block, which begins when it is ready."""
