"""Arithmetic of the statistics: sums that do not depend on the order of rows, and tails of distributions.

Tails come with their natural logarithm, which stays a number where the probability itself is too small for one.
The continued fractions are those of NIST's DLMF, 8.9.2 (incomplete gamma) and 8.17.22 (incomplete beta).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from mesatee.errors import Malformed

ALTERNATIVES: Final = ("two-sided", "less", "greater")
_SMALL: Final = 1e-290
"""Below this a probability may have lost digits."""
_TINY: Final = 1e-300
_SCALE: Final = 64
_LARGEST_EXPONENT: Final = 1000
"""Of numbers of which a block can be summed up without reaching the largest one."""
_BLOCK: Final = 2**15
"""Numbers that fit into a cache together with what is left of them."""
_STEPS: Final = 100_000
_PRECISION: Final = 1e-16


def total(values: Any) -> float:
    """The exact sum, rounded once, so that the order does not matter; NaN where it is too large for a number.

    (Beside numbers above 2^1000 the smallest ones, below 2^-1010, do not count.)

    As `math.fsum`, but on arrays: in each pass the leading bits of all values, cut at one place, are few enough that
    every partial sum of theirs is exact (Demmel and Nguyen 2013, "Fast reproducible floating-point summation").
    """
    import numpy as np

    values = np.asarray(values, np.float64)
    if not len(values):
        return 0.0
    top = float(np.abs(values).max())
    if not math.isfinite(top):
        return math.nan
    if math.frexp(top)[1] > _LARGEST_EXPONENT:
        try:
            return math.ldexp(total(values * math.ldexp(1.0, -_SCALE)), _SCALE)
        except OverflowError:
            return math.nan
    parts: list[float] = []
    for start in range(0, len(values), _BLOCK):
        parts += _exact_parts(values[start : start + _BLOCK].copy())
    return math.fsum(parts)


def _exact_parts(rest: Any) -> Iterator[float]:
    """Numbers whose exact sum is that of the array, which is used up."""
    import numpy as np

    leading = np.empty_like(rest)
    while top := float(max(rest.max(), -rest.min())):
        # Adding this leaves no bits below the cut, which lies so high that all sums of what is left are exact.
        rounder = math.ldexp(1.5, math.frexp(top)[1] + len(rest).bit_length() + 1)
        np.add(rest, rounder, out=leading)
        np.subtract(leading, rounder, out=leading)
        yield float(leading.sum())
        np.subtract(rest, leading, out=rest)


def moments(values: Any) -> tuple[float, float]:
    """Mean and sum of squared distances from it, shape (rows,). Exact for a constant; NaN without a value."""
    import numpy as np

    if not len(values):
        return math.nan, math.nan
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low, 0.0
    # A mean lies between the values, also where rounding would take it out.
    mean = min(max(total(values) / len(values), low), high)
    with np.errstate(over="ignore", invalid="ignore"):
        return mean, total((values - mean) ** 2)


def deviation(squares: float, rows: int) -> float:
    """The standard deviation of a sample (ddof 1); NaN for fewer than two rows."""
    return math.sqrt(squares / (rows - 1)) if rows > 1 else math.nan


def finite(value: float | None) -> float | None:
    """A number, or None where there is none: an output has neither NaN nor infinity."""
    return None if value is None or not math.isfinite(value) else float(value)


def column(values: Iterable[Any]) -> Any:
    """Numbers as an Arrow array of float64, null where there is none."""
    import pyarrow as pa

    return pa.array([finite(value) for value in values], pa.float64())


def share(name: str, value: float) -> float:
    """A confidence or the like. Raises `Malformed` unless it lies between 0 and 1."""
    if not 0 < value < 1:
        raise Malformed(f"{name} lies between 0 and 1, both excluded")
    return value


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    """Raises `Malformed` unless the value is a known one."""
    if value not in known:
        raise Malformed(f"{name} is one of {', '.join(known)}")
    return value


# -- tails -----------------------------------------------------------------------------------------


def _tail(value: float, log_value: Callable[[], float]) -> tuple[float, float]:
    return (value, math.log(value)) if value > _SMALL else (value, log_value())


def chi_square_tail(statistic: float, degrees: float) -> tuple[float, float]:
    """The probability of more than this, and its logarithm."""
    from scipy import special

    if not math.isfinite(statistic) or degrees <= 0:
        return math.nan, math.nan
    half, x = degrees / 2, statistic / 2

    def log_value() -> float:
        return -x + half * math.log(x) - float(special.gammaln(half)) + math.log(_gamma_fraction(half, x))

    return _tail(float(special.chdtrc(degrees, statistic)), log_value)


def t_tail(statistic: float, degrees: float, alternative: str) -> tuple[float, float]:
    """The probability of at least this in Student's distribution, and its logarithm."""
    from scipy import special

    if not math.isfinite(statistic) or not degrees > 0:
        return math.nan, math.nan
    sides = 2 if alternative == "two-sided" else 1
    far = -abs(statistic) if sides == 2 else statistic if alternative == "less" else -statistic
    value = sides * float(special.stdtr(degrees, far))
    return _tail(
        value, lambda: math.log(sides / 2) + _log_beta(degrees / 2, 2 * math.log(-far) - math.log(degrees))
    )


def normal_tail(statistic: float) -> tuple[float, float]:
    """The probability of at least this distance from 0 in the normal distribution, and its logarithm."""
    from scipy import special

    if not math.isfinite(statistic):
        return math.nan, math.nan
    far = -abs(statistic)
    return min(1.0, 2 * float(special.ndtr(far))), min(0.0, math.log(2) + float(special.log_ndtr(far)))


def _fraction(terms: Callable[[int], tuple[float, float]], first: float) -> float:
    """A continued fraction first + a1 / (b1 + a2 / (b2 + ...)) by the method of Lentz."""
    result = above = first or _TINY
    below = 0.0
    for step in range(1, _STEPS):
        a, b = terms(step)
        below = 1 / ((b + a * below) or _TINY)
        above = (b + a / above) or _TINY
        result *= above * below
        if abs(above * below - 1) < _PRECISION * 10:
            break
    return result


def _gamma_fraction(a: float, x: float) -> float:
    return 1 / _fraction(lambda step: (-step * (step - a), x + 2 * step + 1 - a), x + 1 - a)


def _log_beta(a: float, log_ratio: float) -> float:
    """log of the regularised incomplete beta function I_x(a, 1/2), where x = 1 / (1 + ratio) is small or a large."""
    from scipy import special

    b = 0.5
    # log(1 + ratio), also where the ratio is too large for a number.
    log_sum = max(log_ratio, 0.0) + math.log1p(math.exp(-abs(log_ratio)))
    x = math.exp(-log_sum)

    def term(step: int) -> tuple[float, float]:
        m, odd = divmod(step, 2)
        if odd:
            return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)), 1.0
        return m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), 1.0

    front = -a * log_sum + b * (log_ratio - log_sum)
    return front - math.log(a) - float(special.betaln(a, b)) - math.log(_fraction(term, 1.0))


__all__ = [
    "ALTERNATIVES",
    "chi_square_tail",
    "column",
    "deviation",
    "finite",
    "moments",
    "normal_tail",
    "one_of",
    "share",
    "t_tail",
    "total",
]
