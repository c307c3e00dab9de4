"""Marginals of an owner's table, computed on the owner's own machine: what stands in the statement has noise on it.

What may be counted is decided before a row is looked at: the columns and their types are in the statement anyway, and
bounds and values are those that the owner names. Nothing here looks for a smallest or a most frequent value.

>>> from mesatee.table import Table
>>> table = Table.from_dict({"age": [30, 41, None], "sex": ["f", "m", "f"]})
>>> plan = Plan.parse("1", ranges=["age=0:120:4"], values=["sex=f,m"])
>>> found = measure(table, plan)
>>> [item.column for item in found.columns], found.epsilon
(['age', 'sex'], 1000000)
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from .. import noise
from ..errors import InputError, Malformed, MesateeError, TooLarge
from ..protocol import limits
from ..protocol import marginals as form
from ..protocol.model import malformed
from .http import visible

if TYPE_CHECKING:
    from ..table import Table

BINS: Final = 10
"""Bins of a range that names none."""
DAY_SECONDS: Final = 86_400
_RANGE_PARTS: Final = 2


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds as the owner wrote them: what they mean depends on the column's type."""

    low: str
    high: str
    bins: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What the owner wants to be counted, and for how much."""

    epsilon: int
    """Over all columns together, in millionths."""
    ranges: Mapping[str, Range]
    values: Mapping[str, tuple[str, ...]]
    missing: frozenset[str]
    """Columns of which only the share of missing values is counted."""

    @classmethod
    def parse(
        cls,
        epsilon: str,
        *,
        ranges: Iterable[str] = (),
        values: Iterable[str] = (),
        missing: Iterable[str] = (),
    ) -> Plan:
        """From texts: ``COLUMN=LOW:HIGH`` or ``COLUMN=LOW:HIGH:BINS``, ``COLUMN=VALUE,VALUE``, ``COLUMN``.

        Raises `Malformed` or `TooLarge`.
        """
        found = cls(
            _epsilon(epsilon),
            {name: _range(name, text) for name, text in map(_pair, ranges)},
            {name: tuple(text.split(",")) for name, text in map(_pair, values)},
            frozenset(missing),
        )
        named = [*found.ranges, *found.values, *found.missing]
        for name in named:
            if named.count(name) > 1:
                raise Malformed(f"the column {visible(name)!r} is named twice for mock data")
        return found


def _epsilon(text: str) -> int:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise Malformed(f"epsilon is a number, not {visible(text)[:32]!r}") from None
    parts = value * limits.EPSILON_UNIT
    if not value.is_finite() or not 0 < parts <= limits.MOCK_EPSILON or parts != int(parts):
        raise Malformed(
            f"epsilon is above 0, at most {limits.MOCK_EPSILON // limits.EPSILON_UNIT}, in whole millionths",
            hint="1 is a usual choice; the smaller, the more is hidden",
        )
    return int(parts)


def _pair(text: str) -> tuple[str, str]:
    name, equals, rest = text.partition("=")
    if not equals or not name or not rest:
        raise Malformed(
            f"what to count is written COLUMN=..., not {visible(text)[:64]!r}",
            hint="e.g. --mock-range age=0:120 or --mock-values sex=f,m",
        )
    return name, rest


def _range(name: str, text: str) -> Range:
    # Dates and times have colons of their own, so the two bounds may also stand around two dots.
    low, high, rest = _cut(text)
    bins = int(rest) if rest.isdecimal() and len(rest) < 4 else (0 if rest else BINS)
    if not low or not high or not 1 <= bins <= limits.MARGINAL_BINS:
        raise Malformed(
            f"the range of {visible(name)!r} is written LOW:HIGH or LOW:HIGH:BINS, "
            f"with at most {limits.MARGINAL_BINS} bins",
            hint="around times with colons write two dots: 2024-01-01T00:00..2025-01-01T00:00",
        )
    return Range(low, high, bins)


def _cut(text: str) -> tuple[str, str, str]:
    if ".." in text:
        low, _, rest = text.partition("..")
        found = re.fullmatch(r"(.*?)(?:/(\d+))?", rest)
        return (low, found[1], found[2] or "") if found else ("", "", "")
    parts = text.split(":")
    if not _RANGE_PARTS <= len(parts) <= _RANGE_PARTS + 1:
        return "", "", ""
    return parts[0], parts[1], parts[2] if len(parts) > _RANGE_PARTS else ""


def edges(low: int | float, high: int | float, bins: int, *, whole: bool) -> list[Fraction] | list[int]:
    """The borders of equal bins, `bins` + 1 of them: a bin has its lower border and not its upper one.

    Of whole numbers the last border is `high` + 1, so that `high` is in the last bin; of others `high` itself counts in
    the last bin. Computed exactly, from what is public alone.

    >>> edges(0, 120, 4, whole=True)
    [0, 31, 61, 91, 121]
    """
    if whole:
        start, width = int(low), int(high) - int(low) + 1
        return [start + -(-place * width // bins) for place in range(bins + 1)]
    first, wide = Fraction(low), Fraction(high) - Fraction(low)
    return [first + wide * place / bins for place in range(bins + 1)]


def measure(table: Table, plan: Plan, below: noise.Below = secrets.randbelow) -> form.Marginals:
    """Count what the plan names, and put noise on each count.

    1. Epsilon is split evenly over the columns that are counted: those that the plan names, and those of truth values.
    2. A column's histogram, its missing values among it, follows from public bins and moves by 2 in all when one row is
       replaced: each count gets discrete Laplace noise of scale 2 / epsilon of the column.
    3. Counts below 0 or above the number of rows, which is public, are cut off. That looks at no row.

    `below` is the source of randomness. Raises `Malformed` for a plan that does not fit the columns, and `TooLarge`.
    """
    types = {column.name: str(column.type)[: limits.NAME_CHARS] for column in table.schema}
    for name in (*plan.ranges, *plan.values, *plan.missing):
        if name not in types:
            listed = ", ".join(visible(item) for item in list(types)[:20])
            raise Malformed(f"there is no column {visible(name)!r} to count", hint=f"there are: {listed}")
    # 1.
    counted = [
        name
        for name in types
        if name in plan.ranges or name in plan.values or name in plan.missing or types[name] == "bool"
    ]
    if not counted:
        raise Malformed(
            "no column is named for mock data, so epsilon would buy nothing",
            hint="name some: --mock-range age=0:120, --mock-values sex=f,m or --mock-missing COLUMN",
        )
    each = plan.epsilon // len(counted)
    if each == 0:
        raise TooLarge(f"epsilon is too small to be split over {len(counted)} columns")
    rows = table.num_rows
    made = []
    for name in counted:
        shape = _shape(name, types[name], plan)
        # 2.
        exact = histogram(table[name], types[name], shape)
        scale = Fraction(form.SENSITIVITY * limits.EPSILON_UNIT, each)
        # 3.
        noisy = [min(max(count + noise.discrete_laplace(scale, below), 0), rows) for count in exact]
        made.append(
            {**shape, "column": name, "epsilon": each, "missing": noisy[0], "counts": tuple(noisy[1:])}
        )
    try:
        found = form.Marginals.model_validate(
            {"mechanism": "discrete_laplace", "unit": "row_replaced", "columns": tuple(made)}
        )
        found.check(types, rows)
    except ValidationError as error:
        raise malformed("marginals", error) from None
    except ValueError as error:
        raise Malformed(str(error)) from None
    return found


def _shape(name: str, type: str, plan: Plan) -> dict[str, Any]:
    """Kind, bounds and values of a column's histogram; `counts` has the right length. No row is looked at."""
    kind = form.kind_of(type)
    if name in plan.ranges:
        wanted = plan.ranges[name]
        if kind not in ("whole", "real"):
            raise _unfit(name, type, "range")
        low, high = (_bound(name, type, text) for text in (wanted.low, wanted.high))
        if not low < high:
            raise Malformed(f"the range of {visible(name)!r} ends before it begins")
        bins = min(wanted.bins, int(high - low + 1)) if kind == "whole" else wanted.bins
        return {"kind": kind, "low": low, "high": high, "counts": (0,) * bins}
    if name in plan.values:
        if kind != "choice":
            raise _unfit(name, type, "list of values")
        values = plan.values[name]
        return {"kind": kind, "values": values, "counts": (0,) * (len(values) + 1)}
    if name in plan.missing:
        return {"kind": "presence", "counts": (0,)}
    return {"kind": "truth", "counts": (0, 0)}


