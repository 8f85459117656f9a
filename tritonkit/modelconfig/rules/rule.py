"""What a rule is, and what it may look at."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from tritonkit.artifacts.signature import Signature
from tritonkit.modelconfig.findings import Finding, Severity
from tritonkit.modelconfig.platforms import Normal, normalize
from tritonkit.spec.faults import Path

Place = tuple[str | int, ...]
"""Where a value stands in a ModelConfig: ``("input", 0, "dims")``; map entries by their key."""


@dataclass(frozen=True)
class Machine:
    """What is known of the server that will load the models; None stands for not known.

    Attributes:
        gpus: how many GPUs each server sees.
        release: Triton's release, as in ``(24, 10)``.
        backends: the names of its backends.
        agents: the names of its repository agents.
        python_based: whether its backends run in Triton's Python stub, as those of the bundled server do.
    """

    gpus: int | None = None
    release: tuple[int, int] | None = None
    backends: frozenset[str] | None = None
    agents: frozenset[str] | None = None
    python_based: bool | None = None


@dataclass(frozen=True)
class Subject:
    """One model, as the rules see it.

    Attributes:
        name: the model's folder, by which it is loaded.
        config: its ModelConfig, as config.pbtxt says it.
        machine: what is known of the server.
        files: the files of its folder, each path with its size; None where they are not to be looked at.
        signature: what its artifact says of its inputs and outputs; None where it does not say.
        unreadable: why the artifact cannot be read; empty where it can, or was not tried.
        completes: whether its own code has ``auto_complete_config``, which may state what the configuration does not.
        locate: from a place in ``config`` to the path by which the user knows it.
        refused: the models checked so far that Triton would refuse, and whether at the first look.
    """

    name: str
    config: Any
    machine: Machine = Machine()
    files: Mapping[str, int] | None = None
    signature: Signature | None = None
    unreadable: str = ""
    completes: bool = False
    locate: Callable[[Place], Path] = field(default=lambda place: place)
    refused: Mapping[str, bool] = field(default_factory=dict)

    @cached_property
    def normal(self) -> Normal:
        """Backend, platform and file name, as Triton completes them."""
        return normalize(self.name, self.config, self.files)

    @cached_property
    def is_ensemble(self) -> bool:
        """Whether Triton takes the model as an ensemble."""
        return bool(self.config.HasField("ensemble_scheduling"))

    @cached_property
    def batches(self) -> bool:
        """Whether its tensors have a batch dimension that is not stated."""
        return bool(self.config.max_batch_size > 0)

    @cached_property
    def versions(self) -> tuple[int, ...] | None:
        """The versions in its folder, ascending; None where the files are not known."""
        if self.files is None:
            return None
        folders = {path.split("/", 1)[0] for path in self.files if "/" in path}
        # A folder 01 is taken for version 1, whose folder is then not found.
        return tuple(sorted(int(folder) for folder in folders if _VERSION.fullmatch(folder)))

    def tensors(self) -> Iterator[tuple[str, Any, Place]]:
        """Inputs and outputs, each with its role and its place."""
        for role in ("input", "output"):
            for index, tensor in enumerate(getattr(self.config, role)):
                yield role, tensor, (role, index)


_VERSION = re.compile(r"0|[1-9][0-9]*")

Fleet = Mapping[str, Subject]
"""All models that are known, by name."""


class Found(NamedTuple):
    """One place where a rule is broken, and the words that its templates need."""

    place: Place
    words: Mapping[str, object]


def at(*place: str | int, **words: object) -> Found:
    """A place where a rule is broken."""
    return Found(place, words)


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        code: its stable name.
        severity: how much it matters.
        says: what is wrong, a template over the words of each finding.
        triton: what Triton would say, a template; empty where it says nothing.
        instead: what to write instead, a template.
        seen: whether a test has seen the real server hold it; else it is taken from Triton's public source, and
            ``unseen`` says why.
        early: whether Triton holds it when it first reads the configuration, before any model file.
        find: where it is broken.
    """

    code: str
    severity: Severity
    says: str
    triton: str
    instead: str
    unseen: str
    early: bool
    find: Callable[[Subject, Fleet], Iterable[Found]]

    @property
    def seen(self) -> bool:
        """Whether the real server was seen to hold it."""
        return not self.unseen

    def findings(self, subject: Subject, fleet: Fleet) -> Iterator[Finding]:
        """What the rule finds in one model."""
        for place, words in self.find(subject, fleet):
            # Triton speaks of a model by the name that the configuration gives it.
            known = {"model": subject.config.name or subject.name, "folder": subject.name, **words}
            yield Finding(
                code=self.code,
                severity=self.severity,
                path=subject.locate(place),
                message=self.says.format_map(known),
                triton=self.triton.format_map(known),
                instead=self.instead.format_map(known),
            )


class Rules:
    """A list of rules that look at the same part of a configuration.

    Args:
        early: whether Triton holds them when it first reads the configuration.
        needs: the field of ModelConfig without which none of them can be broken.
    """

    def __init__(self, *, early: bool = False, needs: str = "") -> None:
        self.all: list[Rule] = []
        self._early = early
        self._needs = needs

    def concern(self, subject: Subject) -> bool:
        """Whether any of the rules can be broken by a model."""
        if not self._needs:
            return True
        if subject.config.DESCRIPTOR.fields_by_name[self._needs].has_presence:
            return bool(subject.config.HasField(self._needs))
        return bool(getattr(subject.config, self._needs))

    def rule(
        self,
        code: str,
        says: str,
        *,
        triton: str = "",
        instead: str,
        severity: Severity = Severity.ERROR,
        unseen: str = "",
        early: bool | None = None,
    ) -> Callable[[Callable[[Subject], Iterable[Found]]], Callable[[Subject], Iterable[Found]]]:
        """Make a function that looks at one model a rule."""

        def add(find: Callable[[Subject], Iterable[Found]]) -> Callable[[Subject], Iterable[Found]]:
            self.all.append(
                Rule(
                    code,
                    severity,
                    says,
                    triton,
                    instead,
                    unseen,
                    self._early if early is None else early,
                    lambda subject, _fleet: find(subject),
                )
            )
            return find

        return add

    def across(
        self,
        code: str,
        says: str,
        *,
        triton: str = "",
        instead: str,
        severity: Severity = Severity.ERROR,
        unseen: str = "",
        early: bool | None = None,
    ) -> Callable[[Callable[[Subject, Fleet], Iterable[Found]]], Callable[[Subject, Fleet], Iterable[Found]]]:
        """Make a function that looks at one model among all others a rule."""

        def add(find: Callable[[Subject, Fleet], Iterable[Found]]) -> Callable[[Subject, Fleet], Iterable[Found]]:
            self.all.append(
                Rule(code, severity, says, triton, instead, unseen, self._early if early is None else early, find)
            )
            return find

        return add
