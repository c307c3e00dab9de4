"""The CBOR of interoperable RA-TLS: tagged evidence, and the claims beside it, as others' encoders write them.

Spec: CCC Attestation SIG, "Interoperable RA-TLS"; CDDL: ``#6.60000([evidence: bstr, claims: bstr])``, where the
claims are a map of text to byte strings and ``pubkey-hash`` is ``bstr .cbor [hash-alg-id, hash-value]``.

RATS-TLS does not sort its maps, so this is foreign CBOR (`_cbor.decode_foreign`). A digest is taken of the bytes as
they came: a second encoding of the same claims is harmless here.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mesatee.attestation import _cbor
from mesatee.errors import Malformed, UnsupportedVersion
from mesatee.protocol import limits

HASHES: Final = MappingProxyType({1: "sha256", 7: "sha384", 8: "sha512"})
"""Named Information Hash Algorithm Registry (RFC 6920): those that are not truncated."""
PUBKEY_HASH: Final = "pubkey-hash"


@dataclass(frozen=True, slots=True)
class TaggedEvidence:
    """The value of the extension."""

    number: int
    evidence: bytes
    claims: bytes


def tagged_evidence(value: bytes) -> TaggedEvidence:
    """The extension's value. Raises `Malformed` or `TooLarge`.

    >>> tagged_evidence(bytes.fromhex("d9ea60824101" "40")).evidence
    b'\\x01'
    """
    item = _cbor.decode_foreign(value, limits.CERTIFICATE_BYTES)
    if not isinstance(item, _cbor.ForeignTag) or not isinstance(item.value, list) or len(item.value) < 2:
        raise Malformed("tagged evidence is not a tag on an array of evidence and claims")
    evidence, claims = item.value[:2]
    if not isinstance(evidence, bytes) or not isinstance(claims, bytes):
        raise Malformed("tagged evidence and its claims are not byte strings")
    return TaggedEvidence(item.number, evidence, claims)


def pubkey_hash(claims: bytes) -> tuple[str, bytes]:
    """Algorithm (as `hashlib` names it) and digest of the public key that the claims are about.

    Raises `Malformed`, `TooLarge`, or `UnsupportedVersion` for another algorithm.
    """
    found = _cbor.decode_foreign(claims, limits.CLAIMS_BYTES)
    value = found.get(PUBKEY_HASH) if isinstance(found, dict) else None
    if isinstance(value, bytes):
        value = _cbor.decode_foreign(value, limits.CLAIMS_BYTES)
    if not isinstance(value, list) or len(value) != 2:
        raise Malformed("the claims of RA-TLS have no pubkey-hash of algorithm and digest")
    algorithm, digest = value
    if not isinstance(algorithm, int) or isinstance(algorithm, bool) or algorithm not in HASHES:
        raise UnsupportedVersion("the pubkey-hash is of an algorithm that is not known here")
    if not isinstance(digest, bytes):
        raise Malformed("the digest of the pubkey-hash is not a byte string")
    return HASHES[algorithm], digest


__all__ = ["HASHES", "PUBKEY_HASH", "TaggedEvidence", "pubkey_hash", "tagged_evidence"]
