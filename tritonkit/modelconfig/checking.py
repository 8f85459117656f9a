"""Every rule over every model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from tritonkit.modelconfig.findings import Finding, refused
from tritonkit.modelconfig.rules import (
    artifacts,
    batching,
    bundled,
    ensembles,
    files,
    identity,
    instances,
    metrics,
    native,
    parameters,
    pipelines,
    sequences,
    states,
    tensors,
    unnamed,
    warmup,
)

if TYPE_CHECKING:
    from tritonkit.modelconfig.rules.rule import Fleet, Rule, Subject

_PARTS = (
    identity,
    tensors,
    artifacts,
    batching,
    sequences,
    states,
    instances,
    unnamed,
    warmup,
    files,
    parameters,
    native,
    bundled,
    metrics,
    ensembles,
    pipelines,
)

RULES: tuple[Rule, ...] = tuple(rule for part in _PARTS for rule in part.rules.all)
"""Every rule, in the order of the parts."""

_EARLY = frozenset(rule.code for rule in RULES if rule.early)


def check(subjects: Iterable[Subject], variants: Iterable[Subject] = ()) -> list[Finding]:
    """What all rules find.

    Args:
        subjects: the models of one repository: steps of ensembles are looked up among them.
        variants: other configurations of these models, each checked in place of its model's own.
    """
    fleet = {subject.name: subject for subject in subjects}
    found: dict[str, list[Finding]] = {}
    failing: dict[str, bool] = {}
    for subject in _members_first(fleet):
        # An ensemble stands on models that load; they have been checked before it.
        known = replace(subject, refused=dict(failing)) if subject.is_ensemble else subject
        found[subject.name] = _findings(known, fleet)
        if refused(found[subject.name]):
            failing[subject.name] = any(finding.code in _EARLY for finding in found[subject.name] if finding.refuses)
    in_order = [finding for name in fleet for finding in found[name]]
    return in_order + [finding for variant in variants for finding in _findings(variant, fleet)]


def _findings(subject: Subject, fleet: Fleet) -> list[Finding]:
    return [
        finding
        for part in _PARTS
        if part.rules.concern(subject)
        for rule in part.rules.all
        for finding in rule.findings(subject, fleet)
    ]


def _members_first(fleet: Fleet) -> Iterator[Subject]:
    """Every model, those that an ensemble's steps run before it."""
    done: set[str] = set()
    for name in fleet:
        stack = [name]
        entered: set[str] = set()
        while stack:
            current = stack[-1]
            subject = fleet[current]
            entered.add(current)
            waiting = [
                step.model_name
                for step in subject.config.ensemble_scheduling.step
                if step.model_name in fleet and step.model_name not in done and step.model_name not in entered
            ]
            if waiting:
                stack.extend(waiting)
                continue
            stack.pop()
            if current not in done:
                done.add(current)
                yield subject
