"""Noise for differential privacy, drawn exactly: integers and the operating system's randomness, no floating point.

Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy" (2020), algorithms 1 and 2. Samplers that
compute with floating point lose the promise by the low bits of what they return (Mironov, CCS 2012), so none is here.
How long a draw takes depends on what it draws; whoever can time the owner's own machine that closely is not kept out.

>>> import random
>>> source = random.Random(7).randrange
>>> [discrete_laplace(Fraction(2), source) for _ in range(6)]
[0, 0, 0, -2, 1, -1]
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from fractions import Fraction
from typing import Final, TypeAlias

from .errors import Malformed

Below: TypeAlias = Callable[[int], int]
"""A fair integer from 0 to its argument, without that one."""


SEED_BYTES: Final = 32
"""Of a seed, at least."""


def bernoulli_exp(gamma: Fraction, below: Below = secrets.randbelow) -> bool:
    """True with probability exp(-gamma), for gamma >= 0 (algorithm 1). Raises `Malformed` for a negative one."""
    if gamma < 0:
        raise Malformed("the exponent is below 0")
    while gamma > 1:
        if not _bernoulli_exp_up_to_one(Fraction(1), below):
            return False
        gamma -= 1
    return _bernoulli_exp_up_to_one(gamma, below)


def _bernoulli_exp_up_to_one(gamma: Fraction, below: Below) -> bool:
    # The series of exp(-gamma): the first k at which a coin of gamma / k shows tails is odd with that probability.
    k = 1
    while below(gamma.denominator * k) < gamma.numerator:
        k += 1
    return k % 2 == 1


def discrete_laplace(scale: Fraction, below: Below = secrets.randbelow) -> int:
    """An integer x with probability proportional to exp(-|x| / scale) (algorithm 2).

    `scale` is sensitivity over epsilon. Raises `Malformed` unless it is above 0.
    """
    if scale <= 0:
        raise Malformed("the scale of noise is above 0")
    s, t = scale.denominator, scale.numerator
    while True:
        low = below(t)
        if not bernoulli_exp(Fraction(low, t), below):
            continue
        high = 0
        while bernoulli_exp(Fraction(1), below):
            high += 1
        magnitude = (low + t * high) // s
        negative = below(2) == 1
        # Zero has one sign only, or it would come twice as often.
        if negative and magnitude == 0:
            continue
        return -magnitude if negative else magnitude


def seeded(seed: bytes) -> Below:
    """Draws that follow from a secret seed of 32 bytes or more, for noise that must be the same each time.

    SHA-256 over seed and counter, from which too large numbers are left out. Raises `Malformed` for a shorter seed.

    >>> [seeded(bytes(32))(1000) for _ in range(2)]
    [351, 351]
    """
    if len(seed) < SEED_BYTES:
        raise Malformed(f"a seed of noise has at least {SEED_BYTES} bytes")
    counter, pool = 0, b""

    def take(count: int) -> bytes:
        nonlocal counter, pool
        while len(pool) < count:
            pool += hashlib.sha256(seed + counter.to_bytes(8, "big")).digest()
            counter += 1
        taken, pool = pool[:count], pool[count:]
        return taken

    def below(bound: int) -> int:
        bits = (bound - 1).bit_length()
        if bound < 1:
            raise Malformed("there is no number below 0")
        while True:
            found = int.from_bytes(take(-(-bits // 8)), "big") & ((1 << bits) - 1)
            if found < bound:
                return found

    return below


__all__ = ["Below", "bernoulli_exp", "discrete_laplace", "seeded"]
