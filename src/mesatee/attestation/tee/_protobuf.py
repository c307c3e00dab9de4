"""The fields of a protocol buffer message, read within a budget and without a schema.

Spec: protobuf.dev, "Encoding". Groups, which are deprecated, are refused.

>>> list(fields(bytes.fromhex("089601120161"), [2]))
[(1, 150), (2, b'a')]
"""

from __future__ import annotations

from collections.abc import Iterator

from mesatee.errors import Malformed, TooLarge
from mesatee.protocol import limits


def fields(data: bytes, budget: list[int]) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer message: number, and value as integer or bytes."""
    position = 0
    while position < len(data):
        budget[0] -= 1
        if budget[0] < 0:
            raise TooLarge(f"the attestation has more than {limits.PROTOBUF_FIELDS} fields")
        key, position = _varint(data, position)
        wire = key & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, position = _varint(data, position)
        if size is None or size > len(data) - position:
            raise Malformed("the attestation is no protocol buffer, or cut short")
        yield key >> 3, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise Malformed("the attestation has a number that does not end")


__all__ = ["fields"]
