"""The certificate table that the host hands to an SNP guest with a report (GHCB specification 2.04, table 8).

Entries of 24 bytes: a GUID as RFC 4122 writes it (some hosts: as EFI does), then offset and length in bytes, both
32 bits, little-endian; an entry of zeros ends them. The certificates follow. All of it is the host's word: it only
spares the verifier the way to the manufacturer's server, and is verified like anything else.
"""

from __future__ import annotations

from typing import Final

from mesatee.enclave.platform import spki
from mesatee.errors import Malformed, TooLarge

TABLE_BYTES: Final = 64 * 1024
"""A certificate table, in bytes: three certificates and revocation lists have some 10 KiB."""
_ENTRY: Final = 24
_ENTRIES: Final = 16
_GUIDS: Final = {
    "63da758d-e664-4564-adc5-f4b93be8accd": "vcek",
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1": "vlek",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782": "ask",
    "c0b406a4-a803-4952-9743-3fb6014cd0ae": "ark",
    "92f81bc3-5811-4d3d-97ff-d19f88dc67ea": "crl",
}


def _swapped(guid: bytes) -> bytes:
    """EFI's order: the first three fields are little-endian."""
    return guid[3::-1] + guid[5:3:-1] + guid[7:5:-1] + guid[8:]


_NAMES: Final = {
    order: name
    for guid, name in _GUIDS.items()
    for plain in (bytes.fromhex(guid.replace("-", "")),)
    for order in (plain, _swapped(plain))
}
"""Both orders of each GUID. The standard library's `uuid` would load a C library into the gateway."""


def parse(table: bytes) -> dict[str, bytes]:
    """Name -> DER as the host gave it; unknown GUIDs are left out. Raises `Malformed` or `TooLarge`."""
    if len(table) > TABLE_BYTES:
        raise TooLarge(f"a certificate table of {len(table)} bytes, the limit is {TABLE_BYTES}")
    found: dict[str, bytes] = {}
    for number in range(_ENTRIES):
        entry = table[number * _ENTRY : (number + 1) * _ENTRY]
        if len(entry) < _ENTRY:
            # A table without its end; one that is wholly absent is empty.
            if number:
                raise Malformed("a certificate table has no end")
            return found
        if not any(entry[:16]):
            return found
        start, size = int.from_bytes(entry[16:20], "little"), int.from_bytes(entry[20:], "little")
        if start < _ENTRY or start + size > len(table):
            raise Malformed("a certificate table names bytes outside of itself")
        name = _NAMES.get(bytes(entry[:16]))
        if name is not None and size:
            if name in found:
                raise Malformed(f"a certificate table names {name} twice")
            found[name] = bytes(table[start : start + size])
    raise TooLarge(f"a certificate table has more than {_ENTRIES} entries")


def pieces(table: bytes) -> dict[str, bytes]:
    """The pieces of a bundle: ``vcek`` or ``vlek`` (DER), and ``ask_ark``, both as PEM, if the table has them."""
    found = parse(table)
    files: dict[str, bytes] = {name: found[name] for name in ("vcek", "vlek", "crl") if name in found}
    if chain := b"".join(pem(found[name]) for name in ("ask", "ark") if name in found):
        files["ask_ark"] = chain
    return files


def pem(der: bytes) -> bytes:
    """One certificate as PEM; what is PEM already stays."""
    if der.startswith(b"-----BEGIN"):
        return der
    return spki.pem("CERTIFICATE", der)


__all__ = ["TABLE_BYTES", "parse", "pem", "pieces"]