def _unfit(name: str, type: str, what: str) -> MesateeError:
    return Malformed(
        f"a {what} does not fit the column {visible(name)!r} of type {visible(type)}",
        hint="ranges are for numbers, dates and times, values for text; --mock-missing for all others",
    )


def _bound(name: str, type: str, text: str) -> int | float:
    """A bound in the column's own unit: a number, days or seconds since 1970-01-01."""
    try:
        if type.startswith("date"):
            return (date.fromisoformat(text) - date(1970, 1, 1)).days
        if type.startswith("timestamp"):
            at = datetime.fromisoformat(text)
            return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
        value = int(text) if form.kind_of(type) == "whole" else float(text)
    except (ValueError, OverflowError):
        raise Malformed(
            f"{visible(text)[:32]!r} is no bound for the column {visible(name)!r} of type {visible(type)}",
            hint="whole numbers for integers, ISO 8601 for dates and times",
        ) from None
    if not -limits.MARGINAL_BOUND <= value <= limits.MARGINAL_BOUND:
        raise Malformed(f"the bounds of {visible(name)!r} are beyond {limits.MARGINAL_BOUND}")
    return value


# -- exact counts: secret until noise is on them -----------------------------------------------------


def histogram(column: Any, type: str, shape: Mapping[str, Any]) -> list[int]:
    """The exact counts of an Arrow column, missing values first. Each row counts in one place, which depends on its own
    value alone.
    """
    import pyarrow as pa
    from pyarrow import compute as pc

    bins = len(shape["counts"])
    if shape["kind"] == "presence":
        return [column.null_count, len(column) - column.null_count]
    try:
        if shape["kind"] == "truth":
            places = pc.cast(column, pa.int64())
        elif shape["kind"] == "choice":
            places = pc.fill_null(
                pc.index_in(pc.cast(column, pa.string()), value_set=pa.array(shape["values"], pa.string())),
                len(shape["values"]),
            )
            places = pc.if_else(pc.is_null(column), None, places)
        else:
            return _binned(column, type, shape, bins)
    except pa.ArrowException as error:
        raise InputError(
            f"a column of type {visible(type)} cannot be counted: {visible(str(error))[:200]}"
        ) from None
    return _counted(places, bins)


