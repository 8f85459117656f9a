"""Profile files: what models were measured to do at a thread percentage and a batch, alone or beside others.

A profile is a CSV with the columns ``model,thread_percentage,batch_size,latency_ms``, in any order; further ones are
known by name, and others are kept as they are. So a file may come from anywhere.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonkit.errors import Fault, SpecError, TritonkitError
from tritonkit.provision import figures
from tritonkit.provision.files import put

REQUIRED = ("model", "thread_percentage", "batch_size", "latency_ms")
OPTIONAL = ("throughput", "transfer_ms", "memory_mib", "gpu_memory_mib", "clients", "beside", "gpu", "fingerprint")
COLUMNS = (*REQUIRED, *OPTIONAL)
CPU = "CPU"
"""What the column ``gpu`` says of a profile of the CPU."""
MEASURE = "tritonkit profile spec.yaml"
"""The command that measures a profile, where nobody says a better one."""


@dataclass(frozen=True, order=True)
class Beside:
    """A neighbour that computed all the time while another model was measured."""

    model: str
    thread_percentage: float
    batch_size: int

    def __str__(self) -> str:
        return f"{self.model}:{self.thread_percentage:g}:{self.batch_size}"


@dataclass(frozen=True)
class Key:
    """What was measured."""

    model: str
    thread_percentage: float
    batch_size: int
    beside: tuple[Beside, ...] = ()

    def __str__(self) -> str:
        neighbours = f" beside {', '.join(map(str, self.beside))}" if self.beside else ""
        return f"{self.model} at {self.thread_percentage:g} %, batch {self.batch_size}{neighbours}"

    @property
    def models(self) -> tuple[str, ...]:
        """The model, then its neighbours."""
        return (self.model, *(each.model for each in self.beside))


@dataclass(frozen=True)
class Row:
    """One measured point.

    Attributes:
        key: what was measured.
        latency_ms: mean time of a request with a whole batch, one at a time.
        throughput: items a second where requests never run out; None where it was not measured.
        transfer_ms: the part of ``latency_ms`` outside the model's instance; None where it was not measured.
        memory_mib: the GPU memory of the model's server; None where it was not measured.
        gpu_memory_mib: all memory of the GPU.
        clients: the MPS clients of the model's server.
        gpu: the GPU's product, or ``CPU``; empty where it is not known.
        fingerprint: which version of the model it is of, and of each neighbour, by ``;``; empty where it is not known.
        others: the cells of columns that are not known here, with their names.
    """

    key: Key
    latency_ms: float
    throughput: float | None = None
    transfer_ms: float | None = None
    memory_mib: float | None = None
    gpu_memory_mib: float | None = None
    clients: int | None = None
    gpu: str = ""
    fingerprint: str = ""
    others: tuple[tuple[str, str], ...] = ()


def read(path: Path, *, measure: str = MEASURE) -> tuple[Row, ...]:
    """Read a profile file; where there is none, ``measure`` is the command that would make one.

    Raises:
        SpecError: it is no such file, or one of its lines is wrong; every fault is reported with its line.
    """
    file = str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SpecError([Fault(file, 0, "", "no such profile file")], hint=f"Measure one with: {measure}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([Fault(file, 0, "", f"cannot be read: {error}")]) from error
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    try:
        return _rows(reader, file)
    except csv.Error as error:
        raise SpecError([Fault(file, reader.line_num + 1, "", f"is no line of a CSV: {error}")]) from error


def _rows(reader: csv.DictReader[str], file: str) -> tuple[Row, ...]:
    names = reader.fieldnames or ()
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        words = f"the column{'s' if len(missing) > 1 else ''} {', '.join(missing)} {'are' if missing[1:] else 'is'}"
        hint = "Its cells are separated by ';', as some spreadsheets do; export it with commas." if _semicolons(names) \
            else None  # fmt: skip
        raise SpecError([Fault(file, 1, "", f"{words} missing; a profile begins with {','.join(REQUIRED)}")], hint=hint)
    faults: list[Fault] = []
    rows: dict[Key, tuple[int, Row]] = {}
    for cells in reader:
        found = _row(cells, file, reader.line_num, faults)
        if found is None:
            continue
        if found.key in rows:
            line = rows[found.key][0]
            faults.append(
                Fault(file, reader.line_num, "", f"{found.key} is given twice; it first stands on line {line}")
            )
        else:
            rows[found.key] = (reader.line_num, found)
    if not rows and not faults:
        faults.append(Fault(file, 1, "", "there is no line below the columns"))
    if faults:
        raise SpecError(faults)
    return tuple(row for _, row in rows.values())


def _semicolons(names: Sequence[str]) -> bool:
    return len(names) == 1 and ";" in names[0]


def device(rows: Iterable[Row], file: str) -> str:
    """What a profile was measured on: the product of a GPU, ``CPU``, or nothing where it does not say.

    Raises:
        SpecError: it is of several devices, which no fit can be made of.
    """
    found = sorted({row.gpu for row in rows if row.gpu})
    if len(found) > 1:
        message = f"was measured on {' and '.join(found)}; a profile is of one device"
        raise SpecError(
            [Fault(file, 0, "", message)], hint="Keep a file for each device, and choose one with --profile."
        )
    return found[0] if found else ""


def add(path: Path, row: Row) -> tuple[Row, ...]:
    """Add a point to a profile file, which is made where there is none; all its rows. Others may add at the same time.

    A point that is there already stays as it is.

    Raises:
        SpecError: there is a file already that is no profile.
        TritonkitError: it cannot be written.
    """
    with locked(path):
        rows = read(path) if path.exists() else ()
        if row.key not in {each.key for each in rows}:
            rows = (*rows, row)
            write(path, rows)
        return rows


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """For the time of a block a profile file is for nobody else.

    Its folder is what is locked: the file itself is replaced by every write.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise TritonkitError(f"{path}: the profile cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write a profile file, whole or not at all; what stood there is replaced.

    Raises:
        TritonkitError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, as_csv(rows))
    except OSError as error:
        raise TritonkitError(f"{path}: the profile cannot be written: {error.strerror}") from error


