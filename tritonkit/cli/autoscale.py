"""``tritonkit autoscale``: percentages that follow the load of what runs in this folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritonkit.cli.build import Assignments
from tritonkit.cli.console import messages, print_json_line
from tritonkit.cli.provision import DEFAULT_PROFILE, ProfileFile, Share, inputs
from tritonkit.errors import Infeasible, UsageError

if TYPE_CHECKING:
    from tritonkit.provision.changes import Change
    from tritonkit.provision.choices import Terms, Workload
    from tritonkit.provision.controller import Decision, State
    from tritonkit.provision.observing import Watched
    from tritonkit.provision.packing import Packing
    from tritonkit.provision.prediction import Behaviour
    from tritonkit.serve import Deployment
    from tritonkit.spec.loading import LoadedSpec


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
    """Watch rates and p99 of what runs here; outside a dead band plan anew, and change percentages one by one."""
    from tritonkit.provision.controller import Policy, State
    from tritonkit.provision.observing import SUMMARIES, counters, latencies_p99_ms
    from tritonkit.serve import running

    loaded, wanted, known, terms = inputs(files, assignments or [], profile, None, None, share)
    deployment = running(Path.cwd())
    current = _current(loaded, deployment, wanted, known)
    follower = _Follower(wanted, known, terms, deployment, dry_run, as_json)
    policy = Policy(headroom=headroom, patience_s=patience, rest_s=rest)
    state = State({each.model: each.rate for each in wanted})
    servers = _watched(deployment)
    if not latencies_p99_ms(servers):
        messages().print(f"note: Triton tells no p99 here; serve with: tritonkit up {SUMMARIES}", markup=False)
    before = counters(servers, time.monotonic())
    number = 0
    while looks == 0 or number < looks:
        time.sleep(interval)
        number += 1
        after = counters(servers, time.monotonic())
        state, current = follower.look(state, current, before, after, latencies_p99_ms(servers), policy)
        before = after


@dataclass
class _Follower:
    """One look after the other: decide, say, apply."""

    workloads: tuple[Workload, ...]
    behaviours: Mapping[str, Behaviour]
    terms: Terms
    deployment: Deployment
    dry_run: bool
    as_json: bool

    def look(
        self, state: State, current: Packing, before: Any, after: Any, p99: Mapping[str, float], policy: Any
    ) -> tuple[State, Packing]:
        """Decide on what was seen since the last look, and do it."""
        from tritonkit.provision.changes import differences, follow
        from tritonkit.provision.controller import applied, step
        from tritonkit.provision.observing import observed

        seen = observed(before, after, p99)
        slos = {each.model: each.slo_ms for each in self.workloads}
        now = after.time
        state, decision = step(state, seen, slos, now, policy)
        if decision is None:
            self._say(seen, None, (), "")
            return state, current
        wanted = [replace(each, rate=decision.rates[each.model]) for each in self.workloads]
        following = follow(current, wanted, self.behaviours, self.terms, moves=False)
        if following is None:
            self._say(seen, decision, (), self._beyond(current, wanted))
            return replace(state, changed=now), current
        changes = differences(current, following)
        self._say(seen, decision, changes, "")
        if not self.dry_run:
            for change in changes:
                self._apply(change)
        return applied(state, decision.rates, now), following

    def _beyond(self, current: Packing, wanted: list[Workload]) -> str:
        """What is to be told where percentages alone cannot follow."""
        from tritonkit.provision.changes import follow

        try:
            other = follow(current, wanted, self.behaviours, self.terms)
        except Infeasible as error:
            return str(error)
        count = len(other.gpus) if other else 0
        return (
            f"percentages alone cannot follow; a plan with other places needs {count} GPUs: provision with these rates"
        )

    def _apply(self, change: Change) -> None:
        from tritonkit.serve import control

        gpus = sorted({server.gpu for server in self.deployment.servers if server.gpu is not None})
        for server in self.deployment.servers:
            if server.kind != "server" or change.model not in server.models:
                continue
            if server.gpu is None:
                raise UsageError(f"{server.name} runs on the CPU: there is nothing to change", hint="Use --dry-run")
            if gpus[change.gpu] == server.gpu:
                request = {"command": "set", "server": server.name, "percentage": change.after}
                for _ in control.ask(self.deployment.control, request):
                    pass

    def _say(
        self, seen: Mapping[str, Any], decision: Decision | None, changes: tuple[Change, ...], beyond: str
    ) -> None:
        if self.as_json:
            print_json_line(
                {
                    "rates": {model: each.rate for model, each in seen.items()},
                    "p99_ms": {model: each.latency_p99_ms for model, each in seen.items()},
                    "reasons": list(decision.reasons) if decision else [],
                    "changes": [str(change) for change in changes],
                    "beyond": beyond,
                    "applied": bool(changes) and not self.dry_run,
                }
            )
            return
        rates = ", ".join(f"{model} {each.rate:.4g}/s" for model, each in sorted(seen.items()))
        if decision is None:
            typer.echo(f"{time.strftime('%H:%M:%S')}  {rates}: within the dead band")
            return
        typer.echo(f"{time.strftime('%H:%M:%S')}  {'; '.join(decision.reasons)}")
        what = "would change" if self.dry_run else "changing"
        for change in changes:
            typer.echo(f"  {what} {change}")
        if beyond or not changes:
            typer.echo(f"  {beyond or 'the percentages hold these rates, too'}")


def _current(
    loaded: LoadedSpec, deployment: Deployment, workloads: tuple[Workload, ...], behaviours: Mapping[str, Behaviour]
) -> Packing:
    """The plan that runs: the places of the spec's servers, with the percentages that they have now."""
    from tritonkit.provision.changes import Place, running
    from tritonkit.spec.servers import servers_of

    now = {(model, server.gpu): server.thread_percentage for server in deployment.servers for model in server.models}
    places = []
    for entry in servers_of(loaded):
        for gpu in entry.gpus or ():
            for model in entry.models or ():
                percentage = now.get((model, int(gpu)) if isinstance(gpu, int) else (model, None))
                places.append(Place(model, int(gpu), round(percentage or entry.thread_percentage or 100)))
    placed = running(places, workloads, behaviours)
    missing = {each.model for each in workloads} - {seat.model for _, seat in placed.seats}
    if missing:
        raise UsageError(
            f"the spec has no server with a GPU for {', '.join(sorted(missing))}",
            hint="Give the spec together with its plan: tritonkit autoscale spec.yaml plan.yaml",
        )
    return placed


def _watched(deployment: Deployment) -> tuple[Watched, ...]:
    from tritonkit.provision.observing import Watched

    return tuple(
        Watched(server.http, server.addresses.get("metrics", ""), server.models)
        for server in deployment.servers
        if server.kind == "server"
    )
