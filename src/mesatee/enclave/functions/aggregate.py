"""Join tables and give figures of groups of the rows, and no row."""

from __future__ import annotations

from typing import Any, Final

from mesatee.enclave.functions import _figures, _join, _where
from mesatee.enclave.functions._order import dense, plain, ranks, sorts
from mesatee.errors import Malformed, TooLarge
from mesatee.protocol import limits
from mesatee.table import Table

GROUP_SIZE: Final = "rows"
"""The column of the result that says of how many rows each of its rows was made."""


def aggregate(
    inputs: dict[str, Table],
    *,
    key: str | list[str] | dict[str, str | list[str]] | None = None,
    by: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes these
    measures: dict[str, str | list[str]] = {},  # noqa: B006  as above
    where: list[list[Any]] = [],  # noqa: B006  as above
    unit: str | list[str] = [],  # noqa: B006  as above
    how: str = "inner",
    many: str = "refuse",
    normalise: str | list[str] = [],  # noqa: B006  as above
) -> Table:
    """Group the rows of one table, or of the join of several, and compute figures of each group.

    With two or more inputs, `key`, `how`, `many` and `normalise` say how they are joined, as in `join`, and
    columns have the names that `join` gives them: the key columns those of the first input, the others their
    own, or ``input_column`` where two inputs have one of that name. With a single input there is no `key`.

    `where` keeps the rows that meet all its conditions: ``[column, operator, value]`` with ``==``, ``!=``,
    ``<``, ``<=``, ``>`` or ``>=``, ``[column, "in", [values]]``, ``[column, "not in", [values]]``,
    ``[column, "is null"]`` or ``[column, "not null"]``. Values are numbers, text or truth values; dates and
    times are text as in ISO 8601. NaN counts as null, and a null meets ``is null`` alone.

    `by` are the columns whose values make a group; null is a value of its own. Without them all rows are one
    group, also if there are none. `measures` maps columns to figures: ``count`` (values that are there),
    ``sum``, ``mean``, ``std`` (of a sample, n - 1), ``min``, ``max``, ``median`` and quantiles such as
    ``q0.9``. Quantiles are linear between the two nearest values. Nulls and NaN are left out; of no value
    there is a count of 0, and null for everything else, as for ``std`` of one.

    `unit` are the columns that name one person, or whatever else shall not be told apart: then ``rows`` is the number
    of different ones in the group and not that of rows, of which a person may have many. A null in them is nobody.

    Out come the columns of `by`, ``rows`` (how many rows or units are in the group), and for each measure a column
    such as ``cost_sum``, measures in the order of their columns' names. Groups are sorted, null last. Sums of integers
    and decimals are exact, and refused if they do not fit 64 bits or 38 digits; sums of floating point are
    exact before they are rounded once, so that the order of rows does not show.

    Which rows match and which group they are in shows in the accesses to memory of whoever watches the
    processor.

    Reveals to the receivers of the output: the groups that there are, their numbers of rows or units and their
    figures, and no row. A group of one row shows that row's values, and ``min`` and ``max`` are always values of single
    rows: what protects small groups is the policy of the output, and not this function. Reveals to the
    receivers of `diagnostics`: what the message of a failed run says, which names columns and no values.
    """
    _join.check(how, many)
    inputs = dict(sorted(inputs.items()))
    wanted = _wanted(measures)
    columns = [by] if isinstance(by, str) else list(by)
    filters = _where.conditions(where)
    units = [unit] if isinstance(unit, str) else list(unit)
    needed = [*columns, *wanted, *units, *(column for column, _, _ in filters)]
    rows, count = _rows(inputs, key, how, many, normalise, needed)
    _check_names(columns, wanted)
    import numpy as np

    keep = np.ones(count, bool)
    for column, said, value in filters:
        keep &= _where.holds(column, rows[column], said, value)
    kept = {name: rows[name].filter(keep) for name in rows}
    return _grouped(kept, int(keep.sum()), columns, wanted, units)


