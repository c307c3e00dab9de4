"""Which rows of two sorted tables have a key that the other has too?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

from mesatee.batches import Batches
from mesatee.enclave.functions._ordered import Side, meetings, sides


class Flags(NamedTuple):
    """One column, ``common``, with a row for each row of the input of the same name."""

    left: Batches
    right: Batches


def ordered_set_intersect(
    left: Batches, right: Batches, *, key: str | dict[str, str], order: str = "ascending"
) -> Flags:
    """Intersect two sorted tables: the outputs ``left`` and ``right`` say for each row whether its key is common.

    Each output has one column, ``common``, and the rows of the input of its name in their order, so that it can be
    given to that input's owner alone. `key` names the key column of both inputs, or maps ``left`` and ``right`` to
    their own. Both inputs stand in the `order` of their keys, ``ascending`` or ``descending``; each key stands once.
    Text is ordered by its bytes in UTF-8, which is the order of code points. An input that is not in order, a key
    that stands twice, is null or NaN, is refused with the number of its row, counted from 0. Keys are integers,
    numbers, text, bytes, booleans, dates or times, of one kind in both inputs.

    The inputs are read batch by batch, several times, with memory for a few batches of each. Which rows match shows
    in the time and in the pattern of memory accesses; `psi` hides that.

    Reveals to the receivers of ``left`` which rows of the left input are common, and to those of ``right`` which of
    the right one; how many are common is the same in both. To the receivers of `diagnostics`: that number, or of
    which row an input is out of order.
    """
    one, other = sides(left, right, key, order)
    # Before any output is written: a message after it would stand in the middle.
    print(f"ordered_set_intersect: {_common(one, other)} common keys", file=sys.stderr)
    return Flags(_flags(one, other), _flags(other, one))


def _common(one: Side, other: Side) -> int:
    import pyarrow.compute as pc

    found = 0
    for left, right, _ in meetings(one, other):
        if right is not None:
            found += pc.sum(pc.is_in(left.keys, value_set=right.keys)).as_py() or 0
    return found


def _flags(one: Side, other: Side) -> Batches:
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = pa.schema([("common", pa.bool_())])

    def pieces() -> Iterator[pa.Table]:
        flags, any_yet = None, False
        for left, right, over in meetings(one, other):
            if flags is None:
                flags = pa.repeat(pa.scalar(False), len(left.keys))
            if right is not None:
                flags = pc.or_(flags, pc.is_in(left.keys, value_set=right.keys))
            if over:
                yield pa.table([flags], schema=schema)
                flags, any_yet = None, True
        if not any_yet:
            yield schema.empty_table()

    return Batches(pieces, schema)
