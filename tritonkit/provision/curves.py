"""How long a batch takes alone, at any thread percentage and batch size within what was measured.

The fitted form is that of iGniter (F. Xu et al., "iGniter: Interference-Aware GPU Resource Provisioning for Predictable
DNN Inference in the Cloud", IEEE TPDS, 2022): with batch b and percentage r, the active time is
``(k1 b^2 + k2 b + k3) / (r + k4) + k5``, and transfers are linear in b. Where a profile does not follow it, the table
of the measured points is interpolated, over 1 / r as the form has it. Neither goes beyond the measured points: there
the time is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from tritonkit.provision.profiles import Row

# A profile may go the wrong way by this much: two measurements of one point differ by as much.
NOISE = 0.03
# A fit that is further off than this, on average or at one point, is worse than its table. With enough points each is
# left out once: real profiles have steps, and a form with six coefficients passes close to a dozen points without
# knowing what lies between them.
POOR_MEAN = 0.05
POOR_MAX = 0.15
# The form has six coefficients: with fewer points than this it passes through all of them, whatever lies between.
FEWEST = 8
# What a table is off by between its points, on average: 0.02 to 0.05 for two networks on an H200.
TABLE_ERROR = 0.04


@dataclass(frozen=True)
class Extent:
    """Between which percentages and batch sizes something was measured.

    Attributes:
        percentages: the smallest and the largest one.
        batches: likewise.
        hardest: for each percentage the largest batch that was measured; points that failed are in no profile.
    """

    percentages: tuple[float, float]
    batches: tuple[int, int]
    hardest: tuple[tuple[float, int], ...]

    def holds(self, batch_size: int, thread_percentage: float) -> bool:
        """Whether a point is within: as much was done with no more of a GPU."""
        if thread_percentage > self.percentages[1] or batch_size < self.batches[0]:
            return False
        return any(at <= thread_percentage and batch_size <= most for at, most in self.hardest)


@dataclass(frozen=True)
class Fitted:
    """The analytic form.

    Attributes:
        k1, k2, k3, k4, k5: its coefficients; milliseconds and percentages.
        linear: milliseconds an item at any percentage: what waits for memory, and transfers that are not known apart.
        extent: where it is known.
    """

    k1: float
    k2: float
    k3: float
    k4: float
    k5: float
    linear: float
    extent: Extent

    def active_ms(self, batch_size: int, thread_percentage: float) -> float:
        """Milliseconds that the instance is busy with one batch, alone."""
        if not self.extent.holds(batch_size, thread_percentage):
            return math.inf
        work = self.k1 * batch_size**2 + self.k2 * batch_size + self.k3
        return work / (thread_percentage + self.k4) + self.k5 + self.linear * batch_size


@dataclass(frozen=True)
class Table:
    """The measured points: for each percentage the batches and their milliseconds, all ascending."""

    lines: tuple[tuple[float, tuple[tuple[int, float], ...]], ...]

    def active_ms(self, batch_size: int, thread_percentage: float) -> float:
        """Milliseconds that the instance is busy with one batch, alone.

        Straight lines between batches, and over 1 / r between percentages: what is computed takes so long.
        """
        known = [(-1 / percentage, _between(points, batch_size)) for percentage, points in self.lines]
        return _between([(place, value) for place, value in known if value < math.inf], -1 / thread_percentage)


@dataclass(frozen=True)
class Residual:
    """One measured point, and what the curve says of it."""

    thread_percentage: float
    batch_size: int
    measured_ms: float
    predicted_ms: float

    @property
    def error(self) -> float:
        """The relative error, with its sign."""
        return self.predicted_ms / self.measured_ms - 1


Shape: TypeAlias = Fitted | Table


@dataclass(frozen=True)
class Curve:
    """A model alone.

    Attributes:
        shape: the time that its instance is busy.
        transfer_item_ms: milliseconds outside the instance, an item.
        transfer_fixed_ms: likewise, a request.
        extent: what was measured.
        residuals: of the analytic form, also where the table is used instead.
        held_out: the form's mean error at points that it was not fitted to; None where it was not fitted.
        notes: why the table is used, if it is.
    """

    shape: Shape
    transfer_item_ms: float
    transfer_fixed_ms: float
    extent: Extent
    residuals: tuple[Residual, ...]
    held_out: float | None
    notes: tuple[str, ...]

    @property
    def form(self) -> Literal["fitted", "table"]:
        """Which of the two is used."""
        return "fitted" if isinstance(self.shape, Fitted) else "table"

    @property
    def mean_error(self) -> float:
        """The form's mean relative error at the measured points."""
        return sum(abs(each.error) for each in self.residuals) / len(self.residuals) if self.residuals else 0.0

    @property
    def error(self) -> float:
        """What ``active_ms`` is off by on average, also between the measured points, as a part of it."""
        return max(self.mean_error, self.held_out or 0.0) if self.form == "fitted" else TABLE_ERROR

    @property
    def max_error(self) -> float:
        """Its largest one."""
        return max((abs(each.error) for each in self.residuals), default=0.0)

    def active_ms(self, batch_size: int, thread_percentage: float) -> float:
        """Milliseconds that the instance is busy with one batch; infinite beyond what was measured."""
        return self.shape.active_ms(batch_size, thread_percentage)

    def transfer_ms(self, batch_size: int) -> float:
        """Milliseconds of a batch's request outside the instance."""
        return self.transfer_item_ms * batch_size + self.transfer_fixed_ms

    def latency_ms(self, batch_size: int, thread_percentage: float) -> float:
        """Milliseconds of a request with one batch, alone."""
        return self.active_ms(batch_size, thread_percentage) + self.transfer_ms(batch_size)


