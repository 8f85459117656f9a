"""Serving some models of a repository for the time of a block: what profiles and validations are measured on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tritonkit.serve.gpus import NONE

if TYPE_CHECKING:
    from tritonkit.serve import Deployment
    from tritonkit.spec.loading import LoadedSpec
    from tritonkit.spec.servers import Server

_ANY_PORTS = {"http": 0, "grpc": 0, "metrics": 0}
# What keeps servers on the CPU, whatever their entries say of GPUs.
ON_CPU = (NONE,)


@contextmanager
def built(files: Sequence[Path], assignments: Sequence[str], overlay: str) -> Iterator[tuple[Path, tuple[Server, ...]]]:
    """The repository of a spec with one more overlay, for the time of a block, and the servers that it asks for.

    Raises:
        SpecError, ExportFailed: the spec with the overlay cannot be built.
    """
    from tritonkit.artifacts import fitness
    from tritonkit.cli.build import write
    from tritonkit.cli.export import make
    from tritonkit.repository import build

    with TemporaryDirectory(prefix="tritonkit-") as scratch:
        last = Path(scratch) / "overlay.yaml"
        last.write_text(overlay)
        repository = Path(scratch) / "model_repository"
        changes = build.compare([*files, last], list(assignments), os.environ, repository, make=make)
        write(changes)
        fitness.check(repository)
        yield repository, changes.inputs.servers


@contextmanager
def serving(
    repository: Path, models: Sequence[str], servers: Sequence[Server], gpus: tuple[str, ...]
) -> Iterator[Deployment]:
    """Serve these models of a repository on free ports, in a project folder of their own.

    Raises:
        LaunchFailed: they did not come up, or ended while the block ran.
    """
    from tritonkit import serve

    with TemporaryDirectory(prefix="tritonkit-") as scratch:
        project = Path(scratch)
        chosen = project / "models"
        chosen.mkdir()
        for name in models:
            (chosen / name).symlink_to((repository / name).resolve())
        # A server that dies under load is a result: it is not started again behind the back of what is measured.
        policy = serve.Policy(max_restarts=0)
        request = serve.Request(
            chosen, project=project, servers=tuple(servers), gpus=gpus, ports=_ANY_PORTS, policy=policy
        )
        with serve.up(serve.plan(request, serve.survey(request))) as deployment:
            yield deployment


def with_members(loaded: LoadedSpec, names: Sequence[str]) -> list[str]:
    """Models with all those that their ensembles run."""
    found: list[str] = []
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        if name not in found and name in loaded.spec.models:
            found.append(name)
            waiting += [step.model for step in loaded.spec.models[name].ensemble or ()]
    return found


def samples_of(repository: Path, environment: Mapping[str, str]) -> tuple[Mapping[str, Mapping[str, str]], Path | None]:
    """The values of the inputs that the spec of a repository gives, and where their paths start."""
    from tritonkit.repository.samples import samples

    return samples(repository, environment)
