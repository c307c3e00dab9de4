"""Writes models in ONNX format: messages of fields, and nothing about operators.

>>> from mesatee.protocol import onnx
>>> x, y = value("x", 1, ("rows", 3)), value("y", 1, ("rows", 3))
>>> data = model(graph([node("Relu", ["x"], ["y"])], [x], [y]), {"": 17})
>>> onnx.read(data).operators["Relu"], onnx.read(data).inputs[0].shape
(1, ('rows', 3))
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

Value = int | float | str | bytes
Attribute = int | float | str | Sequence[int] | Sequence[float] | bytes

FLOAT, INT, STRING, TENSOR, FLOATS, INTS = 1, 2, 3, 4, 6, 7
"""Types of attributes."""
FLOAT32, UINT8, INT32, INT64, BOOL, FLOAT64 = 1, 2, 6, 7, 9, 11
"""Types of data."""
IR_VERSION = 8


def varint(number: int) -> bytes:
    """A number, negative ones by two's complement of 64 bits."""
    number &= (1 << 64) - 1
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*found, number))


def field(number: int, value: Value) -> bytes:
    """One field: a varint, a float of 32 bits, or bytes (of text or a message) with their length."""
    match value:
        case int():
            return varint(number << 3) + varint(value)
        case float():
            return varint(number << 3 | 5) + struct.pack("<f", value)
        case str():
            value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(*fields: tuple[int, Value]) -> bytes:
    """Fields one after the other."""
    return b"".join(field(number, value) for number, value in fields)


def tensor(name: str, dtype: int, dims: Iterable[int], raw: bytes) -> bytes:
    """A tensor with its data as it lies in memory, little end first."""
    return message(*((1, int(size)) for size in dims), (2, dtype), (8, name), (9, raw))


def value(name: str, dtype: int, shape: Iterable[int | str]) -> bytes:
    """An input or output that is a tensor; a dimension is a number or a name."""
    dims = (message((1, message((1, size) if isinstance(size, int) else (2, size)))) for size in shape)
    return message((1, name), (2, message((1, message((1, dtype), (2, b"".join(dims)))))))


def attribute(name: str, given: Attribute) -> bytes:
    """By the type of its value; bytes are a tensor."""
    match given:
        case int():
            return message((1, name), (3, int(given)), (20, INT))
        case float():
            return message((1, name), (2, given), (20, FLOAT))
        case str():
            return message((1, name), (4, given), (20, STRING))
        case bytes():
            return message((1, name), (5, given), (20, TENSOR))
    if any(isinstance(item, float) for item in given):
        return message((1, name), *((7, float(item)) for item in given), (20, FLOATS))
    return message((1, name), *((8, int(item)) for item in given), (20, INTS))


def node(
    operator: str,
    inputs: Iterable[str],
    outputs: Iterable[str],
    attributes: Mapping[str, Attribute] | None = None,
    domain: str = "",
) -> bytes:
    """One operator."""
    return message(
        *((1, name) for name in inputs),
        *((2, name) for name in outputs),
        (4, operator),
        *((5, attribute(name, given)) for name, given in (attributes or {}).items()),
        *(((7, domain),) if domain else ()),
    )


def graph(
    nodes: Iterable[bytes], inputs: Iterable[bytes], outputs: Iterable[bytes], tensors: Iterable[bytes] = ()
) -> bytes:
    """Nodes in the order in which they run."""
    return message(
        *((1, item) for item in nodes),
        (2, "graph"),
        *((5, item) for item in tensors),
        *((11, item) for item in inputs),
        *((12, item) for item in outputs),
    )


def model(graph: bytes, opsets: Mapping[str, int], *, ir_version: int = IR_VERSION) -> bytes:
    """The file."""
    return message(
        (1, ir_version),
        (2, "mesatee"),
        (7, graph),
        *((8, message((1, domain), (2, version))) for domain, version in opsets.items()),
    )


__all__ = [
    "BOOL",
    "FLOAT32",
    "FLOAT64",
    "INT32",
    "INT64",
    "UINT8",
    "attribute",
    "field",
    "graph",
    "message",
    "model",
    "node",
    "tensor",
    "value",
    "varint",
]
