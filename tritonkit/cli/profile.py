"""``tritonkit profile``: how models run at thread percentages and batches, measured once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritonkit.cli.build import Assignments
from tritonkit.cli.console import advance, messages, print_json, print_table, progress
from tritonkit.cli.provision import DEFAULT_PROFILE, ProfileFile, Sent
from tritonkit.errors import BenchmarkFailed, LaunchFailed, TritonkitError, UsageError

if TYPE_CHECKING:
    from tritonkit.bench.preparation import Wish
    from tritonkit.client.endpoint import Protocol
    from tritonkit.provision.campaign import Measure, Server
    from tritonkit.provision.measuring import Gpu
    from tritonkit.provision.profiles import Key, Row
    from tritonkit.provision.selection import Selection
    from tritonkit.serve import Deployment
    from tritonkit.spec.loading import LoadedSpec


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("profile", epilog="Example: tritonkit profile spec.yaml --gpu 0 && tritonkit provision")(profile)


def profile(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[SPEC [OVERLAY]...]",
            help="The spec, then overlays that replace what it says (default: ./spec.yaml).",
            show_default=False,
        ),
    ] = None,
    assignments: Assignments = None,
    target: ProfileFile = DEFAULT_PROFILE,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Only this model; may be repeated (default: those with an slo, else all)."),
    ] = None,
    gpu: Annotated[
        str, typer.Option(metavar="INDEX|UUID|none", help="The GPU to measure on; none measures on the CPU.")
    ] = "0",
    percentages: Annotated[
        str | None,
        typer.Option(metavar="RANGE", help="Thread percentages (default: 10,20,50,100; on the CPU only 100)."),
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option("--batch-size", "-b", metavar="RANGE", help="Batches (default: 1, 2, the largest, one between)."),
    ] = None,
    no_pairs: Annotated[
        bool, typer.Option("--no-pairs", help="Measure no model beside another.", show_default=False)
    ] = False,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "--pair",
            metavar="A,B",
            help="Measure these two beside one another; may be repeated (default: a ring of all).",
        ),
    ] = None,
    protocol: Sent = "http",
    interval: Annotated[
        int | None,
        typer.Option("--measurement-interval", min=100, help="One window, in ms (default: by the model's latency)."),
    ] = None,
    stability: Annotated[
        float, typer.Option("--stability-percentage", min=0.1, help="How far three windows may differ.")
    ] = 5.0,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Measure again what the file has of these models; it is kept aside as it was."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the points only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the points as JSON.")] = False,
) -> None:
    """Measure models at thread percentages and batches through the real server; goes on where it was interrupted."""
    from tritonkit.bench.levels import numbers, whole_numbers
    from tritonkit.bench.preparation import Wish
    from tritonkit.provision import campaign
    from tritonkit.provision.outdated import without
    from tritonkit.provision.selection import select
    from tritonkit.repository.fingerprint import fingerprints
    from tritonkit.serve.gpus import NONE
    from tritonkit.spec.loading import load

    chosen = files or [Path("spec.yaml")]
    loaded = load(chosen, assignments or [], os.environ)
    loaded.faults.raise_if_any()
    on_cpu = gpu.lower() == NONE
    at = numbers("--percentages", percentages) if percentages else [100.0] if on_cpu else list(campaign.PERCENTAGES)
    if any(value > 100 for value in at):
        raise UsageError("--percentages: expected at most 100")
    if no_pairs and pairs:
        raise UsageError("--no-pairs and --pair: choose one of them")
    if on_cpu and set(at) != {100.0}:
        raise UsageError("--percentages: --gpu none measures on the CPU, where there are none: every point is at 100 %")
    if on_cpu and pairs:
        raise UsageError("--pair: --gpu none measures on the CPU, where models have no neighbours on a GPU")
    batches = whole_numbers("--batch-size", batch_size) if batch_size else None
    together = [] if no_pairs or on_cpu else [_pair(text) for text in pairs] if pairs else None
    selection = select(loaded, models or [], at, batches, together)
    device = _device(gpu)
    versions = {name: each for name, each in fingerprints(loaded).items() if name in selection.models}
    known = campaign.known(target, device.name, {} if fresh else versions)
    if fresh:
        known = without(known, selection.models)
    for words in selection.left_out:
        messages().print(f"note: left out: {words}", markup=False)
    wanted = selection.points
    left = campaign.pending(wanted, known)
    if dry_run:
        _print(wanted, known, as_json=as_json)
        return
    failed: Mapping[Key, TritonkitError] = {}
    if left:
        wish = Wish({}, {}, interval_ms=interval, stability_percentage=stability)
        asked = (loaded, chosen, assignments or [], selection, versions, target)
        known, failed = _measure(*asked, device, wish, protocol, fresh=fresh)
    _print(wanted, known, as_json=as_json)
    if not as_json:
        there = len(wanted) - len(left)
        typer.echo(f"{target}: {_points(len(left) - len(failed))} measured, {there} {_were(there)} there already")
    if failed:
        kept = "What was measured is kept, and can be planned with; run" if known else "Nothing was measured; run"
        raise BenchmarkFailed(
            "\n".join([f"{len(failed)} of {_points(len(wanted))} could not be measured:", *reasons(failed)]),
            hint=f"{kept} the same command to try the rest again.",
        )


def _points(count: int) -> str:
    return f"{count} point{'' if count == 1 else 's'}"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def reasons(failed: Mapping[Key, TritonkitError]) -> Iterator[str]:
    """Why points failed, as lines: each reason once below its points, then what to do and where the logs are."""
    together: dict[tuple[str, ...], list[Key]] = {}
    logs: dict[tuple[str, ...], list[str]] = {}
    hints: dict[tuple[str, ...], list[str]] = {}
    for key, error in failed.items():
        lines = error.args[0].removeprefix(f"{key}: ").splitlines()
        log = str(error.log) if isinstance(error, LaunchFailed) and error.log else None
        # Each start of the servers has a log of its own, and may have failed for the same reason.
        reason = tuple(line for line in lines if log is None or log not in line)
        together.setdefault(reason, []).append(key)
        logs.setdefault(reason, []).extend(line for line in lines if line not in reason)
        hints.setdefault(reason, []).extend([error.hint] if error.hint else [])
    for reason, keys in together.items():
        yield from (f"  {key}" for key in keys)
        yield from (f"    {line}" for line in (*reason, *dict.fromkeys([*logs[reason], *hints[reason]])))


def _pair(text: str) -> tuple[str, str]:
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise UsageError(f"--pair {text}: expected two models, as in resnet50,bert")
    return names[0], names[1]


def _measure(
    loaded: LoadedSpec,
    files: list[Path],
    assignments: list[str],
    selection: Selection,
    versions: Mapping[str, str],
    target: Path,
    device: Gpu,
    wish: Wish,
    protocol: Protocol,
    *,
    fresh: bool,
) -> tuple[tuple[Row, ...], Mapping[Key, TritonkitError]]:
    from tritonkit.cli.temporary import ON_CPU, built, samples_of, serving, with_members
    from tritonkit.client.endpoint import Addresses
    from tritonkit.provision import campaign
    from tritonkit.provision.measuring import Meter
    from tritonkit.provision.outdated import take_out
    from tritonkit.provision.overlay import unhurried
    from tritonkit.spec import servers as entries
    from tritonkit.spec.writing import dump
    from tritonkit.tools import perf_analyzer

    analyzer = perf_analyzer.find()
    gpus = (device.uuid,) if device.uuid else None
    overlay = dump(unhurried(loaded, selection.models))
    raw = target.with_name(f"{target.stem}-raw").resolve()
    measured = 0

    with built(files, assignments, overlay) as (repository, _), progress() as bars:
        texts, start = samples_of(repository, os.environ)
        before = take_out(target, selection.models) if fresh else None
        if before is not None:
            messages().print(f"note: {target} as it was is kept in {before}", markup=False)
        there = campaign.known(target, device.name, versions)
        bar = bars.add_task("profiling", total=len(campaign.pending(selection.points, there)))

        @contextmanager
        def opened(servers: tuple[Server, ...]) -> Iterator[Measure]:
            found = [
                entries.Server(f"profiled-{number}", number, (model,), gpus, percentage if gpus else None)
                for number, (model, percentage) in enumerate(servers)
            ]
            bars.update(bar, description=f"starting {', '.join(model for model, _ in servers)}")
            kept = raw / "-beside-".join(f"{model}-{percentage:g}" for model, percentage in servers)
            with serving(
                repository, with_members(loaded, [model for model, _ in servers]), found, gpus or ON_CPU, kept
            ) as deployment:
                server = Addresses(deployment.http, deployment.grpc)
                meter = Meter(server, analyzer, wish, raw, texts, start, device, protocol)

                def measure(key: Key) -> Row:
                    row = meter.row(key, clients=_clients(deployment) if gpus else None)
                    return replace(row, fingerprint=";".join(versions[model] for model in key.models))

                yield measure

        def told(key: Key, found: Row | TritonkitError) -> None:
            nonlocal measured
            failed = isinstance(found, TritonkitError)
            measured += not failed
            advance(bars, bar, f"{'failed' if failed else 'measured'} {key}")

        try:
            return campaign.run(selection.points, target, opened, told)
        except KeyboardInterrupt:
            kept = f"{target} keeps the {_points(measured)} that {_were(measured)} measured"
            words = kept if measured else "no point was measured yet"
            messages().print(f"interrupted: {words}; run the same command to go on", markup=False)
            raise


def _device(word: str) -> Gpu:
    """What is measured on.

    Raises:
        UsageError: the word means no GPU of this machine.
    """
    from tritonkit.provision.measuring import CPU, Gpu
    from tritonkit.serve import gpus
    from tritonkit.spec.sizes import MIB

    if word.lower() == gpus.NONE:
        return CPU
    found, message = gpus.resolve(word, gpus.present())
    if found is None:
        raise UsageError(f"--gpu {word}: {message}", hint="One GPU is measured on; --gpu none measures on the CPU.")
    return Gpu(found.uuid, found.name, found.memory_total / MIB, found.memory_used / MIB)


def _clients(deployment: Deployment) -> int | None:
    from tritonkit.serve.sharing import daemons

    return sum(len(daemon.clients) for daemon in daemons(deployment)) or None


def _print(wanted: Sequence[Key], known: Sequence[Row], *, as_json: bool) -> None:
    rows = {row.key: row for row in known}
    if as_json:
        print_json(
            [
                {
                    "model": key.model,
                    "thread_percentage": key.thread_percentage,
                    "batch_size": key.batch_size,
                    "beside": [str(each) for each in key.beside],
                    "latency_ms": rows[key].latency_ms if key in rows else None,
                    "throughput": rows[key].throughput if key in rows else None,
                    "memory_mib": rows[key].memory_mib if key in rows else None,
                }
                for key in wanted
            ]
        )
        return
    columns = ("model", "percent", "batch", "beside", "latency ms", "infer/s", "memory MiB")
    print_table(
        columns,
        [
            (
                key.model, f"{key.thread_percentage:g} %", key.batch_size, ", ".join(map(str, key.beside)) or "-",
                *(_cell(getattr(rows.get(key), name, None)) for name in ("latency_ms", "throughput", "memory_mib")),
            )
            for key in wanted
        ],
        right=("percent", "batch", "latency ms", "infer/s", "memory MiB"),
    )  # fmt: skip


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
