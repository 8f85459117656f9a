"""Fitting the analytic form to measured points: deterministic, within bounds, from several starts.

For a given k4 the form is linear in its other coefficients, so each start is one non-negative least-squares problem
with one solution; only k4 is searched for. Errors are relative: 1 ms of 10 weighs as much as 10 ms of 100.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tritonkit.errors import ToolMissing
from tritonkit.provision.profiles import Row

if TYPE_CHECKING:
    from tritonkit.provision.curves import Extent, Fitted

Point = tuple[int, float, float]
"""A batch size, a thread percentage, and milliseconds."""

_THREADS = "OPENBLAS_NUM_THREADS"
_STARTS = 24
_LARGEST_K4 = 1000.0


def form(points: Sequence[Point], extent: Extent) -> Fitted:
    """The analytic form with the least squared relative error.

    Args:
        points: what was measured.
        extent: where it is known.

    Raises:
        ToolMissing: scipy is not installed.
    """
    from tritonkit.provision.curves import Fitted

    minimize = optimizer().minimize_scalar
    starts = _starts(points)
    costs = [_solve(points, k4)[0] for k4 in starts]
    best = min(range(len(starts)), key=lambda index: (costs[index], index))
    k4, cost = starts[best], costs[best]
    low, high = starts[max(best - 1, 0)], starts[min(best + 1, len(starts) - 1)]
    if low < high:
        found = minimize(lambda value: _solve(points, value)[0], bounds=(low, high), method="bounded")
        if found.fun < cost:
            k4 = float(found.x)
    _, coefficients = _solve(points, k4)
    k1, k2, k3, k5, item = coefficients
    return Fitted(k1=k1, k2=k2, k3=k3, k4=k4, k5=k5, linear=item, extent=extent)


def held_out(points: Sequence[Point], extent: Extent) -> float:
    """The mean relative error at each point of a form that was fitted to the others."""
    errors = []
    for index, (batch, percentage, measured) in enumerate(points):
        others = [*points[:index], *points[index + 1 :]]
        errors.append(abs(form(others, extent).active_ms(batch, percentage) / measured - 1))
    return sum(errors) / len(errors)


def transfers(rows: Sequence[Row]) -> tuple[float, float]:
    """Milliseconds of transfer an item and a request; none where they were not measured apart at every point."""
    times = [row.transfer_ms for row in rows if row.transfer_ms is not None]
    if len(times) < len(rows):
        return 0.0, 0.0
    batches = [float(row.key.batch_size) for row in rows]
    # Relative to what the transfer is a part of: noise of a fast batch must not outweigh a slow one.
    scale = [row.latency_ms for row in rows]
    matrix = [[batch / by, 1 / by] for batch, by in zip(batches, scale, strict=True)]
    solution, _ = optimizer().nnls(_array(matrix), _array([time / by for time, by in zip(times, scale, strict=True)]))
    return float(solution[0]), float(solution[1])


def _starts(points: Sequence[Point]) -> list[float]:
    least = min(percentage for _, percentage, _ in points)
    ratio = (_LARGEST_K4 / 0.5) ** (1 / (_STARTS - 1))
    return [-0.5 * least, -0.25 * least, 0.0, *(0.5 * ratio**index for index in range(_STARTS))]


def _solve(points: Sequence[Point], k4: float) -> tuple[float, tuple[float, ...]]:
    """The squared error and k1, k2, k3, k5 and the linear part, for a given k4."""
    matrix = [
        [
            batch * batch / (percentage + k4) / time, batch / (percentage + k4) / time, 1 / (percentage + k4) / time,
            1 / time, batch / time,
        ]
        for batch, percentage, time in points
    ]  # fmt: skip
    solution, residual = optimizer().nnls(_array(matrix), _array([1.0] * len(points)))
    return float(residual) ** 2, tuple(float(value) for value in solution)


def optimizer() -> Any:
    """``scipy.optimize``.

    Raises:
        ToolMissing: scipy is not installed.
    """
    before = os.environ.get(_THREADS)
    # Read when the library is loaded: on small matrices its threads only wait for each other.
    os.environ[_THREADS] = before or "1"
    try:
        from scipy import optimize
    except ModuleNotFoundError:
        raise ToolMissing(
            "scipy is not installed: profiles are fitted with it",
            hint="Install it with: pip install 'tritonkit[provision]'",
        ) from None
    finally:
        if before is None:
            del os.environ[_THREADS]
    return optimize


def _array(values: Sequence[Any]) -> Any:
    import numpy

    return numpy.asarray(values, dtype=float)
