"""How the deployments of a study come up: built from a spec, served from a repository, or running already."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from tritonkit.bench.axes import Deployment
from tritonkit.bench.deployer import Built, Running
from tritonkit.cli.target import access_to, addresses_of
from tritonkit.client.endpoint import Addresses
from tritonkit.errors import RequestFailed

_ANY_PORTS = {"http": 0, "grpc": 0, "metrics": 0}


@dataclass(frozen=True)
class SpecDeployer:
    """Builds each deployment of a spec into a folder of its own, and serves it from there.

    Attributes:
        files: the spec and its overlays.
        folder: where the deployments' folders go.
    """

    files: tuple[Path, ...]
    folder: Path

    @property
    def owned(self) -> bool:
        """The servers are ours."""
        return True

    def options(self, deployment: Deployment) -> list[str]:
        """The ``--set`` options that make this deployment of the spec."""
        from tritonkit.spec import overlay
        from tritonkit.spec.document import read

        return deployment.assignments(overlay.merge([read(file, os.environ) for file in self.files]).value)

    def build(self, deployment: Deployment) -> Built:
        """Build its repository, as far as it is not current.

        Raises:
            SpecError, ExportFailed: it cannot be built.
        """
        from tritonkit.artifacts import fitness
        from tritonkit.cli.build import write
        from tritonkit.cli.export import make
        from tritonkit.repository import build
        from tritonkit.repository.samples import samples

        repository = (self._project(deployment) / "model_repository").resolve()
        options = self.options(deployment)
        if build.current_repository(self.files, options, os.environ, repository) is None:
            write(build.compare(self.files, options, os.environ, repository, make=make))
        fitness.check(repository)
        texts, start = samples(repository, os.environ)
        digest = digest_of(repository, extra=deployment.gpus)
        return Built(digest, repository, texts, start)

    def check(self, deployment: Deployment) -> None:
        """Plan its repository, and write nothing.

        Raises:
            SpecError: it cannot be built.
            ArtifactsMissing: something has to be made first, so that only then it can be told.
        """
        from tritonkit.repository import build

        repository = self._project(deployment) / "model_repository"
        build.compare(self.files, self.options(deployment), os.environ, repository)

    @contextmanager
    def up(self, deployment: Deployment, built: Built) -> Iterator[Running]:
        """Serve it for the time of a block.

        Raises:
            LaunchFailed: it did not come up, or ended while the block ran.
        """
        repository = built.repository or self._project(deployment) / "model_repository"
        with served_for_a_while(repository, self._project(deployment), gpus=deployment.gpus) as running:
            yield running

    def _project(self, deployment: Deployment) -> Path:
        return self.folder / "deployments" / (deployment.label or "spec")


@dataclass(frozen=True)
class RepositoryDeployer:
    """Serves a model repository as it is.

    Attributes:
        repository: its folder.
        project: the folder whose ``.tritonkit`` keeps the state.
        announced: whether to say that it is served: nobody asked for it by name.
    """

    repository: Path
    project: Path
    announced: bool = False

    def __str__(self) -> str:
        return str(self.repository)

    def ready(self) -> list[str]:
        """The models that it will serve; none where the repository is not built yet."""
        folders = self.repository.iterdir() if self.repository.is_dir() else ()
        return sorted(folder.name for folder in folders if folder.is_dir() and not folder.name.startswith("."))

    @property
    def owned(self) -> bool:
        """The server is ours."""
        return True

    def build(self, deployment: Deployment) -> Built:  # noqa: ARG002 - there is one way to deploy it
        """Nothing is to be built."""
        from tritonkit.repository.samples import samples

        texts, start = samples(self.repository, os.environ)
        return Built(digest_of(self.repository), self.repository, texts, start)

    @contextmanager
    def up(self, deployment: Deployment, built: Built) -> Iterator[Running]:  # noqa: ARG002
        """Serve it for the time of a block.

        Raises:
            LaunchFailed: it did not come up, or ended while the block ran.
        """
        if self.announced:
            typer.echo(f"no server runs here; serving {self.repository} for the time of the benchmark", err=True)
        with served_for_a_while(self.repository.resolve(), self.project) as running:
            yield running


@dataclass(frozen=True)
class RunningServer:
    """A server that runs already, and is left as it is.

    Attributes:
        server: where it answers.
        repository: what it serves, for the samples of the spec; None where that is not known.
        processes: its processes, where they are this machine's.
    """

    server: Addresses
    repository: Path | None
    processes: Callable[[], Iterable[int]]

    def __str__(self) -> str:
        return self.server.http

    def ready(self) -> list[str]:
        """The models that are ready.

        Raises:
            RequestFailed: it cannot be reached, or there is none.
        """
        index = self.server.endpoint().index()
        names = list(dict.fromkeys(state.name for state in index if state.state == "READY"))
        if not names:
            raise RequestFailed(f"{self.server.http}: no model is ready there")
        return names

    @property
    def owned(self) -> bool:
        """The server is somebody else's."""
        return False

    def build(self, deployment: Deployment) -> Built:  # noqa: ARG002 - there is one way to deploy it
        """What it serves is known by its models' configurations.

        Raises:
            RequestFailed: it cannot be reached, or has no such model.
        """
        from tritonkit.repository.samples import samples

        endpoint = self.server.endpoint()
        told: list[Any] = [endpoint.server_metadata(), [endpoint.config(model) for model in self.ready()]]
        texts, start = samples(self.repository, os.environ) if self.repository else ({}, None)
        return Built(_of(told), None, texts, start)

    @contextmanager
    def up(self, deployment: Deployment, built: Built) -> Iterator[Running]:  # noqa: ARG002
        """It is up."""
        yield Running(self.server, self.processes)


@contextmanager
def served_for_a_while(repository: Path, project: Path, gpus: tuple[str, ...] | None = None) -> Iterator[Running]:
    """Serve a repository on free ports for the time of a block.

    Args:
        repository: what to serve.
        project: the folder whose ``.tritonkit`` keeps the state.
        gpus: the GPUs to serve on; None leaves that to the machine.

    Raises:
        LaunchFailed: it did not come up, or ended while the block ran.
    """
    from tritonkit import serve
    from tritonkit.repository import manifest

    project.mkdir(parents=True, exist_ok=True)
    inputs = manifest.read(repository).inputs
    # A server that dies under load is a result: it is not started again behind the back of what is measured.
    policy = serve.Policy(max_restarts=0)
    request = serve.Request(
        repository,
        project=project.resolve(),
        servers=inputs.servers if inputs else (),
        gpus=gpus,
        ports=_ANY_PORTS,
        policy=policy,
    )
    plan = serve.plan(request, serve.survey(request))
    with serve.up(plan) as started:
        servers = [server for server in started.servers if server.kind == "server"]
        yield Running(
            addresses_of(started, access_to(started)),
            processes_of(started.id),
            tuple(dict.fromkeys(server.uuid for server in servers if server.uuid is not None)),
        )


def processes_of(deployment: str) -> Callable[[], Iterable[int]]:
    """What tells the processes of a deployment at any moment."""
    from tritonkit.serve import warden

    return lambda: warden.members(warden.mark(deployment))


def digest_of(repository: Path, extra: object = None) -> str:
    """The digest of everything in a repository; of one that tritonkit built, without reading its files again."""
    from tritonkit.repository import manifest
    from tritonkit.tools import digests

    known: Mapping[str, str] = manifest.read(repository).files
    if not known:
        files = sorted(file for file in repository.rglob("*") if file.is_file())
        known = {file.relative_to(repository).as_posix(): digests.of_file(file) for file in files}
    return _of([sorted(known.items()), extra])


def _of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
