"""Docker Compose as the engine of a deployment: a composition is brought up and taken down by ``docker compose``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tritonkit.errors import CommandFailed, LaunchFailed
from tritonkit.serve.composition_files import write
from tritonkit.serve.containers import COMPOSE, Composition
from tritonkit.tools import docker
from tritonkit.tools.commands import run


def folder(project: Path) -> Path:
    """Where the composition of a project's deployment lies."""
    return project / ".tritonkit" / "compose"


def up(composition: Composition, project: Path) -> int:
    """Bring a composition up, with its logs on the terminal, until somebody stops it; docker's exit code.

    Raises:
        RepositoryConflict: a file that tritonkit did not write is in the way.
    """
    file = write(composition, folder(project))
    try:
        return _interactive(*_compose(file), "up")
    finally:
        down(project)


def up_detached(composition: Composition, project: Path, *, start_timeout: float) -> None:
    """Bring a composition up in the background, and wait until every container is healthy.

    Raises:
        RepositoryConflict: a file that tritonkit did not write is in the way.
        LaunchFailed: not every container became healthy within ``start_timeout`` seconds; they are taken down again.
    """
    file = write(composition, folder(project))
    try:
        run((*_compose(file), "up", "--detach", "--wait", "--wait-timeout", str(max(1, round(start_timeout)))))
    except CommandFailed as error:
        logs = run((*_compose(file), "logs", "--no-color", "--tail", "20"))
        down(project)
        raise LaunchFailed(f"not every container became healthy:\n{error.output.strip()}\n{logs.strip()}") from error


def is_up(project: Path) -> bool:
    """Whether a composition of this project was brought up, and not yet taken down."""
    return (folder(project) / COMPOSE).is_file()


def down(project: Path) -> None:
    """Stop and remove the containers of a project's composition, and forget it.

    Raises:
        ToolMissing: no Docker engine answers.
        CommandFailed: docker failed; its words are in the error.
    """
    docker.check()
    file = folder(project) / COMPOSE
    run((*_compose(file), "down", "--volumes"))
    shutil.rmtree(file.parent)


def _compose(file: Path) -> tuple[str, ...]:
    return ("docker", "compose", "--file", str(file))


def _interactive(*argv: str) -> int:
    """Run a program that has the terminal, and Ctrl-C, for itself."""
    process = subprocess.Popen(argv)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # It has had the same signal, and stops its containers in order.
            continue
        except BaseException:
            process.terminate()
            process.wait()
            raise
