"""Puts the rows of tables one behind the other."""

from __future__ import annotations

from mesatee.errors import Malformed
from mesatee.table import Table


def concat_rows(inputs: dict[str, Table], *, source: str | None = None) -> Table:
    """Return the rows of all inputs in one table, in the order of the inputs' names; each input keeps its order.

    All inputs must have the same columns, in any order; the result has that of the first input. Types may differ
    where one holds the values of both: integers of different widths, integers and floating numbers, a column of
    nulls and any other; anything else is refused, as is an integer that floating point cannot hold. Rows that
    stand twice, nulls and NaN are kept. `source` names a column, put in front, with the input's name.

    Reveals all inputs to the output's receivers: all rows and the order in which each input had them; which
    input a row came from follows from `source`, and without it often from that order.
    """
    import pyarrow as pa

    names = sorted(inputs)
    first = inputs[names[0]].columns
    _check_columns(inputs, names, first, source)
    columns = []
    for column in first:
        arrays = [inputs[name].to_arrow().column(column) for name in names]
        columns.append(_one_type(column, names, arrays))
    if source is not None:
        counts = [inputs[name].num_rows for name in names]
        parts = [
            pa.repeat(pa.scalar(name, pa.string()), count) for name, count in zip(names, counts, strict=True)
        ]
        columns.insert(0, pa.chunked_array(parts, pa.string()))
        first = [source, *first]
    return Table(pa.table(columns, names=first))


def _check_columns(inputs: dict[str, Table], names: list[str], first: list[str], source: str | None) -> None:
    if len(set(first)) != len(first):
        raise Malformed(f"the input {names[0]} has two columns of one name: rename one")
    if source is not None and (not source or source in first):
        raise Malformed("source is the name of a column that no input has")
    for name in names[1:]:
        columns = inputs[name].columns
        if sorted(columns) != sorted(first):
            lacks = sorted(set(first) - set(columns))
            more = sorted(set(columns) - set(first))
            what = f"lacks {lacks[0]!r}" if lacks else f"has {more[0]!r}" if more else "has a column twice"
            raise Malformed(
                f"the input {name} {what}, unlike {names[0]}: all inputs must have the same columns"
            )


def _one_type(column: str, names: list[str], arrays: list[object]) -> object:
    """All values in one type. Raises `Malformed`."""
    import pyarrow as pa

    kinds = [array.type for array in arrays]  # type: ignore[attr-defined]  # Arrow has no types of its own
    try:
        kind = pa.unify_schemas(
            [pa.schema([pa.field(column, kind)]) for kind in kinds], promote_options="permissive"
        )
        parts = [array.cast(kind.field(0).type) for array in arrays]  # type: ignore[attr-defined]  # as above
    except pa.ArrowException:
        # Arrow's own message may show a value.
        found = ", ".join(f"{name}: {kind}" for name, kind in zip(names, kinds, strict=True))
        raise Malformed(
            f"no type holds all values of the column {column!r} ({found}): give it one type in all inputs"
        ) from None
    return pa.chunked_array([chunk for part in parts for chunk in part.chunks], kind.field(0).type)
