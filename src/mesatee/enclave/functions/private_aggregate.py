"""Counts, sums and means with noise: differential privacy for one row."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final

from mesatee.errors import Malformed
from mesatee.function import Attestation
from mesatee.noise import Below, discrete_laplace, seeded
from mesatee.protocol import limits, protection
from mesatee.table import Table

GROUP_SIZE: Final = "rows"
EPSILON: Final = "epsilon"
GROUPS: Final = 10_000
"""Groups that one task may ask for: each costs time for its noise, and none costs privacy."""
MEASURES: Final = 64
STEPS: Final = 2**20
"""Into so many steps the range of a number with a fraction is cut; noise is whole steps."""
FARTHEST: Final = 2**40
"""Steps between 0 and a bound, at most, so that sums are exact."""
ROWS: Final = 2**22
"""Rows of one input whose sums surely fit into 64 bits."""


def private_aggregate(
    inputs: dict[str, Table],
    *,
    epsilon: float,
    by: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    groups: list[Any] = [],  # noqa: B006  as above
    sums: dict[str, list[float]] = {},  # noqa: B006  as above
    where: Attestation,
) -> Table:
    """Count rows and sum columns by group over the rows of all inputs, with noise.

    `epsilon` is what the answer spends of each dataset's privacy budget, in whole millionths. It is split
    evenly over the count and each of the `sums`; groups have no row in common and cost nothing more.

    `by` names columns, `groups` their values that are asked for (of several columns, a list of lists): they
    come from the task and never from the data, for that a group exists can say who is in it. Rows of other
    groups are not counted. `sums` maps columns of numbers to the least and the largest value that a row may
    bring in; what lies beyond is moved to the bound. A missing value, and NaN, adds nothing to a sum.

    One row for each group, as asked: the columns of `by`, ``rows`` (a whole number that may be below 0), and
    for each sum ``NAME_sum`` and ``NAME_mean``, which is the sum over `rows` (none where that is below 1).

    Noise is discrete Laplace (Canonne, Kamath, Steinke 2020) with integer arithmetic: of scale 1 / share for
    the count, and the larger bound / share for a sum, in steps of 1 between whole bounds of whole numbers, of
    a millionth of the range otherwise. It follows from a seed that the gateway gives for this task and these
    inputs, so that the same question always has the same answer, and is paid for once.

    Reveals to the receivers of the output: noisy figures. What anybody learns of whether one row is there is
    bounded by `epsilon`; where a person has several rows in a dataset, the bound is for each of them. That a
    column is there and has numbers shows by the run's success.
    """
    share = protection.spends(epsilon) // (1 + len(sums))
    if not inputs:
        raise Malformed("private_aggregate needs one or more inputs")
    if share < 1:
        raise Malformed(f"{EPSILON} is too small to be split over {1 + len(sums)} figures")
    columns = [by] if isinstance(by, str) else list(by)
    asked = _asked(columns, groups)
    steps = {name: _step(name, bounds, inputs) for name, bounds in sums.items()}
    if len(steps) > MEASURES:
        raise Malformed(f"at most {MEASURES} columns are summed in one task")
    counts = [0] * len(asked)
    totals = {name: [0] * len(asked) for name in steps}
    for name in sorted(inputs):
        _add(name, inputs[name], columns, asked, steps, counts, totals)
    below = seeded(bytes.fromhex(where["noise"])) if "noise" in where else secrets.randbelow
    return _noisy(columns, asked, steps, counts, totals, share, below)


def _asked(columns: list[str], groups: list[Any]) -> list[tuple[Any, ...]]:
    if len(set(columns)) != len(columns) or not all(isinstance(name, str) for name in columns):
        raise Malformed("by names different columns")
    if not columns:
        if groups:
            raise Malformed("groups are values of the columns that by names, and it names none")
        return [()]
    rows = [tuple(item) if isinstance(item, list) else (item,) for item in groups]
    if not rows:
        raise Malformed("name the groups that you ask for: they may not come from the data")
    if len(rows) > GROUPS:
        raise Malformed(f"at most {GROUPS} groups are asked for in one task")
    plain = (str, int, float, bool)
    if not all(len(row) == len(columns) and all(isinstance(item, plain) for item in row) for row in rows):
        raise Malformed(f"each of the groups is one value for each of the {len(columns)} columns of by")
    if len({tuple((type(item), item) for item in row) for row in rows}) != len(rows):
        raise Malformed("a group is asked for twice")
    return rows


class _Step:
    """How a column's values become whole steps: `whole` ones from `low` to `high`, each of `size`."""

    __slots__ = ("high", "low", "size")

    def __init__(self, low: int, high: int, size: Fraction) -> None:
        self.low, self.high, self.size = low, high, size

    @property
    def farthest(self) -> int:
        """What one row can change."""
        return max(abs(self.low), abs(self.high), 1)


