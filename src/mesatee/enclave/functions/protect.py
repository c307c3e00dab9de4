"""Output protection: what a dataset's owner lets out, applied to a table."""

from __future__ import annotations

from typing import Any, Final

from mesatee.errors import Malformed
from mesatee.table import Table

GROUP_SIZE: Final = "rows"


def protect(
    table: Table,
    *,
    min_group: int = 0,
    max_rows: int = 0,
    columns: list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    digits: int = 0,
    multiple: int = 0,
) -> Table:
    """Leave out of a table what is more than it may say, or refuse it as a whole.

    The worker does this to every output of a task on protected datasets, in a child of its own; called by
    itself it shows an owner what would be left of a table. 0, or no column, stands for no limit.

    1. A table with a column beside `columns`, or with the same one twice, or with lists, is refused.
    2. Rows whose column ``rows`` is below `min_group`, or has no value, are left out. A table without such a
       column of whole numbers is refused.
    3. A table of more than `max_rows` rows is refused.
    4. Whole numbers become the nearest `multiple`, of two equally near ones the even one; ``rows`` too.
    5. Numbers with a fraction, decimals too, keep `digits` significant decimal digits.

    Text, times and booleans stay as they are.

    Reveals to the receivers of the output: what is left. That a row was left out shows where its group is
    known from elsewhere, and totals minus the groups that are shown give the sum of those that are not.
    """
    import pyarrow as pa

    arrow = table.to_arrow()
    names = arrow.column_names
    if len(set(names)) != len(names):
        raise Malformed("two columns of the table have one name")
    if columns and (beside := [name for name in names if name not in columns]):
        raise Malformed(f"the table has {len(beside)} columns beside those that may leave")
    for name in names:
        kind = arrow.column(name).type
        if pa.types.is_dictionary(kind):
            arrow = arrow.set_column(names.index(name), name, arrow.column(name).cast(kind.value_type))
        elif pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
            raise Malformed("the table has a column that is no plain one")
    if min_group:
        arrow = _large(arrow, min_group)
    if max_rows and arrow.num_rows > max_rows:
        raise Malformed("the table has more rows than may leave")
    for place, name in enumerate(names):
        values = arrow.column(name)
        if multiple and pa.types.is_integer(values.type):
            arrow = arrow.set_column(place, name, _nearest(values, multiple))
        elif digits and (pa.types.is_floating(values.type) or pa.types.is_decimal(values.type)):
            arrow = arrow.set_column(place, name, _shortened(values, digits))
    # What the writer of the table attached to it is no column, and may not leave by the back door.
    return Table(arrow.replace_schema_metadata(None).cast(_bare(arrow.schema)))


def _bare(schema: Any) -> Any:
    """The same columns without metadata of their own."""
    import pyarrow as pa

    return pa.schema([pa.field(field.name, field.type, field.nullable) for field in schema])


def _large(arrow: Any, least: int) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if GROUP_SIZE not in arrow.column_names or not pa.types.is_integer(arrow.column(GROUP_SIZE).type):
        raise Malformed(f"the table has no column {GROUP_SIZE} of whole numbers, so no groups can be told")
    return arrow.filter(pc.greater_equal(arrow.column(GROUP_SIZE), least))


def _nearest(values: Any, multiple: int) -> Any:
    import numpy as np
    import pyarrow as pa

    try:
        whole = values.cast(pa.int64()).combine_chunks()
    except pa.ArrowInvalid:
        raise Malformed("a whole number is too large to be rounded") from None
    empty = whole.is_null().to_numpy(zero_copy_only=False)
    numbers = whole.fill_null(0).to_numpy(zero_copy_only=False)
    below = numbers // multiple
    rest = numbers - below * multiple
    up = (2 * rest > multiple) | ((2 * rest == multiple) & (below % 2 == 1))
    rounded = below + up
    # The product may not wrap around.
    if len(rounded) and max(abs(int(rounded.min())), abs(int(rounded.max()))) * multiple >= 2**63:
        raise Malformed("a whole number is too large to be rounded")
    return pa.array(rounded * np.int64(multiple), pa.int64(), mask=empty)


def _shortened(values: Any, digits: int) -> Any:
    import pyarrow as pa

    found = [
        None if value is None else float(f"{value:.{digits - 1}e}")
        for value in values.cast(pa.float64()).to_pylist()
    ]
    return pa.array(found, pa.float64())
