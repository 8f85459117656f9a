"""The load axes of a study's file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, TypeVar

from tritonkit.bench import study_arrivals
from tritonkit.bench.levels import (
    PROTOCOLS,
    SHARED_MEMORIES,
    Axes,
    Concurrency,
    Load,
    RequestRate,
    choices,
    numbers,
    whole_numbers,
)
from tritonkit.bench.study_schema import LoadKeys
from tritonkit.errors import SpecError, nearest
from tritonkit.spec.faults import Faults, Path, shown
from tritonkit.spec.loading import validated

if TYPE_CHECKING:
    from tritonkit.bench.arrivals import Times

T = TypeVar("T")
DISTRIBUTIONS = ("constant", "poisson")


class Sections:
    """The sections of a study's file: each checked, with what is wrong among the faults."""

    def __init__(self, folder: FilePath, faults: Faults) -> None:
        """Nothing is read yet; ``folder`` is where the results go."""
        self.folder = folder
        self.faults = faults
        self.files: dict[FilePath, str] = {}
        self.arrivals: Mapping[str, tuple[Times, float]] = {}

    def checked(self, kind: type[T], raw: Any, where: Path) -> T | None:
        """A section, or None with the reasons among the faults."""
        if not isinstance(raw, dict):
            self.faults.add(where, f"expected a mapping, found {shown(raw)}")
            return None
        before = len(self.faults)
        found: T | None = validated(kind, dict(raw), where, self.faults)
        return found if len(self.faults) == before else None

    def axes(self, raw: Any, where: Path) -> Axes | None:
        """The load axes of a section."""
        keys = self.checked(LoadKeys, raw, where)
        if keys is None:
            return None
        before = len(self.faults)
        loads: list[Load] = self.loads(keys, where)
        streaming = keys.streaming
        axes = Axes(
            loads=tuple(loads),
            batch_sizes=tuple(self.counts(keys.batch_size, (*where, "batch_size"))),
            protocols=self.words(keys.protocol, PROTOCOLS, (*where, "protocol")),
            shared_memories=self.words(keys.shared_memory, SHARED_MEMORIES, (*where, "shared_memory")),
            version=keys.version,
            streaming=streaming,
            sequence_length=keys.sequence_length,
        )
        if streaming and "http" in axes.protocols:
            self.faults.add((*where, "streaming"), "streams need gRPC: give protocol: grpc")
        return axes if len(self.faults) == before else None

    def loads(self, keys: LoadKeys, where: Path) -> list[Load]:
        """Every load of a section."""
        found: list[Load] = []
        before = len(self.faults)
        if keys.concurrency is not None:
            found += [Concurrency(value) for value in self.counts(keys.concurrency, (*where, "concurrency"))]
        if keys.request_rate is not None:
            rates = self.texts(keys.request_rate, (*where, "request_rate"), numbers)
            kinds = self.words(keys.distribution, DISTRIBUTIONS, (*where, "distribution"))
            found += [RequestRate(rate, kind) for kind in kinds for rate in rates]  # type: ignore[arg-type]
        elif keys.distribution != "constant":
            self.faults.add((*where, "distribution"), "it spaces request rates, and there is no request_rate")
        for index, name in enumerate(_listed(keys.arrivals)):
            if name not in self.arrivals:
                place = (*where, "arrivals", index)
                self.faults.add(place, f"the study has no arrivals '{name}'{nearest(str(name), self.arrivals)}")
                continue
            times, seconds = self.arrivals[name]
            load, text = study_arrivals.as_load(str(name), times, seconds, self.folder)
            self.files[load.file] = text
            found.append(load)
        if not found and len(self.faults) == before:
            self.faults.add(where, "no load: give concurrency, request_rate or arrivals")
        return found

    def counts(self, raw: Any, where: Path) -> list[int]:
        """Whole numbers in any of their forms."""
        return [int(value) for value in self.texts(raw, where, whole_numbers)]

    def texts(self, raw: Any, where: Path, read: Any) -> list[Any]:
        """Numbers in any of their forms: 4, "1:16:2", "1,2,4" or a list of these."""
        try:
            return list(read("", ",".join(str(one) for one in _listed(raw))))
        except SpecError as error:
            self.faults.add(where, f"{error.faults[0].message}; for example 8, [1, 2, 4] or 1:16:2")
            return []

    def words(self, raw: Any, known: Sequence[T], where: Path) -> tuple[T, ...]:
        """Words out of those that are known."""
        try:
            return choices("", ",".join(str(one) for one in _listed(raw)), known)  # type: ignore[type-var]
        except SpecError as error:
            self.faults.add(where, error.faults[0].message)
            return ()


def _listed(raw: Any) -> Iterable[Any]:
    return [] if raw is None else raw if isinstance(raw, list) else [raw]
