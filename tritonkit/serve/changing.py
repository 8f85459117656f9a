"""Changes to a deployment that runs: the plan that it would have with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tritonkit.errors import UsageError, nearest
from tritonkit.serve.plans import Host, Request, plan, seats
from tritonkit.serve.processes import Change, Plan
from tritonkit.serve.state import recorded


def replanner(request: Request, host: Host) -> Callable[[Change], Plan]:
    """The plan of ``request`` with a change made, beside the percentages that its servers run with then.

    What it gives raises:
        UsageError: there is no such server, or it has no GPU.
        SpecError: the change does not fit: with it the GPU's percentages sum to more than 100, for example.
    """

    def replan(change: Change) -> Plan:
        if not 0 < change.thread_percentage <= 100:
            raise UsageError(f"{change.thread_percentage:g} is no percentage above 0 and at most 100")
        if not request.is_placed:
            raise UsageError(
                "this deployment has one server, on no GPU of its own", hint="Start it with: tritonkit up --gpus 0"
            )
        found = seats(request, host.machine)
        meant = [seat for seat in found if change.server in (seat.name, seat.entry.name)]
        if not meant:
            names = {name for seat in found for name in (seat.name, seat.entry.name)}
            raise UsageError(f"no server {change.server!r} runs here{nearest(change.server, names)}")
        if any(seat.gpu is None for seat in meant):
            raise UsageError(f"{change.server} runs on the CPU: there is nothing to take a percentage of")
        deployment = recorded(request.project)
        percentages = {
            server.name: server.thread_percentage
            for server in (deployment.servers if deployment else ())
            if server.thread_percentage is not None
        }
        percentages.update({seat.name: change.thread_percentage for seat in meant})
        return plan(replace(request, percentages=percentages), host)

    return replan
