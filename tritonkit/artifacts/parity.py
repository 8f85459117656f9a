"""Whether two things that should compute the same function do: figures for each output, held against tolerances."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    """

    rows: tuple[Row, ...]
    tolerances: Tolerances
    against: str

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
            figures = f"{row.absolute:>10.2e} {row.relative:>10.2e} {row.cosine:>10.6f}"
            verdict = "" if row.passed else f"  FAILED {row.fault}".rstrip()
            lines.append(f"{row.question:<24} {row.output:<20} {figures}{verdict}")
        limits = self.tolerances
        lines.append(
            f"{'tolerated':<24} {'':<20} {limits.absolute:>10.2e} {limits.relative:>10.2e} {limits.cosine:>10.6f}"
        )
        return "\n".join(lines)

    def check(self) -> None:
        """Refuse what is beyond the tolerances.

        Raises:
            ExportFailed: with the table.
        """
        if not self.passed:
            hint = "widen export.tolerance if this is precise enough; --bisect names the first node that departs"
            raise ExportFailed(f"does not compute what its source computes:\n{self.table()}", hint=hint)


def tolerances(precision: str | None, stated: Tolerances) -> Tolerances:
    """The tolerances of a precision, with those that are stated in their place."""
    absolute, relative, cosine = _DEFAULTS[precision or "FP32"]
    return Tolerances(
        absolute if stated.absolute is None else stated.absolute,
        relative if stated.relative is None else stated.relative,
        cosine if stated.cosine is None else stated.cosine,
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
    passed = absolute <= _of(limits.absolute) or (relative <= _of(limits.relative) and cosine >= _of(limits.cosine))
    return Row(question.label, name, absolute, relative, cosine, "", passed)


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
