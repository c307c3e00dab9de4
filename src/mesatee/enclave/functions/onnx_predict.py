"""Runs a neural net, or any other model in ONNX format, on the rows of a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from mesatee.enclave.functions._onnx import BATCHES, chosen, load, load_ahead
from mesatee.errors import Malformed, TooLarge
from mesatee.table import Table

if TYPE_CHECKING:
    from mesatee.inference import Model, Tensor

COLUMNS: Final = 4_096
"""Columns that one output of the model may become: tensors in files have no such limit (`onnx_run`)."""


def onnx_predict(
    model: memoryview,
    rows: Table,
    *,
    columns: list[str] | dict[str, list[str]] = [],  # noqa: B006  a contract shows its defaults, and nothing changes it
    outputs: list[str] = [],  # noqa: B006  as above
    keep: list[str] = [],  # noqa: B006  as above
    batch: int = 256,
    threads: int = 1,
) -> Table:
    """Run an ONNX model on each row of a table: one row out for each row in, in the same order.

    The model's first dimension stands for rows. For a model with one input `columns` names the columns that go into it,
    in this order (all but those of `keep`, if none is named); a column of lists of one fixed length counts as so many.
    They fill what the input has beside rows: 784 columns are an image of 1 x 28 x 28. For several inputs `columns` maps
    each input to its columns; without it each input is the column of its name. Numbers become the input's type; a
    fraction never becomes a whole number. A null is NaN for a model of floating-point numbers, and refused for any
    other.

    What comes out: the columns that `keep` names as they are, then for each of `outputs` (all of the model's that are
    tensors, if none is named) a column of its name, or several, ``name_0`` and so on. `batch` rows (1 to 1,000,000)
    go through the model together: larger is faster, and takes more memory. A model with a fixed number of rows gets as
    many as it wants, the last ones filled up with copies of the last row. `threads` is from 1 to what the task allows;
    another number may round in another way.

    The model is read and checked first: damaged files, operators that are not built in, data in other files, weights
    that are no numbers are refused with the reason (docs/nets.md). Needs the extra ``ml`` on the worker.

    Reveals to the output's receivers what the model says of each row, in the order of the rows, and the columns of
    `keep`: from enough answers on rows of their own choice they can learn to imitate the model, and some models
    repeat rows that they were trained on. Nothing of the model's weights comes out otherwise, and its owner sees no
    row. Reveals to the receivers of `diagnostics` why a model or table was refused: names of inputs and outputs, and no
    value.
    """
    if batch not in BATCHES:
        raise Malformed(f"batch is from {BATCHES[0]} to {BATCHES[-1]} rows")
    loaded = load(model, threads)
    wanted, kept = chosen(loaded, outputs), _kept(rows, keep)
    given = _inputs(loaded, rows, columns, keep)
    return _table(rows.select(kept), _run(loaded, given, wanted, batch, rows.num_rows))


def _kept(rows: Table, keep: list[str]) -> list[str]:
    if len(set(keep)) != len(keep) or not set(keep) <= set(rows.columns):
        raise Malformed("keep names columns of the table, each once")
    return keep


def _inputs(
    model: Model, rows: Table, columns: list[str] | dict[str, list[str]], keep: list[str]
) -> dict[str, Any]:
    """For each input of the model an array of all rows."""
    known = [item.name for item in model.inputs]
    if isinstance(columns, dict):
        names = columns
    elif len(known) == 1:
        names = {known[0]: columns or [name for name in rows.columns if name not in keep]}
    elif columns:
        raise Malformed(f"columns maps each of the model's inputs to its columns: {', '.join(known)}")
    else:
        names = {name: [name] for name in known}
    if set(names) != set(known):
        raise Malformed(f"columns names exactly the model's inputs: {', '.join(known)}")
    if len(set(rows.columns)) != len(rows.columns):
        raise Malformed("two columns of the table have one name")
    missing = {name for group in names.values() for name in group} - set(rows.columns)
    if missing or not all(names.values()):
        raise Malformed("columns names a column that the table does not have, or an input without any")
    return {item.name: _array(item, rows, names[item.name]) for item in model.inputs}


def _array(item: Tensor, rows: Table, names: list[str]) -> Any:
    """The columns side by side, in the shape that the input has beside its rows."""
    import numpy as np

    parts = [_column(item, rows[name], name) for name in names]
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    if item.shape is None:
        return whole
    if not item.shape:
        raise Malformed(f"the model's {item.name} has no dimension for rows: use onnx_run")
    rest = item.shape[1:]
    width, fixed = whole.shape[1], math.prod(size for size in rest if size is not None)
    unknown = rest.count(None)
    if unknown == 0 and fixed == width:
        return whole.reshape(len(whole), *rest)
    if unknown == 1 and fixed and width % fixed == 0:
        return whole.reshape(len(whole), *(width // fixed if size is None else size for size in rest))
    shape = ", ".join("any" if size is None else str(size) for size in rest)
    raise Malformed(
        f"the model's {item.name} takes ({shape}) for each row, and {width} columns do not fill that"
    )


def _column(item: Tensor, column: Any, name: str) -> Any:
    """One column as an array of one or more columns, of the input's type."""
    import numpy as np
    import pyarrow as pa

    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    width = 1
    if pa.types.is_fixed_size_list(array.type):
        if array.null_count:
            raise Malformed(f"the column {name} has nulls among its lists")
        width, array = array.type.list_size, array.flatten()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    if item.dtype == "object" if text else item.dtype != "object":
        pass
    else:
        raise Malformed(f"the column {name} is {array.type}, and the model's {item.name} {_said(item.dtype)}")
    if text:
        if array.null_count:
            raise Malformed(f"the column {name} has nulls, and text knows none")
        return np.asarray(array.to_numpy(zero_copy_only=False), dtype=object).reshape(-1, width)
    if not (
        pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)
    ):
        raise Malformed(f"the column {name} is {array.type}, which is no number: convert it first")
    if array.null_count and not item.dtype.startswith("float"):
        raise Malformed(f"the column {name} has nulls, and the model's {item.name} is {item.dtype}")
    found = array.to_numpy(zero_copy_only=False)
    if found.dtype.kind == "f" and not item.dtype.startswith("float"):
        raise Malformed(f"the column {name} has fractions, and the model's {item.name} is {item.dtype}")
    with np.errstate(all="ignore"):
        made = found.astype(item.dtype)
    if item.dtype[0] in "iu" and found.dtype.kind in "iu" and not np.array_equal(made, found):
        raise Malformed(f"the column {name} has numbers that are too large for {item.dtype}")
    return made.reshape(-1, width)


