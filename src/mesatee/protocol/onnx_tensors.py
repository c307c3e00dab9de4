"""Tensors that a model in ONNX format holds: whether their data fits their shape, and is in the model."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from mesatee.errors import Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits
from mesatee.protocol import onnx_schema as schema
from mesatee.protocol.protobuf import Reader, Span

_INT64: Final = 7
_FLOATS: Final = frozenset(
    name for name, _ in schema.DTYPES.values() if name.startswith(("float", "bfloat", "complex"))
)


@dataclass(slots=True)
class Found:
    """What all tensors of a model come to."""

    parameters: int = 0
    floats: list[tuple[str, int, int]] = field(default_factory=list)


def tensor(reader: Reader, span: Span, what: str, found: Found) -> str:
    """Check one tensor and return its name.

    1. It is in the model itself, whole.
    2. Its type is known; its dimensions are not negative, and not more than `limits` say.
    3. Its data stands in one field, of its type, and has as many elements as its dimensions say.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    fields = reader.read(span, schema.TENSOR, what)
    _checked(reader, fields, what, found)
    name: str = fields.get("name", "")
    return name


def sparse(reader: Reader, span: Span, what: str, found: Found) -> str:
    """Check a sparse tensor and return its name: each value has its own place within the dense form, in order."""
    fields = reader.read(span, schema.SPARSE, what)
    if "values" not in fields or "indices" not in fields:
        raise Malformed(f"{what} has no values or no indices")
    dims = fields.get("dims", [])
    dense = _elements(dims, what)
    if not dims or dense > limits.ONNX_SPARSE_ELEMENTS:
        raise TooLarge(f"{what} has no shape, or over {limits.ONNX_SPARSE_ELEMENTS} elements")
    values = reader.read(fields["values"], schema.TENSOR, f"the values of {what}")
    count = _checked(reader, values, f"the values of {what}", found)
    if len(values.get("dims", [])) != 1 or count > limits.ONNX_SPARSE_VALUES:
        raise TooLarge(f"the values of {what} are no list of at most {limits.ONNX_SPARSE_VALUES}")
    indices = reader.read(fields["indices"], schema.TENSOR, f"the indices of {what}")
    _checked(reader, indices, f"the indices of {what}", found)
    if indices.get("data_type") != _INT64 or indices.get("dims", []) not in ([count], [count, len(dims)]):
        raise Malformed(f"the indices of {what} are not one for each value")
    _places(reader, indices, dims, dense, what)
    name: str = values.get("name", "")
    return name


def _places(reader: Reader, indices: dict[str, Any], dims: list[int], dense: int, what: str) -> None:
    if "raw_data" in indices:
        start, end = indices["raw_data"]
        numbers = list(struct.unpack_from(f"<{(end - start) // 8}q", reader.data, start))
    else:
        numbers = reader.packed(indices["int64_data"], what) if "int64_data" in indices else []
    if len(indices.get("dims", [])) == 2:
        rows = [numbers[at : at + len(dims)] for at in range(0, len(numbers), len(dims))]
        numbers = []
        for row in rows:
            place = 0
            for number, size in zip(row, dims, strict=True):
                if not 0 <= number < size:
                    raise Malformed(f"an index of {what} lies outside of it")
                place = place * size + number
            numbers.append(place)
    if any(not 0 <= number < dense for number in numbers):
        raise Malformed(f"an index of {what} lies outside of it")
    if any(first >= second for first, second in pairwise(numbers)):
        raise Malformed(f"the indices of {what} do not rise")


def _checked(reader: Reader, fields: dict[str, Any], what: str, found: Found) -> int:
    """The number of elements."""
    # 1.
    if fields.get("external_data") or fields.get("data_location", 0):
        raise Malformed(f"{what} has its data in another file: save the model with its data in one file")
    if "segment" in fields:
        raise Malformed(f"{what} is one of several segments, which nothing puts together")
    # 2.
    kind = fields.get("data_type", 0)
    if kind not in schema.DTYPES:
        raise UnsupportedVersion(f"{what} is of the data type {kind}, which is not known")
    name, bits = schema.DTYPES[kind]
    elements = _elements(fields.get("dims", []), what)
    # 3.
    there = [key for key in (*schema.DATA, "raw_data", "string_data") if key in fields]
    if len(there) > 1:
        raise Malformed(f"{what} has its data in two places")
    stands = there[0] if there else ""
    if not stands:
        given, wanted = 0, elements
    elif stands == "string_data":
        given, wanted = len(fields[stands]), elements if kind == schema.STRING else -1
    elif stands == "raw_data":
        start, end = fields[stands]
        given, wanted = end - start, -(-elements * bits // 8) if kind != schema.STRING else -1
    else:
        given, wanted = _typed(reader, fields[stands], stands, kind, elements, what)
    if given != wanted:
        raise Malformed(f"the data of {what} is not as much as its dimensions say")
    found.parameters += elements
    if name in _FLOATS and elements and stands != "int32_data":
        found.floats.append((name, *fields[stands]))
    elif name in _FLOATS and elements:
        found.floats.append((f"{name}:packed", *fields[stands]))
    return elements


def _typed(reader: Reader, span: Span, stands: str, kind: int, elements: int, what: str) -> tuple[int, int]:
    """Values in a field of their own type: how many there are, and how many there should be."""
    if kind not in schema.DATA[stands]:
        raise Malformed(f"the data of {what} is of another type than it says")
    bits = schema.DTYPES[kind][1]
    wanted = -(-elements * bits // 8) if bits < 8 else elements
    if stands in schema.SCALARS:
        size, start, end = schema.SCALARS[stands], *span
        if (end - start) % size:
            raise Malformed(f"the data of {what} is cut off")
        # A complex number is two of them.
        return (end - start) // size, elements * (bits // (8 * size))
    return reader.count_packed(span, f"the data of {what}"), wanted


def _elements(dims: list[int], what: str) -> int:
    if len(dims) > limits.ONNX_RANK:
        raise TooLarge(f"{what} has {len(dims)} dimensions, the limit is {limits.ONNX_RANK}")
    if any(size < 0 for size in dims):
        raise Malformed(f"a dimension of {what} is negative")
    total = 1
    for size in dims:
        # An empty tensor may not claim huge dimensions beside its 0 either.
        total *= max(1, size)
        if total > limits.ONNX_ELEMENTS:
            raise TooLarge(f"{what} has more than {limits.ONNX_ELEMENTS} elements")
    return 0 if 0 in dims else total


__all__ = ["Found", "sparse", "tensor"]
