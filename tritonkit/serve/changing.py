"""Changes to a deployment that runs: the plan that it would have with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tritonkit.errors import UsageError, nearest
from tritonkit.serve import ports
from tritonkit.serve.plans import LOOPBACK, SERVICES, Host, Request, plan, seats
from tritonkit.serve.processes import Change, Plan, ServerCheck, shown, twin
from tritonkit.serve.seats import Seat


def replanner(request: Request, host: Host) -> Callable[[Change], Plan]:
    """The plan of ``request`` with a change made to what runs: its percentages, its names and ports.

    What it gives raises:
        UsageError: there is no such server, or it has no GPU.
        SpecError: the change does not fit: with it the GPU's percentages sum to more than 100, for example, or its
            memory does not suffice for the limits of a process ``beside`` the one that runs.
    """

    def replan(change: Change) -> Plan:
        percentages = {
            spec.shown: spec.check.share.thread_percentage
            for spec in change.running
            if isinstance(spec.check, ServerCheck) and spec.check.share and spec.check.share.thread_percentage
        }
        if change.thread_percentage is not None:
            if not 0 < change.thread_percentage <= 100:
                raise UsageError(f"{change.thread_percentage:g} is no percentage above 0 and at most 100")
            meant = _meant(request, seats(request, host.machine), change.server)
            percentages.update({seat.name: change.thread_percentage for seat in meant})
        changed = replace(request, percentages=percentages)
        return plan(changed, _moved(host, seats(changed, host.machine, shown(change.beside)), change))

    return replan


def _meant(request: Request, found: Sequence[Seat], name: str) -> list[Seat]:
    if not request.is_placed:
        raise UsageError(
            "this deployment has one server, on no GPU of its own", hint="Start it with: tritonkit up --gpus 0"
        )
    meant = [seat for seat in found if name in (seat.name, seat.entry.name)]
    if not meant:
        names = {known for seat in found for known in (seat.name, seat.entry.name)}
        raise UsageError(f"no server {name!r} runs here{nearest(name, names)}")
    if any(seat.gpu is None for seat in meant):
        raise UsageError(f"{name} runs on the CPU: there is nothing to take a percentage of")
    return meant


def _moved(host: Host, found: Sequence[Seat], change: Change) -> Host:
    """The machine with the names and ports of what runs, and others for the process that is to run beside it."""
    names = {spec.shown: spec.name for spec in change.running}
    used: dict[str, Mapping[str, int]] = {
        spec.shown: {service: int(address.rpartition(":")[2]) for service, address in spec.addresses.items()}
        for spec in change.running
    }
    if change.beside:
        server = shown(change.beside)
        names[server] = twin(change.beside)
        used[server] = own = ports.choose(LOOPBACK, dict.fromkeys(SERVICES, 0))
        host = replace(host, held=(*host.held, own))
    return replace(
        host,
        server_ports=tuple(
            used.get(seat.name, planned) for seat, planned in zip(found, host.server_ports, strict=False)
        ),
        seconds=frozenset(server for server, name in names.items() if name != server),
    )
