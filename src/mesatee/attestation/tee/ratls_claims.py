"""The CBOR of interoperable RA-TLS: tagged evidence, and the claims beside it, as others' encoders write them.

Spec: CCC Attestation SIG, "Interoperable RA-TLS"; CDDL: ``#6.60000([evidence: bstr, claims: bstr])``, where the
claims are a map of text to byte strings and ``pubkey-hash`` is ``bstr .cbor [hash-alg-id, hash-value]``.

`_cbor` refuses what is not deterministic, and RATS-TLS does not sort its maps. A digest is taken of the bytes as
they came, so a second encoding of the same claims is harmless here: the order of keys and the length of heads are
left open. Keys stay unique, lengths definite, and nothing may follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from mesatee.errors import Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

Item: TypeAlias = "int | bytes | str | bool | list[Item] | dict[int | str, Item] | _Tag | None"

HASHES: Final = MappingProxyType({1: "sha256", 7: "sha384", 8: "sha512"})
"""Named Information Hash Algorithm Registry (RFC 6920): those that are not truncated."""
PUBKEY_HASH: Final = "pubkey-hash"
_HEADS: Final = MappingProxyType({24: 1, 25: 2, 26: 4, 27: 8})
_SIMPLE: Final = MappingProxyType({20: False, 21: True, 22: None})


@dataclass(frozen=True, slots=True)
class TaggedEvidence:
    """The value of the extension."""

    number: int
    evidence: bytes
    claims: bytes


@dataclass(frozen=True, slots=True)
class _Tag:
    number: int
    value: Item


@dataclass(slots=True)
class _Reader:
    data: bytes
    position: int = 0
    items: int = 0

    def take(self, count: int) -> bytes:
        piece = self.data[self.position : self.position + count]
        if len(piece) != count:
            raise Malformed("CBOR of RA-TLS ends in the middle of an item")
        self.position += count
        return piece

    def item(self, depth: int) -> Item:
        self.items += 1
        if depth > limits.CBOR_DEPTH or self.items > limits.CBOR_ITEMS:
            raise TooLarge("CBOR of RA-TLS nests too deep or has too many items")
        first = self.take(1)[0]
        major, info = first >> 5, first & 0x1F
        if major == 7:
            if info not in _SIMPLE:
                raise Malformed("CBOR of RA-TLS has a float, a break or an unknown simple value")
            return _SIMPLE[info]
        if info > 27:
            raise Malformed("CBOR of RA-TLS has an indefinite length or a reserved head")
        argument = info if info < 24 else int.from_bytes(self.take(_HEADS[info]))
        match major:
            case 0 | 1:
                return argument if major == 0 else -1 - argument
            case 2:
                return self.take(argument)
            case 3:
                return _text(self.take(argument))
            case 4:
                return [self.item(depth + 1) for _ in range(argument)]
            case 5:
                return self.map(argument, depth)
            case _:
                return _Tag(argument, self.item(depth + 1))

    def map(self, count: int, depth: int) -> dict[int | str, Item]:
        found: dict[int | str, Item] = {}
        for _ in range(count):
            key = self.item(depth + 1)
            # True equals 1 as a key.
            if not isinstance(key, int | str) or isinstance(key, bool) or key in found:
                raise Malformed("a key of a CBOR map of RA-TLS is neither number nor text, or stands twice")
            found[key] = self.item(depth + 1)
        return found


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Malformed("a CBOR text of RA-TLS is not UTF-8") from None


def _decode(data: bytes, limit: int) -> Item:
    if len(data) > limit:
        raise TooLarge(f"CBOR of RA-TLS has {len(data)} bytes, the limit is {limit}")
    reader = _Reader(data)
    value = reader.item(1)
    if reader.position != len(data):
        raise Malformed("bytes follow the CBOR of RA-TLS")
    return value


def tagged_evidence(value: bytes) -> TaggedEvidence:
    """The extension's value. Raises `Malformed` or `TooLarge`.

    >>> tagged_evidence(bytes.fromhex("d9ea60824101" "40")).evidence
    b'\\x01'
    """
    item = _decode(value, limits.CERTIFICATE_BYTES)
    if not isinstance(item, _Tag) or not isinstance(item.value, list) or len(item.value) < 2:
        raise Malformed("tagged evidence is not a tag on an array of evidence and claims")
    evidence, claims = item.value[:2]
    if not isinstance(evidence, bytes) or not isinstance(claims, bytes):
        raise Malformed("tagged evidence and its claims are not byte strings")
    return TaggedEvidence(item.number, evidence, claims)


def pubkey_hash(claims: bytes) -> tuple[str, bytes]:
    """Algorithm (as `hashlib` names it) and digest of the public key that the claims are about.

    Raises `Malformed`, `TooLarge`, or `UnsupportedVersion` for another algorithm.
    """
    found = _decode(claims, limits.CLAIMS_BYTES)
    value = found.get(PUBKEY_HASH) if isinstance(found, dict) else None
    if isinstance(value, bytes):
        value = _decode(value, limits.CLAIMS_BYTES)
    if not isinstance(value, list) or len(value) != 2:
        raise Malformed("the claims of RA-TLS have no pubkey-hash of algorithm and digest")
    algorithm, digest = value
    if not isinstance(algorithm, int) or isinstance(algorithm, bool) or algorithm not in HASHES:
        raise UnsupportedVersion("the pubkey-hash is of an algorithm that is not known here")
    if not isinstance(digest, bytes):
        raise Malformed("the digest of the pubkey-hash is not a byte string")
    return HASHES[algorithm], digest


__all__ = ["HASHES", "PUBKEY_HASH", "TaggedEvidence", "pubkey_hash", "tagged_evidence"]
