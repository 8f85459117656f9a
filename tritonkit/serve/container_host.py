"""What the containers of Triton's image have for a request, in place of what this machine has."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from tritonkit.errors import UsageError
from tritonkit.serve import gateway, ports, runtime
from tritonkit.serve.plans import SERVICES, Host, Request, seats
from tritonkit.serve.survey import machine, models_of
from tritonkit.tools.tritonserver import NATIVE_ROOT, TritonServer

# The servers behind a gateway have ports of their own, from so many above the public ones on, so many apart.
_FIRST, _STEP = 100, 10
_LAST_PORT = 65535


def survey(request: Request, version: str) -> Host:
    """What a plan for containers depends on: this machine's GPUs and repository, and an image's tritonserver.

    Nothing of it changes from one look to the next, so equal requests make equal plans.

    Args:
        request: what to serve.
        version: of the tritonserver, as the image is named.

    Raises:
        UsageError: the repository cannot be served, or the request asks for what containers cannot have.
        SpecError: a GPU that is asked for is not here, or the servers cannot share it as they say.
        ToolMissing: GPUs are asked for, and NVML cannot be asked.
    """
    _check(request)
    deployment = hashlib.sha256(str(request.project).encode()).hexdigest()[:8]
    backends = NATIVE_ROOT / "backends"
    host = Host(
        server=TritonServer(NATIVE_ROOT / "bin" / "tritonserver", version, backends, NATIVE_ROOT / "caches", stub=None),
        backend_directory=backends,
        models=models_of(request),
        address=ports.resolve(request.host),
        ports=dict(request.ports),
        programs=None,
        library_path="",
        environment={},
        deployment=deployment,
    )
    if not request.is_spread:
        return host
    if request.tokens_file is not None:
        gateway.check_tokens(request.tokens_file)
    if request.tls_certificate is not None:
        gateway.check_certificate(request.tls_certificate)
    # The driver's programs come into a container with the GPU, and the gateway has an image of its own.
    shared = machine(request, host.models, frozenset({"python"}), Path("nvidia-cuda-mps-control"))
    return replace(
        host,
        machine=shared,
        server_ports=_server_ports(request, len(seats(request, shared))),
        haproxy=Path("haproxy"),
        runtime=runtime.runtime_directory(deployment),
    )


def _check(request: Request) -> None:
    if 0 in request.ports.values():
        raise UsageError("containers need ports that are known beforehand", hint="Give a number other than 0.")
    if request.probe is not None:
        raise UsageError("--probe: only tritonkit's own supervisor asks models; Docker asks for readiness alone")


def _server_ports(request: Request, count: int) -> tuple[dict[str, int], ...]:
    first = min(request.ports.values()) + _FIRST
    if first + _STEP * count > _LAST_PORT:
        raise UsageError(f"no room for the servers' own ports from {first} on", hint="Take lower public ports.")
    return tuple(
        {service: first + _STEP * seat + number for number, service in enumerate(SERVICES)} for seat in range(count)
    )
