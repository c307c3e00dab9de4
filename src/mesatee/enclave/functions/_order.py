"""One order of rows: so that what comes out depends on which rows went in, and not on their order."""

from __future__ import annotations

from typing import Any, Final

from mesatee.table import Table

_SIGN: Final = 2**63 - 1


def plain(values: Any) -> Any:
    """A column as one array, of values and not of references to a dictionary."""
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        # Only what is too large for one array stays in several.
        values = pa.concat_arrays(values.chunks)
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.dictionary_decode(), kind.value_type
    if pa.types.is_string_view(kind):
        return values.cast(pa.large_string())
    if pa.types.is_binary_view(kind):
        return values.cast(pa.large_binary())
    return values


def sorts(kind: Any) -> bool:
    """Whether values of this type have an order here: all but lists, structs, maps and the like."""
    import pyarrow as pa

    return not (
        pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType) or pa.types.is_interval(kind)
    )


def ranks(values: Any) -> tuple[Any, int]:
    """For each value of a plain array its place among the different ones, and how many there are, null included.

    Numbers, times and truth values ascend, text and bytes by their bytes; NaN comes after all numbers, -0.0 before
    0.0, and null is the last.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(values.type):
        return np.zeros(len(values), np.int64), 1
    if pa.types.is_floating(values.type):
        values = _as_integers(values)
    encoded = values.dictionary_encode()
    different = len(encoded.dictionary)
    places = np.empty(different + 1, np.int64)
    places[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(different)
    places[different] = different
    codes = encoded.indices.fill_null(different).to_numpy(zero_copy_only=False)
    return places[codes], different + 1


def _as_integers(values: Any) -> Any:
    """Floating point as integers of the same order."""
    import numpy as np
    import pyarrow as pa

    missing = values.is_null().to_numpy(zero_copy_only=False)
    numbers = values.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
    # There are many NaNs, also negative ones: here they are one.
    bits = np.where(np.isnan(numbers), np.nan, numbers).view(np.int64)
    return pa.array(np.where(bits < 0, bits ^ np.int64(_SIGN), bits), mask=missing)


def dense(columns: list[tuple[Any, int]]) -> tuple[Any, int]:
    """Several columns of ranks as one: equal rows get equal numbers, in the order of the rows, and all are
    below the number that is returned as well.
    """
    import numpy as np

    found, count = columns[0]
    for places, different in columns[1:]:
        # Neither exceeds the number of rows by more than one: the product fits for any table that fits into memory.
        values, found = np.unique(found * different + places, return_inverse=True)
        count = len(values)
    return found, count


def ordered(table: Table) -> Table:
    """The rows sorted by all columns, from the first on; lists and structs do not count."""
    import numpy as np
    import pyarrow as pa

    arrow = table.to_arrow()
    columns = [plain(column) for column in arrow.columns]
    keys = [ranks(column)[0] for column in columns if sorts(column.type)]
    if not keys or arrow.num_rows < 2:
        return table
    order = pa.array(np.lexsort(keys[::-1]))
    return Table(pa.Table.from_arrays([column.take(order) for column in columns], names=arrow.column_names))


__all__ = ["dense", "ordered", "plain", "ranks", "sorts"]
