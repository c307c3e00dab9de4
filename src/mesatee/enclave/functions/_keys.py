"""Key columns of several tables: one type for each, normal forms, and rows of words for the oblivious kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mesatee._core import KeyRows
from mesatee.batches import Batches
from mesatee.errors import Malformed
from mesatee.table import Table

RULES: Final = ("trim", "case", "email", "phone")
"""Rules of normalisation, in the order in which they are applied."""
_WORD: Final = 8


@dataclass(frozen=True, slots=True)
class Keys:
    """The key columns of one input, in types that all inputs have in common; `complete` are rows without nulls."""

    arrays: tuple[Any, ...]
    complete: Any
    rows: int
    nulls: int


def key_columns(inputs: Mapping[str, Table | Batches], key: Any) -> dict[str, list[str]]:
    """Input -> its key columns. Raises `Malformed`."""
    if isinstance(key, dict) and set(key) != set(inputs):
        raise Malformed(f"key must name the inputs {', '.join(sorted(inputs))}")
    found = {
        name: _columns(name, inputs[name], key[name] if isinstance(key, dict) else key) for name in inputs
    }
    if len({len(columns) for columns in found.values()}) != 1:
        raise Malformed("the inputs have different numbers of key columns")
    return found


def _columns(name: str, table: Table | Batches, key: Any) -> list[str]:
    columns = [key] if isinstance(key, str) else list(key)
    if not columns or len(set(columns)) != len(columns):
        raise Malformed("key names one or more different columns")
    for column in columns:
        count = table.columns.count(column)
        if count != 1:
            raise Malformed(f"the input {name} has {count or 'no'} columns {column!r}")
    return columns


def prepare(
    inputs: dict[str, Table], wanted: dict[str, list[str]], normalise: str | list[str]
) -> dict[str, Keys]:
    """The key columns in one type each, text in its normal form. Raises `Malformed`."""
    rules = _rules(normalise)
    plain = {
        name: [_plain(name, column, inputs[name].to_arrow().column(column)) for column in columns]
        for name, columns in wanted.items()
    }
    first = next(iter(wanted))
    for position in range(len(wanted[first])):
        kind = _common_type(position, plain, wanted)
        for name in wanted:
            values = _cast(name, wanted[name][position], plain[name][position], kind).combine_chunks()
            plain[name][position] = _normal(values, rules) if _is_text(kind) else values
    return {name: _keys(arrays) for name, arrays in plain.items()}


def keys_of(
    name: str, table: Table, columns: list[str], kinds: list[Any], normalise: str | list[str]
) -> Keys:
    """A piece of an input, by itself, in the types that `prepare` found for all. Raises `Malformed`."""
    rules = _rules(normalise)
    arrays = []
    for column, kind in zip(columns, kinds, strict=True):
        values = _plain(name, column, table.to_arrow().column(column)).cast(kind).combine_chunks()
        arrays.append(_normal(values, rules) if _is_text(kind) else values)
    return _keys(arrays)


def _rules(normalise: str | list[str]) -> list[str]:
    rules = [normalise] if isinstance(normalise, str) else list(normalise)
    if unknown := sorted(set(rules) - set(RULES)):
        raise Malformed(f"there is no rule {unknown[0]!r}; rules are {', '.join(RULES)}")
    return rules


def _keys(arrays: list[Any]) -> Keys:
    import pyarrow.compute as pc

    complete = arrays[0].is_valid()
    for array in arrays[1:]:
        complete = pc.and_(complete, array.is_valid())
    rows = len(complete)
    return Keys(tuple(arrays), complete, rows, rows - int(pc.sum(complete).as_py() or 0))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_large_string(kind))


def _plain(name: str, column: str, values: Any) -> Any:
    """One wide type per family, so that int32 meets int64 and a short string a large one; NaN is no value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    try:
        if pa.types.is_integer(kind):
            return values.cast(pa.int64())
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            return values.cast(pa.large_string())
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
            return values.cast(pa.large_binary())
        if pa.types.is_floating(kind):
            wide = values.cast(pa.float64())
            # Both zeros are one key.
            wide = pc.if_else(pc.equal(wide, 0.0), 0.0, wide)
            return pc.if_else(pc.is_nan(wide), pa.scalar(None, pa.float64()), wide)
        if pa.types.is_date(kind):
            return values.cast(pa.date32())
    except pa.ArrowInvalid:
        # Arrow's own message shows the value.
        raise Malformed(
            f"the key {column!r} of {name} has values that do not fit: {kind} is too wide"
        ) from None
    same = (
        pa.types.is_null,
        pa.types.is_boolean,
        pa.types.is_timestamp,
        pa.types.is_time,
        pa.types.is_duration,
    )
    # A column without a single value has no type of its own and matches nothing.
    if any(is_kind(kind) for is_kind in same):
        return values
    raise Malformed(
        f"the key {column!r} of {name} is {kind}: keys are numbers, strings, bytes, booleans, dates or times"
    )


def _common_type(position: int, plain: dict[str, list[Any]], wanted: dict[str, list[str]]) -> Any:
    import pyarrow as pa

    found = {name: arrays[position].type for name, arrays in plain.items()}
    kinds = {kind for kind in found.values() if not pa.types.is_null(kind)}
    if len(kinds) > 1 and (instants := _common_instant(kinds)) is not None:
        return instants
    if len(kinds) > 1:
        said = ", ".join(
            f"{wanted[name][position]!r} of {name} is {kind}" for name, kind in sorted(found.items())
        )
        raise Malformed(f"key columns have different types: {said}")
    return kinds.pop() if kinds else pa.int64()


