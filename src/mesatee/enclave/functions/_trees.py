"""Columns of a table as what models of trees look at, and predictions as columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mesatee._core import TreeModel
from mesatee.errors import Malformed

SHOWN: Final = 5
"""Columns that a message names."""
NARROW_BITS: Final = 16
"""Integers of so many bits are exact in float32."""
_DEFAULT_NAMES: Final = ("Column_", "f")
"""What libraries call features that have no names: these, and a number."""


def features(model: TreeModel, arrow: Any, keep: Sequence[str], columns: Sequence[str]) -> list[Any]:
    """The model's features in its order, each as numpy float32 or float64 with NaN for null.

    By the model's names; by place, if it has none or `columns` names them. Raises `Malformed`.
    """
    names = list(columns) or list(model.names)
    given = [name for name in arrow.column_names if name not in keep]
    named = bool(columns) or (bool(names) and not _are_default(names)) or set(names) <= set(given)
    if not names or not named:
        names = given
    if len(names) != model.features:
        raise Malformed(
            f"the model looks at {model.features} features, and {len(names)} columns are given",
            hint="name those that are no features in keep, or the features in columns",
        )
    lacking = [name for name in names if name not in given]
    if lacking:
        shown = ", ".join(map(repr, lacking[:SHOWN]))
        raise Malformed(f"{len(lacking)} of the model's columns are missing: {shown}")
    if len(set(names)) != len(names) or any(arrow.column_names.count(name) > 1 for name in names):
        raise Malformed("a column of the model stands twice")
    return [_numbers(name, arrow.column(name), model.single_values) for name in names]


def _are_default(names: Sequence[str]) -> bool:
    return any(
        all(name == f"{prefix}{number}" for number, name in enumerate(names)) for prefix in _DEFAULT_NAMES
    )


def _numbers(name: str, column: Any, single: bool) -> Any:
    import numpy as np
    import pyarrow as pa

    kind = column.type
    types = pa.types
    if types.is_integer(kind) or types.is_boolean(kind) or types.is_null(kind):
        # Straight to what the model compares: by way of float64 it would be rounded twice.
        narrow = single or not types.is_integer(kind) or kind.bit_width <= NARROW_BITS
        column = column.cast(pa.float32() if narrow else pa.float64(), safe=False)
    elif types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif not types.is_floating(kind):
        raise Malformed(
            f"the column {name!r} is {kind}, not numbers",
            hint="categories are given by the numbers that the model was trained with",
        )
    # Nulls become NaN; without any, nothing is copied.
    found = column.combine_chunks().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(found, np.float64 if found.dtype == np.float64 else np.float32)


def names_of(model: TreeModel, output: str) -> list[str]:
    """The names of the predictions' columns."""
    if output == "class" or model.outputs == 1:
        return ["prediction"]
    if len(model.classes) == model.outputs:
        return [f"prediction_{name}" for name in model.classes]
    return [f"prediction_{number}" for number in range(model.outputs)]


__all__ = ["NARROW_BITS", "SHOWN", "features", "names_of"]
