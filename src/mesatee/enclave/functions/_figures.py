"""Figures of groups of values, exact or rounded once, whatever the order of the values."""

from __future__ import annotations

import decimal
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from mesatee.enclave.functions._order import plain, ranks, sorts
from mesatee.errors import Malformed

FIGURES: Final = ("count", "sum", "mean", "std", "min", "max", "median")
"""By name; quantiles are ``q`` with a number from 0 to 1."""
_QUANTILE: Final = re.compile(r"q(0(\.[0-9]{1,9})?|1(\.0{1,9})?)")
_HALF: Final = 32
_DIGITS: Final = 200
"""Enough for the sum of any number of decimals of 76 digits."""


def check(figure: str) -> None:
    """Raises `Malformed` if there is no such figure."""
    if figure not in FIGURES and not _QUANTILE.fullmatch(figure):
        raise Malformed(
            f"there is no figure {figure[:32]!r}; figures are {', '.join(FIGURES)}, and quantiles such as q0.9"
        )


@dataclass(frozen=True, slots=True)
class _Groups:
    """The values of one column that are there, sorted by group and then by value; group i is [starts[i], ends[i])."""

    name: str
    values: Any
    starts: Any
    ends: Any

    @property
    def kind(self) -> Any:
        return self.values.type


def figures(name: str, column: Any, groups: Any, count: int, wanted: list[str]) -> list[Any]:
    """An Arrow array for each figure, with a value for each of `count` groups; `groups` has a number for each row.

    Raises `Malformed` for figures that the column's type does not have, and for sums that do not fit.
    """
    import numpy as np
    import pyarrow as pa

    values = present(plain(column))
    there = values.is_valid().to_numpy(zero_copy_only=False)
    of_groups, kept = groups[there], values.drop_null()
    if wanted == ["count"] or not sorts(values.type):
        if wanted != ["count"]:
            raise Malformed(f"the column {name!r} is {values.type}, of which there is a count only")
        return [pa.array(np.bincount(of_groups, minlength=count).astype(np.int64))]
    order = np.lexsort((ranks(kept)[0], of_groups))
    sizes = np.bincount(of_groups, minlength=count)
    ends = np.cumsum(sizes)
    found = _Groups(name, kept.take(pa.array(order)), ends - sizes, ends)
    return [_figure(found, figure) for figure in wanted]


