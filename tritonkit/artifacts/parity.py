"""Whether two things that should compute the same function do: figures for each output, held against tolerances."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from tritonkit.artifacts.questions import Array, Question
from tritonkit.artifacts.recipes import Tolerances
from tritonkit.errors import ExportFailed

Answering: TypeAlias = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Something that answers: inputs by name in, outputs by name out."""

# By precision: absolute, relative, cosine.
_DEFAULTS: Mapping[str, tuple[float, float, float]] = {
    "FP32": (1e-7, 1e-3, 0.99999),
    "FP16": (1e-5, 2e-2, 0.9995),
    "BF16": (1e-5, 1e-1, 0.995),
}

# Two roundings of one network differ as much from each other as each does from the network, and the largest of many
# errors varies: an artifact may be this many times as far off as the source is that computes in its precision.
_ROOM = 2.0
# But no further than this many times the tolerance of the precision: beyond, it does not suit the network.
_MOST = 10.0


@dataclass(frozen=True)
class Row:
    """How one output of the artifact compares with its source's, for one question.

    Attributes:
        question: the question's label.
        output: the output's name.
        absolute: largest absolute error of an element.
        relative: largest error of an element, relative to it or to the output's root mean square, whichever is larger.
        cosine: cosine between the two outputs, flattened.
        fault: what else is wrong: a shape, a type, values that are no numbers. Empty if nothing is.
        passed: whether it is within the tolerances.
    """

    question: str
    output: str
    absolute: float
    relative: float
    cosine: float
    fault: str
    passed: bool


