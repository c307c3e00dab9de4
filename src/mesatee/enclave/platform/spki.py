"""Public keys as DER SubjectPublicKeyInfo and PEM: the little of ASN.1 that attesters have to write."""

from __future__ import annotations

import base64
import textwrap
from typing import Final

_CURVE_OID: Final = bytes.fromhex("06082a8648ce3d030107")
_EC_KEY_OID: Final = bytes.fromhex("06072a8648ce3d0201")
_RSA_KEY: Final = bytes.fromhex("06092a864886f70d0101010500")


def rsa(modulus: bytes, exponent: bytes) -> bytes:
    """An RSA key of big-endian numbers (RFC 3279 section 2.3.1)."""
    key = _der(0x30, _integer(modulus) + _integer(exponent))
    return _der(0x30, _der(0x30, _RSA_KEY) + _der(0x03, b"\0" + key))


def p256(x: bytes, y: bytes) -> bytes:
    """A point on P-256, of at most 32 bytes each (RFC 5480 section 2.2)."""
    point = b"\x04" + x.rjust(32, b"\0") + y.rjust(32, b"\0")
    return _der(0x30, _der(0x30, _EC_KEY_OID + _CURVE_OID) + _der(0x03, b"\0" + point))


def pem(label: str, der: bytes) -> bytes:
    """RFC 7468 text.

    >>> pem("PUBLIC KEY", b"123").decode().splitlines()
    ['-----BEGIN PUBLIC KEY-----', 'MTIz', '-----END PUBLIC KEY-----']
    """
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content


def _integer(magnitude: bytes) -> bytes:
    magnitude = magnitude.lstrip(b"\0") or b"\0"
    return _der(0x02, b"\0" * (magnitude[0] >> 7) + magnitude)


__all__ = ["p256", "pem", "rsa"]