def present(values: Any) -> Any:
    """A plain array with null for NaN, one zero instead of two, and all floating point in 64 bits."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_floating(values.type):
        return values
    wide = values.cast(pa.float64())
    wide = pc.if_else(pc.is_nan(wide), pa.scalar(None, pa.float64()), wide)
    return pc.if_else(pc.equal(wide, 0.0), 0.0, wide)


def _figure(found: _Groups, figure: str) -> Any:
    import numpy as np
    import pyarrow as pa

    some = found.ends > found.starts
    match figure:
        case "count":
            return pa.array(found.ends - found.starts)
        case "min":
            return found.values.take(pa.array(found.starts, mask=~some))
        case "max":
            return found.values.take(pa.array(found.ends - 1, mask=~some))
        case "sum":
            return _sums(found)
        case "mean":
            return pa.array([_mean(part) for part in _totals(found)], pa.float64())
        case "std":
            return pa.array(_deviations(found), pa.float64())
    share = 0.5 if figure == "median" else float(figure[1:])
    numbers = _floats(found, figure)
    if not len(numbers):
        return pa.nulls(len(some), pa.float64())
    place = np.maximum(found.ends - found.starts - 1, 0) * share
    low, part = np.floor(place).astype(np.int64), place - np.floor(place)
    first = np.minimum(found.starts + low, len(numbers) - 1)
    one, two = numbers[first], numbers[np.minimum(first + (part > 0), len(numbers) - 1)]
    with np.errstate(invalid="ignore"):
        # Not one + (two - one) * part, which overflows; and infinity times 0 is no number.
        between = np.where(one == two, one, one * (1 - part) + two * part)
    return pa.array(np.where(part > 0, between, one), mask=~some)


def _floats(found: _Groups, figure: str) -> Any:
    """The values as 64-bit floating point. Raises `Malformed`."""
    import numpy as np
    import pyarrow as pa

    kind = found.kind
    if pa.types.is_null(kind):
        return np.zeros(0)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return found.values.to_numpy(zero_copy_only=False).astype(np.float64)
    if pa.types.is_decimal(kind):
        return np.array([float(value) for value in found.values.to_pylist()], np.float64)
    raise Malformed(f"the column {found.name!r} is {kind}: {figure} is of numbers")


Total = tuple[Any, int]
"""A sum, exact but for floating point, which is rounded once; and of how many values."""


def _totals(found: _Groups) -> list[Total]:
    import numpy as np
    import pyarrow as pa

    kind = found.kind
    sizes = (found.ends - found.starts).tolist()
    if pa.types.is_null(kind):
        return [(0, 0) for _ in sizes]
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        numbers = found.values.cast(pa.int64()) if pa.types.is_boolean(kind) else found.values
        wide = numbers.to_numpy(zero_copy_only=False)
        wide = wide.astype(np.uint64 if wide.dtype.kind == "u" else np.int64)
        # Halves of a word: 2**31 of them fit into one, and Python's integers have no end.
        low = _by_group(found, (wide & wide.dtype.type(2**_HALF - 1)).astype(np.int64))
        high = _by_group(found, (wide >> wide.dtype.type(_HALF)).astype(np.int64))
        halves = zip(high, low, sizes, strict=True)
        return [((upper << _HALF) + lower, size) for upper, lower, size in halves]
    if pa.types.is_floating(kind):
        return [(_float_sum(found.name, part), len(part)) for part in _parts(found, _floats(found, "sum"))]
    if pa.types.is_decimal(kind):
        with decimal.localcontext(prec=_DIGITS):
            parts = _parts(found, found.values.to_pylist())
            return [(sum(part, decimal.Decimal(0)), len(part)) for part in parts]
    raise Malformed(f"the column {found.name!r} is {kind}: sum and mean are of numbers and truth values")


def _by_group(found: _Groups, numbers: Any) -> list[int]:
    import numpy as np

    # One more element, so that every start is within; and cumulated, as empty groups have no place of their own.
    sums = np.concatenate([[0], np.cumsum(numbers)])
    return [int(value) for value in sums[found.ends] - sums[found.starts]]


def _parts(found: _Groups, values: Any) -> list[Any]:
    listed = values if isinstance(values, list) else values.tolist()
    return [listed[a:b] for a, b in zip(found.starts.tolist(), found.ends.tolist(), strict=True)]


def _float_sum(name: str, part: list[float]) -> float:
    try:
        return math.fsum(part)
    except ValueError:
        # Infinities of both signs.
        return math.nan
    except OverflowError:
        raise Malformed(f"a sum of {name!r} does not fit a floating point number: scale the column") from None


def _mean(total: Total) -> float | None:
    value, size = total
    if not size:
        return None
    return float(Fraction(value) / size) if isinstance(value, decimal.Decimal) else value / size


def _sums(found: _Groups) -> Any:
    import pyarrow as pa

    totals = [value if size else None for value, size in _totals(found)]
    kind = found.kind
    wide: Any = pa.int64()
    if pa.types.is_floating(kind) or pa.types.is_null(kind):
        wide = pa.float64()
    elif pa.types.is_unsigned_integer(kind):
        wide = pa.uint64()
    elif pa.types.is_decimal256(kind):
        wide = pa.decimal256(76, kind.scale)
    elif pa.types.is_decimal(kind):
        wide = pa.decimal128(38, kind.scale)
    try:
        return pa.array(totals, wide)
    except (OverflowError, pa.ArrowInvalid):
        raise Malformed(
            f"a sum of {found.name!r} does not fit {wide}: scale the column, or use mean"
        ) from None


def _deviations(found: _Groups) -> list[float | None]:
    import numpy as np

    numbers = _floats(found, "std")
    means = [_mean(total) for total in _totals(found)]
    result: list[float | None] = []
    for start, end, mean in zip(found.starts.tolist(), found.ends.tolist(), means, strict=True):
        if mean is None or end - start < 2:
            result.append(None)
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            squares = (numbers[start:end] - mean) ** 2
        result.append(math.sqrt(_float_sum(found.name, squares.tolist()) / (end - start - 1)))
    return result


__all__ = ["FIGURES", "check", "figures", "present"]
