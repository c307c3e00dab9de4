"""Simple conditions on columns: the filter of `aggregate`."""

from __future__ import annotations

import datetime
import decimal
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from mesatee.enclave.functions._order import sorts
from mesatee.errors import Malformed, TooLarge
from mesatee.protocol import limits

_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
OPERATORS: Final = (*_COMPARISONS, "in", "not in", "is null", "not null")


def conditions(where: list[list[Any]]) -> list[tuple[str, str, Any]]:
    """(column, operator, value) of each. Raises `Malformed` or `TooLarge`."""
    if len(where) > limits.CONDITIONS:
        raise TooLarge(f"where has {len(where)} conditions, the limit is {limits.CONDITIONS}")
    return [_condition(item) for item in where]


def _condition(item: list[Any]) -> tuple[str, str, Any]:
    match item:
        case [str(column), ("is null" | "not null") as said]:
            return column, said, None
        case [str(column), ("in" | "not in") as said, list(values)]:
            if len(values) > limits.CONDITION_VALUES:
                raise TooLarge(f"a condition has over {limits.CONDITION_VALUES} values")
            return column, said, values
        case [str(column), str(said), value] if said in _COMPARISONS:
            return column, said, value
    raise Malformed(
        "a condition is [column, operator, value], [column, 'in', [values]] or [column, 'is null']; "
        f"operators are {', '.join(OPERATORS)}"
    )


def holds(column: str, values: Any, said: str, value: Any) -> Any:
    """Which of the rows meet one condition: an array of truth values. A null meets `is null` alone."""
    import numpy as np

    there = _there(values)
    match said:
        case "is null":
            return ~there
        case "not null":
            return there
        case "in" | "not in":
            found = np.zeros(len(values), bool)
            for one in value:
                found |= _compared(column, values, "==", one)
            return there & (found if said == "in" else ~found)
    return there & _compared(column, values, said, value)


def _there(values: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = values.is_null(nan_is_null=pa.types.is_floating(values.type))
    return pc.invert(missing).to_numpy(zero_copy_only=False)


def _compared(column: str, values: Any, said: str, value: Any) -> Any:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    compare = _COMPARISONS[said]
    kind = values.type
    if pa.types.is_null(kind):
        return np.zeros(len(values), bool)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if pa.types.is_integer(kind) and number:
        # Neither a cast nor a float of 53 bits: Python's numbers and numpy's compare exactly only within the type.
        low, high = np.iinfo(kind.to_pandas_dtype()).min, np.iinfo(kind.to_pandas_dtype()).max
        whole = int(value)
        if not low <= value <= high or whole != value:
            return _beside(values, said, compare, value, low, high)
        return compare(
            values.fill_null(0).to_numpy(zero_copy_only=False), np.array(whole, kind.to_pandas_dtype())
        )
    if pa.types.is_floating(kind) and number:
        return compare(values.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False), float(value))
    scalar = _scalar(column, kind, value)
    names = {"==": pc.equal, "!=": pc.not_equal, "<": pc.less, "<=": pc.less_equal}
    names |= {">": pc.greater, ">=": pc.greater_equal}
    return names[said](values, scalar).fill_null(False).to_numpy(zero_copy_only=False)


def _beside(
    values: Any, said: str, compare: Callable[[Any, Any], Any], value: Any, low: int, high: int
) -> Any:
    """Integers against a number that is none of their type: beyond its ends, or between two."""
    import numpy as np

    if said in ("==", "!="):
        return np.full(len(values), said == "!=")
    if not low <= value <= high:
        return np.full(len(values), compare(0, value))
    # x < 1.5 is x < 2, and x > 1.5 is x > 1.
    border = math.ceil(value) if said in ("<", ">=") else math.floor(value)
    found = values.fill_null(0).to_numpy(zero_copy_only=False)
    return compare(found, np.array(border, found.dtype))


def _scalar(column: str, kind: Any, value: Any) -> Any:
    """`value` in the column's type; times and dates are written as in ISO 8601. Raises `Malformed`."""
    import pyarrow as pa

    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    timed = pa.types.is_temporal(kind) and not pa.types.is_duration(kind)
    try:
        if pa.types.is_boolean(kind) and isinstance(value, bool):
            return pa.scalar(value)
        if pa.types.is_time(kind) and isinstance(value, str):
            return pa.scalar(datetime.time.fromisoformat(value), kind)
        if (text or timed) and isinstance(value, str):
            return pa.scalar(value).cast(kind)
        if pa.types.is_decimal(kind) and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return pa.scalar(decimal.Decimal(str(value)))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, decimal.InvalidOperation, ValueError):
        pass
    if not sorts(kind):
        raise Malformed(f"the column {column!r} is {kind}, which no condition can compare")
    hint = (
        "; times are text as in 2024-05-31T12:00:00Z, with a zone only if the column has one" if timed else ""
    )
    raise Malformed(f"a condition compares {column!r}, which is {kind}, with a value of another type{hint}")


__all__ = ["OPERATORS", "conditions", "holds"]
