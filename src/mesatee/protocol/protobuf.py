"""Protocol buffers by a table of the known fields, bounded and without a copy (protobuf.dev, "Encoding").

A message is read into a dictionary by the fields that its schema names. Stricter than the format asks for: a field that
the schema does not know, a single field that stands twice, and groups are refused, so that no two readers of the same
bytes can understand different things.

>>> Reader(memoryview(b"\\x08\\x96\\x01"), 10).read((0, 3), {1: ("size", "int")}, "thing")
{'size': 150}
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any, Final, Literal

from mesatee.errors import Malformed, TooLarge

Kind = Literal[
    "int", "ints", "float", "floats", "text", "texts", "bytes", "blobs", "span", "spans", "skip", "skips"
]
"""Of a field: a number, text (decoded), bytes (copied), the place of a message or of packed data, or nothing that
is looked at; the plural may stand any number of times."""
Schema = Mapping[int, tuple[str, Kind]]
Span = tuple[int, int]
"""Where something stands: the first byte, and the one after the last."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES: Final = 10
_WIRES: Final[Mapping[Kind, frozenset[int]]] = {
    "int": frozenset({_VARINT}),
    "ints": frozenset({_VARINT, _LENGTH}),
    "float": frozenset({_FIXED32}),
    "floats": frozenset({_FIXED32, _LENGTH}),
    **dict.fromkeys(
        ("text", "texts", "bytes", "blobs", "span", "spans", "skip", "skips"),
        frozenset({_LENGTH}),
    ),
}
_MANY: Final = frozenset({"ints", "floats", "texts", "blobs", "spans", "skips"})
_LONG: Final = re.compile(rb"[\x80-\xff]{%d}" % _VARINT_BYTES)
_CONTINUED: Final = bytes(range(128, 256))
_PIECE: Final = 1 << 20


class Reader:
    """Reads messages from one buffer, and counts their fields."""

    __slots__ = ("_left", "_text_bytes", "data")

    def __init__(self, data: memoryview, fields: int, text_bytes: int = 1 << 16) -> None:
        """`fields`: how many there may be in all; `text_bytes`: of one text, in bytes."""
        self.data = data
        self._left = fields
        self._text_bytes = text_bytes

    def read(self, span: Span, schema: Schema, what: str) -> dict[str, Any]:
        """The fields of one message. `what` names it in errors. Raises `Malformed` or `TooLarge`."""
        found: dict[str, Any] = {}
        data, (at, end) = self.data, span
        while at < end:
            self._count(1)
            key, at = self.varint(at, end, what)
            number, wire = key >> 3, key & 7
            known = schema.get(number)
            if known is None:
                raise Malformed(f"{what} has the field {number}, which is none of the format's")
            name, kind = known
            if wire not in _WIRES[kind]:
                raise Malformed(f"the {name} of {what} is encoded as another type")
            value: Any
            if wire == _VARINT:
                value, at = self.varint(at, end, what)
                value = value - (1 << 64) if value >> 63 else value
            elif wire == _LENGTH:
                size, start = self.varint(at, end, what)
                at = start + size
                if at > end:
                    raise Malformed(f"the {name} of {what} is cut off")
                value = self._piece((start, at), name, kind, what)
            else:
                if at + 4 > end:
                    raise Malformed(f"the {name} of {what} is cut off")
                (value,) = struct.unpack_from("<f", data, at)
                at += 4
            if kind not in _MANY:
                if name in found:
                    raise Malformed(f"the {name} of {what} stands twice")
                found[name] = value
            elif wire == _LENGTH and kind in ("ints", "floats"):
                found.setdefault(name, []).extend(value)
            else:
                found.setdefault(name, []).append(value)
        return found

    def varint(self, at: int, end: int, what: str) -> tuple[int, int]:
        """A number of up to 64 bits without a sign, and the place after it."""
        data, value, shift = self.data, 0, 0
        for place in range(at, min(end, at + _VARINT_BYTES)):
            byte = data[place]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value, place + 1
            shift += 7
        raise Malformed(f"{what} is cut off, or a number in it is too long")

    def packed(self, span: Span, what: str) -> list[int]:
        """Numbers that stand one after the other, with their signs."""
        found = []
        at, end = span
        while at < end:
            self._count(1)
            value, at = self.varint(at, end, what)
            found.append(value - (1 << 64) if value >> 63 else value)
        return found

    def count_packed(self, span: Span, what: str) -> int:
        """How many packed numbers there are, without looking at each of them."""
        at, end = span
        if at == end:
            return 0
        if self.data[end - 1] >= 0x80 or _LONG.search(self.data[at:end]):
            raise Malformed(f"{what} is cut off, or a number in it is too long")
        total = 0
        for start in range(at, end, _PIECE):
            total += len(bytes(self.data[start : min(end, start + _PIECE)]).translate(None, _CONTINUED))
        return total

    def _piece(self, span: Span, name: str, kind: Kind, what: str) -> Any:
        start, end = span
        match kind:
            case "span" | "spans":
                return span
            case "skip" | "skips":
                return None
            case "ints":
                return self.packed(span, what)
            case "floats":
                if (end - start) % 4:
                    raise Malformed(f"the {name} of {what} is cut off")
                self._count((end - start) // 4)
                return list(struct.unpack_from(f"<{(end - start) // 4}f", self.data, start))
        if end - start > self._text_bytes:
            raise TooLarge(f"the {name} of {what} has {end - start} bytes, the limit is {self._text_bytes}")
        raw = bytes(self.data[start:end])
        if kind in ("bytes", "blobs"):
            return raw
        try:
            return raw.decode("utf-8", "strict")
        except UnicodeDecodeError:
            raise Malformed(f"the {name} of {what} is no text") from None

    def _count(self, fields: int) -> None:
        self._left -= fields
        if self._left < 0:
            raise TooLarge("the file has more fields than any that is needed")


__all__ = ["Kind", "Reader", "Schema", "Span"]
