"""Discrete Gaussian noise for many numbers at once, from a secret seed.

Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy" (2020), algorithms 1 to 3, as
`mesatee.noise` does for single numbers. What is drawn are integers, and every integer can be: nothing of them
is in low bits of floating point (Mironov 2012; Jin et al. 2022). The coins with which they are drawn are exact
up to a factor: a chance is computed in double precision and never far from 1, so that its error is relative to
it. `DRAW_ERROR` bounds the sum of these errors for one number, and the accountant adds it up.

How long it takes depends on what is drawn.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Final

import numpy as np

from mesatee.errors import Malformed
from mesatee.noise import SEED_BYTES

Array = np.ndarray[Any, Any]

DRAW_ERROR: Final = 2.0**-36
"""The probability of any number that is drawn is the right one times exp of at most this, or of minus this. A
draw throws some hundred coins unless its noise is 50 deviations away; each has an error of a few units of
2^-52, and at 50 deviations the exponent itself one of 2^-41."""
_PURPOSE: Final = b"mesatee dp-sgd v1\0"
_BLOCK: Final = 2**17
"""Words that are made at once."""
_COIN_BITS: Final = 53
"""A double holds as many."""


class Stream:
    """Random words that follow from a secret seed of 32 bytes or more: SHAKE-256 of seed and counter."""

    def __init__(self, seed: bytes) -> None:
        """Raises `Malformed` for a shorter seed."""
        if len(seed) < SEED_BYTES:
            raise Malformed(f"a seed of noise has at least {SEED_BYTES} bytes")
        self._seed = _PURPOSE + seed
        self._counter = 0
        self._pool = np.empty(0, np.uint64)

    def __repr__(self) -> str:
        return "<Stream>"

    def words(self, count: int) -> Array:
        """So many integers of 64 bits."""
        parts = []
        while count > len(self._pool):
            parts.append(self._pool)
            count -= len(self._pool)
            block = hashlib.shake_256(self._seed + self._counter.to_bytes(8, "big")).digest(8 * _BLOCK)
            self._pool = np.frombuffer(block, "<u8").astype(np.uint64)
            self._counter += 1
        parts.append(self._pool[:count])
        self._pool = self._pool[count:]
        return np.concatenate(parts)

    def below(self, bound: int, count: int) -> Array:
        """Fair integers from 0 to `bound` without it, which is at most 2^62."""
        mask = np.uint64((1 << (bound - 1).bit_length()) - 1)
        found = np.empty(count, np.int64)
        done = 0
        while done < count:
            drawn = (self.words(count - done) & mask).astype(np.int64)
            fitting = drawn[drawn < bound]
            found[done : done + len(fitting)] = fitting
            done += len(fitting)
        return found

    def coins(self, chances: Array) -> Array:
        """For each chance, from a third to 1, whether its coin fell so."""
        drawn = (self.words(len(chances)) >> np.uint64(64 - _COIN_BITS)).astype(np.float64)
        fell: Array = drawn < chances * 2.0**_COIN_BITS
        return fell

    def chosen(self, rate: float, count: int) -> Array:
        """The places of those among `count` that take part, each with the probability `rate` or less by 2^-53."""
        drawn = (self.words(count) >> np.uint64(64 - _COIN_BITS)).astype(np.float64)
        places: Array = np.flatnonzero(drawn < math.floor(rate * 2.0**_COIN_BITS))
        return places


def _exponential_coins(stream: Stream, gammas: Array) -> Array:
    """For each gamma >= 0 a coin of exp(-gamma): as many coins of at least exp(-1) must all fall so (algorithm 1)."""
    throws = np.maximum(np.ceil(gammas), 1)
    chances = np.exp(-gammas / throws)
    alive = np.arange(len(gammas))
    for thrown in range(int(throws.max(initial=0))):
        alive = alive[throws[alive] > thrown] if thrown else alive
        if not len(alive):
            break
        fell = stream.coins(chances[alive])
        throws[alive[~fell]] = -1
        alive = alive[fell]
    return throws > 0


def _laplace(stream: Stream, scale: int, count: int) -> Array:
    """At most `count` integers with probability proportional to exp(-|x| / scale) (algorithm 2)."""
    low = stream.below(scale, count)
    low = low[_exponential_coins(stream, low / scale)]
    high = np.zeros(len(low), np.int64)
    alive = np.arange(len(low))
    chance = math.exp(-1)
    while len(alive):
        alive = alive[stream.coins(np.full(len(alive), chance))]
        high[alive] += 1
    found = low + scale * high
    negative = (stream.words(len(found)) & np.uint64(1)).astype(bool)
    # Zero has one sign only, or it would come twice as often.
    kept = ~(negative & (found == 0))
    signed: Array = np.where(negative, -found, found)[kept]
    return signed


def discrete_gaussian(stream: Stream, sigma: float, count: int) -> Array:
    """`count` integers with probability proportional to exp(-x^2 / (2 sigma^2)), for sigma from 1 to 2^40
    (algorithm 3)."""
    scale = math.floor(sigma) + 1
    variance = sigma * sigma
    found = np.empty(count, np.int64)
    done = 0
    while done < count:
        # Of those that are begun a good half ends here.
        drawn = _laplace(stream, scale, 2 * (count - done) + 16)
        away = np.abs(drawn) - variance / scale
        drawn = drawn[_exponential_coins(stream, away * away / (2 * variance))][: count - done]
        found[done : done + len(drawn)] = drawn
        done += len(drawn)
    return found


__all__ = ["DRAW_ERROR", "Stream", "discrete_gaussian"]