def _wanted(measures: dict[str, str | list[str]]) -> dict[str, list[str]]:
    """Column -> figures, in the order of the columns' names. Raises `Malformed` or `TooLarge`."""
    found = {}
    for column, said in sorted(measures.items()):
        found[column] = [said] if isinstance(said, str) else list(said)
        if not found[column]:
            raise Malformed(f"measures names no figure of {column!r}")
        for figure in found[column]:
            _figures.check(figure)
    if sum(map(len, found.values())) > limits.MEASURES:
        raise TooLarge(f"there are over {limits.MEASURES} measures")
    return found


def _check_names(columns: list[str], wanted: dict[str, list[str]]) -> None:
    measured = [f"{column}_{figure}" for column in wanted for figure in wanted[column]]
    names = [*columns, GROUP_SIZE, *measured]
    for name in names:
        if names.count(name) > 1:
            raise Malformed(f"two columns of the result would be called {name!r}")


def _rows(
    inputs: dict[str, Table],
    key: str | list[str] | dict[str, str | list[str]] | None,
    how: str,
    many: str,
    normalise: str | list[str],
    needed: list[str],
) -> tuple[dict[str, Any], int]:
    """The columns that are needed, by their name in the join, and how many rows there are. Raises `Malformed`."""
    if len(inputs) == 1:
        if key is not None:
            raise Malformed("a single input has no key to join by: leave it out, or group by it")
        ((name, table),) = inputs.items()
        for column in needed:
            if table.columns.count(column) != 1:
                raise Malformed(
                    f"the input {name} has {table.columns.count(column) or 'no'} columns {column!r}"
                )
        return {column: plain(table[column]) for column in needed}, table.num_rows
    if key is None:
        raise Malformed("two or more inputs need the key by which they are joined")
    plan = _join.plan(inputs, key, normalise)
    for column in needed:
        if column not in plan.columns and column not in plan.names:
            there = ", ".join([*plan.names, *plan.columns][: limits.INPUTS])
            raise Malformed(f"the joined inputs have no column {column!r}; they have {there}")
    found, _ = _join.rows(plan, how, many)
    arrow = _join.table(plan, found, needed).to_arrow()
    return {column: plain(arrow.column(column)) for column in needed}, arrow.num_rows


def _grouped(
    rows: dict[str, Any], count: int, by: list[str], wanted: dict[str, list[str]], units: list[str]
) -> Table:
    import numpy as np
    import pyarrow as pa

    columns: dict[str, Any] = {}
    groups, first = np.zeros(count, np.int64), np.zeros(1, np.int64)
    if by:
        values, codes = _codes(rows, by)
        _, first, groups = np.unique(codes, return_index=True, return_inverse=True)
        columns = {name: values[name].take(pa.array(first)) for name in by}
    members = groups
    if units:
        values, codes = _codes(rows, units)
        there = np.all(
            [column.is_valid().to_numpy(zero_copy_only=False) for column in values.values()], axis=0
        )
        # Each unit once in each of its groups.
        members = np.unique(np.stack([groups[there], codes[there]]), axis=1)[0]
    columns[GROUP_SIZE] = pa.array(np.bincount(members, minlength=len(first)).astype(np.int64))
    for column, figures in wanted.items():
        found = _figures.figures(column, rows[column], groups, len(first), figures)
        for figure, values_of in zip(figures, found, strict=True):
            columns[f"{column}_{figure}"] = values_of
    return Table(pa.table(columns))


def _codes(rows: dict[str, Any], names: list[str]) -> tuple[dict[str, Any], Any]:
    """The columns with one kind of null and zero, and one number for each row: equal for equal ones, in their order."""
    for name in names:
        if not sorts(rows[name].type):
            raise Malformed(f"the column {name!r} is {rows[name].type}, by which rows cannot be grouped")
    values = {name: _figures.present(rows[name]) for name in names}
    return values, dense([ranks(column) for column in values.values()])[0]
