"""Studies, from a plan to what is on the terminal: where the models come from, the run, the dry run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tritonkit.bench import yardsticks
from tritonkit.bench.axes import Deployment
from tritonkit.bench.campaign import Campaign, Setting
from tritonkit.bench.command import Measurement, argv, certified, shell_line
from tritonkit.bench.deployer import Deployer
from tritonkit.bench.levels import Axes, levels
from tritonkit.bench.objective import Objective
from tritonkit.bench.plan import Item, Plan, Target
from tritonkit.bench.preparation import Wish, prepare
from tritonkit.bench.provenance import gather
from tritonkit.bench.search import Found, search
from tritonkit.bench.store import Store
from tritonkit.cli.console import output, progress
from tritonkit.cli.deployers import RepositoryDeployer, RunningServer, SpecDeployer, processes_of
from tritonkit.cli.points import failure, print_points, title_of
from tritonkit.cli.served import served
from tritonkit.cli.target import addresses
from tritonkit.client.endpoint import Addresses, Protocol
from tritonkit.errors import (
    ArtifactsMissing,
    BenchmarkFailed,
    Fault,
    Infeasible,
    RequestFailed,
    SpecError,
    TritonkitError,
    nearest,
)
from tritonkit.tools import perf_analyzer
from tritonkit.tools.perf_analyzer import PerfAnalyzer

if TYPE_CHECKING:
    from tritonkit.bench.records import Record

_DEFAULT_SERVER = Addresses("127.0.0.1:8000", "127.0.0.1:8001")


def run_file(
    files: Sequence[Path],
    assignments: Sequence[str],
    folder: Path | None,
    objective: Objective | None,
    fresh: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run the study of a file and its overlays."""
    from tritonkit.bench.study import read_study

    where = folder or Path(f"{files[0].stem}-results")
    plan = read_study(files, assignments, os.environ, where)
    target = plan.target
    if target.url is not None:
        deployer: Deployer = target_of(target, [], plan.protocols)
    elif target.spec:
        deployer = SpecDeployer(target.spec, where)
    elif target.repository is not None or not plan.items:
        # Where nothing but other services is measured, nothing is served.
        deployer = RepositoryDeployer(target.repository or where, where / "deployments" / "repository")
    else:
        deployer = target_of(target, [], plan.protocols)
    run(plan, deployer, where, objective, fresh=fresh, dry_run=dry_run, as_json=as_json)


def target_of(
    named: Target, targets: Sequence[Path], protocols: Iterable[Protocol], *, dry_run: bool = False
) -> RunningServer | RepositoryDeployer:
    """The server to measure: the one named, the project's own, or one that is started for the time of the benchmark."""
    from tritonkit.serve.state import recorded

    deployment = None if named.url else recorded(Path.cwd())
    if named.url is not None or (deployment is not None and deployment.alive):
        if targets:
            which = named.url or "the deployment of this folder"
            raise typer.BadParameter(f"{which} is measured, and nothing else is served", param_hint="--serve")
        server = certified(addresses(named.url, named.grpc_url, named.token_file, named.ca_certificate), protocols)
        repository = deployment.repository if deployment else None
        return RunningServer(server, repository, processes_of(deployment.id) if deployment else tuple)
    about = {"--grpc-url": named.grpc_url, "--token-file": named.token_file, "--ca-certificate": named.ca_certificate}
    for option, given in about.items():
        if given is not None:
            message = "it is about a server, and there is none: give --url as well"
            raise typer.BadParameter(message, param_hint=option)
    if dry_run and not targets and not Path("spec.yaml").exists() and not Path("model_repository").is_dir():
        # Nothing to look at: the command lines are those of a server at Triton's own ports.
        return RepositoryDeployer(Path("model_repository"), Path.cwd())
    chosen = served(targets, [], dry_run=dry_run)
    return RepositoryDeployer(chosen.repository, Path.cwd(), announced=True)


def short(
    target: RunningServer | RepositoryDeployer,
    names: Sequence[str],
    axes: Axes,
    wish: Wish,
    *,
    repeats: int,
    warmup: float,
) -> Plan:
    """A study of the models of one server, from options.

    Raises:
        SpecError: it has no such model.
        RequestFailed: it cannot be reached, or no model is ready.
    """
    known = target.ready()
    faults = [Fault("bench", 0, name, f"{target} has no model {name!r}{nearest(name, known)}") for name in names
              if known and name not in known]  # fmt: skip
    if faults:
        raise SpecError(faults)
    chosen = list(dict.fromkeys(names)) or known or ["MODEL"]
    items = tuple(Item(Deployment(), (level,)) for level in levels(chosen, axes))
    document = {"models": chosen, "options": True}
    return Plan("bench", document, Target(), items, wish, warmup, repeats, wish.seed)


