"""A client of ``nvidia-cuda-mps-control``, and the proof that a server runs under its daemon and its limits.

The program answers in text and ends with 0 also when it could not do what it was asked, so its words are read.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tritonkit.errors import CommandFailed, TritonkitError
from tritonkit.serve import gpus, procfs, warden, witness
from tritonkit.serve.processes import ProcessSpec, ServerCheck, Share
from tritonkit.tools.commands import run

PROGRAM = "nvidia-cuda-mps-control"
PIPE_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"
LOG_VARIABLE = "CUDA_MPS_LOG_DIRECTORY"
PERCENTAGE_VARIABLE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
MEMORY_VARIABLE = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
# What the daemon and a driver's first context on a busy GPU take at the most.
ANSWER_TIMEOUT = 5.0
WITNESS_TIMEOUT = 60.0
# MPS rounds a percentage down to a number of SMs that the hardware can give: whole clusters.
SM_TOLERANCE = 8
# More than two questions that are not answered.
PATIENCE = 12.0
RELEASE_PATIENCE = 2.0
WITNESS = (sys.executable, "-I", "-S", witness.__file__)
_REFUSED = re.compile(r"(?i)^(?:unknown command|cannot find mps|.*not found\b|.*failed\b|invalid\b)", re.MULTILINE)


@dataclass(frozen=True)
class Client:
    """One process that is a client of an MPS server, as the daemon's ``ps`` shows it.

    Attributes:
        pid: its process.
        server: the process of its MPS server.
        device: the UUID of its GPU, as far as the daemon shows it.
        command: its program.
    """

    pid: int
    server: int
    device: str
    command: str


def located(path: str | None = None) -> Path | None:
    """The program that is the daemon, and that talks to it; None where it is not on ``path``, by default ours."""
    found = shutil.which(PROGRAM, path=path)
    return Path(found) if found else None


class Daemon:
    """One MPS control daemon, which may or may not be running."""

    def __init__(self, program: Path, pipe_directory: Path) -> None:
        self._program = program
        self._pipe_directory = pipe_directory

    def ask(self, command: str, *, timeout: float = ANSWER_TIMEOUT) -> str:
        """The daemon's answer to one command; empty where it has nothing to say.

        Raises:
            CommandFailed: no daemon answers, it does not know the command, or it could not do it.
        """
        argv = [str(self._program)]
        env = {**os.environ, PIPE_VARIABLE: str(self._pipe_directory)}
        answer = run(argv, env=env, say=f"{command}\n", timeout=timeout).strip()
        if _REFUSED.search(answer):
            raise CommandFailed([*argv, f"<<< {command}"], 0, answer)
        return answer

    def answers(self) -> bool:
        """Whether it runs, and answers in time."""
        try:
            float(self.ask("get_default_active_thread_percentage"))
        except (TritonkitError, ValueError):
            return False
        return True

    def servers(self, *, timeout: float = ANSWER_TIMEOUT) -> tuple[int, ...]:
        """The processes of its MPS servers; none before the first client came."""
        return _numbers(self.ask("get_server_list", timeout=timeout))

    def pairs(self, *, timeout: float = ANSWER_TIMEOUT) -> tuple[tuple[int, int], ...]:
        """Each client of its servers: the server's process, and the client's."""
        return tuple(
            (server, pid)
            for server in self.servers(timeout=timeout)
            for pid in _numbers(self.ask(f"get_client_list {server}", timeout=timeout))
        )

    def client_pids(self) -> tuple[int, ...]:
        """The processes that are clients of its servers."""
        return tuple(pid for _, pid in self.pairs())

    def clients(self) -> tuple[Client, ...]:
        """The same, with what ``ps`` says of them."""
        told: dict[int, Client] = {}
        for line in self.ask("ps").splitlines():
            fields = line.split()
            if len(fields) >= 6 and fields[0].isdigit() and fields[2].isdigit():
                told[int(fields[0])] = Client(int(fields[0]), int(fields[2]), fields[3], " ".join(fields[5:]))
        return tuple(
            told.get(pid) or Client(pid, server, "", procfs.command(pid) or "") for server, pid in self.pairs()
        )

    def terminate(self, server: int, pid: int, *, timeout: float = ANSWER_TIMEOUT) -> None:
        """End the work of one client of a server on the GPU; it can use the GPU no more."""
        self.ask(f"terminate_client {server} {pid}", timeout=timeout)


def answers(program: Path, pipe_directory: Path) -> bool:
    """Whether the daemon of a pipe directory runs and answers."""
    return Daemon(program, pipe_directory).answers()


def let_go(spec: ProcessSpec, *, patience: float = RELEASE_PATIENCE) -> None:
    """Let the daemon end the work of a server's processes on the GPU, before they are killed.

    Killed in the midst of it, a client can leave the others with an error. Nothing happens where no daemon answers.
    """
    share = spec.check.share if isinstance(spec.check, ServerCheck) else None
    program = located(spec.env.get("PATH"))
    if share is None or share.pipe_directory is None or program is None:
        return
    daemon, end = Daemon(program, share.pipe_directory), time.monotonic() + patience
    with suppress(TritonkitError):
        members = set(warden.members(spec.mark))
        for server, pid in daemon.pairs(timeout=patience):
            left = end - time.monotonic()
            if pid in members and left > 0:
                daemon.terminate(server, pid, timeout=left)


def attachment(spec: ProcessSpec, pid: int, *, patience: float = PATIENCE) -> str | None:
    """Why a ready server does not run as its share says; None when it does, or has no share under MPS.

    Its own process must be in the daemon's client lists, and so must every process that it started and that the driver
    sees computing on the GPU: the stub of a model on the CPU is none. In a container, where the driver's numbers of
    processes mean others, the server itself stands for those that it started. Then a process with its very environment
    must see the SMs and the memory of its limits.

    Args:
        spec: the server.
        pid: of its process.
        patience: seconds in which the daemon may come to answer, and its processes may appear in the lists.
    """
    share = spec.check.share if isinstance(spec.check, ServerCheck) else None
    if share is None or share.pipe_directory is None:
        return None
    program = located(spec.env.get("PATH"))
    if program is None:
        return f"cannot be verified: {PROGRAM} is not on its PATH"
    daemon = Daemon(program, share.pipe_directory)
    end = time.monotonic() + patience
    while True:
        try:
            stray = _stray(spec, pid, share, daemon)
            if not stray:
                return _limits(spec, share)
            fault = f"runs without MPS and without limits: the daemon in {share.pipe_directory} has no client {stray}"
        except TritonkitError as error:
            # Not for good: a daemon that is asked by others at the same moment may refuse a question.
            fault = f"cannot be verified: {error.args[0]}"
        if time.monotonic() >= end:
            return fault
        time.sleep(0.1)


def _stray(spec: ProcessSpec, pid: int, share: Share, daemon: Daemon) -> str:
    clients = set(daemon.client_pids())
    wanted = {pid}
    if procfs.counts_as_the_kernel():
        # A process that only looked for GPUs has initialised CUDA and is no client yet: it becomes one with its first
        # context. The driver knows who has one.
        wanted |= gpus.computing(share.uuid) & set(warden.members(spec.mark))
    return ", ".join(f"{process} ({procfs.command(process) or 'ended'})" for process in sorted(wanted - clients))


def _limits(spec: ProcessSpec, share: Share) -> str | None:
    try:
        seen = json.loads(run(WITNESS, env=spec.env, timeout=WITNESS_TIMEOUT).strip().splitlines()[-1])
    except (TritonkitError, ValueError, IndexError) as error:
        return f"cannot be verified: {error}"
    if "error" in seen:
        return f"cannot use its GPU: a process with its environment was refused: {seen['error']}"
    whole, percentage = share.multiprocessors, share.thread_percentage or 100.0
    wanted = whole * percentage / 100
    if abs(seen["multiprocessors"] - wanted) > SM_TOLERANCE:
        return (
            f"is not limited as it should be: a process with its environment sees {seen['multiprocessors']} SMs, "
            f"where {percentage:g}% of {whole} is {wanted:.0f}"
        )
    if share.memory_limit is not None and seen["memory_free"] > share.memory_limit:
        return (
            f"is not limited as it should be: a process with its environment may take {seen['memory_free']:,} bytes "
            f"of the GPU's memory, where its limit is {share.memory_limit:,}"
        )
    return None


def _numbers(answer: str) -> tuple[int, ...]:
    return tuple(int(line) for line in answer.split() if line.isdigit())