def _binned(column: Any, type: str, shape: Mapping[str, Any], bins: int) -> list[int]:
    import numpy as np
    import pyarrow as pa
    from pyarrow import compute as pc

    whole = shape["kind"] == "whole"
    if type.startswith("timestamp"):
        # Without a time zone for the moment: an instant is the same number of seconds in each.
        unit = column.type.unit
        seconds = pc.cast(pc.cast(column, pa.int64()), pa.int64())
        column = pc.floor(pc.divide(pc.cast(seconds, pa.float64()), _PER_SECOND[unit]))
    elif type.startswith("date"):
        column = pc.cast(pc.cast(column, pa.date32()), pa.int32())
    numbers = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    present = numbers[~np.isnan(numbers)]
    borders = edges(shape["low"], shape["high"], bins, whole=whole)
    inner = np.array([float(border) for border in borders[1:-1]])
    places = np.searchsorted(inner, present, side="right")
    counts = np.bincount(places, minlength=bins)
    return [len(numbers) - len(present), *(int(count) for count in counts)]


_PER_SECOND: Final[Mapping[str, float]] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


def _counted(places: Any, bins: int) -> list[int]:
    from pyarrow import compute as pc

    found = {
        item["values"]: item["counts"]
        for item in pc.value_counts(places).to_pylist()
        if item["values"] is not None
    }
    return [places.null_count, *(int(found.get(place, 0)) for place in range(bins))]


def explain(found: form.Marginals, columns: Sequence[str]) -> list[str]:
    """What was spent on what, in words for the owner."""
    unit = limits.EPSILON_UNIT
    parts = ", ".join(f"{item.column} {item.epsilon / unit:g}" for item in found.columns)
    silent = [name for name in columns if name not in {item.column for item in found.columns}]
    said = [
        f"mock data: epsilon {found.epsilon / unit:g} in all, for one row, split evenly: {parts}",
        "not hidden: names and types of columns, the number of rows, and the ranges and values that you named; what "
        "is true of many rows shows through, and each further version of these rows adds its epsilon to this one",
    ]
    if silent:
        said.append(f"nothing was counted of {', '.join(silent[:20])}")
    return said


__all__ = ["BINS", "Plan", "Range", "edges", "explain", "histogram", "measure"]
