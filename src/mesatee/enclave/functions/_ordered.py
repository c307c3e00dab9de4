"""Two tables in the order of their keys, merged batch by batch, with memory for a few batches of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from mesatee.batches import Batches
from mesatee.enclave.functions._keys import key_columns, prepare
from mesatee.errors import Malformed
from mesatee.table import Table

ORDERS: Final = ("ascending", "descending")


@dataclass(frozen=True, slots=True)
class Side:
    """One input: its name, its key column, and how it is ordered."""

    name: str
    rows: Batches
    key: str
    descending: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """A batch that is not empty, and its keys in a wide type."""

    table: Any
    keys: Any


def sides(left: Batches, right: Batches, key: str | dict[str, str], order: str) -> tuple[Side, Side]:
    """Both inputs, whose keys are of one kind and stand in order. Reads all of them. Raises `Malformed`.

    1. There is one key column in each, and both hold values of one kind.
    2. No key is null or NaN, none stands twice, and each is beyond the one before.
    """
    if order not in ORDERS:
        raise Malformed(f"order is one of {', '.join(ORDERS)}")
    # 1.
    inputs = {"left": left, "right": right}
    empty = {name: Table(rows.schema.empty_table()) for name, rows in inputs.items()}
    wanted = key_columns(empty, key)
    if any(len(columns) != 1 for columns in wanted.values()):
        raise Malformed("key names one column of each input")
    prepare(empty, wanted, [])
    one, other = (Side(name, rows, wanted[name][0], order == "descending") for name, rows in inputs.items())
    # 2.
    for side in (one, other):
        _check(side)
    return one, other


def pieces(side: Side) -> Iterator[Piece]:
    """Its batches that are not empty, with their keys."""
    for table in side.rows:
        if table.num_rows:
            found = prepare({side.name: table}, {side.name: [side.key]}, [])
            yield Piece(table.to_arrow(), found[side.name].arrays[0])


def _check(side: Side) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    before, last = 0, None
    for piece in pieces(side):
        keys = piece.keys
        # A column of CSV without a single value has no type of its own.
        if pa.types.is_null(keys.type) or keys.null_count:
            at = before if pa.types.is_null(keys.type) else before + pc.index(keys.is_null(), True).as_py()
            raise Malformed(
                f"the key of row {at} of {side.name} is missing: keys stand in order, so leave it out"
            )
        if last is not None:
            keys = pa.concat_arrays([last, keys])
        low, high = (keys[1:], keys[:-1]) if side.descending else (keys[:-1], keys[1:])
        wrong = pc.index(pc.greater_equal(low, high), True).as_py()
        if wrong >= 0:
            # Rows are counted from 0; `keys` begins with the last key of the batch before, if there was one.
            at = before + wrong + (last is None)
            same = keys[wrong] == keys[wrong + 1]
            raise Malformed(
                f"the key of row {at} of {side.name} "
                + (
                    "is that of the row before: each key stands once"
                    if same
                    else "is not in order: sort by it"
                )
            )
        before, last = before + len(piece.keys), piece.keys[-1:]


def meetings(one: Side, other: Side) -> Iterator[tuple[Piece, Piece | None, bool]]:
    """Every two batches whose keys may meet, in order; both sides are checked already.

    Yields the batches, and whether the first one meets no more after this. Whoever has the last key that comes first
    in the order goes on to the next batch. When the second side has ended, what is left of the first comes alone.
    """
    import pyarrow.compute as pc

    lefts, rights = pieces(one), pieces(other)
    left, right = next(lefts, None), next(rights, None)
    while left is not None and right is not None:
        first, second = left.keys[-1], right.keys[-1]
        if one.descending:
            first, second = second, first
        left_over = pc.less_equal(first, second).as_py()
        right_over = pc.less_equal(second, first).as_py()
        yield left, right, left_over
        if left_over:
            left = next(lefts, None)
        if right_over:
            right = next(rights, None)
    while left is not None:
        yield left, None, True
        left = next(lefts, None)


__all__ = ["ORDERS", "Piece", "Side", "meetings", "pieces", "sides"]
