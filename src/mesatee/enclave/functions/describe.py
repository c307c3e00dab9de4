"""Columns in a few numbers each."""

from __future__ import annotations

import math
from typing import Any, Final

from mesatee.enclave.functions._parties import Combined, combine
from mesatee.enclave.functions._statistics import column as numbers
from mesatee.enclave.functions._statistics import deviation, moments
from mesatee.errors import Malformed
from mesatee.table import Table

GROUP_SIZE: Final = "rows"
QUANTILES: Final = 100
"""Quantiles of one run."""


def describe(
    inputs: dict[str, Table],
    *,
    columns: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    quantiles: list[float] = [0.25, 0.5, 0.75],  # noqa: B006  as above
    extremes: bool = True,
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Table:
    """Describe columns: how many values, and their mean, standard deviation, extremes and quantiles.

    `columns` are the columns to describe; all if it is left out. Each gets one row: ``column``, ``type``
    (``number``, ``truth``, ``text``, ``time`` or ``other``), ``rows`` (how many have a value), ``nulls``,
    ``distinct`` (different values, of text, truth values and times), and for numbers and truth values (0
    and 1) ``mean``, ``std``, ``min``, ``max`` and a column such as ``q0.25`` for each of the `quantiles`,
    which lie between 0 and 1. NaN counts as null; infinite values are refused. ``std`` is that of a sample
    (ddof 1), null for a single row. Quantiles lie on the line between the two nearest values. With
    ``extremes=false`` there are neither ``min`` nor ``max``, nor quantiles of 0 and 1.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the output the numbers of each column, each of all inputs together. ``min``,
    ``max`` and quantiles are values of single people, or lie between those of two; of very few rows the
    mean is as good as the values. Reveals to the receivers of `diagnostics`: the numbers of rows of each
    input, and with ``columns`` how many people all of them have.
    """
    if len(quantiles) > QUANTILES or len(set(quantiles)) != len(quantiles):
        raise Malformed(f"quantiles are at most {QUANTILES} different ones")
    if not all(0 <= quantile <= 1 for quantile in quantiles):
        raise Malformed("quantiles lie between 0 and 1")
    if not extremes and {0, 1} & set(quantiles):
        raise Malformed("the quantiles 0 and 1 are extremes: ask for them with extremes=true")
    data = combine("describe", inputs, how, key)
    rows = [_described(data, name, quantiles) for name in data.chosen(columns)]
    return _table(rows, quantiles, extremes)


def _described(data: Combined, name: str, quantiles: list[float]) -> dict[Any, Any]:
    import numpy as np
    import pyarrow as pa

    kind = _kind(data.kinds(name)) if data.source(name) else "text"
    found: dict[Any, Any] = {"column": name, "type": kind}
    if kind in ("truth", "text", "time"):
        categories = data.categories(name, most=None)
        found["rows"] = int((categories.codes >= 0).sum())
        found["distinct"] = len(categories.labels)
    if kind in ("number", "truth"):
        values = data.numbers(name)
        values = np.sort(values[~np.isnan(values)])
        found["rows"] = len(values)
        mean, squares = moments(values)
        found |= {"mean": mean, "std": deviation(squares, len(values))}
        if len(values):
            found |= {"min": float(values[0]), "max": float(values[-1])}
            with np.errstate(over="ignore", invalid="ignore"):
                found |= dict(zip(quantiles, np.quantile(values, quantiles).tolist(), strict=True))
        _say_undefined(data, name, found)
    if kind == "other":
        found["rows"] = sum(len(piece) - piece.null_count for _, piece in data.values(name))
        types = sorted({str(kind) for kind in data.kinds(name) if not pa.types.is_null(kind)})
        data.say(f"{name!r} is {', '.join(types)}, of which only values are counted")
    found["nulls"] = data.rows - found["rows"]
    return found


def _say_undefined(data: Combined, name: str, found: dict[Any, Any]) -> None:
    undefined = [
        item if isinstance(item, str) else f"q{float(item)}"
        for item, value in found.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    if undefined:
        why = (
            ("there is no value", "it takes two values")[found["rows"]]
            if found["rows"] < 2
            else "values are too large"
        )
        data.say(f"{', '.join(undefined)} of {name!r} null: {why}")


def _kind(kinds: list[Any]) -> str:
    import pyarrow as pa

    types = pa.types
    found = {
        "truth"
        if types.is_boolean(kind)
        else "number"
        if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
        else "text"
        if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        else "time"
        if types.is_date(kind) or types.is_timestamp(kind)
        else "other"
        for kind in kinds
        if not types.is_null(kind)
    }
    if found <= {"number", "truth"} and len(found) == 2:
        return "number"
    if len(found) > 1:
        raise Malformed(f"parts of one column are {', '.join(sorted(found))}: they need one type")
    # Without a single value nothing says what it would be.
    return found.pop() if found else "number"


def _table(rows: list[dict[Any, Any]], quantiles: list[float], extremes: bool) -> Table:
    import pyarrow as pa

    def counts(name: str) -> Any:
        return pa.array([row.get(name) for row in rows], pa.int64())

    def values(name: Any) -> Any:
        return numbers(row.get(name) for row in rows)

    columns = {
        "column": pa.array([row["column"] for row in rows], pa.string()),
        "type": pa.array([row["type"] for row in rows], pa.string()),
        "rows": counts("rows"),
        "nulls": counts("nulls"),
        "distinct": counts("distinct"),
        "mean": values("mean"),
        "std": values("std"),
    }
    columns |= {name: values(name) for name in (("min", "max") if extremes else ())}
    columns |= {f"q{float(quantile)}": values(quantile) for quantile in quantiles}
    return Table(pa.table(columns))
