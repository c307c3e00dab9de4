"""ONNX files, written and read again: protocol buffers of the few messages that our nets need.

https://github.com/onnx/onnx/blob/main/onnx/onnx.proto names the messages and the numbers of their fields. Of a
file, only names, shapes and bytes of its weights and one text are read; whoever reads it writes it anew from
these and compares, so that nothing else in it counts."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from mesatee.errors import Malformed, TooLarge

Array = np.ndarray[Any, Any]

IR_VERSION: Final = 8
OPSET: Final = 17
PRODUCER: Final = "mesatee"
DESCRIPTION: Final = "mesatee.net"
"""The key of the text that describes the net."""
MODEL_BYTES: Final = 2**26
"""Of a file that is read: more than the largest net of ours has."""
TENSORS: Final = 512
_FLOAT: Final = 1
_INT64: Final = 7
_TYPES: Final = {"float32": _FLOAT, "int64": _INT64}
_VARINT: Final = 0
_LENGTH: Final = 2
_FIXED32: Final = 5


def _varint(value: int) -> bytes:
    # A negative number is that of 64 bits in two's complement.
    value &= 2**64 - 1
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | _LENGTH) + _varint(len(raw)) + raw


def _fields(*pairs: tuple[int, int | str | bytes]) -> bytes:
    return b"".join(_field(number, value) for number, value in pairs)


def _attribute(name: str, value: int | float | Sequence[int]) -> bytes:
    if isinstance(value, float):
        kind, given = 1, _varint(2 << 3 | _FIXED32) + struct.pack("<f", value)
    elif isinstance(value, int):
        kind, given = 2, _field(3, value)
    else:
        kind, given = 7, _fields(*((8, item) for item in value))
    return _field(1, name) + given + _field(20, kind)


def _tensor(name: str, value: Array) -> bytes:
    little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
    dims = [(1, size) for size in value.shape]
    return _fields(*dims, (2, _TYPES[value.dtype.name]), (8, name), (9, little.tobytes()))


def _value(name: str, dtype: str, shape: Sequence[int | str]) -> bytes:
    dims = [(1, _field(2 if isinstance(size, str) else 1, size)) for size in shape]
    tensor = _fields((1, _TYPES[dtype]), (2, _fields(*dims)))
    return _fields((1, name), (2, _field(1, tensor)))


class Graph:
    """Nodes and tensors in their order; ends as the bytes of a model."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._tensors: dict[str, Array] = {}

    def constant(self, name: str, value: Array) -> str:
        """A tensor of the file."""
        self._tensors[name] = value
        return name

    def axis(self, number: int) -> str:
        """The tensor that names an axis."""
        return self.constant(f"axis.{number}", np.array([number], np.int64))

    def nodes(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        **settings: int | float | Sequence[int],
    ) -> None:
        """An operator of the standard set."""
        self._nodes.append(
            _fields(
                *((1, name) for name in inputs),
                *((2, name) for name in outputs),
                (3, outputs[0]),
                (4, operator),
                *((5, _attribute(name, value)) for name, value in sorted(settings.items())),
            )
        )

    def node(
        self, operator: str, inputs: Sequence[str], output: str, **settings: int | float | Sequence[int]
    ) -> str:
        """One with a single output, whose name is returned."""
        self.nodes(operator, inputs, [output], **settings)
        return output

    def model(
        self,
        given: tuple[str, str, Sequence[int | str]],
        result: tuple[str, str, Sequence[int | str]],
        description: str,
    ) -> bytes:
        """The file; `given` and `result` are name, type and shape."""
        graph = _fields(
            *((1, node) for node in self._nodes),
            (2, PRODUCER),
            *((5, _tensor(name, value)) for name, value in self._tensors.items()),
            (11, _value(*given)),
            (12, _value(*result)),
        )
        return _fields(
            (1, IR_VERSION),
            (2, PRODUCER),
            (7, graph),
            (8, _field(2, OPSET)),
            (14, _fields((1, DESCRIPTION), (2, description))),
        )


# -- reading ---------------------------------------------------------------------------------------


def read(model: bytes) -> tuple[str, Mapping[str, Array]]:
    """Description and weights of a model that was written here, or of hostile bytes.

    Raises `Malformed` for what is no such file, `TooLarge` over `MODEL_BYTES`.
    """
    if len(model) > MODEL_BYTES:
        raise TooLarge(f"a model to start from has at most {MODEL_BYTES} bytes")
    texts, graphs = [], []
    for number, value in _messages(memoryview(model)):
        if number == 7:
            graphs.append(value)
        elif number == 14:
            pair = dict(_messages(value))
            if _text(pair.get(1)) == DESCRIPTION:
                texts.append(_text(pair.get(2)))
    if len(texts) != 1 or len(graphs) != 1:
        raise Malformed("start is no model that train_net or fine_tune_net made")
    tensors: dict[str, Array] = {}
    for number, value in _messages(graphs[0]):
        if number == 5:
            if len(tensors) >= TENSORS:
                raise Malformed(f"start has more than {TENSORS} tensors")
            _add(tensors, value)
    return texts[0], tensors


def _messages(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of each field that has bytes; others are passed over."""
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        if tag & 7 == _VARINT:
            _, at = _number(data, at)
        elif tag & 7 == _LENGTH:
            size, at = _number(data, at)
            if size > len(data) - at:
                raise Malformed("start is cut off")
            yield tag >> 3, data[at : at + size]
            at += size
        else:
            raise Malformed("start is no model that train_net or fine_tune_net made")


def _number(data: memoryview, at: int) -> tuple[int, int]:
    found = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        found |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return found, at
    raise Malformed("start is cut off")


def _text(value: memoryview | None) -> str:
    try:
        return bytes(value or b"").decode("ascii")
    except UnicodeDecodeError:
        raise Malformed("start has a text that is not ASCII") from None


def _add(tensors: dict[str, Array], data: memoryview) -> None:
    dims: list[int] = []
    kind, at = 0, 0
    raw, name = memoryview(b""), ""
    while at < len(data):
        tag, at = _number(data, at)
        value, at = _number(data, at)
        if tag == (1 << 3 | _VARINT):
            dims.append(value)
        elif tag == (2 << 3 | _VARINT):
            kind = value
        elif tag & 7 == _LENGTH and value <= len(data) - at:
            if tag >> 3 == 8:
                name = _text(data[at : at + value])
            elif tag >> 3 == 9:
                raw = data[at : at + value]
            at += value
        else:
            raise Malformed("start has a tensor of another kind")
    if kind == _FLOAT and len(dims) <= 4 and math.prod(dims) * 4 == len(raw) and name not in tensors:
        tensors[name] = np.frombuffer(raw, "<f4").astype(np.float32).reshape(dims)


__all__ = ["DESCRIPTION", "IR_VERSION", "MODEL_BYTES", "OPSET", "Graph", "read"]