@dataclass(frozen=True)
class Parity:
    """The whole proof.

    Attributes:
        rows: every output for every question.
        tolerances: what they were held against.
        against: what answered beside the source: "onnxruntime 1.20 on CPUExecutionProvider".
        rounding: the same figures of the source computing in the artifact's precision, where they were needed: what
            the precision alone costs this model.
    """

    rows: tuple[Row, ...]
    tolerances: Tolerances
    against: str
    rounding: tuple[Row, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every output passed."""
        return all(row.passed for row in self.rows)

    @property
    def worst(self) -> Row:
        """The row with the largest relative error, a failed one before all others."""
        return max(self.rows, key=lambda row: (not row.passed, bool(row.fault), row.relative))

    def table(self) -> str:
        """The figures, as lines of text."""
        lines = [f"{'question':<24} {'output':<20} {'absolute':>10} {'relative':>10} {'cosine':>10}"]
        for row in self.rows:
            verdict = "" if row.passed else f"  FAILED {row.fault}".rstrip()
            lines.append(f"{row.question:<24} {row.output:<20} {_figures(row)}{verdict}")
        lines.append(f"{'tolerated':<24} {'':<20} {_figures(self.tolerances)}")
        if self.rounding:
            # The source in the artifact's precision, held against the source.
            worst = max(self.rounding, key=lambda row: (bool(row.fault), row.relative))
            lines.append(f"{'its precision alone':<24} {worst.output:<20} {_figures(worst)}  {worst.fault}".rstrip())
        return "\n".join(lines)

    def check(self) -> None:
        """Refuse what is beyond the tolerances.

        Raises:
            ExportFailed: with the table.
        """
        if not self.passed:
            hint = "widen export.tolerance if this is precise enough; --bisect names the first node that departs"
            if not all(_within(row, self.tolerances) for row in self.rounding):
                hint = "this model loses too much in that precision itself: keep FP32, or widen export.tolerance"
            raise ExportFailed(f"does not compute what its source computes:\n{self.table()}", hint=hint)


def tolerances(precision: str | None, stated: Tolerances = Tolerances()) -> Tolerances:  # noqa: B008 - frozen
    """The tolerances of a precision, with those that are stated in their place."""
    absolute, relative, cosine = _DEFAULTS[precision or "FP32"]
    return Tolerances(
        absolute if stated.absolute is None else stated.absolute,
        relative if stated.relative is None else stated.relative,
        cosine if stated.cosine is None else stated.cosine,
    )


def _figures(of: Row | Tolerances) -> str:
    return f"{of.absolute:>10.2e} {of.relative:>10.2e} {of.cosine:>10.6f}"


def allow_rounding(parity: Parity, rounding: Parity, precision: str, stated: Tolerances) -> Parity:
    """The same proof, judged by what the precision costs this model.

    Networks differ in how far they carry the rounding of their values. Where the source itself, computing in the
    artifact's precision, is further off than most are, the tolerances that are not stated widen with it: to twice
    its error, and no more than tenfold. A fault is a fault.

    Args:
        parity: the artifact against the source.
        rounding: the source in the artifact's precision, against the source.
        precision: the artifact's.
        stated: the tolerances that the spec states.
    """
    limits = tolerances(precision, stated)
    if all(not row.fault for row in rounding.rows):
        wide = _widened(limits, rounding.rows)
        limits = Tolerances(
            limits.absolute,
            wide.relative if stated.relative is None else limits.relative,
            wide.cosine if stated.cosine is None else limits.cosine,
        )
    rows = tuple(replace(row, passed=_within(row, limits)) for row in parity.rows)
    return replace(parity, rows=rows, tolerances=limits, rounding=rounding.rows)


def _widened(limits: Tolerances, rounding: Sequence[Row]) -> Tolerances:
    relative, loss = _of(limits.relative), 1.0 - _of(limits.cosine)
    rounded = _ROOM * max(row.relative for row in rounding)
    # The cosine falls with the square of the error.
    lost = _ROOM**2 * max(1.0 - row.cosine for row in rounding)
    return Tolerances(
        limits.absolute,
        max(relative, min(rounded, _MOST * relative)),
        1.0 - max(loss, min(lost, _MOST * loss)),
    )


def compare(
    source: Answering, artifact: Answering, asked: Sequence[Question], limits: Tolerances, against: str
) -> Parity:
    """Ask both the same questions.

    Raises:
        ExportFailed: the source itself gives no usable answer, so that nothing can be proved.
    """
    rows: list[Row] = []
    for question in asked:
        expected = _of_source(source, question)
        try:
            found = artifact(question.tensors)
        except Exception as error:
            words = " ".join(str(error).split())[:300]
            rows.extend(_failed(question, name, f"cannot be run: {words}") for name in expected)
            continue
        for name, value in expected.items():
            rows.append(_row(question, name, value, found.get(name), limits))
    return Parity(tuple(rows), limits, against)


def _of_source(source: Answering, question: Question) -> Mapping[str, Array]:
    try:
        expected = source(question.tensors)
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        hint = (
            "state which sizes and values it takes: export.profiles, export.ranges, or export.inputs with a .npz file"
        )
        raise ExportFailed(
            f"the source cannot answer {question.label}: {type(error).__name__}: {words}", hint=hint
        ) from error
    for name, value in expected.items():
        if np.issubdtype(value.dtype, np.number) and value.size and not np.isfinite(value.astype(np.float64)).any():
            hint = "give inputs that it answers: export.ranges, or export.inputs with a .npz file"
            raise ExportFailed(f"the source's own output '{name}' has no finite value for {question.label}", hint=hint)
    return expected


def _failed(question: Question, output: str, fault: str) -> Row:
    return Row(question.label, output, math.inf, math.inf, 0.0, fault, passed=False)


def _row(question: Question, name: str, expected: Array, found: Array | None, limits: Tolerances) -> Row:
    if found is None:
        return _failed(question, name, "is missing")
    if expected.shape != found.shape:
        return _failed(question, name, f"has the shape {list(found.shape)}, the source {list(expected.shape)}")
    if np.object_ in (expected.dtype, found.dtype):
        same = expected.dtype == found.dtype and bool((expected == found).all())
        return Row(question.label, name, 0.0, 0.0, 1.0, "", passed=True) if same else _failed(question, name, "differs")
    absolute, relative, cosine = measure(expected, found)
    if math.isinf(absolute):
        return _failed(question, name, "is not finite in the same places")
    row = Row(question.label, name, absolute, relative, cosine, "", passed=True)
    return replace(row, passed=_within(row, limits))


def _within(row: Row, limits: Tolerances) -> bool:
    return not row.fault and (
        row.absolute <= _of(limits.absolute)
        or (row.relative <= _of(limits.relative) and row.cosine >= _of(limits.cosine))
    )


def _of(limit: float | None) -> float:
    return 0.0 if limit is None else limit


def measure(expected: Array, found: Array) -> tuple[float, float, float]:
    """The largest absolute error, the largest relative one, and the cosine, of two arrays of one shape.

    An error is relative to the element or to the root mean square of all, whichever is larger, so that elements near
    zero do not decide. Infinite where the two are not finite in the same places.
    """
    ours, theirs = (np.asarray(value).astype(np.float64).ravel() for value in (expected, found))
    finite = np.isfinite(ours)
    same: Any = np.array_equal(finite, np.isfinite(theirs)) and np.array_equal(
        ours[~finite], theirs[~finite], equal_nan=True
    )
    if not same:
        return math.inf, math.inf, 0.0
    ours, theirs = ours[finite], theirs[finite]
    if not ours.size:
        return 0.0, 0.0, 1.0
    errors = np.abs(ours - theirs)
    scale = np.maximum(np.abs(ours), math.sqrt(float(np.mean(ours**2))))
    relative = np.divide(errors, scale, out=np.where(errors > 0, np.inf, 0.0), where=scale > 0)
    norms = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    cosine = min(1.0, float(ours @ theirs) / norms) if norms else float(not errors.any())
    return float(errors.max()), float(relative.max()), cosine
