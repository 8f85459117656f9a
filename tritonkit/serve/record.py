"""From the supervisor's state to what is written down of it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tritonkit.serve.phases import Process, State
from tritonkit.serve.processes import DaemonCheck, GatewayCheck, Plan, ProcessSpec
from tritonkit.serve.state import Deployment, ServerState, began


def record(
    plan: Plan,
    state: State,
    specs: Mapping[str, ProcessSpec],
    repositories: Mapping[str, str],
    control: Path,
    started: float,
    ahead: float,
) -> Deployment:
    """How the deployment is.

    Args:
        plan: what was asked for.
        state: how its processes are.
        specs: what each of them was last started with.
        repositories: the ``fingerprint`` of the repository that each of them has loaded.
        control: the supervisor's own socket.
        started: when the deployment was started, in seconds since the epoch.
        ahead: how far the clock of the state is behind that of the epoch, in seconds.
    """
    return Deployment(
        id=plan.deployment,
        pid=os.getpid(),
        began=began(os.getpid()),
        started=started,
        project=plan.project,
        repository=plan.repository,
        spec=plan.spec,
        tokens_file=plan.tokens_file,
        tls_certificate=plan.tls_certificate,
        stop_timeout=plan.policy.stop_timeout,
        state=state.word,
        ready=state.ready,
        control=control,
        servers=tuple(
            _server(process, specs[process.name], repositories.get(specs[process.name].shown, ""), ahead)
            for process in state.processes
            if not process.aside
        ),
        **plan.addresses,
    )


def _server(process: Process, spec: ProcessSpec, repository: str, ahead: float) -> ServerState:
    check = spec.check
    state = ServerState(
        name=spec.shown,
        phase=process.phase.value,
        pid=process.pid,
        restarts=process.restarts,
        since=ahead + process.since,
        reason=process.reason,
        log=spec.log,
        kind=spec.kind,
        addresses=dict(spec.addresses),
        models=spec.models,
        repository=repository,
    )
    if isinstance(check, GatewayCheck):
        return replace(state, control=check.control)
    if isinstance(check, DaemonCheck):
        return replace(state, control=check.pipe_directory, gpu=check.gpu, uuid=check.uuid)
    if check.share is None:
        return state
    return replace(
        state,
        gpu=check.share.gpu,
        uuid=check.share.uuid,
        thread_percentage=check.share.thread_percentage,
        memory_limit=check.share.memory_limit,
    )


def fingerprint(repository: Path) -> str:
    """What changes when a file of the repository does: its name, size or time. What Python caches beside is not one."""
    total = 0
    for folder, folders, files in os.walk(repository):
        folders[:] = sorted(name for name in folders if name != "__pycache__" and not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(folder, name)
            try:
                status = os.stat(path)
            except OSError:
                continue
            said = f"{os.path.relpath(path, repository)}\0{status.st_size}\0{status.st_mtime_ns}\n"
            total = zlib.crc32(said.encode(errors="surrogateescape"), total)
    return f"{total:08x}"
