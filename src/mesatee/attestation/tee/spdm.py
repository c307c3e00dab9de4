"""SPDM measurements: a requester's GET_MEASUREMENTS and the device's signed MEASUREMENTS response.

Spec: DMTF DSP0274 version 1.1, sections 10.11.1 and 10.11.2 (messages), 10.11.2.1 (signature). Little-endian::

    request    11 | e0 | attributes | operation ff | nonce 32 | slot
    response   11 | 60 | 0 | slot | blocks u8 | record length u24 | record | nonce 32 | opaque u16 + data | signature
    block      index u8 | specification 01 | size u16 | type u8 | value size u16 | value

In SPDM 1.1 the signature is over L1, which is request and response without the signature; from 1.2 on it is
over a prefixed hash of a longer transcript, which captured evidence does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mesatee.errors import Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

VERSION: Final = 0x11
_REQUEST: Final = bytes([VERSION, 0xE0])
_RESPONSE: Final = bytes([VERSION, 0x60])
_REQUEST_BYTES: Final = 37
NONCE_BYTES: Final = 32
_SIGNED: Final = 1
"""Bit 0 of the request's attributes: a signature is wanted."""
_ALL: Final = 0xFF
_DMTF: Final = 1


@dataclass(frozen=True, slots=True)
class Measurements:
    """A parsed exchange; nothing of it is verified yet."""

    signed: bytes
    """Request and response up to the signature."""
    signature: bytes
    nonce: bytes
    """The requester's."""
    blocks: Mapping[int, bytes]
    """Index -> value."""
    record: bytes
    opaque: bytes


@dataclass(slots=True)
class _Reader:
    data: bytes
    position: int = 0

    def take(self, count: int) -> bytes:
        piece = self.data[self.position : self.position + count]
        if len(piece) != count:
            raise Malformed("SPDM measurements end too early")
        self.position += count
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")


def parse(data: bytes, signature_bytes: int) -> Measurements:
    """Request with response; what follows the signature is padding of the transport and counts for nothing.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    if len(data) > limits.SPDM_BYTES:
        raise TooLarge(f"SPDM messages have {len(data)} bytes, the limit is {limits.SPDM_BYTES}")
    reader = _Reader(data)
    request = reader.take(_REQUEST_BYTES)
    if request[:2] != _REQUEST:
        raise UnsupportedVersion("not a GET_MEASUREMENTS request of SPDM 1.1")
    if not request[2] & _SIGNED or request[3] != _ALL:
        raise Malformed("the SPDM request did not ask for all measurements, signed")
    head = reader.take(4)
    if head[:2] != _RESPONSE:
        raise UnsupportedVersion("not a MEASUREMENTS response of SPDM 1.1")
    # The low nibble is the slot whose certificate signs: the one that the requester asked for.
    if head[3] & 0x0F != request[36] & 0x0F:
        raise Malformed("the SPDM response is for another certificate slot than the request")
    count = reader.number(1)
    record = reader.take(reader.number(3))
    blocks = _blocks(record, count)
    reader.take(NONCE_BYTES)
    opaque = reader.take(reader.number(2))
    signed = data[: reader.position]
    return Measurements(signed, reader.take(signature_bytes), request[4:36], blocks, record, opaque)


def _blocks(record: bytes, count: int) -> Mapping[int, bytes]:
    reader = _Reader(record)
    found: dict[int, bytes] = {}
    for _ in range(count):
        index, kind, size = reader.number(1), reader.number(1), reader.number(2)
        block = _Reader(reader.take(size))
        if kind != _DMTF:
            raise UnsupportedVersion(f"an SPDM measurement of specification {kind}")
        block.take(1)
        value = block.take(block.number(2))
        if block.position != size or index in found:
            raise Malformed("an SPDM measurement has the wrong size, or its index is there twice")
        found[index] = value
    if reader.position != len(record):
        raise Malformed("the SPDM measurement record holds more than its blocks")
    return MappingProxyType(found)


__all__ = ["NONCE_BYTES", "VERSION", "Measurements", "parse"]
