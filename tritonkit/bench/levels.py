"""The load levels of a sweep: which model, how much load, how it is sent. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar, get_args
from urllib.parse import quote

from tritonkit.bench import records
from tritonkit.client.endpoint import Protocol
from tritonkit.client.signature import Signature
from tritonkit.errors import Fault, SpecError

SharedMemory: TypeAlias = Literal["none", "system"]
Distribution: TypeAlias = Literal["constant", "poisson"]

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
SHARED_MEMORIES: tuple[SharedMemory, ...] = get_args(SharedMemory)
MOST_LEVELS = 10_000

_Choice = TypeVar("_Choice", bound=str)


@dataclass(frozen=True)
class Concurrency:
    """A closed loop: this many requests are in flight at any time."""

    requests: int

    def __str__(self) -> str:
        return f"{self.requests} concurrent"

    @property
    def label(self) -> str:
        """Short, and fit for the name of a folder."""
        return f"c{self.requests}"


@dataclass(frozen=True)
class RequestRate:
    """An open loop: requests are sent at this rate, whether or not the server keeps up."""

    per_second: float
    distribution: Distribution = "constant"

    def __str__(self) -> str:
        return f"{self.number}/s {self.distribution}"

    @property
    def number(self) -> str:
        """The rate in as few digits as tell it from every other one."""
        return repr(float(self.per_second)).removesuffix(".0")

    @property
    def label(self) -> str:
        """Short, and fit for the name of a folder."""
        return f"r{self.number}-{self.distribution}"


@dataclass(frozen=True)
class Intervals:
    """An open loop with the times of a trace: requests are sent after these intervals, over and over.

    Attributes:
        name: what made the intervals, as users call it.
        per_second: their mean rate, in requests a second.
        seconds: how long all of them take.
        digest: of the intervals; two traces with one digest are the same.
        file: the intervals, in perf_analyzer's form: microseconds, one a line.
    """

    name: str
    per_second: float
    seconds: float
    digest: str
    file: Path = field(compare=False)

    def __str__(self) -> str:
        return f"{self.per_second:.4g}/s {self.name}"

    @property
    def label(self) -> str:
        """Short, and fit for the name of a folder."""
        return f"i-{quote(self.name, safe=' ')}-{self.digest[:8]}"


Load: TypeAlias = Concurrency | RequestRate | Intervals


def recorded(load: Load) -> records.Load:
    """A load as a record keeps it."""
    if isinstance(load, Concurrency):
        return records.Load("concurrency", load.requests)
    if isinstance(load, RequestRate):
        return records.Load("request_rate", load.per_second, load.distribution)
    return records.Load("intervals", load.per_second, load.name)


@dataclass(frozen=True)
class Level:
    """One load level, measured by one perf_analyzer process.

    Attributes:
        model: the model's name.
        load: how much is asked of it.
        batch_size: items in one request.
        protocol: ``http`` or ``grpc``.
        shared_memory: ``none`` sends tensors in the requests; ``system`` puts them in shared memory.
        version: the model's version; empty lets the server choose.
        streaming: whether all requests go over one gRPC stream, as decoupled models need it.
        sequence_length: requests of one sequence, for models that keep a state; 0 for others.
    """

    model: str
    load: Load
    batch_size: int = 1
    protocol: Protocol = "http"
    shared_memory: SharedMemory = "none"
    version: str = ""
    streaming: bool = False
    sequence_length: int = 0

    @property
    def label(self) -> str:
        """A name for its folder, different for every level of a sweep."""
        parts = [quote(self.model, safe=" "), f"v{self.version}" if self.version else "", self.protocol]
        parts += ["stream" if self.streaming else "", "shm" if self.shared_memory == "system" else ""]
        parts += [f"seq{self.sequence_length}" if self.sequence_length else "", f"b{self.batch_size}", self.load.label]
        return "-".join(part for part in parts if part)


@dataclass(frozen=True)
class Axes:
    """What is varied over a sweep; every combination is a level.

    Attributes:
        loads: how much is asked.
        batch_sizes: items in one request.
        protocols: how it is asked.
        shared_memories: where tensors travel.
        version: the models' version; empty lets the server choose.
        streaming: whether requests go over one gRPC stream.
        sequence_length: requests of one sequence; 0 for models without a state.
    """

    loads: tuple[Load, ...]
    batch_sizes: tuple[int, ...] = (1,)
    protocols: tuple[Protocol, ...] = ("http",)
    shared_memories: tuple[SharedMemory, ...] = ("none",)
    version: str = ""
    streaming: bool = False
    sequence_length: int = 0


def levels(models: Iterable[str], axes: Axes) -> list[Level]:
    """Every combination, model by model, the load varying fastest; each once."""
    combined = product(models, axes.protocols, axes.shared_memories, axes.batch_sizes, axes.loads)
    found = (
        Level(model, load, batch, protocol, memory, axes.version, axes.streaming, axes.sequence_length)
        for model, protocol, memory, batch, load in combined
    )
    return list(dict.fromkeys(found))


def check(wanted: Iterable[Level], signature: Signature) -> None:
    """Refuse levels that the model cannot take at all.

    Raises:
        SpecError: a batch is larger than the model takes, the model is of a kind that is not measured, or a name of
            its tensors is none that shared memory can have.
    """
    wanted = tuple(wanted)
    most = max(signature.max_batch_size, 1)
    reason = "it takes no batches" if not signature.max_batch_size else f"it takes at most {most}"
    faults = [
        Fault("--batch-size", 0, signature.model, f"a batch of {size}, and {reason} (max_batch_size)")
        for size in dict.fromkeys(level.batch_size for level in wanted)
        if size > most
    ]
    if signature.decoupled and not all(level.streaming for level in wanted):
        message = "it is decoupled: a request may have any number of answers, which takes streaming over grpc"
        faults.append(Fault("bench", 0, signature.model, message))
    if any(level.shared_memory == "system" for level in wanted):
        # perf_analyzer names the regions after the tensors. POSIX passes over slashes in front, and refuses others.
        faults += [
            Fault("--shared-memory", 0, signature.model, f"no shared memory can be named after {tensor.name}")
            for tensor in (*signature.inputs, *signature.outputs)
            if "/" in tensor.name.lstrip("/")
        ]
    if faults:
        raise SpecError(faults)


def choices(option: str, text: str, known: Sequence[_Choice]) -> tuple[_Choice, ...]:
    """The words of ``a,b``, each one of ``known``.

    Raises:
        SpecError: one is not; ``option`` is named as the place.
    """
    by_text = {str(choice): choice for choice in known}
    unknown = [word for word in text.split(",") if word not in by_text]
    if unknown:
        raise SpecError([Fault(option, 0, "", f"{unknown[0]!r} is none of {', '.join(by_text)}")])
    return tuple(by_text[word] for word in text.split(","))


def whole_numbers(option: str, text: str) -> list[int]:
    """The positive whole numbers of ``4``, ``1,2,8`` or ``start:end:step`` (both ends count; step 1 if left out).

    Raises:
        SpecError: it is none of these; ``option`` is named as the place.
    """
    values = numbers(option, text)
    if any(value != int(value) for value in values):
        raise SpecError([Fault(option, 0, "", f"expected whole numbers, got {text!r}")])
    return [int(value) for value in values]


def numbers(option: str, text: str) -> list[float]:
    """The positive numbers of ``4``, ``1,2,8`` or ``start:end:step`` (both ends count; step 1 if left out).

    Raises:
        SpecError: it is none of these; ``option`` is named as the place.
    """
    found: list[float] = []
    try:
        for part in text.split(","):
            found += _range([float(value) for value in part.split(":")])
    except ValueError as error:
        hint = "For example: 8, or 1,2,4,8, or 1:16:2 (start:end:step)."
        raise SpecError([Fault(option, 0, "", f"{text!r}: {error}")], hint=hint) from None
    return list(dict.fromkeys(found))


def _range(bounds: Sequence[float]) -> list[float]:
    if not all(0 < bound < float("inf") for bound in bounds):
        raise ValueError("numbers must be above 0")
    if len(bounds) == 1:
        return list(bounds)
    if len(bounds) > 3:
        raise ValueError("a range is start:end:step")
    start, end, step = (*bounds, 1.0)[:3]
    if end < start:
        raise ValueError("the range ends before it starts")
    # A step such as 0.1 is not exact; half a millionth of it must not lose the end.
    count = int((end - start) / step + 5e-7) + 1
    if count > MOST_LEVELS:
        raise ValueError(f"{count} levels are more than {MOST_LEVELS}")
    return [round(start + index * step, 9) for index in range(count)]