def _step(name: str, bounds: Any, inputs: dict[str, Table]) -> _Step:
    import pyarrow as pa

    if not isinstance(bounds, Sequence) or len(bounds) != 2 or not all(_number(item) for item in bounds):
        raise Malformed(f"sums maps {name!r} to its least and its largest value")
    low, high = bounds
    if not low < high:
        raise Malformed(f"the least value of {name!r} is below the largest one")
    kinds = [_column(where, table, name).type for where, table in sorted(inputs.items())]
    whole = all(pa.types.is_integer(kind) or pa.types.is_null(kind) for kind in kinds)
    whole = whole and all(float(item).is_integer() for item in bounds)
    size = Fraction(1) if whole else (Fraction(high) - Fraction(low)) / STEPS
    found = _Step(round(Fraction(low) / size), round(Fraction(high) / size), size)
    if found.farthest > FARTHEST:
        raise Malformed(f"the bounds of {name!r} are too far from 0 for how close they are to each other")
    return found


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _column(where: str, table: Table, name: str) -> Any:
    count = table.columns.count(name)
    if count != 1:
        raise Malformed(f"the input {where} has {count or 'no'} columns {name!r}")
    return table.to_arrow().column(name)


def _add(
    where: str,
    table: Table,
    columns: list[str],
    asked: list[tuple[Any, ...]],
    steps: dict[str, _Step],
    counts: list[int],
    totals: dict[str, list[int]],
) -> None:
    """Add the rows of one input to what is counted."""
    import numpy as np

    if table.num_rows > ROWS:
        raise Malformed(f"the input {where} has more than {ROWS} rows")
    place = _places(where, table, columns, asked)
    here = place >= 0
    for group, count in enumerate(np.bincount(place[here], minlength=len(asked)).tolist()):
        counts[group] += count
    for name, step in steps.items():
        found = np.zeros(len(asked), np.int64)
        np.add.at(found, place[here], _whole_steps(where, table, name, step)[here])
        totals[name] = [one + int(other) for one, other in zip(totals[name], found, strict=True)]


def _places(where: str, table: Table, columns: list[str], asked: list[tuple[Any, ...]]) -> Any:
    """For each row the group that it is in, -1 for none."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = np.zeros(table.num_rows, np.int64)
    known = np.ones(table.num_rows, bool)
    wanted = np.zeros(len(asked), np.int64)
    for position, name in enumerate(columns):
        values = _column(where, table, name)
        kind = values.type
        if pa.types.is_dictionary(kind):
            values = values.cast(kind.value_type)
        given = list(dict.fromkeys((type(row[position]), row[position]) for row in asked))
        try:
            choices = _as(kind, [value for _, value in given])
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            raise Malformed(f"the groups' values do not fit the column {name!r} of {where}") from None
        if len(choices.unique()) != len(choices):
            raise Malformed(f"two of the groups' values are one in the column {name!r} of {where}")
        codes = pc.index_in(values.combine_chunks(), value_set=choices)
        found = codes.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        known &= found >= 0
        rows = rows * len(given) + found
        index = {key: code for code, key in enumerate(given)}
        wanted = wanted * len(given) + np.array(
            [index[type(row[position]), row[position]] for row in asked], np.int64
        )
    order = np.argsort(wanted, kind="stable")
    at = np.searchsorted(wanted[order], rows)
    at[at == len(asked)] = 0
    hit = known & (wanted[order][at] == rows)
    return np.where(hit, order[at], -1)


def _as(kind: Any, values: list[Any]) -> Any:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        # A date, say, that JSON can only give as text.
        return pa.array(values).cast(kind)


def _whole_steps(where: str, table: Table, name: str, step: _Step) -> Any:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    values = _column(where, table, name)
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        if pa.types.is_null(kind):
            return np.zeros(table.num_rows, np.int64)
        raise Malformed(f"the column {name!r} of {where} has no numbers")
    if step.size == 1:
        # Whole numbers are moved to their bounds as such: no float holds all of them.
        low, high = pa.scalar(step.low, pa.int64()), pa.scalar(step.high, pa.int64())
        try:
            whole = values.cast(pa.int64())
        except pa.ArrowInvalid:
            raise Malformed(f"the column {name!r} of {where} has numbers beyond 64 bits") from None
        moved = pc.min_element_wise(pc.max_element_wise(whole, low), high)
        moved = pc.if_else(whole.is_null(), 0, moved)
        return moved.to_numpy().astype(np.int64)
    real = values.cast(pa.float64()).to_numpy()
    missing = np.isnan(real)
    size = float(step.size)
    moved = np.clip(np.where(missing, 0.0, real), step.low * size, step.high * size)
    found = np.clip(np.rint(moved / size), step.low, step.high).astype(np.int64)
    found[missing] = 0
    return found


def _noisy(
    columns: list[str],
    asked: list[tuple[Any, ...]],
    steps: dict[str, _Step],
    counts: list[int],
    totals: dict[str, list[int]],
    share: int,
    below: Below,
) -> Table:
    import pyarrow as pa

    def draw(sensitivity: int) -> int:
        return discrete_laplace(Fraction(sensitivity * limits.EPSILON_UNIT, share), below)

    rows = [count + draw(1) for count in counts]
    found: dict[str, Any] = {
        name: pa.array([row[position] for row in asked]) for position, name in enumerate(columns)
    }
    found[GROUP_SIZE] = pa.array(rows, pa.int64())
    for name, step in steps.items():
        noisy = [(total + draw(step.farthest)) * step.size for total in totals[name]]
        kind = pa.int64() if step.size == 1 else pa.float64()
        found[f"{name}_sum"] = pa.array([int(x) if step.size == 1 else float(x) for x in noisy], kind)
        found[f"{name}_mean"] = pa.array(
            [float(x / count) if count >= 1 else None for x, count in zip(noisy, rows, strict=True)],
            pa.float64(),
        )
    if len(found) != len(columns) + 1 + 2 * len(steps):
        raise Malformed("two columns of the output would have one name")
    return Table(pa.table(found))