def _said(dtype: str) -> str:
    return "text" if dtype == "object" else dtype


def _run(model: Model, given: dict[str, Any], wanted: list[str], batch: int, count: int) -> dict[str, Any]:
    """All rows by pieces, as one array for each output."""
    import numpy as np

    fixed = {item.shape[0] for item in model.inputs if item.shape and item.shape[0] is not None}
    if len(fixed) > 1 or 0 in fixed:
        raise Malformed("the inputs of the model do not agree on a number of rows: use onnx_run")
    size = fixed.pop() if fixed else batch
    filled = size if any(item.shape and item.shape[0] is not None for item in model.inputs) else 0
    pieces: list[list[Any]] = []
    for start in range(0, count, size):
        part = {name: array[start : start + size] for name, array in given.items()}
        here = min(size, count - start)
        if filled > here:
            part = {
                name: np.concatenate((array, np.repeat(array[-1:], filled - here, axis=0)))
                for name, array in part.items()
            }
        found = model.give(part, wanted)
        for name, array in zip(wanted, found, strict=True):
            if array.ndim == 0 or len(array) != max(filled, here):
                raise Malformed(
                    f"the model's {name} is not one for each row: name other outputs, or use onnx_run"
                )
            if math.prod(array.shape[1:]) > COLUMNS:
                raise TooLarge(f"the model's {name} has over {COLUMNS} numbers for each row: use onnx_run")
        pieces.append([array[:here] for array in found])
    if not pieces:
        raise Malformed("the table has no row")
    return {
        name: np.concatenate(parts) for name, parts in zip(wanted, zip(*pieces, strict=True), strict=True)
    }


def _table(kept: Table, found: dict[str, Any]) -> Table:
    import pyarrow as pa

    names, arrays = list(kept.columns), list(kept.to_arrow().columns)
    for name, array in found.items():
        flat = array.reshape(len(array), -1)
        if flat.shape[1] == 0:
            raise Malformed(f"the model's {name} has no number for a row")
        labels = [name] if flat.shape[1] == 1 else [f"{name}_{number}" for number in range(flat.shape[1])]
        names += labels
        # Arrow's CSV has no place for half precision.
        wide = flat.astype("float32") if flat.dtype.name == "float16" else flat
        arrays += [pa.array(wide[:, number]) for number in range(flat.shape[1])]
    if len(set(names)) != len(names):
        raise Malformed("a column of `keep` has the name of an output")
    return Table(pa.table(arrays, names=names))


__all__ = ["COLUMNS", "load_ahead", "onnx_predict"]
