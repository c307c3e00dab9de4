"""Rows of tables as what a net learns from: arrays of numbers or tokens, and what is to come out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mesatee.enclave.functions._architecture import Architecture
from mesatee.errors import Malformed, TooLarge
from mesatee.table import Table

Array = np.ndarray[Any, Any]

ROWS: Final = 2**22
"""Of all tables together."""


def chosen(tables: Mapping[str, Table], columns: Sequence[str], targets: Sequence[str]) -> list[str]:
    """The columns that a net sees: those named, or all but the targets, in the order of the first table."""
    first = next(iter(tables.values()))
    found = list(columns) or [name for name in first.columns if name not in targets]
    if not found or len(set(found)) != len(found) or set(found) & set(targets):
        raise Malformed("columns are one or more, each named once, and no target is one of them")
    for where, table in tables.items():
        for name in [*found, *targets]:
            count = table.columns.count(name)
            if count != 1:
                raise Malformed(f"the input {where} has {count or 'no'} columns {name!r}")
    if sum(table.num_rows for table in tables.values()) > ROWS:
        raise TooLarge(f"a net is trained on at most {ROWS} rows")
    return found


def natural_shape(tables: Mapping[str, Table], columns: Sequence[str]) -> tuple[int, ...]:
    """The shape of a row if none is named: so many numbers as there are in the columns."""
    total = 0
    for name in columns:
        kind = _plain(next(iter(tables.values()))[name]).type
        if pa.types.is_fixed_size_list(kind):
            total += kind.list_size
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            raise Malformed(f"the column {name!r} has lists of any length: name the shape of a row by shape")
        else:
            total += 1
    return (total,)


def read(
    tables: Mapping[str, Table],
    columns: Sequence[str],
    targets_: Sequence[str],
    said: Architecture,
    outputs: int,
    *,
    strict: bool,
) -> tuple[Array, Array]:
    """Rows and what is to come out of them. Where it is not `strict` those that do not fit are left out: whether one
    does depends on this one alone, so that it cannot be told by a failure either.
    """
    x, one = rows(tables, columns, said, strict)
    y, other = targets(tables, targets_, said, outputs, strict)
    return x[one & other], y[one & other]


def rows(
    tables: Mapping[str, Table], columns: Sequence[str], said: Architecture, strict: bool
) -> tuple[Array, Array]:
    """Rows of the shape (rows, *shape), int64 for tokens and float32 for measures, and which of them fit.

    Tables stand one below the other. If it is `strict`, all of them fit, or it raises `Malformed`; otherwise whether
    one fits depends on it alone, and the others are zeros.
    """
    found = [_rows(where, table, columns, said, strict) for where, table in tables.items()]
    values = np.concatenate([part for part, _ in found]).reshape(-1, *said.shape)
    return values, np.concatenate([fits for _, fits in found])


def _rows(
    where: str, table: Table, columns: Sequence[str], said: Architecture, strict: bool
) -> tuple[Array, Array]:
    size = math.prod(said.shape)
    dtype = np.float32 if said.tokens is None else np.int64
    values = np.zeros((table.num_rows, size), dtype)
    fits = np.ones(table.num_rows, bool)
    at = 0
    for name in columns:
        title = f"the column {name!r} of {where}"
        column = _plain(table[name])
        if _is_list(column.type):
            wide = size if len(columns) == 1 else _width(title, column, strict)
            part, right = _lists(title, column, wide, said.tokens, strict)
        else:
            numbers, right = _numbers(title, column, said.tokens, strict)
            part = numbers[:, None]
        if at + part.shape[1] > size:
            raise Malformed(
                f"the columns of {where} have more than the {size} numbers of the shape {list(said.shape)}"
            )
        values[:, at : at + part.shape[1]] = part
        fits &= right
        at += part.shape[1]
    if at != size:
        raise Malformed(f"the columns of {where} have {at} numbers, and the shape {list(said.shape)} {size}")
    values[~fits] = 0
    return values, fits


def _plain(column: Any) -> Any:
    """One array; of an Arrow tensor its lists."""
    found = column.combine_chunks()
    if isinstance(found, pa.ChunkedArray):
        found = found.chunk(0) if found.num_chunks else pa.array([], found.type)
    return found.storage if isinstance(found, pa.ExtensionArray) else found


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _width(title: str, column: Any, strict: bool) -> int:
    """The numbers in each list of a column that has others beside it."""
    if pa.types.is_fixed_size_list(column.type):
        return int(column.type.list_size)
    if not strict:
        raise Malformed(f"{title} has lists of any length: with dp use Arrow lists of a fixed size")
    lengths = pc.unique(pc.list_value_length(column).drop_null())
    if len(lengths) > 1:
        raise Malformed(f"{title} has lists of several lengths: only a column that is alone is filled up")
    return lengths[0].as_py() if len(lengths) else 0


def _lists(title: str, column: Any, wide: int, tokens: int | None, strict: bool) -> tuple[Array, Array]:
    """One line of numbers for each list; short ones are filled with zeros before their first number."""
    fits = _present(title, column, strict)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    numbers, right = _numbers(title, pc.list_flatten(column), tokens, strict)
    if strict and (lengths > wide).any():
        raise Malformed(f"{title} has lists of more than the {wide} numbers of a row: cut them off first")
    row = np.repeat(np.arange(len(lengths)), lengths)
    fits &= lengths <= wide
    fits[row[~right]] = False
    place = np.arange(len(row)) - np.repeat(lengths.cumsum() - wide, lengths)
    found = np.zeros((len(lengths), wide), numbers.dtype)
    kept = fits[row]
    found[row[kept], place[kept]] = numbers[kept]
    return found, fits


def _present(title: str, column: Any, strict: bool) -> Array:
    """Which values are there. Raises `Malformed` for those that are not, if it is `strict`."""
    if strict and column.null_count:
        raise Malformed(f"{title} has nulls: fill them or leave these rows out")
    found: Array = np.array(column.is_valid().to_numpy(zero_copy_only=False))
    return found


def _numbers(title: str, column: Any, tokens: int | None, strict: bool) -> tuple[Array, Array]:
    kind = column.type
    whole = pa.types.is_integer(kind)
    if not (whole or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise Malformed(f"{title} is {kind}: numbers, truth values, and lists of them are taken")
    if tokens is not None and not whole:
        raise Malformed(f"{title} is {kind}: an embedding takes tokens, which are whole numbers")
    fits = _present(title, column, strict)
    values = _values(column)
    if tokens is not None:
        return _below(title, "tokens", values, fits, tokens, strict)
    with np.errstate(over="ignore"):
        found: Array = values.astype(np.float32)
    fits &= np.isfinite(found)
    if strict and not fits.all():
        raise Malformed(f"{title} has NaN or infinity: leave these rows out")
    return found, fits


def _values(column: Any) -> Array:
    """Numbers as they are, with 0 where there is none."""
    plain = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
    found: Array = plain.fill_null(0).to_numpy(zero_copy_only=False)
    return found


def _below(
    title: str, what: str, values: Array, fits: Array, bound: int, strict: bool
) -> tuple[Array, Array]:
    """Whole numbers from 0 to `bound`, without it."""
    inside = (values >= 0) & (values < bound)
    if strict and not inside.all():
        raise Malformed(f"{title} has {what} that are not from 0 to {bound - 1}")
    return np.where(inside, values, 0).astype(np.int64), fits & inside


# -- what is to come out ---------------------------------------------------------------------------


def targets(
    tables: Mapping[str, Table], names: Sequence[str], said: Architecture, outputs: int, strict: bool
) -> tuple[Array, Array]:
    """Class numbers (rows,), truth values as 0 and 1 (rows,), or numbers (rows, outputs), by the loss; and as in
    `rows` which of them fit.
    """
    if said.loss != "mse" and len(names) != 1:
        raise Malformed(f"the loss {said.loss} has one target")
    if said.loss == "mse" and len(names) != outputs:
        raise Malformed(f"the last layer has {outputs} units, and there are {len(names)} targets")
    found, right = [], []
    for where, table in tables.items():
        parts = [
            _target(f"the target {name!r} of {where}", _plain(table[name]), said, outputs, strict)
            for name in names
        ]
        found.append(np.column_stack([part for part, _ in parts]) if said.loss == "mse" else parts[0][0])
        right.append(np.logical_and.reduce([fits for _, fits in parts]))
    return np.concatenate(found), np.concatenate(right)


def _target(title: str, column: Any, said: Architecture, outputs: int, strict: bool) -> tuple[Array, Array]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if said.loss == "mse":
        return _numbers(title, column, None, strict)
    if said.loss == "softmax" and said.classes:
        return _named(title, column, said.classes, strict)
    if not (pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
        raise Malformed(
            f"{title} is {column.type}: classes are whole numbers from 0, or are named by classes"
        )
    fits = _present(title, column, strict)
    most = 2 if said.loss == "binary" else outputs
    return _below(title, "values", _values(column), fits, most, strict)


def _named(title: str, column: Any, classes: Sequence[Any], strict: bool) -> tuple[Array, Array]:
    try:
        names = pa.array(classes).cast(column.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise Malformed(f"{title} is {column.type}, which the names of classes are not") from None
    _present(title, column, strict)
    places = pc.index_in(column, value_set=names)
    if strict and places.null_count:
        raise Malformed(f"{title} has a value that is not among the classes")
    fits: Array = np.array(places.is_valid().to_numpy(zero_copy_only=False))
    return _values(places).astype(np.int64), fits


def standard(x: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each place of a vector; 1 where all rows are equal."""
    if x.ndim != 2:
        raise Malformed("standardise is for rows that are vectors; divide scales all others")
    wide = x.astype(np.float64)
    deviation = wide.std(axis=0)
    deviation[(x == x[:1]).all(axis=0) | (deviation < 1e-30)] = 1
    return wide.mean(axis=0).astype(np.float32), deviation.astype(np.float32)


__all__ = ["ROWS", "chosen", "natural_shape", "read", "rows", "standard", "targets"]
