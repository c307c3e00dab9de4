"""A join of rows with unique keys by the oblivious kernels: rows carry their other columns through sort and compaction.

Where a key stands once in every input, the rows that match are as many in each. So each input's are marked, compacted
and sorted by key, and then row i of all inputs belongs together. No kernel copies one row to many, which keys that
repeat would need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mesatee._core import KeyRows, oblivious_match
from mesatee.enclave.functions._join import Plan
from mesatee.enclave.functions._keys import Keys, from_rows, to_rows, widest
from mesatee.enclave.functions._order import plain
from mesatee.enclave.functions._threads import useful
from mesatee.errors import Malformed
from mesatee.table import Table


@dataclass(frozen=True, slots=True)
class _Carried:
    """A column in a form that rows of words hold: its values, where they are, and the type that it has to get back."""

    values: Any
    there: Any
    kind: Any


def joined(plan: Plan) -> Table:
    """The inner join, sorted by key. Raises `Malformed` for keys that are not unique, or rows that are too long."""
    import pyarrow as pa

    threads = useful()
    keys = list(plan.keys.values())
    widths = widest(keys)
    marks, _, counts, _, _ = oblivious_match([to_rows(item, widths) for item in keys], threads=threads)
    for item, count in zip(keys, counts, strict=True):
        if count != item.rows - item.nulls:
            raise Malformed(
                "an oblivious join needs keys that are unique in every input: make them so, or set leakage to "
                "'access-pattern'"
            )
    columns: dict[str, Any] = {}
    for (name, item), found in zip(plan.keys.items(), marks, strict=True):
        carried = {
            said: _carried(said, plain(plan.inputs[owner].to_arrow().column(column)))
            for said, (owner, column) in plan.columns.items()
            if owner == name
        }
        arrow = _taken(item, widths, carried, found, threads)
        if not columns:
            columns = {said: arrow.column(place) for place, said in enumerate(plan.names)}
        for place, said in enumerate(carried):
            values, there = (arrow.column(len(widths) + 2 * place + part) for part in (0, 1))
            columns[said] = _given_back(values, there, carried[said].kind)
    return Table(pa.table(columns))


def _taken(keys: Keys, widths: list[int], carried: dict[str, _Carried], marks: bytes, threads: int) -> Any:
    """The marked rows, sorted by key: the key columns, then for each carried one its values and where they are."""
    extra = [array for column in carried.values() for array in (column.values, column.there)]
    whole = Keys((*keys.arrays, *extra), keys.complete, keys.rows, keys.nulls)
    rows: KeyRows = to_rows(whole, widths + widest([Keys(tuple(extra), None, keys.rows, 0)]))
    kinds = [array.type for array in whole.arrays]
    names = [str(place) for place in range(len(kinds))]
    return from_rows(rows.marked(marks).sorted(threads=threads), kinds, names).to_arrow().combine_chunks()


def _carried(name: str, values: Any) -> _Carried:
    """Numbers in 64 bits, text and bytes as they are, decimals as text. Raises `Malformed` for lists and the like."""
    import pyarrow as pa

    kind, there = values.type, values.is_valid()
    if pa.types.is_null(kind):
        return _Carried(pa.array([0] * len(values), pa.int64()), there, kind)
    if pa.types.is_uint64(kind):
        return _Carried(values.fill_null(0).view(pa.int64()), there, kind)
    if pa.types.is_integer(kind):
        wide = values.cast(pa.int64())
    elif pa.types.is_floating(kind):
        wide = values.cast(pa.float64())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_decimal(kind):
        wide = values.cast(pa.string()).cast(pa.large_string()).fill_null("")
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        wide = values.cast(pa.large_binary()).fill_null(b"")
    elif pa.types.is_boolean(kind) or (pa.types.is_temporal(kind) and not pa.types.is_interval(kind)):
        wide = values
    else:
        raise Malformed(
            f"the column {name!r} is {kind}, which an oblivious join cannot carry: leave it out by columns, or set "
            "leakage to 'access-pattern'"
        )
    return _Carried(wide, there, kind)


def _given_back(values: Any, there: Any, kind: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    values, there = plain(values), plain(there)
    if pa.types.is_null(kind):
        return pa.nulls(len(values))
    if pa.types.is_uint64(kind):
        values = values.view(kind)
    # Before the cast, for what stands in the place of a null need not fit the type.
    return pc.if_else(there, values, pa.scalar(None, values.type)).cast(kind)


__all__ = ["joined"]
