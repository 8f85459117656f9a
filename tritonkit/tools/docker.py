"""Docker: whether containers can be run here."""

from __future__ import annotations

import shutil

from tritonkit.errors import CommandFailed, ToolMissing
from tritonkit.tools.commands import run

INSTALL = "install Docker Engine with its Compose plugin: https://docs.docker.com/engine/install"
_PATIENCE = 30.0


def check() -> str:
    """See that an engine answers and that Compose is there; the engine's version.

    Raises:
        ToolMissing: there is no docker program, no engine that answers, or no Compose plugin.
    """
    if shutil.which("docker") is None:
        raise ToolMissing("docker is not installed", hint=INSTALL)
    try:
        version = run(("docker", "version", "--format", "{{.Server.Version}}"), timeout=_PATIENCE).strip()
    except CommandFailed as error:
        words = error.output.strip().splitlines()
        raise ToolMissing(
            f"the docker program is here, and no Docker engine answers: {words[-1] if words else 'no word from it'}",
            hint="start one (systemctl start docker), or see what it would run: tritonkit render compose",
        ) from error
    try:
        run(("docker", "compose", "version"), timeout=_PATIENCE)
    except CommandFailed as error:
        raise ToolMissing("docker has no Compose plugin (docker compose)", hint=INSTALL) from error
    return version
