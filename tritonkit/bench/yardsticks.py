"""The services of a study, measured beside its deployments: the same records, the same folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tritonkit.bench import keys, services
from tritonkit.bench.campaign import Setting
from tritonkit.bench.command import Measurement
from tritonkit.bench.plan import Plan, Service
from tritonkit.bench.records import Load, Record
from tritonkit.bench.soundness import judged
from tritonkit.bench.store import Store
from tritonkit.errors import TritonkitError


def measure(plan: Plan, store: Store, setting: Setting, told: Callable[[Record, bool], None]) -> None:
    """Measure every service of the plan at each of its loads; one that does not start has rows that say so.

    Raises:
        BenchmarkFailed: the results cannot be written.
    """
    for service in plan.services:
        pending = []
        for clients in service.concurrencies:
            blank = _blank(plan, service, clients, setting)
            record = store.earlier(blank.label, blank.key) or blank
            if len(record.repeats) >= plan.repeats:
                told(record, True)
            else:
                pending.append((clients, record))
        if pending:
            for record in _measured(plan, service, pending, store, setting):
                told(record, False)


def _measured(
    plan: Plan, service: Service, pending: list[tuple[int, Record]], store: Store, setting: Setting
) -> list[Record]:
    wish = plan.wish
    measurement = Measurement(wish.interval_ms or Measurement().interval_ms, wish.stability_percentage, wish.max_trials)
    folder = store.point(pending[0][1].label)
    folder.mkdir(parents=True, exist_ok=True)
    done: dict[str, Record] = {record.label: record for _, record in pending}
    try:
        with services.started(service, folder / "service.log") as (port, leader):
            for number in range(1, plan.repeats + 1):
                for clients, record in pending:
                    known = done[record.label]
                    if len(known.repeats) >= number or known.error:
                        continue
                    warmup = plan.warmup if number == 1 else 0.0
                    repeat = services.measure(service, port, leader, clients, measurement, warmup)
                    known = judged(replace(known, repeats=(*known.repeats, repeat)), setting.cores)
                    store.keep(known)
                    done[record.label] = known
    except TritonkitError as error:
        for label, record in done.items():
            if len(record.repeats) < plan.repeats:
                status = record.status if record.repeats else "unbuilt"
                done[label] = judged(replace(record, error=str(error.args[0]), status=status), setting.cores)
                store.keep(done[label])
    return list(done.values())


def _blank(plan: Plan, service: Service, clients: int, setting: Setting) -> Record:
    defined = {
        "service": services.defining(service),
        "clients": clients,
        "interval": plan.wish.interval_ms,
        "warmup": plan.warmup,
        "machine": setting.machine,
    }
    return Record(
        key=keys.of_point(defined, {}),
        label=service.label(clients),
        model=service.name,
        load=Load("concurrency", clients),
        status="ok",
        experiment=service.experiment,
        environment=setting.machine,
    )
