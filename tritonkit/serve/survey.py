"""What this machine has for a request: the tritonserver, free ports, the models in the repository."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tritonkit.errors import UsageError
from tritonkit.serve import ports
from tritonkit.serve.backend_directory import assemble
from tritonkit.serve.gpus import has_driver
from tritonkit.serve.plans import LOOPBACK, SERVICES, Host, Request, seats
from tritonkit.serve.preflight import preflight
from tritonkit.serve.seats import Machine
from tritonkit.tools import tritonserver

_SHOWN = 5


def survey(request: Request) -> Host:
    """Look at everything that the plan depends on. The backend directory is assembled when it is not there.

    Raises:
        UsageError: the repository cannot be served, or the address or a port cannot be listened on.
        ToolMissing: there is no tritonserver, or something that it needs.
        LaunchFailed: a port is taken.
    """
    models = models_of(request)
    address = ports.resolve(request.host)
    server = tritonserver.find()
    preflight(server)
    host = Host(
        server=server,
        backend_directory=assemble(server),
        models=models,
        address=address,
        ports={},
        programs=tritonserver.environment_programs() if server.bundled else None,
        library_path=tritonserver.library_path() if server.bundled else "",
        environment=dict(os.environ),
        deployment=os.urandom(4).hex(),
        driver=has_driver(),
    )
    if not request.is_spread:
        chosen = ports.choose(address, request.ports)
        return replace(host, ports=chosen, held=(chosen,))
    return _spread(request, host)


def _spread(request: Request, host: Host) -> Host:
    # Only a request that is spread over servers pays for these.
    from tritonkit.serve import gateway, mps, runtime
    from tritonkit.tools import haproxy

    found = machine(request, host.models, _python_backends(host), mps.located())
    count = len(seats(request, found))
    if request.tokens_file is not None:
        gateway.check_tokens(request.tokens_file)
    if request.tls_certificate is not None:
        gateway.check_certificate(request.tls_certificate)
    # The servers' own ports are not looked at with the public ones: of these a taken one is named.
    own = ports.choose(LOOPBACK, {f"{service} {seat}": 0 for seat in range(count) for service in SERVICES})
    public = ports.choose(host.address, request.ports)
    return replace(
        host,
        ports=public,
        held=(own, public),
        machine=found,
        server_ports=tuple({service: own[f"{service} {seat}"] for service in SERVICES} for seat in range(count)),
        haproxy=haproxy.find() if count > 1 or request.is_guarded else None,
        runtime=runtime.runtime_directory(host.deployment),
    )


def machine(
    request: Request, models: Sequence[str], python_backends: frozenset[str], mps_program: Path | None
) -> Machine:
    """What a request that is spread over servers shares: the GPUs and the models.

    Args:
        request: what to serve.
        models: the models of its repository.
        python_backends: the backends whose instances are processes of their own.
        mps_program: ``nvidia-cuda-mps-control``, or None where there is none.

    Raises:
        SpecError: a GPU that is asked for is not here, or a configuration is none.
        ToolMissing: GPUs are asked for without a driver, or are here without the package to ask it.
        TritonkitError: the driver does not answer, or a model's folder cannot be read.
    """
    from tritonkit.serve import gpus
    from tritonkit.serve.stored_models import stored_models

    asked = request.gpus is not None and not request.on_cpu
    on_gpus = request.is_placed and not request.on_cpu
    present = (gpus.inventory() if asked else gpus.present()) if on_gpus else ()
    return Machine(
        gpus=gpus.select(request.gpus or (), present) if asked else tuple(gpu for gpu in present if not gpu.fault),
        present=present,
        models=request.models or stored_models(request.repository, models),
        python_backends=python_backends,
        mps_program=mps_program,
    )


def _python_backends(host: Host) -> frozenset[str]:
    """The backends whose instances are processes of their own."""
    return frozenset({"python", *(file.parent.name for file in host.backend_directory.glob("*/model.py"))})


def models_of(request: Request) -> tuple[str, ...]:
    """The models that a request's repository has, or will have once it is built.

    Raises:
        UsageError: it is no model repository.
    """
    return tuple(request.models or _models(request.repository))


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
