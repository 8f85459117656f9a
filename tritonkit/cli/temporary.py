"""Serving some models of a repository for the time of a block: what profiles and validations are measured on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tritonkit.errors import LaunchFailed, TritonkitError
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
    repository: Path, models: Sequence[str], servers: Sequence[Server], gpus: tuple[str, ...], kept: Path
) -> Iterator[Deployment]:
    """Serve these models of a repository on free ports, in a project folder of their own, which goes at the end.

    Args:
        repository: the repository.
        models: those of its models that are to be served.
        servers: how they are spread over processes.
        gpus: what they run on.
        kept: the folder that the logs of the processes are copied to where the block, or bringing them up, fails.

    Raises:
        LaunchFailed: they did not come up, or ended while the block ran; it names the log that was kept.
    """
    from tritonkit import serve
    from tritonkit.serve.state import directory

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
        try:
            with serve.up(serve.plan(request, serve.survey(request))) as deployment:
                yield deployment
        except TritonkitError as error:
            logs = directory(project) / "logs"
            if logs.is_dir():
                shutil.copytree(logs, kept, dirs_exist_ok=True)
            if not isinstance(error, LaunchFailed) or error.log is None:
                raise
            # Nobody will find what it names in the project folder: the log lies elsewhere now, the rest is gone.
            log = kept / error.log.name
            words = error.args[0].replace(str(error.log), str(log)).replace(f"{directory(project)}/", "")
            raise LaunchFailed(words, process=error.process, log=log, hint=error.hint) from error


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
