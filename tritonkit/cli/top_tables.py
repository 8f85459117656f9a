"""A sample of a deployment as tables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tritonkit.serve.gpu_load import GpuLoad
    from tritonkit.serve.top import ModelLoad, Sample, ServerLoad

_NOT_HEALTHY = "bold red"


def tables(sample: Sample) -> RenderableType:
    """GPUs (or why there are none), processes and models, below one another."""
    return Group(
        _gpus(sample.gpus) if sample.gpus else Text(f"no GPUs: {sample.no_gpus}", style="dim"),
        _servers(sample.servers),
        _models(sample.models, measured=sample.seconds > 0),
    )


def heading(sample: Sample, what: str) -> RenderableType:
    """The line above the tables of a live view."""
    moment = time.strftime("%H:%M:%S", time.localtime(sample.time))
    return Text.assemble((what, "bold"), f"  {moment}  rates over {sample.seconds:.1f} s  (q quits)")


def _table(columns: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            column, justify="right" if column in right else "left", no_wrap=column != "fault", overflow="ellipsis"
        )
    return table


def _gpus(gpus: Sequence[GpuLoad]) -> Table:
    table = _table(("gpu", "name", "busy", "memory", "power"), ("busy", "memory", "power"))
    for gpu in gpus:
        table.add_row(
            str(gpu.index),
            Text(gpu.name),
            _figure(gpu.utilization, "{:.0f} %"),
            _of(_figure(_gib(gpu.memory_used), "{:.1f}"), _figure(_gib(gpu.memory_total), "{:.0f} GiB")),
            _of(_figure(gpu.power, "{:.0f}"), _figure(gpu.power_limit, "{:.0f} W")),
        )
    return table


def _servers(servers: Sequence[ServerLoad]) -> Table:
    # A column that says nothing of any process takes no room.
    optional = {
        "state": any(server.state for server in servers),
        "restarts": any(server.restarts is not None for server in servers),
        "gpu": any(server.gpu is not None for server in servers),
        "share": any(server.thread_percentage is not None for server in servers),
        "pid": any(server.pid is not None for server in servers),
        "cpu": any(server.cpu is not None for server in servers),
        "memory": any(server.resident is not None for server in servers),
        "fault": any(server.fault for server in servers),
    }
    columns = ["process", *(column for column, shown in optional.items() if shown)]
    table = _table(columns, ("restarts", "gpu", "share", "pid", "cpu", "memory"))
    for server in servers:
        cells: dict[str, str | Text] = {
            "process": Text(server.name),
            "state": Text(server.state or "-", style="" if server.state in ("ready", "") else _NOT_HEALTHY),
            "restarts": _figure(server.restarts, "{}"),
            "gpu": _figure(server.gpu, "{}"),
            "share": _figure(server.thread_percentage, "{:g} %"),
            "pid": _figure(server.pid, "{}"),
            "cpu": _figure(server.cpu, "{:.0f} %"),
            "memory": _figure(_mib(server.resident), "{:.0f} MiB"),
            "fault": Text(server.fault or "-", style=_NOT_HEALTHY if server.fault else ""),
        }
        table.add_row(*(cells[column] for column in columns))
    return table


def _models(models: Sequence[ModelLoad], *, measured: bool) -> RenderableType:
    if not models:
        return Text("no server answers with its models" if measured else "measuring", style="dim")
    figures = ("requests/s", "failures/s", "items/s", "queue ms", "compute ms", "batch")
    several = any(model.server is not None for model in models)
    table = _table(("model", *(("server",) if several else ()), *figures), figures)
    for model in models:
        table.add_row(
            Text(model.model if model.server is None else ""),
            *((Text("all" if model.server is None else model.server),) if several else ()),
            f"{model.requests:.1f}",
            Text(f"{model.failures:.1f}", style=_NOT_HEALTHY if model.failures else ""),
            f"{model.inferences:.1f}",
            _figure(model.queue, "{:.2f}"),
            _figure(model.compute, "{:.2f}"),
            _figure(model.average_batch, "{:.1f}"),
            style="" if model.server is None else "dim",
        )
    return table


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _of(used: str, total: str) -> str:
    return f"{used} / {total}"


def _gib(amount: int | None) -> float | None:
    return None if amount is None else amount / 2**30


def _mib(amount: int | None) -> float | None:
    return None if amount is None else amount / 2**20
