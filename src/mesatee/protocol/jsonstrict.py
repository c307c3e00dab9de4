"""JSON with one reading (RFC 8259, strictly) and one writing.

Both are done in Rust (`mesatee._core.parse_json`, `write_json`). Reading takes UTF-8 only, no duplicate keys, no
trailing bytes, finite numbers, integers within 64 bits, bounded size and depth. Writing sorts keys by code point and
adds no white space; what `canonical` writes, `parse` reads back as an equal value.

>>> canonical({"b": [1, 2.5], "a": "ä"})
b'{"a":"\\xc3\\xa4","b":[1,2.5]}'
>>> parse(b'{"a": 1, "a": 2}')
Traceback (most recent call last):
mesatee.errors.Malformed: not strict JSON: a key stands twice in the object that ends at line 1 column 16
"""

from __future__ import annotations

from typing import Any, Final

from mesatee import _core
from mesatee.errors import Malformed
from mesatee.protocol import limits

INTEGER_MIN: Final = -(2**63)
"""The smallest integer that is read and written."""
INTEGER_MAX: Final = 2**63 - 1
"""The largest integer that is read and written."""
BOM: Final = b"\xef\xbb\xbf"
"""UTF-8's byte order mark, which some tools write before a text."""


def parse(data: bytes, *, limit: int = limits.REQUEST_BYTES) -> Any:
    """The value of a JSON text of at most `limit` bytes and `limits.JSON_DEPTH` levels.

    Raises `Malformed`, or `TooLarge` when it is over a limit. Messages give positions, never content.
    """
    return _core.parse_json(data, limit, limits.JSON_DEPTH)


def parse_foreign(data: bytes, *, limit: int) -> Any:
    """As `parse`, for texts of other makers' tools: they may begin with a byte order mark and have integers up to
    2^64 - 1.
    """
    return _core.parse_json(data.removeprefix(BOM), limit, limits.JSON_DEPTH, foreign=True)


def parse_object(data: bytes, *, limit: int = limits.REQUEST_BYTES) -> dict[str, Any]:
    """As `parse`; anything but an object is `Malformed`."""
    value = parse(data, limit=limit)
    if not isinstance(value, dict):
        raise Malformed("the JSON text is not an object")
    return value


def canonical(value: Any) -> bytes:
    """The one encoding of `value`: keys sorted by code point, no white space, UTF-8.

    Takes dicts with string keys, lists, tuples, strings, booleans, None, integers of 64 bits and finite
    floats. Raises `Malformed` for anything else, and `TooLarge` beyond `limits.JSON_DEPTH` levels.
    """
    return _core.write_json(value, limits.JSON_DEPTH)


__all__ = [
    "BOM",
    "INTEGER_MAX",
    "INTEGER_MIN",
    "canonical",
    "parse",
    "parse_foreign",
    "parse_object",
]
