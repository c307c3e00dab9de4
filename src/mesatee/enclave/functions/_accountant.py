"""What DP-SGD costs: the Rényi differential privacy of the sampled Gaussian mechanism, at integer orders.

Mironov, Talwar, Zhang, "Rényi Differential Privacy of the Sampled Gaussian Mechanism" (2019), section 3.3, for
rows that are added or removed and take part in each step with the same probability. The sum there is exact for
the discrete Gaussian of Canonne, Kamath and Steinke (2020) too: the k-th moment of its likelihood ratio is a
sum over all integers, which does not change when it is shifted by a whole number, and the reflection that their
theorem 5 needs maps integers to integers. From Rényi to (epsilon, delta) by proposition 12 of Canonne, Kamath
and Steinke.

>>> epsilon(noise=1.0, rate=0.01, steps=1000, delta=1e-5)
2.107754
"""

from __future__ import annotations

import math
from typing import Final

from mesatee.errors import Malformed
from mesatee.protocol import limits

ORDERS: Final = (*range(2, 65), 80, 96, 128, 192, 256, 384, 512)
"""Of the moments; the best one counts."""
LEAST_NOISE: Final = 0.2
MOST_NOISE: Final = 1_000.0
STEPS: Final = 10**6


def epsilon(*, noise: float, rate: float, steps: int, delta: float, error: float = 0.0) -> float:
    """The epsilon of `steps` steps, in whole millionths, rounded up.

    `noise` is the standard deviation over what one row can change, `rate` the probability that a row takes part in
    a step. `error` is by what factor exp(error) at most the drawn noise has another probability than it should.
    """
    # Drawn noise stands between two ideal ones: each way costs `error`, and delta grows by a factor exp(error).
    target = math.log(delta) - error
    best = math.inf
    for order in ORDERS:
        spent = steps * _moment(order, noise, rate)
        found = spent + math.log1p(-1 / order) - (target + math.log(order)) / (order - 1)
        best = min(best, found)
    return math.ceil((max(best, 0.0) + 2 * error) * limits.EPSILON_UNIT) / limits.EPSILON_UNIT


def noise_for(*, most: float, rate: float, steps: int, delta: float, error: float = 0.0) -> float:
    """The least noise, up to a thousandth of it, with which `steps` steps cost at most `most`. Raises `Malformed`."""

    def costs(noise: float) -> float:
        return epsilon(noise=noise, rate=rate, steps=steps, delta=delta, error=error)

    low, high = LEAST_NOISE, MOST_NOISE
    if costs(high) > most:
        raise Malformed(
            f"no noise up to {MOST_NOISE:g} keeps within this epsilon: fewer epochs, or a larger one"
        )
    if costs(low) <= most:
        return low
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if costs(middle) <= most else (middle, high)
    return high


def _moment(order: int, noise: float, rate: float) -> float:
    """Rényi divergence of `order` of one step, at most."""
    if rate == 1:
        return order / (2 * noise * noise)
    terms = [
        _log_choose(order, k)
        + (k * math.log(rate) if k else 0.0)
        + (order - k) * math.log1p(-rate)
        + (k * k - k) / (2 * noise * noise)
        for k in range(order + 1)
    ]
    most = max(terms)
    return (most + math.log(math.fsum(math.exp(term - most) for term in terms))) / (order - 1)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


__all__ = ["LEAST_NOISE", "MOST_NOISE", "ORDERS", "STEPS", "epsilon", "noise_for"]
