"""What a point is called where people read about it, and what makes it the same point in another study. Pure."""

from __future__ import annotations

import json
from typing import Any

from tritonkit.bench.records import Record

KINDS = {"concurrency": "concurrent requests", "request_rate": "requests a second", "intervals": "requests a second"}
"""What the number of each kind of load counts."""


def identity(record: Record) -> str:
    """What was asked of which configuration: equal for points of two studies that may be compared.

    Not the key, which also holds the contents of models and tools: those are what two studies may differ in.
    """
    return json.dumps(
        [
            record.experiment, record.variant, record.configuration, record.model, record.load.kind,
            record.load.value, record.load.distribution, record.batch_size, record.protocol, record.shared_memory,
            record.streaming, record.together,
        ],
        sort_keys=True,
        default=str,
    )  # fmt: skip


def series(record: Record) -> str:
    """Everything of a point but how much is asked: the points of one line in a plot."""
    loads = {"concurrency": "", "request_rate": record.load.distribution, "intervals": record.load.distribution}
    parts = [
        record.experiment,
        record.model,
        configured(record),
        f"batch {record.batch_size}" if record.batch_size > 1 else "",
        record.protocol if record.protocol != "http" else "",
        f"{record.shared_memory} shared memory" if record.shared_memory != "none" else "",
        "streaming" if record.streaming else "",
        loads.get(record.load.kind, record.load.kind),
        f"together with {', '.join(others(record))}" if record.together else "",
    ]
    return ", ".join(part for part in parts if part)


def title(record: Record) -> str:
    """A point in words."""
    load = record.load if record.load.kind == "concurrency" else f"{record.load.value:g}/s"
    return f"{series(record)}, {load}"


def configured(record: Record) -> str:
    """The deployment in words: its name, or the values of what is varied; empty where nothing is."""
    values = ", ".join(f"{axis(path)} {value_text(value)}" for path, value in record.configuration.items())
    return record.variant or values


def others(record: Record) -> tuple[str, ...]:
    """The models that were loaded at the same time, itself left out."""
    return tuple(model for model in record.together if model != record.model)


def axis(path: str) -> str:
    """A dotted path without what every path of a model starts with."""
    parts = path.split(".", 2)
    return parts[2] if len(parts) == 3 and parts[0] in ("models", "servers") else path


def value_text(value: Any) -> str:
    """A value of an axis, on one line."""
    if value is None:
        return "left out"
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
