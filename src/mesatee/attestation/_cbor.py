"""The deterministic CBOR that our own structures use, decoded strictly.

Profile: RFC 8949 section 4.2.1 (core deterministic encoding) without floating point: definite lengths,
shortest heads, map keys that are text, unique and in bytewise order, and nothing after the item. Only
integers, byte and text strings, arrays, maps, tags, booleans and null are known. One value therefore has
exactly one encoding, so a digest of the bytes is a digest of the value.

What other makers' attesters sign keeps no such profile, and the signature over the bytes settles what was meant:
`decode_foreign` takes maps with integer keys too, in any order, and heads longer than need be. Keys stay unique,
types few, lengths definite, and nothing follows the item.

A general decoder is the wrong tool for hostile evidence: it follows semantic tags into date, regular
expression and MIME parsers before we could look at them. Encoding is cbor2's, whose canonical order is the
same for text keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias, cast

import cbor2

from mesatee.errors import Malformed, TooLarge
from mesatee.protocol import limits


class Tag(NamedTuple):
    """A tagged value."""

    number: int
    value: Value


class ForeignTag(NamedTuple):
    """A tagged value of another maker."""

    number: int
    value: Foreign


Value: TypeAlias = "int | bytes | str | bool | list[Value] | dict[str, Value] | Tag | None"
Foreign: TypeAlias = "int | bytes | str | bool | list[Foreign] | ForeignMap | ForeignTag | None"
ForeignMap: TypeAlias = "dict[int | str, Foreign]"


@dataclass(frozen=True, slots=True)
class _Profile:
    strict: bool
    depth: int
    items: int
    tag: type[Tag] | type[ForeignTag]


_OURS: Final = _Profile(True, limits.CBOR_DEPTH, limits.CBOR_ITEMS, Tag)
_FOREIGN: Final = _Profile(False, limits.FOREIGN_CBOR_DEPTH, limits.FOREIGN_CBOR_ITEMS, ForeignTag)


@dataclass(slots=True)
class _Reader:
    """Reads either profile; `decode` and `decode_foreign` say which types come out of it."""

    data: bytes
    profile: _Profile
    position: int = 0
    items: int = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise Malformed("CBOR ends in the middle of an item")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def head(self) -> tuple[int, int, int]:
        """Major type, additional information and argument of the next item (RFC 8949 section 3)."""
        first = self.take(1)[0]
        major, info = first >> 5, first & 0x1F
        if info < 24:
            return major, info, info
        if info > 27:
            raise Malformed("CBOR of indefinite length or with a reserved head")
        argument = int.from_bytes(self.take(1 << (info - 24)))
        # A shorter head would have held it: a second encoding of the same value.
        if self.profile.strict and argument < (24 if info == 24 else 1 << (4 << (info - 24))):
            raise Malformed("CBOR head is not the shortest one")
        return major, info, argument

    def item(self, depth: int) -> Any:
        self.items += 1
        if depth > self.profile.depth:
            raise TooLarge(f"CBOR nests deeper than {self.profile.depth} levels")
        if self.items > self.profile.items:
            raise TooLarge(f"CBOR has more than {self.profile.items} items")
        major, info, argument = self.head()
        match major:
            case 0:
                return argument
            case 1:
                return -1 - argument
            case 2:
                return self.take(argument)
            case 3:
                return _text(self.take(argument))
            case 4:
                return [self.item(depth + 1) for _ in range(argument)]
            case 5:
                return self.map(argument, depth)
            case 6:
                return self.profile.tag(argument, self.item(depth + 1))
            case _:
                # The argument alone would also match half-precision floats.
                if info in (20, 21, 22):
                    return {20: False, 21: True, 22: None}[info]
                raise Malformed("CBOR has a float, a break or a simple value that is not known")

    def map(self, count: int, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        last = b""
        for _ in range(count):
            start = self.position
            key = self.item(depth + 1)
            encoded = self.data[start : self.position]
            if self.profile.strict:
                if not isinstance(key, str):
                    raise Malformed("a CBOR map key is not text")
                if encoded <= last:
                    raise Malformed("CBOR map keys repeat or are out of order")
                last = encoded
            # True would be the same key as 1.
            elif isinstance(key, bool) or not isinstance(key, int | str):
                raise Malformed("a CBOR map key is neither a number nor text")
            elif key in found:
                raise Malformed("a CBOR map key is there twice")
            found[key] = self.item(depth + 1)
        return found


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Malformed("a CBOR text is not UTF-8") from None


def decode(data: bytes, limit: int) -> Value:
    """The one item that `data` (at most `limit` bytes) encodes. Raises `Malformed` or `TooLarge`."""
    return cast(Value, _decode(data, limit, _OURS))


def decode_foreign(data: bytes, limit: int) -> Foreign:
    """The one item that `data` (at most `limit` bytes), made by another maker's attester, encodes.

    Raises `Malformed` or `TooLarge`.
    """
    return cast(Foreign, _decode(data, limit, _FOREIGN))


def _decode(data: bytes, limit: int, profile: _Profile) -> Any:
    if len(data) > limit:
        raise TooLarge(f"CBOR has {len(data)} bytes, the limit is {limit}")
    reader = _Reader(data, profile)
    value = reader.item(1)
    if reader.position != len(data):
        raise Malformed("bytes follow the CBOR item")
    return value


def encode(value: object) -> bytes:
    """Deterministic encoding. `value` is our own, not a peer's."""
    return cbor2.dumps(value, canonical=True)


