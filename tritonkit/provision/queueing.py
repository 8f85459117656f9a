"""How long a request waits before its batch begins. Pure.

Requests arrive at random (Poisson). The server takes all that wait, up to a batch, as Triton's dynamic batcher without
delay does. A request waits for the batch that runs, and for the full batches ahead of it. The tail of the latter is
bounded as in a queue of single items served at the batch's rate: P(W > x) <= exp(-theta x), Lundberg's bound.
"""

from __future__ import annotations

import math

QUANTILE = 0.99


def wait_ms(service_ms: float, batch_size: int, capacity: float, rate: float) -> float:
    """A time that 99 of 100 requests do not wait longer than; infinite where more arrives than is served.

    Args:
        service_ms: how long one whole batch keeps the instance.
        batch_size: items in it at most.
        capacity: items served a second.
        rate: items that arrive a second.
    """
    if not rate < capacity:
        return math.inf
    item_ms = 1000 / capacity
    backlog = math.log(1 / (1 - QUANTILE)) * item_ms / _decay(rate / capacity)
    return (1 - 1 / batch_size) * service_ms + backlog


def _decay(load: float) -> float:
    """The positive y with load (e^y - 1) = y: theta, in units of the time that an item takes."""
    # Right of the root the left side is larger, and Newton's steps come down to it without passing it.
    value = 2 * math.log(1 / load) + 1.0
    for _ in range(60):
        grown = load * math.expm1(value)
        step = (grown - value) / (grown + load - 1)
        value -= step
        if step < 1e-12 * value:
            break
    return value
