"""How many rows have which two values."""

from __future__ import annotations

from typing import Final

from mesatee.enclave.functions._contingency import counted
from mesatee.enclave.functions._parties import combine
from mesatee.enclave.functions._statistics import column as numbers
from mesatee.enclave.functions._statistics import one_of
from mesatee.errors import Malformed
from mesatee.table import Table

GROUP_SIZE: Final = "rows"
SHARES: Final = ("none", "all", "row", "column")


def crosstab(
    inputs: dict[str, Table],
    *,
    row: str,
    column: str,
    share: str = "none",
    nulls: bool = False,
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Table:
    """Count the rows by the values of two columns.

    `row` and `column` are columns of text, numbers, truth values, dates or times, with at most 1,000
    different values each, and 100,000 pairs. The output has a row for each pair of values that occur, sorted,
    also where no row has both: the values as ``row`` and ``column``, and how many have them as ``rows``. With
    `share` there is a column ``share`` of these counts, out of ``all``, of those of the same ``row`` or of the
    same ``column``. Rows with a null in one of both (NaN among it) are left out; with ``nulls=true`` null is a
    value like others, the last one.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the output which values there are, and how many rows of all inputs together
    have which two; a count of 1 is a person. Reveals to the receivers of `diagnostics`: the numbers of rows
    of each input, how many have nulls, and with ``columns`` how many people all of them have.
    """
    import numpy as np
    import pyarrow as pa

    one_of("share", share, SHARES)
    if row == column:
        raise Malformed("row and column are different columns")
    data = combine("crosstab", inputs, how, key)
    first, second = data.categories(row), data.categories(column)
    down, across, counts = counted(data, first, second, nulls=nulls)
    found = {
        "row": first.take(np.repeat(down, len(across))),
        "column": second.take(np.tile(across, len(down))),
        "rows": pa.array(counts.ravel(), pa.int64()),
    }
    if share != "none" and counts.size:
        axis = {"all": None, "row": 1, "column": 0}[share]
        out_of = np.broadcast_to(counts.sum(axis=axis, keepdims=True), counts.shape)
        found["share"] = numbers((counts / out_of).ravel().tolist())
    elif share != "none":
        found["share"] = numbers([])
    return Table(pa.table(found))
