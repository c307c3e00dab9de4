"""Digests, identifiers and encodings as they appear on the wire.

A party's id is its Ed25519 public key in hex: it needs no directory and cannot be confused with another.

>>> sha256(b"abc")[:8], is_hex("0a", 1), is_hex("0A", 1)
('ba7816bf', True, False)
"""

from __future__ import annotations

import binascii
import hashlib
import re
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from ..errors import Malformed
from . import limits

_HEX = re.compile(r"[0-9a-f]*\Z")


def sha256(data: bytes) -> str:
    """SHA-256 in lower-case hex, 64 characters."""
    return hashlib.sha256(data).hexdigest()


def is_hex(text: str, length: int) -> bool:
    """Whether `text` is `length` bytes in lower-case hex."""
    return len(text) == 2 * length and _HEX.match(text) is not None


def b64encode(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648, section 4)."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def b64decode(text: str, *, max_bytes: int) -> bytes:
    """Strict standard base64: exactly one encoding of each value is accepted. Raises `Malformed`."""
    if len(text) > (max_bytes + 2) // 3 * 4:
        raise Malformed(f"base64 of more than {max_bytes} bytes")
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("not standard base64 with padding") from error
    if len(data) > max_bytes:
        raise Malformed(f"base64 of more than {max_bytes} bytes")
    if b64encode(data) != text:
        raise Malformed("not canonical base64")
    return data


def _base64_of(max_bytes: int) -> AfterValidator:
    def check(text: str) -> str:
        try:
            b64decode(text, max_bytes=max_bytes)
        except Malformed as error:
            raise ValueError(error.message) from None
        return text

    return AfterValidator(check)


# No separator, no leading dot, no control character: a name can never become a path or a second line.
Name = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", min_length=1, max_length=limits.NAME_CHARS),
]
Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Hex16 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
WRAP_BYTES = 1120 + 16 + 16
"""An HPKE wrap of a file key: X-Wing ciphertext, 16-byte key and Poly1305 tag."""
HPKE_PUBLIC_BYTES = 1216
"""An X-Wing public key (draft-connolly-cfrg-xwing-kem)."""
KEY_WRAP_BYTES = 1120 + 32 + 16
"""An HPKE wrap of a private or symmetric key: X-Wing ciphertext, 32-byte key and Poly1305 tag."""
Wrap = Annotated[str, StringConstraints(min_length=4, max_length=2048), _base64_of(WRAP_BYTES)]
KeyWrap = Annotated[str, StringConstraints(min_length=4, max_length=2048), _base64_of(KEY_WRAP_BYTES)]
HpkePublic = Annotated[
    str, StringConstraints(min_length=1600, max_length=1632), _base64_of(HPKE_PUBLIC_BYTES)
]
AgeRecipient = Annotated[str, StringConstraints(pattern=r"^age1[02-9ac-hj-np-z]{58}$")]

__all__ = [
    "HPKE_PUBLIC_BYTES",
    "KEY_WRAP_BYTES",
    "WRAP_BYTES",
    "AgeRecipient",
    "Hex16",
    "Hex32",
    "HpkePublic",
    "KeyWrap",
    "Name",
    "Wrap",
    "b64decode",
    "b64encode",
    "is_hex",
    "sha256",
]
