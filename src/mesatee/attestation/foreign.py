"""Bytes out of the wrappings in which other makers' tools hand them around: hex, base64, PEM, JSON.

Being liberal here concludes nothing: bytes are what was signed, and whatever is found still has to verify. Each
wrapping is undone in one way only, so that all verifiers see the same bytes in the same file.

>>> unwrapped(b"0x0a0B\\n"), unwrapped(b"CgsM"), unwrapped(b"\\x84text")
(('hex', b'\\n\\x0b'), ('base64', b'\\n\\x0b\\x0c'), None)
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any, Final

from mesatee.protocol import limits
from mesatee.protocol.jsonstrict import BOM, parse_foreign

_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}")
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
_CRL_PEM: Final = re.compile(rb"-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]*)-----END X509 CRL-----")


def unwrapped(data: bytes) -> tuple[str, bytes] | None:
    """The name of a wrapping and what is in it; None if `data` is neither hex nor base64. What reads as hex is hex."""
    dense = b"".join(data.removeprefix(BOM).split())
    if not dense:
        return None
    try:
        return "hex", binascii.unhexlify(dense.removeprefix(b"0x"))
    except ValueError:
        pass
    if _BASE64.fullmatch(dense) is None:
        return None
    dense = dense.rstrip(b"=").translate(_URL_SAFE)
    try:
        return "base64", base64.b64decode(dense + b"=" * (-len(dense) % 4), validate=True)
    except ValueError:
        return None


def plain(data: bytes) -> bytes | None:
    """What hex or base64 text stands for; None if `data` is neither."""
    found = unwrapped(data)
    return None if found is None else found[1]


def is_json(data: bytes) -> bool:
    """Whether `data` begins as an object, an array or a string of JSON."""
    return data.removeprefix(BOM).lstrip()[:1] in (b"{", b"[", b'"')


def json_in(data: bytes) -> bytes | None:
    """The JSON text that `data` is, or is the hex or base64 of, however often; None if there is none."""
    for _ in range(limits.WRAPPINGS + 1):
        if is_json(data):
            return data
        inner = plain(data)
        if inner is None:
            break
        data = inner
    return None


def leaves(text: bytes) -> Iterator[bytes]:
    """Strings and arrays of bytes in a JSON text that are long enough to be evidence, at most
    `limits.DETECT_LEAVES` of them. Raises `Malformed` or `TooLarge` for what is no JSON.
    """
    stack: list[Any] = [parse_foreign(text, limit=limits.CASE_FILE_BYTES)]
    count = 0
    while stack and count < limits.DETECT_LEAVES:
        item = stack.pop()
        if isinstance(item, str) and len(item) >= limits.DETECT_CHARS:
            count += 1
            yield item.encode("utf-8", "replace")
        elif isinstance(item, list):
            if len(item) >= limits.DETECT_CHARS and (data := byte_array(item)) is not None:
                count += 1
                yield data
            else:
                stack.extend(reversed(item))
        elif isinstance(item, dict):
            stack.extend(reversed(item.values()))


def byte_array(value: list[Any]) -> bytes | None:
    """The bytes that an array of numbers stands for; None if it is another array, or empty."""
    if value and all(type(item) is int and 0 <= item < 256 for item in value):
        return bytes(value)
    return None


def pem_crls(text: bytes) -> list[bytes]:
    """DER of the revocation lists in a PEM text (RFC 7468, section 7); of one that is not base64, its text."""
    return [plain(block) or block for block in _CRL_PEM.findall(text)]


__all__ = ["byte_array", "is_json", "json_in", "leaves", "pem_crls", "plain", "unwrapped"]