def run(
    plan: Plan,
    deployer: Deployer,
    folder: Path,
    objective: Objective | None,
    *,
    fresh: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run a study: measure, keep its folder current, and print what there is, however it ends."""
    from rich.markup import escape

    analyzer = perf_analyzer.find()
    if dry_run:
        _print_plan(plan, deployer, folder, analyzer)
        return
    labels = plan.labels
    store = Store(folder, labels, fresh=fresh)
    store.refuse_foreign()
    provenance = gather(analyzer)
    store.begin(
        {
            "name": plan.name,
            "study": plan.document,
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seed": plan.seed,
            "repeats": plan.repeats,
            "warmup_s": plan.warmup,
            **provenance.as_json(),
        },
        plan.files,
    )
    state = "interrupted"
    reused: list[str] = []
    found: Found | None = None
    try:
        with progress() as bars:
            bar = bars.add_task(plan.name, total=len(labels))

            def told(record: Record, known: bool) -> None:
                reused.extend([record.label] if known else [])
                bars.update(bar, advance=1, description=escape(title_of(record)))

            setting = Setting(analyzer, provenance.as_json(), provenance.machine.cores)
            with Campaign(plan, deployer, store, setting, told) as campaign:
                if objective is None:
                    campaign.grid()
                else:
                    found = _search(plan, campaign, objective)
            if objective is None and not campaign.ended_early:
                # With no deployment up any more: they would share the machine.
                yardsticks.measure(plan, store, setting, told)
            state = campaign.ended_early or "complete"
    finally:
        records = store.records
        try:
            store.state(state)
        finally:
            if records:
                print_points(records, folder, as_json=as_json)
        if records:
            _write_report(folder, objective, as_json=as_json)
    if reused:
        typer.echo(f"{len(reused)} of {len(labels)} points were measured before; --fresh measures them again", err=True)
    if objective is not None and found is not None:
        _print_found(found, objective)
        return
    failed = failure(records, len(labels), folder, state)
    if failed is not None:
        raise failed


def _write_report(folder: Path, objective: Objective | None, *, as_json: bool) -> None:
    """The report of what there is, also of a study that was interrupted."""
    from tritonkit.bench import report
    from tritonkit.bench.records import load

    report.write(load(folder), folder / report.FILE, limits=objective.limits if objective else ())
    if not as_json:
        typer.echo(f"report: {folder / report.FILE}")


def _search(plan: Plan, campaign: Campaign, objective: Objective) -> Found:
    def measure(item: Item) -> Record:
        ((*records,),) = campaign.measure([item])
        if not records:
            raise RequestFailed(campaign.ended_early)
        return records[0]

    return search(plan.items, objective, measure)


def _print_found(found: Found, objective: Objective) -> None:
    """What a search found, and at what cost.

    Raises:
        Infeasible: no point that it looked at keeps to the limits.
    """
    limits = " and ".join(limit.text for limit in objective.limits)
    cost = f"{found.measured} of {found.grid} points measured"
    if found.best is not None:
        typer.echo(f"best: {title_of(found.best)} ({cost})", err=True)
        return
    near = f"; the nearest is {title_of(found.nearest)}" if found.nearest else ""
    raise Infeasible(f"no point keeps to {limits or 'what is asked'}: {cost}{near}")


def _print_plan(plan: Plan, deployer: Deployer, folder: Path, analyzer: PerfAnalyzer) -> None:
    """Print each deployment and the command lines; what a server can be asked, and a spec be checked for, is."""
    server = _DEFAULT_SERVER
    faults: list[str] = []
    if isinstance(deployer, RunningServer):
        server = deployer.server
        built = deployer.build(Deployment())
        wanted = [level for item in plan.items for level in item.levels]
        prepare(server, wanted, plan.wish, samples=built.samples, folder=built.samples_folder, tried=False)
    for deployment in plan.deployments:
        if isinstance(deployer, SpecDeployer):
            output().print(f"# {deployment or 'the spec as it is'}", markup=False)
            for option in deployer.options(deployment):
                output().print(f"#   --set '{option}'", markup=False)
            try:
                deployer.check(deployment)
            except ArtifactsMissing as missing:
                output().print(f"#   {missing.args[0]}", markup=False)
            except TritonkitError as error:
                faults.append(f"{deployment}: {error.args[0]}")
        measurement = Measurement(
            plan.wish.interval_ms or Measurement().interval_ms, plan.wish.stability_percentage, plan.wish.max_trials
        )
        for item in plan.of(deployment):
            for level, label in zip(item.levels, item.labels, strict=True):
                data, report = folder / "inputs" / f"{level.model}.json", folder / "points" / label / "report-1.csv"
                line = argv(analyzer.binary, level, server, measurement, data=data, report=report)
                typer.echo(shell_line(line, analyzer.env))
    for service in plan.services:
        output().print(f"# {service.name}: {' '.join(service.command)}", markup=False)
    if faults:
        raise BenchmarkFailed("\n".join(("these deployments cannot be built:", *faults)))