def curve(rows: Sequence[Row]) -> Curve:
    """The curve of one model's points alone; at least one."""
    from tritonkit.provision import fitting

    rows = sorted(rows, key=lambda row: (row.key.thread_percentage, row.key.batch_size))
    extent = _extent(rows)
    item, fixed = fitting.transfers(rows)
    points = [
        (row.key.batch_size, row.key.thread_percentage, row.latency_ms - item * row.key.batch_size - fixed)
        for row in rows
    ]
    table = Table(
        tuple(
            (percentage, tuple((batch, time) for batch, at, time in points if at == percentage))
            for percentage in sorted({at for _, at, _ in points})
        )
    )
    if len(rows) < FEWEST:
        note = f"{len(rows)} point{'s' if len(rows) > 1 else ''} only: the table is used as it is"
        return Curve(table, item, fixed, extent, (), None, (note,))
    fitted = fitting.form(points, extent)
    residuals = tuple(
        Residual(at, batch, row.latency_ms, fitted.active_ms(batch, at) + item * batch + fixed)
        for row, (batch, at, _) in zip(rows, points, strict=True)
    )
    unknown = fitting.held_out(points, extent)
    found = Curve(fitted, item, fixed, extent, residuals, unknown, ())
    notes = [*_wrong_ways(rows)]
    if found.mean_error > POOR_MEAN or found.max_error > POOR_MAX:
        notes.append(f"the fit is off by {found.mean_error:.1%} on average, {found.max_error:.1%} at most")
    elif unknown > POOR_MEAN:
        notes.append(f"the fit is off by {unknown:.1%} on average at points that it does not know")
    if not notes:
        return found
    notes[-1] += ": the table is used instead"
    return Curve(table, item, fixed, extent, residuals, unknown, tuple(notes))


def _extent(rows: Sequence[Row]) -> Extent:
    percentages = [row.key.thread_percentage for row in rows]
    batches = [row.key.batch_size for row in rows]
    hardest = tuple(
        (percentage, max(row.key.batch_size for row in rows if row.key.thread_percentage == percentage))
        for percentage in sorted(set(percentages))
    )
    return Extent((min(percentages), max(percentages)), (min(batches), max(batches)), hardest)


def _wrong_ways(rows: Sequence[Row]) -> list[str]:
    """Where more of a GPU, or less to do, took longer."""
    notes = []
    for first in rows:
        for second in rows:
            one, other = first.key, second.key
            slower = second.latency_ms > first.latency_ms * (1 + NOISE)
            if slower and one.batch_size == other.batch_size and one.thread_percentage < other.thread_percentage:
                notes.append(
                    f"batch {one.batch_size} takes {second.latency_ms:.4g} ms at {other.thread_percentage:g} %, "
                    f"and {first.latency_ms:.4g} ms at {one.thread_percentage:g} %"
                )
            if slower and one.thread_percentage == other.thread_percentage and one.batch_size > other.batch_size:
                notes.append(
                    f"at {one.thread_percentage:g} % batch {other.batch_size} takes {second.latency_ms:.4g} ms, "
                    f"and batch {one.batch_size} takes {first.latency_ms:.4g} ms"
                )
    more = f" (and {len(notes) - 1} more such pairs)" if len(notes) > 1 else ""
    return [f"{notes[0]}{more}"] if notes else []


def _between(points: Sequence[tuple[float, float]], place: float) -> float:
    """The value at a place on straight lines between points in ascending order; infinite outside."""
    for (left, low), (right, high) in pairwise(points):
        if left <= place <= right:
            return low + (high - low) * (place - left) / (right - left)
    return next((value for at, value in points if at == place), math.inf)