@dataclass(slots=True)
class Fields:
    """Takes the fields out of a decoded map one by one; what is left over at the end is refused."""

    what: str
    values: dict[str, Value]
    taken: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, what: str, value: Value) -> Fields:
        """Raises `Malformed` unless `value` is a map."""
        if not isinstance(value, dict):
            raise Malformed(f"{what} is not a CBOR map")
        return cls(what, value)

    def _get(self, name: str) -> Value:
        if name not in self.values:
            raise Malformed(f"{self.what} lacks {name!r}")
        self.taken.add(name)
        return self.values[name]

    def has(self, name: str) -> bool:
        """Whether the optional field is there."""
        return name in self.values

    def bytes(self, name: str, size: int) -> bytes:
        """A byte string of exactly `size` bytes."""
        value = self._get(name)
        if not isinstance(value, bytes) or len(value) != size:
            raise Malformed(f"{name!r} of {self.what} is not {size} bytes")
        return value

    def text(self, name: str, chars: int = limits.NAME_CHARS) -> str:
        """A printable text of 1 to `chars` characters."""
        value = self._get(name)
        if not isinstance(value, str) or not 1 <= len(value) <= chars or not value.isprintable():
            raise Malformed(f"{name!r} of {self.what} is not a text of 1 to {chars} printable characters")
        return value

    def integer(self, name: str) -> int:
        """A number from 0 to 2^53 - 1, so that it survives JSON."""
        value = self._get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 53:
            raise Malformed(f"{name!r} of {self.what} is not a number from 0 to 2^53 - 1")
        return value

    def fields(self, name: str) -> Fields:
        """A nested map."""
        return Fields.of(f"{name!r} of {self.what}", self._get(name))

    def digests(self, name: str) -> dict[str, str]:
        """A map of at most `limits.ENVIRONMENTS` names to SHA-256 digests, given back in hex."""
        inner = self.fields(name)
        if len(inner.values) > limits.ENVIRONMENTS:
            raise TooLarge(f"{inner.what} has more than {limits.ENVIRONMENTS} entries")
        for key in inner.values:
            if not 1 <= len(key) <= limits.NAME_CHARS or not key.isprintable():
                raise Malformed(f"{inner.what} has a name that is not 1 to {limits.NAME_CHARS} characters")
        return {key: inner.bytes(key, 32).hex() for key in inner.values}

    def rest(self) -> dict[str, Value]:
        """What nobody took."""
        return {name: value for name, value in self.values.items() if name not in self.taken}

    def done(self) -> None:
        """Raises `Malformed` if a field is left over."""
        if left := self.rest():
            raise Malformed(f"{self.what} has unknown fields: {', '.join(sorted(map(repr, left)))[:200]}")


@dataclass(frozen=True, slots=True)
class ForeignClaims:
    """Takes typed values out of a map; claims that nobody asks for stay unread, as EAT wants (RFC 9711)."""

    what: str
    values: ForeignMap

    @classmethod
    def of(cls, what: str, value: Foreign) -> ForeignClaims:
        """Raises `Malformed` unless `value` is a map."""
        if not isinstance(value, dict):
            raise Malformed(f"{what} is not a CBOR map")
        return cls(what, value)

    def has(self, key: int | str) -> bool:
        """Whether the claim is there (null counts as absent)."""
        return self.values.get(key) is not None

    def _get(self, key: int | str) -> Foreign:
        if (value := self.values.get(key)) is None:
            raise Malformed(f"{self.what} lacks claim {key}")
        return value

    def bytes(self, key: int | str, *sizes: int) -> bytes:
        """A byte string of one of `sizes` bytes; of any size if none is given."""
        value = self._get(key)
        if not isinstance(value, bytes) or (sizes and len(value) not in sizes):
            raise Malformed(f"claim {key} of {self.what} is not a byte string of the right size")
        return value

    def text(self, key: int | str) -> str:
        """A text of 1 to `limits.CLAIM_CHARS` characters."""
        value = self._get(key)
        if not isinstance(value, str) or not 1 <= len(value) <= limits.CLAIM_CHARS or not value.isprintable():
            raise Malformed(f"claim {key} of {self.what} is not a printable text")
        return value

    def number(self, key: int | str, low: int, high: int) -> int:
        """A number from `low` to `high`."""
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Malformed(f"claim {key} of {self.what} is not a number from {low} to {high}")
        return value

    def items(self, key: int | str) -> list[Foreign]:
        """An array with at least one item."""
        value = self._get(key)
        if not isinstance(value, list) or not value:
            raise Malformed(f"claim {key} of {self.what} is not an array with items")
        return value


__all__ = [
    "Fields",
    "Foreign",
    "ForeignClaims",
    "ForeignMap",
    "ForeignTag",
    "Tag",
    "Value",
    "decode",
    "decode_foreign",
    "encode",
]
