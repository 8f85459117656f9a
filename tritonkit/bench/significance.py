"""Whether two sets of repeats differ by more than chance and by enough to matter. Pure.

Repeats of a benchmark are few (3 to 10), noisy, and skewed to the slow side; noise grows with the figure. So they are
compared as logarithms, in which noise of a given percentage has one size everywhere, with Welch's test, which does not
take both sides for equally noisy (B. L. Welch, "The generalization of 'Student's' problem when several different
population variances are involved", Biometrika 34, 1947). The hypothesis to refute is not that both are equal: two runs
of the same thing never are, since a server that starts again lands on other memory and other cores, and the repeats
of one run do not show that. It is that they differ by at most ``smallest`` (a minimum-effect test: K. R. Murphy and
B. Myors, "Testing the hypothesis that treatments have negligible effects", Journal of Applied Psychology 84, 1999)::

    a, b   the logarithms of the repeats of each side;  m means, s² variances, n counts
    SE²    = s²(a)/n(a) + s²(b)/n(b)
    t      = (|m(b) - m(a)| - ln(1 + smallest)) / SE
    df     = SE⁴ / (s⁴(a)/(n²(a)(n(a)-1)) + s⁴(b)/(n²(b)(n(b)-1))),  rounded down
    p      = P(T(df) > t)

A comparison asks this of many figures at once, so the p are adjusted together (S. Holm, "A simple sequentially
rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979): the chance of calling anything
different that is not stays below 5% for the whole comparison.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.05
"""The chance of a false call, over all figures of a comparison."""
FEWEST = 3
"""Repeats on each side below which noise cannot be told from change."""
# Repeats that happen to agree to the digit do not prove that there is no noise.
_LEAST_DEVIATION = 0.01


@dataclass(frozen=True)
class Difference:
    """How one figure changed.

    Attributes:
        change: the later median over the earlier one, less 1: 0.1 is 10% more.
        low: lower end of the 95% confidence interval of the change, by Welch's test; None where nothing can be told.
        high: upper end of the same.
        p: the chance of repeats this far apart, or further, where the true change is at most the smallest that
            counts; not adjusted. None with fewer than ``FEWEST`` repeats on a side.
    """

    change: float
    low: float | None
    high: float | None
    p: float | None


def difference(before: Sequence[float], after: Sequence[float], smallest: float) -> Difference | None:
    """Compare the repeats of one figure.

    Args:
        before: the earlier side's repeats.
        after: the later side's.
        smallest: the smallest relative change that counts, 0.05 for 5%.

    Returns:
        None where a side has no value or one that is not above 0.
    """
    if not before or not after or min(*before, *after) <= 0:
        return None
    change = statistics.median(after) / statistics.median(before) - 1
    if min(len(before), len(after)) < FEWEST:
        return Difference(change, None, None, None)
    first, last = [math.log(value) for value in before], [math.log(value) for value in after]
    shares = [_variance(side) / len(side) for side in (first, last)]
    error = math.sqrt(sum(shares))
    counts = (len(first), len(last))
    degrees = int(sum(shares) ** 2 / sum(share**2 / (count - 1) for share, count in zip(shares, counts, strict=True)))
    moved = statistics.fmean(last) - statistics.fmean(first)
    reach = quantile(0.975, degrees) * error
    return Difference(
        change=change,
        low=math.expm1(moved - reach),
        high=math.expm1(moved + reach),
        p=survival((abs(moved) - math.log1p(smallest)) / error, degrees),
    )


def holm(chances: Sequence[float]) -> list[float]:
    """The p of several tests, each adjusted for their number, in the given order."""
    order = sorted(range(len(chances)), key=lambda index: chances[index])
    adjusted = [0.0] * len(chances)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = largest
    return adjusted


def survival(t: float, degrees: int) -> float:
    """P(T > t) of Student's t with a whole number of degrees of freedom: its finite series."""
    angle = math.atan2(t, math.sqrt(degrees))
    cosine = math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for index in range(degrees // 2):
        total += term
        term *= cosine * (2 * index + 1 + odd) / (2 * index + 2 + odd)
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return min(max((1 - inside) / 2, 0.0), 1.0)


def quantile(share: float, degrees: int) -> float:
    """The t below which ``share`` (above a half) of Student's distribution lies."""
    low, high = 0.0, 1.0
    while survival(high, degrees) > 1 - share:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if survival(middle, degrees) > 1 - share else (low, middle)
    return high


def _variance(sample: Sequence[float]) -> float:
    return max(statistics.variance(sample), _LEAST_DEVIATION**2)
