"""Variance inflation factors: which columns follow from the others."""

from __future__ import annotations

from typing import Any, Final

from mesatee.enclave.functions._parties import combine
from mesatee.enclave.functions._statistics import column as numbers
from mesatee.enclave.functions._statistics import moments, total
from mesatee.table import Table

GROUP_SIZE: Final = "rows"
COLLINEAR: Final = 1e-10
"""What the others leave unexplained of a column that follows from them; less than that is rounding."""
_PART: Final = 1e-6
"""A column with a smaller weight has no part in another one that follows from the others."""


def vif(
    inputs: dict[str, Table],
    *,
    columns: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Table:
    """Tell how far each column of numbers follows from the others: its variance inflation factor.

    `columns` are the columns, two or more; all columns of numbers and truth values if it is left out. Rows
    with a null in one of them (NaN among it) are left out; infinite values are refused. The output has a row
    for each column: ``column``, ``rows`` (how many are used), ``vif`` (1 / (1 - R^2) of a linear regression of
    it on the others, with an intercept), ``tolerance`` (1 / vif) and ``r_squared``. A constant column has
    none of these: they are null. Of columns that follow exactly from each other (less than 1e-10 is left
    unexplained) ``tolerance`` is 0 and ``vif``, which would be infinite, null; so it is of all if there are no
    more rows than columns.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the output how far each column can be told from the others, of all inputs
    together, and how many rows were used. Reveals to the receivers of `diagnostics`: the numbers of rows of
    each input, how many have nulls, and with ``columns`` how many people all of them have.
    """
    import numpy as np
    import pyarrow as pa

    data = combine("vif", inputs, how, key)
    names = data.chosen(columns or [name for name in data.names if data.is_number(name)], least=2)
    values = [data.numbers(name) for name in names]
    kept = data.complete(*values)
    rows = int(kept.sum())
    scaled, places = [], []
    for place, column in enumerate(values):
        unit = _unit(column[kept])
        if unit is None:
            data.say(f"vif of {names[place]!r} is null: it is constant, empty or too large")
        else:
            scaled.append(unit)
            places.append(place)
    tolerances = [np.nan] * len(names)
    for place, tolerance in zip(places, _tolerances(scaled, rows), strict=True):
        tolerances[place] = tolerance
        if tolerance == 0:
            data.say(f"vif of {names[place]!r} is null: it follows from other columns, or rows are too few")
    return Table(
        pa.table(
            {
                "column": pa.array(names),
                "rows": pa.array([rows] * len(names), pa.int64()),
                "vif": numbers(1 / tolerance if tolerance else None for tolerance in tolerances),
                "tolerance": numbers(tolerances),
                "r_squared": numbers(1 - tolerance for tolerance in tolerances),
            }
        )
    )


def _unit(values: Any) -> Any | None:
    """Distances from the mean, of length 1; None where there is no length."""
    import numpy as np

    if not len(values) or values.min() == values.max():
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        away = values - moments(values)[0]
        away = away / np.abs(away).max()
    if not np.isfinite(away).all():
        return None
    return away / np.sqrt(total(away * away))


def _tolerances(columns: list[Any], rows: int) -> list[float]:
    """1 - R^2 of each column on the others; 0 for those that follow from others."""
    import numpy as np

    if not columns or rows <= len(columns):
        return [0.0] * len(columns)
    # Sums of floating point depend on the order, and the order of rows must not show.
    order = np.lexsort(columns)
    ordered = [column[order] for column in columns]
    matrix = np.array([[float(np.sum(a * b)) for b in ordered] for a in ordered])
    np.fill_diagonal(matrix, 1.0)
    return _swept(matrix)


def _swept(matrix: Any) -> list[float]:
    """The same of a matrix of correlations, by sweeping it (Goodnight 1979, "A tutorial on the sweep operator")."""
    import numpy as np

    size = len(matrix)
    left = np.ones(size, bool)
    for _ in range(size):
        # The largest pivot first: what is left in the end follows from the columns before.
        rest = np.where(left, matrix.diagonal(), -1.0)
        chosen = int(rest.argmax())
        if rest[chosen] < COLLINEAR:
            break
        left[chosen] = False
        matrix = _sweep(matrix, chosen)
    found = [0.0 if left[place] else 1 / float(matrix[place, place]) for place in range(size)]
    for place in np.flatnonzero(left):
        for other in np.flatnonzero(~left):
            if abs(matrix[other, place]) > _PART:
                found[other] = 0.0
    return [tolerance if tolerance >= COLLINEAR else 0.0 for tolerance in found]


def _sweep(matrix: Any, k: int) -> Any:
    import numpy as np

    pivot = matrix[k, k]
    row, column = matrix[k] / pivot, matrix[:, k].copy()
    found = matrix - np.outer(column, row)
    found[k] = row
    found[:, k] = -column / pivot
    found[k, k] = 1 / pivot
    return found
