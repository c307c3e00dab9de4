"""Private set intersection: which keys do all parties have?

The parties' tables meet in one sandboxed child; what each of them learns is what the docstring of `psi` says.
"""

from __future__ import annotations

import sys
from typing import Any

from mesatee.errors import Malformed
from mesatee.table import Table


def psi(
    inputs: dict[str, Table],
    *,
    key: str | list[str] | dict[str, str | list[str]],
    mode: str = "intersection",
) -> Table:
    """Intersect the key columns of two or more tables, as sets.

    `key` names the key column or columns of all inputs, or maps each input to its own. Rows with a null in
    a key column never match; a key that stands several times counts once. `mode` is ``intersection`` (the
    common keys, sorted, in columns named as in the first input) or ``cardinality`` (one column and row,
    ``cardinality``).

    Reveals to the receivers of the output: with ``intersection`` the keys that all inputs have, and nothing
    of the other columns; with ``cardinality`` only how many they are. Reveals to the receivers of
    `diagnostics`: of each input the numbers of rows, of rows with nulls and of distinct keys. A receiver
    who owns one of the inputs can tell which of its own keys the others have; from repeated runs on chosen
    inputs one can learn single keys even by ``cardinality``: the number of runs that a task allows is the
    bound.
    """
    if mode not in ("intersection", "cardinality"):
        raise Malformed("mode is intersection or cardinality")
    if len(inputs) < 2:
        raise Malformed("psi needs two or more inputs")
    wanted = {name: _key_columns(name, inputs, key) for name in inputs}
    if len({len(columns) for columns in wanted.values()}) != 1:
        raise Malformed("the inputs have different numbers of key columns")
    names = sorted(inputs)
    keys = {name: _distinct(name, inputs[name], wanted[name]) for name in names}
    types = [_common_type(position, keys, wanted) for position in range(len(wanted[names[0]]))]
    found = _unified(keys[names[0]], wanted[names[0]], types)
    columns = found.column_names
    for name in names[1:]:
        found = found.join(
            _unified(keys[name], wanted[name], types), keys=columns, join_type="inner", use_threads=False
        )
    print(f"psi: {found.num_rows} common keys", file=sys.stderr)
    if mode == "cardinality":
        return Table.from_dict({"cardinality": [found.num_rows]})
    found = found.sort_by([(column, "ascending") for column in columns])
    return Table(found.rename_columns(wanted[names[0]]))


def _key_columns(name: str, inputs: dict[str, Table], key: Any) -> list[str]:
    if isinstance(key, dict):
        if set(key) != set(inputs):
            raise Malformed(f"key must name the inputs {', '.join(sorted(inputs))}")
        key = key[name]
    columns = [key] if isinstance(key, str) else list(key)
    if not columns or len(set(columns)) != len(columns):
        raise Malformed("key names one or more different columns")
    for column in columns:
        count = inputs[name].columns.count(column)
        if count != 1:
            raise Malformed(f"the input {name} has {count or 'no'} columns {column!r}")
    return columns


def _distinct(name: str, table: Table, columns: list[str]) -> Any:
    """The key columns without nulls and duplicates; says how many there were."""
    arrow = table.to_arrow().select(columns)
    plain = arrow
    for position, column in enumerate(columns):
        plain = plain.set_column(position, column, _plain(name, column, arrow.column(column)))
    complete = plain.drop_null()
    distinct = complete.group_by(columns, use_threads=False).aggregate([]).select(columns)
    print(
        f"psi: {name}: {arrow.num_rows} rows, {arrow.num_rows - complete.num_rows} with nulls, "
        f"{distinct.num_rows} distinct keys",
        file=sys.stderr,
    )
    return distinct


def _plain(name: str, column: str, values: Any) -> Any:
    """One wide type per family, so that int32 meets int64 and a short string a large one."""
    import pyarrow as pa

    kind = values.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    try:
        if pa.types.is_integer(kind):
            return values.cast(pa.int64())
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            return values.cast(pa.large_string())
        if pa.types.is_null(kind):
            # A column without a single value has no type of its own and matches nothing.
            return values
    except pa.ArrowInvalid as error:
        raise Malformed(f"the key {column!r} of {name} does not fit: {error}") from None
    if pa.types.is_boolean(kind) or pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return values.cast(kind)
    raise Malformed(
        f"the key {column!r} of {name} is {kind}: keys are integers, strings, booleans, dates or times"
    )


def _common_type(position: int, keys: dict[str, Any], wanted: dict[str, list[str]]) -> Any:
    import pyarrow as pa

    found = {name: table.column(wanted[name][position]).type for name, table in keys.items()}
    kinds = {kind for kind in found.values() if not pa.types.is_null(kind)}
    if len(kinds) > 1:
        said = ", ".join(
            f"{wanted[name][position]!r} of {name} is {kind}" for name, kind in sorted(found.items())
        )
        raise Malformed(f"key columns have different types: {said}")
    return kinds.pop() if kinds else pa.int64()


def _unified(table: Any, columns: list[str], types: list[Any]) -> Any:
    """The same column names and types in every table."""
    import pyarrow as pa

    arrays = [table.column(column).cast(kind) for column, kind in zip(columns, types, strict=True)]
    return pa.table(dict(zip([f"key{position}" for position in range(len(columns))], arrays, strict=True)))
