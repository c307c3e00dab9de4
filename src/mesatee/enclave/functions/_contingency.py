"""Counts of rows by the values of two columns."""

from __future__ import annotations

from typing import Any, Final

from mesatee.enclave.functions._parties import Categories, Combined
from mesatee.errors import Malformed

CELLS: Final = 100_000
"""Cells of one table, empty ones too."""


def counted(
    data: Combined, first: Categories, second: Categories, *, nulls: bool = False
) -> tuple[Any, Any, Any]:
    """Places of the labels of both that occur together with one of the other, and counts of shape (first, second).

    With `nulls` the place -1, for null, is a label too, and the last one. Raises `Malformed` for too many cells.
    """
    import numpy as np

    rows, columns = first.codes, second.codes
    if not nulls:
        both = data.complete(first, second)
        rows, columns = rows[both], columns[both]
    row_places, row_codes = _places(rows)
    column_places, column_codes = _places(columns)
    shape = (len(row_places), len(column_places))
    if shape[0] * shape[1] > CELLS:
        raise Malformed(f"{shape[0]} times {shape[1]} values are over {CELLS} cells")
    cells = np.bincount(row_codes * shape[1] + column_codes, minlength=shape[0] * shape[1])
    return row_places, column_places, cells.reshape(shape)


def _places(codes: Any) -> tuple[Any, Any]:
    """The codes that occur, null last, and for each row where its code stands among them."""
    import numpy as np

    places, inverse = np.unique(codes, return_inverse=True)
    if len(places) and places[0] < 0:
        places, inverse = np.roll(places, -1), (inverse - 1) % len(places)
    return places, inverse


__all__ = ["CELLS", "counted"]
