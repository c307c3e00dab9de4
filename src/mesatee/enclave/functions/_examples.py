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


def rows(tables: Mapping[str, Table], columns: Sequence[str], said: Architecture) -> Array:
    """Shape (rows, *shape), int64 for tokens and float32 for measures; tables stand one below the other."""
    found = [_rows(where, table, columns, said) for where, table in tables.items()]
    return np.concatenate(found).reshape(-1, *said.shape)


def _rows(where: str, table: Table, columns: Sequence[str], said: Architecture) -> Array:
    size = math.prod(said.shape)
    dtype = np.float32 if said.tokens is None else np.int64
    values = np.zeros((table.num_rows, size), dtype)
    at = 0
    for name in columns:
        title = f"the column {name!r} of {where}"
        column = _plain(table[name])
        if _is_list(column.type):
            part = _lists(title, column, size if len(columns) == 1 else None, said.tokens)
        else:
            part = _numbers(title, column, said.tokens)[:, None]
        if at + part.shape[1] > size:
            raise Malformed(
                f"the columns of {where} have more than the {size} numbers of the shape {list(said.shape)}"
            )
        values[:, at : at + part.shape[1]] = part
        at += part.shape[1]
    if at != size:
        raise Malformed(f"the columns of {where} have {at} numbers, and the shape {list(said.shape)} {size}")
    return values


def _plain(column: Any) -> Any:
    """One array; of an Arrow tensor its lists."""
    found = column.combine_chunks()
    if isinstance(found, pa.ChunkedArray):
        found = found.chunk(0) if found.num_chunks else pa.array([], found.type)
    return found.storage if isinstance(found, pa.ExtensionArray) else found


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _lists(title: str, column: Any, size: int | None, tokens: int | None) -> Array:
    """One line of numbers for each list; short ones are filled with zeros before their first number."""
    if column.null_count:
        raise Malformed(f"{title} has nulls: leave these rows out")
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    numbers = _numbers(title, pc.list_flatten(column), tokens)
    wide = size if size is not None else int(lengths[0]) if len(lengths) else 0
    if size is None and (lengths != wide).any():
        raise Malformed(f"{title} has lists of several lengths: only a column that is alone is filled up")
    if (lengths > wide).any():
        raise Malformed(f"{title} has lists of more than the {wide} numbers of a row: cut them off first")
    found = np.zeros((len(lengths), wide), numbers.dtype)
    found[np.arange(wide) >= wide - lengths[:, None]] = numbers
    return found


def _numbers(title: str, column: Any, tokens: int | None) -> Array:
    kind = column.type
    whole = pa.types.is_integer(kind)
    if not (whole or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise Malformed(f"{title} is {kind}: numbers, truth values, and lists of them are taken")
    if column.null_count:
        raise Malformed(f"{title} has nulls: fill them or leave these rows out")
    plain = column.cast(pa.int8()) if pa.types.is_boolean(kind) else column
    values: Array = plain.to_numpy(zero_copy_only=False)
    if tokens is None:
        with np.errstate(over="ignore"):
            found: Array = values.astype(np.float32)
        if not np.isfinite(found).all():
            raise Malformed(f"{title} has NaN or infinity: leave these rows out")
        return found
    if not whole:
        raise Malformed(f"{title} is {kind}: an embedding takes tokens, which are whole numbers")
    if len(values) and (values.min() < 0 or values.max() >= tokens):
        raise Malformed(f"{title} has tokens that are not from 0 to {tokens - 1}")
    return values.astype(np.int64)


# -- what is to come out ---------------------------------------------------------------------------


def targets(tables: Mapping[str, Table], names: Sequence[str], said: Architecture, outputs: int) -> Array:
    """Class numbers (rows,), truth values as 0 and 1 (rows,), or numbers (rows, outputs), by the loss."""
    if said.loss != "mse" and len(names) != 1:
        raise Malformed(f"the loss {said.loss} has one target")
    if said.loss == "mse" and len(names) != outputs:
        raise Malformed(f"the last layer has {outputs} units, and there are {len(names)} targets")
    found = []
    for where, table in tables.items():
        parts = []
        for name in names:
            title = f"the target {name!r} of {where}"
            column = _plain(table[name])
            if column.null_count:
                raise Malformed(f"{title} has nulls: leave these rows out")
            parts.append(_target(title, column, said, outputs))
        found.append(np.column_stack(parts) if said.loss == "mse" else parts[0])
    return np.concatenate(found)


def _target(title: str, column: Any, said: Architecture, outputs: int) -> Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if said.loss == "mse":
        return _numbers(title, column, None)
    if said.loss == "softmax" and said.classes:
        try:
            names = pa.array(said.classes).cast(column.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise Malformed(f"{title} is {column.type}, which the names of classes are not") from None
        places = pc.index_in(column, value_set=names)
        if places.null_count:
            raise Malformed(f"{title} has a value that is not among the classes")
        numbered: Array = places.to_numpy(zero_copy_only=False)
        return numbered.astype(np.int64)
    if not (pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
        raise Malformed(
            f"{title} is {column.type}: classes are whole numbers from 0, or are named by classes"
        )
    most = 2 if said.loss == "binary" else outputs
    plain = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
    values: Array = plain.to_numpy(zero_copy_only=False)
    if len(values) and (values.min() < 0 or values.max() >= most):
        raise Malformed(f"{title} has values that are not from 0 to {most - 1}")
    return values.astype(np.int64)


def standard(x: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each place of a vector; 1 where all rows are equal."""
    if x.ndim != 2:
        raise Malformed("standardise is for rows that are vectors; divide scales all others")
    wide = x.astype(np.float64)
    deviation = wide.std(axis=0)
    deviation[(x == x[:1]).all(axis=0) | (deviation < 1e-30)] = 1
    return wide.mean(axis=0).astype(np.float32), deviation.astype(np.float32)


__all__ = ["ROWS", "chosen", "natural_shape", "rows", "standard", "targets"]