def as_csv(rows: Iterable[Row]) -> str:
    """The text of a profile file."""
    rows = tuple(rows)
    others = tuple(dict.fromkeys(name for row in rows for name, _ in row.others))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow((*COLUMNS, *others))
    for row in rows:
        cells = dict(row.others)
        key = row.key
        writer.writerow(
            [
                key.model, f"{key.thread_percentage:g}", key.batch_size, _number(row.latency_ms),
                _number(row.throughput), _number(row.transfer_ms), _number(row.memory_mib), _number(row.gpu_memory_mib),
                "" if row.clients is None else row.clients, ";".join(map(str, key.beside)), row.gpu, row.fingerprint,
                *(cells.get(name, "") for name in others),
            ]
        )  # fmt: skip
    return buffer.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _row(cells: Mapping[str | None, Any], file: str, line: int, faults: list[Fault]) -> Row | None:
    before = len(faults)

    def cell(name: str, convert: Callable[[str], Any], *, required: bool = False) -> Any:
        text = (cells.get(name) or "").strip()
        if not text:
            if required:
                faults.append(Fault(file, line, name, "is missing"))
            return None
        try:
            return convert(text)
        except ValueError as error:
            faults.append(Fault(file, line, name, f"{error}, found {text!r}"))
            return None

    if None in cells:
        faults.append(Fault(file, line, "", "has more cells than there are columns"))
    model = cell("model", str, required=True)
    percentage = cell("thread_percentage", figures.percentage, required=True)
    batch = cell("batch_size", figures.batch_size, required=True)
    latency = cell("latency_ms", figures.positive, required=True)
    beside = cell("beside", _neighbours) or ()
    numbers = {name: cell(name, figures.positive) for name in ("throughput", "memory_mib", "gpu_memory_mib")}
    transfer = cell("transfer_ms", figures.not_negative)
    clients = cell("clients", figures.count)
    if transfer is not None and latency is not None and transfer >= latency:
        faults.append(
            Fault(file, line, "transfer_ms", f"expected less than latency_ms ({latency:g}), found {transfer:g}")
        )
    if len(faults) > before:
        return None
    gpu, fingerprint = ((cells.get(name) or "").strip() for name in ("gpu", "fingerprint"))
    key = Key(model, percentage, batch, tuple(sorted(beside)))
    others = tuple((name, text or "") for name, text in cells.items() if name and name not in COLUMNS)
    return Row(
        key, latency, **numbers, transfer_ms=transfer, clients=clients, gpu=gpu, fingerprint=fingerprint, others=others
    )


def _neighbours(text: str) -> list[Beside]:
    found = []
    for part in text.split(";"):
        pieces = part.strip().rsplit(":", 2)
        if len(pieces) != 3 or not pieces[0]:
            raise ValueError("expected neighbours as in resnet50:30:8;bert:20:4 (model:thread_percentage:batch_size)")
        found.append(Beside(pieces[0], figures.percentage(pieces[1]), figures.batch_size(pieces[2])))
    return found
