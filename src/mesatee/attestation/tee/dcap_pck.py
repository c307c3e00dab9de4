"""The SGX extension of a PCK certificate: which platform it is, and at which TCB the certificate was issued.

Spec: Intel SGX PCK Certificate and Certificate Revocation List Profile, section 1.3.5 (OID
1.2.840.113741.1.13.1). DER of a few known shapes; anything else is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from mesatee.errors import Malformed
from mesatee.protocol import limits

SGX_EXTENSION: Final = "1.2.840.113741.1.13.1"
_BASE: Final = bytes.fromhex("2a864886f84d010d01")
"""DER content of that OID: the OIDs inside begin with it."""
_SEQUENCE, _OID, _INTEGER, _OCTETS, _ENUMERATED, _BOOLEAN = 0x30, 0x06, 0x02, 0x04, 0x0A, 0x01


@dataclass(frozen=True, slots=True)
class PckExtension:
    """The values that a TCB verdict needs."""

    components: bytes
    """16 SVNs of the SGX TCB components."""
    pcesvn: int
    cpusvn: bytes
    pceid: bytes
    """2 bytes."""
    fmspc: bytes
    """6 bytes: family, model, stepping, platform type, custom SKU."""
    ppid: bytes
    """16 bytes: which processor it is."""
    smt: bool | None = None
    """Whether two threads may share a core; None where the certificate does not say."""


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """Tags and contents of the DER elements in `data` (one-byte tags, lengths up to 64 KiB)."""
    found = []
    position, end = 0, len(data)
    while position < end:
        if position + 2 > end:
            raise Malformed("the SGX extension ends in the middle of an element")
        tag, length = data[position], data[position + 1]
        position += 2
        if length >= 0x80:
            count = length & 0x7F
            if not 1 <= count <= 2 or position + count > end:
                raise Malformed("the SGX extension has a length that is not DER or not plausible")
            length = int.from_bytes(data[position : position + count])
            if length < 0x80 or (count == 2 and length < 0x100):
                raise Malformed("the SGX extension has a length that is not the shortest one")
            position += count
        if position + length > end:
            raise Malformed("the SGX extension ends in the middle of an element")
        found.append((tag, data[position : position + length]))
        position += length
    return found


def _pairs(sequence: bytes, prefix: bytes) -> dict[int, tuple[int, bytes]]:
    """A sequence of ``SEQUENCE {OID, value}``: last arc of the OID -> tag and content of the value."""
    found: dict[int, tuple[int, bytes]] = {}
    for tag, content in _elements(sequence):
        if tag != _SEQUENCE:
            raise Malformed("the SGX extension has an entry that is not a sequence")
        match _elements(content):
            case [(0x06, oid), value] if len(oid) == len(prefix) + 1 and oid.startswith(prefix):
                if oid[-1] in found:
                    raise Malformed("the SGX extension has an entry twice")
                found[oid[-1]] = value
            case _:
                raise Malformed("the SGX extension has an entry that is not an OID of its own and a value")
    return found


def _octets(entries: dict[int, tuple[int, bytes]], arc: int, size: int) -> bytes:
    tag, content = entries.get(arc, (0, b""))
    if tag != _OCTETS or len(content) != size:
        raise Malformed(f"entry {arc} of the SGX extension is not {size} octets")
    return content


def _number(entries: dict[int, tuple[int, bytes]], arc: int, limit: int) -> int:
    tag, content = entries.get(arc, (0, b""))
    if tag != _INTEGER or not 1 <= len(content) <= 3 or content[0] & 0x80:
        raise Malformed(f"entry {arc} of the SGX extension's TCB is not a small number")
    value = int.from_bytes(content)
    if value > limit:
        raise Malformed(f"entry {arc} of the SGX extension's TCB is above {limit}")
    return value


def _smt(configuration: tuple[int, bytes] | None) -> bool | None:
    """Whether two threads may share a core; None where the certificate, as a processor's, does not say."""
    if configuration is None:
        return None
    tag, content = configuration
    if tag != _SEQUENCE:
        raise Malformed("the configuration in the SGX extension is not a sequence")
    kind, flag = _pairs(content, _BASE + b"\x07").get(3, (0, b""))
    if kind == 0:
        return None
    if kind != _BOOLEAN or len(flag) != 1:
        raise Malformed("the SMT flag of the SGX extension is not a truth value")
    return flag != b"\0"


@lru_cache(maxsize=limits.CERTIFICATES_CACHED)
def parse(value: bytes) -> PckExtension:
    """Parse the extension's value, once for the same bytes. Raises `Malformed`."""
    match _elements(value):
        case [(0x30, content)]:
            entries = _pairs(content, _BASE)
        case _:
            raise Malformed("the SGX extension is not one sequence")
    tag, content = entries.get(2, (0, b""))
    if tag != _SEQUENCE:
        raise Malformed("the SGX extension has no TCB")
    tcb = _pairs(content, _BASE + b"\x02")
    return PckExtension(
        components=bytes(_number(tcb, arc, 0xFF) for arc in range(1, 17)),
        pcesvn=_number(tcb, 17, 0xFFFF),
        cpusvn=_octets(tcb, 18, 16),
        pceid=_octets(entries, 3, 2),
        fmspc=_octets(entries, 4, 6),
        ppid=_octets(entries, 1, 16),
        smt=_smt(entries.get(7)),
    )


__all__ = ["SGX_EXTENSION", "PckExtension", "parse"]
