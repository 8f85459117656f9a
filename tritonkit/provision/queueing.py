"""How long a request waits before its batch begins, and how long a batch takes at most. Pure.

Requests arrive at random (Poisson). The server takes all that wait, up to a batch, as Triton's dynamic batcher without
delay does. A request waits for the batch that runs, and for the full batches ahead of it. The tail of the latter is
that of the bulk queue whose batches take gamma distributed times: P(W > x) <= exp(-theta x), Lundberg's bound.
"""

from __future__ import annotations

import math

QUANTILE = 0.99
# The standard deviation of a batch's time, as a part of its mean. Between 0.05 and 0.1 on GPUs that serve several
# models; profiles hold means only.
VARIATION = 0.1
# Of a gamma distribution's 100 values 99 are below its mean and so many standard deviations, up to a variation of 0.2.
_DEVIATIONS = 2.62
# Less than this says nothing more of waiting, and its logarithm is no number for ever smaller ones.
_LEAST_LOAD = 1e-9


def longest_ms(service_ms: float, variation: float = VARIATION) -> float:
    """A time that 99 of 100 batches do not take longer than, where they take ``service_ms`` on average."""
    return service_ms * (1 + _DEVIATIONS * variation)


def wait_ms(service_ms: float, batch_size: int, capacity: float, rate: float, variation: float = VARIATION) -> float:
    """A time that 99 of 100 requests do not wait longer than; infinite where more arrives than is served.

    Args:
        service_ms: how long one whole batch keeps the instance, on average.
        batch_size: items in it at most.
        capacity: items served a second.
        rate: items that arrive a second.
        variation: the standard deviation of a batch's time, as a part of its mean.
    """
    if not rate < capacity:
        return math.inf
    load = max(rate / capacity, _LEAST_LOAD)
    decay = 1000 / capacity / (load * math.expm1(_root(load, batch_size * variation**2)))
    return (1 - 1 / batch_size) * longest_ms(service_ms, variation) + math.log(1 / (1 - QUANTILE)) * decay


def _root(load: float, scatter: float) -> float:
    """The positive y with ``load (e^y - 1) = (1 - e^(-scatter y)) / scatter``, which is y where nothing scatters.

    With z = e^y items' numbers fall as z^-n in a queue where batches of b arrive to be served at once: z^b is the
    transform of the arrivals in one batch's time, whose squared variation times b is ``scatter``.
    """
    # Right of the root the left side is larger, and Newton's steps come down to it without passing it.
    value = 2 * math.log(1 / load) + 1.0
    if scatter:
        value = min(value, math.log1p(1 / (scatter * load)))
    for _ in range(60):
        gone = -math.expm1(-scatter * value) / scatter if scatter else value
        step = (load * math.expm1(value) - gone) / (load * math.exp(value) - math.exp(-scatter * value))
        value -= step
        if step < 1e-12 * value:
            break
    return value
