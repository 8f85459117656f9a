"""What this machine has for a request: the tritonserver, free ports, the models in the repository."""

from __future__ import annotations

import os
from pathlib import Path

from tritonkit.errors import TritonkitError, UsageError
from tritonkit.serve import ports
from tritonkit.serve.backend_directory import assemble
from tritonkit.serve.plans import Host, Request
from tritonkit.serve.preflight import preflight
from tritonkit.tools import tritonserver


def survey(request: Request) -> Host:
    """Look at everything that the plan depends on. The backend directory is assembled when it is not there.

    Raises:
        UsageError: there is no such repository, or no model in it.
        TritonkitError: it cannot be read, or a port cannot be listened on.
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
        raise TritonkitError(f"{repository}: cannot be read: {error.strerror}") from error
    names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UsageError(
            f"{repository}: holds no model: a model repository has one folder for each model",
            hint="Build one with: tritonkit build-repo spec.yaml",
        )
    return tuple(names)
