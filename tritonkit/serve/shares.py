"""Which server runs where, and with how much of a GPU: from the spec's entries to one seat for each process. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tritonkit.errors import Fault, SpecError, nearest
from tritonkit.serve.gpus import Gpu, resolve
from tritonkit.serve.seats import Machine, Mps, Seat
from tritonkit.serve.stored_models import with_members
from tritonkit.spec.servers import Server
from tritonkit.spec.sizes import shown_size

# Our own look at what a server sees is a client for a second.
_WITNESSES = 1


def seats(
    entries: Sequence[Server],
    mps: Mps,
    machine: Machine,
    *,
    cpu_asked: bool = False,
    percentages: Mapping[str, float] = MappingProxyType({}),
    beside: str = "",
) -> tuple[Seat, ...]:
    """One seat for each server process, in the order of the entries, then of the GPUs, then of the replicas.

    Args:
        entries: the spec's servers.
        mps: whether servers are clients of an MPS daemon; ``auto`` where that can be.
        machine: where they run.
        cpu_asked: whether the CPU was asked for, whatever the entries say of GPUs.
        percentages: by process, those that are to hold instead of the entries' own.
        beside: the process that must have room for a second one of its kind, whatever the percentages are meanwhile.

    Raises:
        SpecError: it cannot be done; every fault that was found is in it.
    """
    faults: list[Fault] = []
    placed: list[tuple[Server, Gpu | None, str]] = []
    for entry in entries:
        gpus: list[Gpu | None] = [None] if cpu_asked else _gpus_of(entry, machine, faults)
        for gpu in gpus:
            place = f"-gpu{gpu.index}" if gpu is not None and len(gpus) > 1 else ""
            for replica in range(entry.replicas):
                suffix = f"{place}-r{replica}" if entry.replicas > 1 else place
                placed.append((entry, gpu, f"{entry.name}{suffix}"))
    models = {entry.name: _models_of(entry, machine, faults) for entry in entries}
    faults += _unserved(entries, models, machine)
    faults += _name_clashes(placed)
    found: list[Seat] = []
    on_gpus = [gpu for _, gpu, _ in placed if gpu is not None]
    for entry, gpu, name in placed:
        found.append(
            Seat(
                name=name,
                entry=entry,
                gpu=gpu,
                models=models[entry.name],
                mps=gpu is not None and mps != "off" and not _no_mps(gpu, machine),
                neighbours=on_gpus.count(gpu) if gpu is not None else 1,
                first=all(seat.gpu != gpu for seat in found),
                thread_percentage=percentages.get(name, entry.thread_percentage),
            )
        )
    for gpu in dict.fromkeys(on_gpus):
        there = [seat for seat in found if seat.gpu == gpu]
        faults += _faults_on(gpu, there, [*there, *(seat for seat in there if seat.name == beside)], mps, machine)
    if faults:
        # One entry on several GPUs may be wrong in the same way on each.
        raise SpecError(list(dict.fromkeys(faults)))
    return tuple(found)


def notes(seats: Sequence[Seat], mps: Mps, machine: Machine, *, cpu_asked: bool = False) -> tuple[str, ...]:
    """What a user should know of a plan that can be carried out, each in a sentence."""
    said = []
    if not cpu_asked:
        said += [f"GPU {gpu.index} cannot be used: {gpu.fault}" for gpu in machine.present if gpu.fault]
    for gpu in dict.fromkeys(seat.gpu for seat in seats if seat.gpu is not None):
        reason = _no_mps(gpu, machine)
        if mps == "auto" and reason:
            said.append(f"GPU {gpu.index} is shared in time slices, without MPS: {reason}")
    for seat in seats:
        limit, processes = seat.thread_percentage, processes_of(seat, machine, computing_there=True)
        if seat.mps and limit is not None and processes > 1 and limit * processes > 100:
            instances = "1 Python-based instance" if processes == 2 else f"{processes - 1} Python-based instances"
            said.append(
                f"{seat.name}: {limit:g}% is the ceiling of each of its processes (tritonserver and {instances}): "
                f"together they may use {min(100, limit * processes):g}%"
            )
    limited = [seat.name for seat in seats if seat.thread_percentage or seat.entry.memory_limit]
    if cpu_asked and limited:
        said.append(f"on the CPU nothing limits {', '.join(dict.fromkeys(limited))}")
    return tuple(said)


def processes_of(seat: Seat, machine: Machine, *, computing_there: bool = False) -> int:
    """How many processes of a seat may be clients on its GPU: tritonserver, and one for each Python-based instance.

    One on the CPU is a client as well as soon as it looks for GPUs; with ``computing_there`` it does not count.
    """
    if seat.gpu is None:
        return 0
    held = [machine.models[name] for name in seat.models]
    stubs = [model for model in held if model.backend in machine.python_backends]
    return 1 + sum(model.instances_on(seat.gpu.index, computing_there=computing_there) for model in stubs)


def _gpus_of(entry: Server, machine: Machine, faults: list[Fault]) -> list[Gpu | None]:
    found: list[Gpu | None] = []
    if entry.gpus is None:
        if machine.gpus:
            return list(machine.gpus)
        if machine.present:
            listed = ", ".join(map(str, machine.present))
            faults.append(entry.fault("gpus", f"none of the GPUs here can be used: {listed}; {_CPU_HINT}"))
        for key in ("thread_percentage", "memory_limit"):
            if getattr(entry, key) is not None:
                faults.append(entry.fault(key, f"needs a GPU, and there is none here; {_CPU_HINT}"))
        return [None]
    for word in entry.gpus:
        gpu, message = resolve(word, machine.present)
        if gpu is None:
            faults.append(entry.fault("gpus", message if machine.present else f"{message}; {_CPU_HINT}"))
        elif gpu not in machine.gpus:
            chosen = ", ".join(str(one.index) for one in machine.gpus) or "none"
            faults.append(entry.fault("gpus", f"names GPU {gpu.index}, which --gpus leaves out (chosen: {chosen})"))
        elif gpu in found:
            faults.append(entry.fault("gpus", f"names GPU {gpu.index} twice"))
        else:
            found.append(gpu)
    return found


_CPU_HINT = "`up --gpus none` serves on the CPU, without limits"


def _models_of(entry: Server, machine: Machine, faults: list[Fault]) -> tuple[str, ...]:
    if entry.models is None:
        return tuple(machine.models)
    for name in entry.models:
        if name not in machine.models:
            faults.append(entry.fault("models", f"no model '{name}' in the repository{nearest(name, machine.models)}"))
    return with_members(entry.models, machine.models)


def _unserved(entries: Sequence[Server], models: Mapping[str, tuple[str, ...]], machine: Machine) -> list[Fault]:
    served = {name for held in models.values() for name in held}
    left = [name for name in machine.models if name not in served]
    if not left or not entries:
        return []
    words = (
        f"no server has the model{'s' if len(left) > 1 else ''} {', '.join(left)}; add them to one, or leave them out"
        " (members of an ensemble come along, and models that a Python model calls do not)"
    )
    origin = entries[0].fault("", words)
    return [Fault(origin.file, origin.line, "servers", words)]


def _name_clashes(placed: Sequence[tuple[Server, Gpu | None, str]]) -> list[Fault]:
    names = [name for _, _, name in placed]
    return [
        entry.fault("name", f"its process {name} would have the name of another server's")
        for place, (entry, _, name) in enumerate(placed)
        if name in names[:place]
    ]


def _no_mps(gpu: Gpu, machine: Machine) -> str:
    return gpu.mps_refusal or ("" if machine.mps_program else "nvidia-cuda-mps-control is not installed")


def _faults_on(gpu: Gpu, seats: Sequence[Seat], taken: Sequence[Seat], mps: Mps, machine: Machine) -> list[Fault]:
    """What is wrong with the seats on a GPU; ``taken`` are all that take memory and are clients at a time."""
    faults = [
        *_instance_faults(gpu, seats, machine),
        *_percentage_faults(gpu, seats),
        *_memory_faults(gpu, taken, machine),
    ]
    reason = "--mps off" if mps == "off" else _no_mps(gpu, machine)
    if reason:
        if mps == "on":
            faults.append(seats[0].entry.fault("gpus", f"--mps on: {reason}"))
        for seat in seats:
            for key, limit in (
                ("thread_percentage", seat.thread_percentage),
                ("memory_limit", seat.entry.memory_limit),
            ):
                if limit is not None:
                    faults.append(seat.entry.fault(key, f"only MPS can keep this limit on GPU {gpu.index}: {reason}"))
        return faults
    clients = sum(processes_of(seat, machine) for seat in taken)
    if clients + _WITNESSES > gpu.mps_clients:
        each = ", ".join(f"{seat.name} {processes_of(seat, machine)}" for seat in taken)
        message = (
            f"GPU {gpu.index} would have {clients} client processes ({each}; every Python-based instance is one), and "
            f"MPS takes {gpu.mps_clients}, of which tritonkit needs {_WITNESSES} to look at each server's limits"
        )
        faults.append(seats[-1].entry.fault("", message))
    return faults


def _instance_faults(gpu: Gpu, seats: Sequence[Seat], machine: Machine) -> list[Fault]:
    return [
        seat.entry.fault(
            "gpus", f"model '{name}' has no instance on GPU {gpu.index}: its instance_group names other GPUs only"
        )
        for seat in seats
        for name in seat.models
        if machine.models[name].groups_on(gpu.index) == []
    ]


def _percentage_faults(gpu: Gpu, seats: Sequence[Seat]) -> list[Fault]:
    shares = [(seat, seat.thread_percentage) for seat in seats if seat.thread_percentage is not None]
    total = sum(share for _, share in shares)
    if total <= 100:
        return []
    each = ", ".join(f"{seat.name} {share:g}" for seat, share in shares)
    message = f"the thread percentages on GPU {gpu.index} sum to {total:g}, above 100: {each}"
    return [shares[-1][0].entry.fault("thread_percentage", message)]


def _memory_faults(gpu: Gpu, seats: Sequence[Seat], machine: Machine) -> list[Fault]:
    limits = [
        (seat, seat.entry.memory_limit, processes_of(seat, machine, computing_there=True))
        for seat in seats
        if seat.entry.memory_limit is not None
    ]
    if sum(limit * processes for _, limit, processes in limits) <= gpu.memory_total:
        return []
    each = ", ".join(
        f"{seat.name} {f'{processes} processes with ' if processes > 1 else ''}{shown_size(limit)}"
        for seat, limit, processes in limits
    )
    message = f"GPU {gpu.index} has {gpu.memory_total / 2**30:.1f} GiB of memory, less than the limits on it: {each}"
    if any(processes > 1 for _, _, processes in limits):
        message += "; the limit is that of each process: tritonserver, and every Python-based instance"
    return [limits[-1][0].entry.fault("memory_limit", message)]
