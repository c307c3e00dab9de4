"""Joins two sorted tables by their keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mesatee.batches import Batches
from mesatee.enclave.functions._ordered import Side, meetings, sides
from mesatee.errors import Malformed


def ordered_set_join(
    left: Batches,
    right: Batches,
    *,
    key: str | dict[str, str],
    order: str = "ascending",
    drop: bool = False,
    suffix: str = "_right",
) -> Batches:
    """Join two sorted tables: one row for each key that both have, in the order of the keys.

    The columns are those of the left input, then those of the right one without its key; with `drop` the key of the
    left input is left out as well. A column of the right input whose name the left one has gets `suffix`. `key`
    names the key column of both inputs, or maps ``left`` and ``right`` to their own. Both inputs stand in the `order`
    of their keys, ``ascending`` or ``descending``; each key stands once. Text is ordered by its bytes in UTF-8, which
    is the order of code points. An input that is not in order, a key that stands twice, is null or NaN, is refused
    with the number of its row, counted from 0. Other columns may hold anything.

    The inputs are read batch by batch, several times, with memory for a few batches of each. Which rows match shows in
    the time and in the pattern of memory accesses.

    Reveals to the output's receivers all columns of both inputs in the rows whose key both have, except keys with
    `drop`; with them how many keys are common. To the receivers of `diagnostics`: of which row an input is out of
    order.
    """
    one, other = sides(left, right, key, order)
    names = _names(one, other, drop, suffix)
    return _joined(one, other, names, drop)


def _kept(side: Side, drop: bool) -> list[str]:
    return [name for name in side.rows.columns if not (drop and name == side.key)]


def _names(one: Side, other: Side, drop: bool, suffix: str) -> list[str]:
    for side in (one, other):
        if len(set(side.rows.columns)) != len(side.rows.columns):
            raise Malformed(f"the input {side.name} has two columns of one name: rename one")
    names = _kept(one, drop)
    taken = set(names)
    names += [name + suffix if name in taken else name for name in _kept(other, True)]
    if not names:
        raise Malformed("no column is left: keep the key by drop=false")
    if len(set(names)) != len(names):
        raise Malformed("two columns of the result have one name: choose another suffix, or rename one")
    return names


def _joined(one: Side, other: Side, names: list[str], drop: bool) -> Batches:
    import pyarrow as pa
    import pyarrow.compute as pc

    lefts, rights = _kept(one, drop), _kept(other, True)
    kinds = [
        *(one.rows.schema.field(name).type for name in lefts),
        *(other.rows.schema.field(name).type for name in rights),
    ]
    schema = pa.schema(list(zip(names, kinds, strict=True)))

    def pieces() -> Iterator[Any]:
        any_yet = False
        for left, right, _ in meetings(one, other):
            if right is None:
                continue
            mine = left.table.filter(pc.is_in(left.keys, value_set=right.keys))
            if mine.num_rows:
                # Both are in one order and have each key once, so that the rows stand beside each other.
                theirs = right.table.filter(pc.is_in(right.keys, value_set=left.keys))
                columns = [*mine.select(lefts).columns, *theirs.select(rights).columns]
                yield pa.table(columns, schema=schema)
                any_yet = True
        if not any_yet:
            yield schema.empty_table()

    return Batches(pieces, schema)
