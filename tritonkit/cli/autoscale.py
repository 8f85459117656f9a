"""``tritonkit autoscale``: percentages that follow the load of what runs in this folder."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritonkit.cli.build import Assignments
from tritonkit.cli.console import messages, print_json_line
from tritonkit.cli.provision import DEFAULT_PROFILE, GpuMemory, ProfileFile, Share, inputs
from tritonkit.errors import LaunchFailed, RequestFailed, TritonkitError, UsageError

if TYPE_CHECKING:
    from tritonkit.client.endpoint import Addresses
    from tritonkit.provision.changes import Change
    from tritonkit.provision.fleet import Place
    from tritonkit.provision.following import Look
    from tritonkit.serve import ServerState
    from tritonkit.spec.servers import Server


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    example = "Example: tritonkit autoscale spec.yaml plan.yaml --dry-run"
    app.command("autoscale", epilog=example)(autoscale)


def autoscale(
    files: Annotated[
        list[Path], typer.Argument(metavar="SPEC PLAN...", help="The spec and the plan, as `up` was given them.")
    ],
    assignments: Assignments = None,
    profile: ProfileFile = DEFAULT_PROFILE,
    gpu_memory: GpuMemory = None,
    share: Share = None,
    interval: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="From one look to the next.")] = 20.0,
    headroom: Annotated[float, typer.Option(min=0, help="Plan for so much more than was measured, as a part.")] = 0.25,
    patience: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Too much for so long, before it is taken away.")
    ] = 600.0,
    rest: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="After a change, until the next one.")] = 60.0,
    looks: Annotated[int, typer.Option(min=0, help="End after so many looks; 0 goes on until Ctrl-C.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be changed, and change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each look as one line of JSON.")] = False,
) -> None:
    """Watch rates and p99 of what runs here; outside a dead band plan anew, and change percentages one by one.

    A server's process is replaced by one with the new percentage. Behind the gateway no request is lost by that; where
    one server is all, or a GPU has no room for both processes, its models are away until it is back.
    """
    from tritonkit.client.activity import snapshots
    from tritonkit.provision.controller import Policy, State
    from tritonkit.provision.fleet import fleet
    from tritonkit.provision.following import look
    from tritonkit.provision.observing import SUMMARIES, latencies_p99_ms, observed
    from tritonkit.spec.servers import servers_of

    loaded, wanted, known, terms = inputs(files, assignments or [], profile, None, gpu_memory, share)
    watched = _Watched(servers_of(loaded), [each.model for each in wanted])
    places = watched.places()
    fleet(places, wanted, known)
    if not dry_run:
        watched.check_gpus()
    models = loaded.spec.models
    watched.check_batches(places, {each.model: models[each.model].fields.get("max_batch_size") for each in wanted})
    if not latencies_p99_ms(watched.telling("metrics", places)):
        messages().print(f"note: Triton tells no p99 here; serve with: tritonkit up {SUMMARIES}", markup=False)
    policy, state = Policy(headroom=headroom, patience_s=patience, rest_s=rest), State()
    before, began = snapshots(watched.addresses()), time.monotonic()
    number = 0
    while looks == 0 or number < looks:
        time.sleep(interval)
        number += 1
        places = watched.places()
        after, now = snapshots(watched.addresses()), time.monotonic()
        p99_ms = latencies_p99_ms(watched.telling("metrics", places))
        seen = observed(before, after, now - began, watched.telling("http", places), p99_ms)
        before, began = after, now
        state, found = look(state, places, seen, wanted, known, terms, now, policy)
        _say(found, applied=not dry_run, as_json=as_json)
        if found.changes and not dry_run:
            if watched.apply(found.changes):
                state = found.made(time.monotonic())
            # Other processes count from zero, at other addresses.
            watched.places()
            before, began = snapshots(watched.addresses()), time.monotonic()


class _Watched:
    """The deployment of this folder, as it is each time that it is looked at."""

    def __init__(self, entries: Sequence[Server], models: Collection[str]) -> None:
        from tritonkit.serve import running

        self._models = frozenset(models)
        self._entries = entries
        self._deployment = running(Path.cwd())

    def places(self) -> tuple[Place, ...]:
        """Its servers now.

        Raises:
            LaunchFailed: it has ended.
            UsageError: it is not what spec and plan say.
        """
        from tritonkit.provision.fleet import placed
        from tritonkit.serve import running

        try:
            now = running(self._deployment.project)
        except TritonkitError as error:
            raise LaunchFailed(f"the deployment has ended: {error.args[0]}", hint=error.hint) from error
        if now.id != self._deployment.id or now.state == "stopping":
            raise LaunchFailed("the deployment has ended", hint="See what runs with: tritonkit status")
        self._deployment = now
        return placed([self._place(server) for server in self._servers()], self._entries, sorted(self._models))

    def addresses(self) -> Addresses:
        """Where its servers answer."""
        from tritonkit.client.endpoint import Addresses

        servers = tuple(server.http for server in self._servers())
        return Addresses(self._deployment.http, self._deployment.grpc, servers=servers)

    def telling(self, service: str, places: Sequence[Place]) -> dict[str, Collection[str]]:
        """Where they answer for ``http`` or ``metrics``, each with the models that it is asked about."""
        models: dict[str, Collection[str]] = {place.server: set(place.models) & self._models for place in places}
        return {
            server.addresses[service]: models[server.name]
            for server in self._servers()
            if service in server.addresses and server.name in models
        }

    def check_gpus(self) -> None:
        """See that there are percentages to be changed.

        Raises:
            UsageError: there are none on the CPU.
        """
        if any(server.gpu is None for server in self._servers()):
            raise UsageError(
                "the servers run on the CPU, and there are no percentages to change",
                hint="See what would be changed on GPUs with: --dry-run",
            )

    def check_batches(self, places: Sequence[Place], stated: Mapping[str, Any]) -> None:
        """See that models are served with the batches that spec and plan state; others may be found out by Triton.

        Raises:
            UsageError: one is served with others.
        """
        from tritonkit.client.endpoint import Endpoint
        from tritonkit.provision.fleet import HINT

        for address, models in self.telling("http", places).items():
            for model in sorted(name for name in models if stated[name]):
                try:
                    served = Endpoint(address).config(model).get("max_batch_size", 0)
                except RequestFailed as error:
                    messages().print(f"note: the batches of {model} are not known: {error.args[0]}", markup=False)
                    continue
                if served != stated[model]:
                    words = f"{model} is served with batches of at most {served}, and of {stated[model]} in the plan"
                    raise UsageError(words, hint=HINT)

    def apply(self, changes: Sequence[Change]) -> bool:
        """Make changes one by one; whether all are made. After one that is refused the rest no longer fits.

        Raises:
            LaunchFailed: a server did not come up again, and runs as before.
        """
        from tritonkit.serve import control

        for change in changes:
            request = {"command": "set", "server": change.server, "percentage": change.after}
            try:
                for step in control.ask(self._deployment.control, request):
                    if "reason" in step:
                        messages().print(f"note: {step['server']}: {step['step']}: {step['reason']}", markup=False)
            except UsageError as error:
                # Somebody else changes servers: the next look sees what came of it.
                messages().print(f"note: not changed yet: {change}: {error.args[0]}", markup=False)
                return False
        return True

    def _servers(self) -> list[ServerState]:
        return [server for server in self._deployment.servers if server.kind == "server"]

    def _place(self, server: ServerState) -> Place:
        from tritonkit.provision.fleet import Place

        return Place(server.name, server.gpu, server.thread_percentage, server.models, server.uuid)


def _say(found: Look, *, applied: bool, as_json: bool) -> None:
    decision = found.decision
    if as_json:
        print_json_line(
            {
                "rates": {model: each.rate for model, each in found.seen.items()},
                "p99_ms": {model: each.latency_p99_ms for model, each in found.seen.items()},
                "reasons": decision.reasons,
                "notes": decision.notes,
                "resting_s": decision.resting_s,
                "changes": [str(change) for change in found.changes],
                "left": found.left,
                "beyond": found.beyond,
                "applied": bool(found.changes) and applied,
            }
        )
        return
    now = time.strftime("%H:%M:%S")
    if decision.reasons:
        typer.echo(f"{now}  {'; '.join(decision.reasons)}")
    else:
        rates = ", ".join(f"{model} {each.rate:.4g}/s" for model, each in sorted(found.seen.items()))
        words = f"resting for {decision.resting_s:.0f} s more" if decision.resting_s else "within the dead band"
        typer.echo(f"{now}  {rates or 'no server answers'}: {words}")
    for note in decision.notes:
        typer.echo(f"  ! {note}")
    for change in found.changes:
        typer.echo(f"  {'changing' if applied else 'would change'} {change}")
    if found.beyond:
        typer.echo(f"  ! {found.beyond}")
    elif found.left:
        typer.echo(f"  as before, percentages alone cannot follow {', '.join(found.left)}")
    elif decision.reasons and not found.changes:
        typer.echo("  the percentages hold these rates, too")
