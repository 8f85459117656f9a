"""Running a study: one deployment after the other, each built, brought up, verified, measured and taken down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from tritonkit.bench import keys, point
from tritonkit.bench.axes import Deployment
from tritonkit.bench.data import document
from tritonkit.bench.deployer import Built, Deployer
from tritonkit.bench.levels import recorded
from tritonkit.bench.plan import Item, Plan, shuffled
from tritonkit.bench.preparation import Subject, prepare, prepare_each
from tritonkit.bench.provenance import of_server
from tritonkit.bench.records import Record, Status
from tritonkit.bench.soundness import judged
from tritonkit.bench.store import Store
from tritonkit.bench.verification import verify
from tritonkit.errors import LaunchFailed, RequestFailed, TritonkitError
from tritonkit.tools.perf_analyzer import PerfAnalyzer

SILENT = "the server does not answer any more"


@dataclass(frozen=True)
class Setting:
    """What every point of a study has in common; it is part of what defines a point.

    Attributes:
        analyzer: perf_analyzer.
        machine: the hardware and the versions.
        cores: the logical cores that server and client share.
    """

    analyzer: PerfAnalyzer
    machine: Mapping[str, Any]
    cores: int


@dataclass(frozen=True)
class _Session:
    deployment: Deployment
    bench: point.Bench
    refused: Mapping[str, str]
    warmed: set[Item]
    server: Mapping[str, str]


class Campaign:
    """A study that is being run, inside a ``with`` block: what it has brought up is down when the block ends.

    ``measure`` may be called for any items of the plan, in any order. ``told`` is called with each point as soon as
    it is measured, has failed, or was found measured before; the second argument says the last.
    """

    def __init__(
        self,
        plan: Plan,
        deployer: Deployer,
        store: Store,
        setting: Setting,
        told: Callable[[Record, bool], None],
    ) -> None:
        self.measured = 0
        self.ended_early = ""
        self._plan = plan
        self._deployer = deployer
        self._store = store
        self._setting = setting
        self._told = told
        self._built: dict[Deployment, Built | TritonkitError] = {}
        self._settled: dict[Item, tuple[Record, ...]] = {}
        self._session: _Session | None = None
        self._stack = ExitStack()
        # A study of a single deployment tells what is wrong at once; others have a row for it.
        self._strict = len(plan.deployments) == 1

    def __enter__(self) -> Campaign:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None
        self._stack.__exit__(kind, error, trace)

    def grid(self) -> None:
        """Measure every point of the plan, the deployments and the points of each in an order shuffled by the seed.

        Raises:
            SpecError, RequestFailed, BenchmarkFailed, LaunchFailed: nothing can be measured, or not be written.
        """
        for deployment in shuffled(self._plan.deployments, self._plan.seed, "deployments"):
            if not self.ended_early:
                self.measure(self._plan.of(deployment))

    def measure(self, items: Sequence[Item]) -> list[tuple[Record, ...]]:
        """Measure items of one deployment, as far as they are not yet; each is a point at the end, however it went.

        Raises:
            as ``grid``.
        """
        deployment = items[0].deployment
        built = self._build(deployment)
        if isinstance(built, TritonkitError):
            if self._strict:
                raise built
            self._fail(items, str(built.args[0]), "unbuilt", Built(""))
            return self._results(items)
        for item in items:
            self._reuse(item, built)
        pending = [item for item in items if item not in self._settled]
        while pending and not self.ended_early:
            before = self.measured, len(self._settled)
            error = self._try(deployment, built, pending)
            left = [item for item in pending if item not in self._settled]
            if error is not None and self._deployer.owned and before == (self.measured, len(self._settled)):
                # Nothing came of it: bringing it up again would end the same way.
                started = self._session is not None
                self._close()
                self._fail(left, str(error.args[0]), "failed" if started else "unbuilt", built)
                left = []
            elif error is not None:
                self._close()
                if left and not self._deployer.owned:
                    self.ended_early = SILENT
            pending = left
        return self._results(items)

    def _results(self, items: Sequence[Item]) -> list[tuple[Record, ...]]:
        return [self._settled.get(item, ()) for item in items]

    def _build(self, deployment: Deployment) -> Built | TritonkitError:
        if deployment not in self._built:
            try:
                self._built[deployment] = self._deployer.build(deployment)
            except TritonkitError as error:
                self._built[deployment] = error
        return self._built[deployment]

    def _try(self, deployment: Deployment, built: Built, pending: Sequence[Item]) -> TritonkitError | None:
        """Measure until all is done or the server is gone; then why."""
        try:
            session = self._open(deployment, built)
            self._rounds(session, built, pending)
        except (LaunchFailed, RequestFailed) as error:
            if self._strict and not self.measured and not self._settled:
                self._close(quietly=True)
                raise
            return error
        return None

    def _open(self, deployment: Deployment, built: Built) -> _Session:
        if self._session is not None and self._session.deployment == deployment:
            return self._session
        self._close(quietly=False)
        running = self._stack.enter_context(self._deployer.up(deployment, built))
        if built.repository is not None:
            verify(running.server, built.repository)
        levels = [level for item in self._plan.of(deployment) for level in item.levels]
        wish, samples, folder = self._plan.wish, built.samples, built.samples_folder
        refused: dict[str, str] = {}
        if self._strict:
            subjects = prepare(running.server, levels, wish, samples=samples, folder=folder)
        else:
            subjects, refused = prepare_each(running.server, levels, wish, samples=samples, folder=folder)
        told = of_server(running.server, subjects)
        self._store.describe(deployment.label, {"configuration": deployment.configuration, **told})
        bench = point.Bench(
            running.server,
            self._setting.analyzer,
            subjects,
            {model: self._write_data(model, one) for model, one in subjects.items()},
            running.processes,
            running.gpus,
        )
        self._session = _Session(deployment, bench, refused, set(), told["server"])
        return self._session

    def _close(self, *, quietly: bool = True) -> None:
        self._session = None
        stack, self._stack = self._stack, ExitStack()
        try:
            stack.close()
        except LaunchFailed:
            # It says that the server died, which is known by now.
            if not quietly:
                raise

    def _write_data(self, model: str, one: Subject) -> Path:
        text = document(one.data, one.signature)
        file = self._store.folder / "inputs" / f"{model}-{keys.of_text(text)[:12]}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            file.write_text(text)
        return file

    def _rounds(self, session: _Session, built: Built, pending: Sequence[Item]) -> None:
        endpoint = session.bench.server.endpoint()
        deployment_order = session.deployment.label
        for number in range(1, self._plan.repeats + 1):
            for item in shuffled(pending, self._plan.seed, deployment_order, number):
                if item in self._settled:
                    continue
                records = [self._record(item, index, built) for index in range(len(item.levels))]
                if min(len(record.repeats) for record in records) >= number:
                    continue
                self._once(session, item, records, number)
                if not endpoint.live():
                    raise RequestFailed(SILENT)

    def _once(self, session: _Session, item: Item, records: list[Record], number: int) -> None:
        refused = [session.refused[level.model] for level in item.levels if level.model in session.refused]
        if refused:
            self._settle(item, [replace(record, error=refused[0]) for record in records])
            return
        folders = [self._store.point(record.label) for record in records]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        if self._plan.warmup and item not in session.warmed:
            point.warm_up(item.levels, folders, self._plan.warmup, session.bench)
            session.warmed.add(item)
        results = point.measure(item.levels, folders, number, session.bench)
        self.measured += 1
        updated = []
        environment = {**self._setting.machine, "server": session.server}
        for blank, result in zip(records, results, strict=True):
            record = replace(blank, environment=environment)
            if result.repeat is None:
                updated.append(replace(record, error=result.error))
            else:
                updated.append(replace(record, repeats=(*record.repeats, result.repeat)))
        if any(record.error for record in updated) or number >= self._plan.repeats:
            self._settle(item, updated)
        else:
            for record in updated:
                self._store.keep(judged(record, self._setting.cores))

    def _settle(self, item: Item, records: Sequence[Record]) -> None:
        final = tuple(judged(record, self._setting.cores) for record in records)
        for record in final:
            self._store.keep(record)
        self._settled[item] = final
        for record in final:
            self._told(record, False)

    def _fail(self, items: Sequence[Item], error: str, status: Status, built: Built) -> None:
        for item in items:
            if item in self._settled:
                continue
            records = [self._record(item, index, built) for index in range(len(item.levels))]
            self._settle(item, [replace(record, status=status, error=error) for record in records])

    def _reuse(self, item: Item, built: Built) -> None:
        """Take over what an earlier run of the study measured completely."""
        if item in self._settled:
            return
        found = [
            self._store.earlier(blank.label, blank.key)
            for blank in (self._blank(item, index, built) for index in range(len(item.levels)))
        ]
        whole = tuple(record for record in found if record is not None and len(record.repeats) >= self._plan.repeats)
        if len(whole) == len(item.levels):
            self._settled[item] = tuple(replace(record, experiment=item.experiment) for record in whole)
            for record in whole:
                self._told(record, True)

    def _record(self, item: Item, index: int, built: Built) -> Record:
        """The record of a point so far: of this run, of an earlier one, or without any repeat."""
        blank = self._blank(item, index, built)
        return self._store.earlier(blank.label, blank.key) or blank

    def _blank(self, item: Item, index: int, built: Built) -> Record:
        level = item.levels[index]
        key = keys.of_point(
            {
                "served": built.digest,
                "levels": [keys.of_level(one) for one in item.levels],
                "this": index,
                "wish": asdict(self._plan.wish),
                "warmup": self._plan.warmup,
                "machine": self._setting.machine,
            },
            keys.of_inputs(self._plan.wish.given, built.samples, built.samples_folder),
        )
        return Record(
            key=key,
            label=item.labels[index],
            model=level.model,
            load=recorded(level.load),
            status="ok",
            configuration=item.deployment.configuration,
            variant=item.deployment.name,
            experiment=item.experiment,
            batch_size=level.batch_size,
            protocol=level.protocol,
            shared_memory=level.shared_memory,
            streaming=level.streaming,
            together=tuple(one.model for one in item.levels) if len(item.levels) > 1 else (),
        )
