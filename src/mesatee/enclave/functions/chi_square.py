"""Pearson's chi-square test, of independence and of goodness of fit."""

from __future__ import annotations

import math
from typing import Any, Final

from mesatee.enclave.functions._contingency import counted
from mesatee.enclave.functions._parties import Combined, combine
from mesatee.enclave.functions._statistics import chi_square_tail, total
from mesatee.enclave.functions._statistics import column as numbers
from mesatee.errors import Malformed
from mesatee.table import Table

GROUP_SIZE: Final = "rows"


def chi_square(
    inputs: dict[str, Table],
    *,
    row: str,
    column: str | None = None,
    expected: dict[str, float] = {},  # noqa: B006  a contract shows its defaults, and nothing changes this one
    yates: bool = True,
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Table:
    """Test by Pearson's chi-square whether two columns are independent, or one has the expected shares.

    `row` and `column` are columns of text, numbers, truth values, dates or times, with at most 1,000
    different values each. Without `column` the counts of the values of `row` are compared with `expected`,
    which gives a share above 0 for each value (their sum is taken as the whole; values are named by text,
    such as ``true``, ``1`` or ``2020-01-31``), or with equal shares of the values that occur. `yates` is the
    correction for continuity of a table of two by two (never more than the difference itself, as in scipy).
    Rows with a null (NaN among it) are left out.

    The output has one row: ``rows`` (rows in all), ``statistic``, ``degrees`` (of freedom), ``p_value``,
    ``log_p_value`` (its natural logarithm, also where the p value is too small for a number),
    ``smallest_expected`` (the approximation is poor below 5) and ``effect``: Cramer's V without correction,
    or Cohen's w. Where there are fewer than two values of a column the test is undefined and its results are
    null; so it is where a value occurs that `expected` does not name.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the output the result of the test, of all inputs together, and the numbers of
    rows and (by the degrees of freedom) of values; for few rows these can tell the counts. Reveals to the
    receivers of `diagnostics`: the numbers of rows of each input, how many have nulls, and with ``columns``
    how many people all of them have.
    """
    if column is not None and expected:
        raise Malformed("expected is for one column: leave expected or column out")
    if row == column:
        raise Malformed("row and column are different columns")
    if not all(0 < share < math.inf for share in expected.values()):
        raise Malformed("expected shares are above 0")
    data = combine("chi_square", inputs, how, key)
    found = _fit(data, row, expected) if column is None else _independence(data, row, column, yates)
    return _table(found)


def _independence(data: Combined, row: str, column: str, yates: bool) -> dict[str, Any]:
    import numpy as np

    _, _, counts = counted(data, data.categories(row), data.categories(column))
    rows = int(counts.sum())
    if min(counts.shape) < 2:
        data.say("the test is undefined: a column has fewer than two values")
        return {"rows": rows}
    expected = counts.sum(axis=1, keepdims=True) * (counts.sum(axis=0, keepdims=True) / rows)
    degrees = (counts.shape[0] - 1) * (counts.shape[1] - 1)
    away = np.abs(counts - expected)
    plain = total((away**2 / expected).ravel())
    if yates and degrees == 1:
        away = away - np.minimum(0.5, away)
    effect = math.sqrt(min(1.0, plain / rows / (min(counts.shape) - 1)))
    return _result(rows, total((away**2 / expected).ravel()), degrees, float(expected.min()), effect)


def _fit(data: Combined, row: str, expected: dict[str, float]) -> dict[str, Any]:
    import numpy as np

    found = data.categories(row)
    codes = found.codes[data.complete(found)]
    counts = dict(zip(found.texts, np.bincount(codes, minlength=len(found.labels)).tolist(), strict=True))
    rows = len(codes)
    shares = expected or dict.fromkeys(counts, 1.0)
    if set(counts) - set(shares):
        data.say(f"the test is undefined: {row!r} has values that expected does not name")
        return {"rows": rows}
    if rows == 0 or len(shares) < 2:
        data.say(f"the test is undefined: {row!r} has {'no' if not rows else 'fewer than two'} values")
        return {"rows": rows}
    given = np.array([float(shares[text]) for text in sorted(shares)])
    observed = np.array([counts.get(text, 0) for text in sorted(shares)], np.float64)
    awaited = given / total(given) * rows
    statistic = total((observed - awaited) ** 2 / awaited)
    return _result(rows, statistic, len(shares) - 1, float(awaited.min()), math.sqrt(statistic / rows))


def _result(rows: int, statistic: float, degrees: int, smallest: float, effect: float) -> dict[str, Any]:
    p_value, log_p_value = chi_square_tail(statistic, degrees)
    return {
        "rows": rows,
        "statistic": statistic,
        "degrees": degrees,
        "p_value": p_value,
        "log_p_value": log_p_value,
        "smallest_expected": smallest,
        "effect": effect,
    }


def _table(found: dict[str, Any]) -> Table:
    import pyarrow as pa

    return Table(
        pa.table(
            {
                "rows": pa.array([found["rows"]], pa.int64()),
                "statistic": numbers([found.get("statistic")]),
                "degrees": pa.array([found.get("degrees")], pa.int64()),
                "p_value": numbers([found.get("p_value")]),
                "log_p_value": numbers([found.get("log_p_value")]),
                "smallest_expected": numbers([found.get("smallest_expected")]),
                "effect": numbers([found.get("effect")]),
            }
        )
    )