def _common_instant(kinds: set[Any]) -> Any:
    """The finest unit of several types of times, in UTC if their zones differ; None if zones are not on all sides."""
    import pyarrow as pa

    if not all(pa.types.is_timestamp(kind) for kind in kinds):
        return None
    zones = {kind.tz for kind in kinds}
    if None in zones and len(zones) > 1:
        return None
    unit = max((kind.unit for kind in kinds), key=("s", "ms", "us", "ns").index)
    return pa.timestamp(unit, tz=zones.pop() if len(zones) == 1 else "UTC")


def _cast(name: str, column: str, values: Any, kind: Any) -> Any:
    import pyarrow as pa

    try:
        return values.cast(kind)
    except pa.ArrowInvalid:
        raise Malformed(f"the key {column!r} of {name} has values that do not fit {kind}") from None


def _normal(values: Any, rules: list[str]) -> Any:
    """Text by the rules: ``trim`` takes white space from both ends, ``case`` makes it lower case, ``email`` does both,
    ``phone`` keeps the digits and turns a leading 00 into +.
    """
    import pyarrow.compute as pc

    if {"trim", "email", "phone"} & set(rules):
        values = pc.utf8_trim_whitespace(values)
    if {"case", "email"} & set(rules):
        values = pc.utf8_lower(values)
    if "phone" in rules:
        values = pc.replace_substring_regex(values, r"[^0-9+]", "")
        values = pc.replace_substring_regex(values, r"^00", "+")
    return values


def distinct(keys: Keys) -> Any:
    """A `pyarrow.Table` of the different complete keys, with columns ``key0``, ``key1`` and so on."""
    import pyarrow as pa

    names = [f"key{position}" for position in range(len(keys.arrays))]
    table = pa.table(dict(zip(names, keys.arrays, strict=True))).drop_null()
    return table.group_by(names, use_threads=False).aggregate([]).select(names)


def widest(parties: list[Keys]) -> list[int]:
    """For each key column how many words the longest text of any party takes; 0 for numbers."""
    import pyarrow.compute as pc

    found = []
    for column in zip(*(keys.arrays for keys in parties), strict=True):
        if _stretches(column[0].type):
            longest = [pc.max(pc.binary_length(values)).as_py() or 0 for values in column]
            found.append(max(1, -(-max(longest) // _WORD)))
        else:
            found.append(0)
    return found


def _stretches(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_large_string(kind) or pa.types.is_large_binary(kind))


def to_rows(keys: Keys, widths: list[int]) -> KeyRows:
    """The keys as rows of words. Raises `Malformed` if they take more than 32 words."""
    import numpy as np
    import pyarrow as pa

    columns: list[bytes | tuple[bytes, bytes, int]] = []
    for values, words in zip(keys.arrays, widths, strict=True):
        if words:
            _, offsets, data = values.cast(pa.large_binary()).buffers()
            begin = values.offset
            # Offsets of a slice begin where the whole array's do not.
            places = (
                np.frombuffer(offsets, dtype="<i8")[begin : begin + len(values) + 1]
                if len(values)
                else np.zeros(1, "<i8")
            )
            columns.append((data.to_pybytes() if data is not None else b"", places.tobytes(), words))
        else:
            columns.append(_numbers(values).tobytes())
    valid = keys.complete.cast(pa.uint8()).to_numpy(zero_copy_only=False)
    return KeyRows(columns, valid.tobytes())


def _numbers(values: Any) -> Any:
    """64-bit integers that stand in the order of the values; where there is none, 0."""
    import numpy as np
    import pyarrow as pa

    kind = values.type
    if pa.types.is_boolean(kind):
        return values.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    if pa.types.is_floating(kind):
        bits = values.fill_null(0.0).to_numpy(zero_copy_only=False).view(np.int64)
        return np.where(bits < 0, bits ^ np.int64(2**63 - 1), bits)
    narrow = pa.int32() if kind.bit_width == 32 else pa.int64()
    return values.view(narrow).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)


def from_rows(rows: KeyRows, kinds: list[Any], names: list[str]) -> Table:
    """The reverse of `to_rows`, for rows that are all complete."""
    import numpy as np
    import pyarrow as pa

    arrays = []
    for found, kind in zip(rows.columns(), kinds, strict=True):
        if isinstance(found, tuple):
            data, offsets = map(pa.py_buffer, found)
            raw = pa.Array.from_buffers(pa.large_binary(), len(rows), [None, offsets, data])
            arrays.append(raw.cast(kind))
            continue
        numbers = np.frombuffer(found, dtype="<i8")
        if pa.types.is_floating(kind):
            bits = np.where(numbers < 0, numbers ^ np.int64(2**63 - 1), numbers)
            arrays.append(pa.array(bits.view(np.float64)))
        elif pa.types.is_boolean(kind):
            arrays.append(pa.array(numbers.astype(bool)))
        else:
            narrow = pa.int32() if kind.bit_width == 32 else pa.int64()
            arrays.append(pa.array(numbers).cast(narrow).view(kind))
    return Table(pa.table(arrays, names=names))


__all__ = ["RULES", "Keys", "distinct", "from_rows", "key_columns", "keys_of", "prepare", "to_rows", "widest"]
