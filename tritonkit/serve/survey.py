"""What this machine has for a request: the tritonserver, free ports, the models in the repository."""

from __future__ import annotations

import os
from pathlib import Path

from tritonkit.errors import UsageError
from tritonkit.serve import ports
from tritonkit.serve.backend_directory import assemble
from tritonkit.serve.plans import Host, Request
from tritonkit.serve.preflight import preflight
from tritonkit.tools import tritonserver

_SHOWN = 5


def survey(request: Request) -> Host:
    """Look at everything that the plan depends on. The backend directory is assembled when it is not there.

    Raises:
        UsageError: the repository cannot be served, or the address or a port cannot be listened on.
        ToolMissing: there is no tritonserver, or something that it needs.
        LaunchFailed: a port is taken.
    """
    models = request.models or _models(request.repository)
    address = ports.resolve(request.host)
    server = tritonserver.find()
    preflight(server)
    return Host(
        server=server,
        backend_directory=assemble(server),
        models=models,
        address=address,
        ports=ports.choose(address, request.ports),
        programs=tritonserver.environment_programs() if server.bundled else None,
        library_path=tritonserver.library_path() if server.bundled else "",
        environment=dict(os.environ),
        deployment=os.urandom(4).hex(),
    )


def _models(repository: Path) -> tuple[str, ...]:
    try:
        entries = list(repository.iterdir())
    except FileNotFoundError:
        raise UsageError(
            f"{repository}: no such model repository", hint="Build one with: tritonkit build-repo spec.yaml"
        ) from None
    except NotADirectoryError:
        raise UsageError(f"{repository}: not a folder, so not a model repository") from None
    except OSError as error:
        raise UsageError(f"{repository}: cannot be read: {error.strerror}") from error
    names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UsageError(
            f"{repository}: holds no model: a model repository has one folder for each model",
            hint="Build one with: tritonkit build-repo spec.yaml",
        )
    others = [name for name in names if not _looks_like_model(repository / name)]
    if others:
        shown = ", ".join(others[:_SHOWN]) + (f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else "")
        raise UsageError(
            f"{repository}: not a model repository: no model is in {shown} (a model's folder has a config.pbtxt "
            "or a folder for each version, named by its number)",
            hint="Name the folder that holds the models' folders, and remove from it what is no model.",
        )
    return tuple(names)


def _looks_like_model(folder: Path) -> bool:
    try:
        return (folder / "config.pbtxt").exists() or any(entry.name.isdigit() for entry in folder.iterdir())
    except OSError:
        return False
