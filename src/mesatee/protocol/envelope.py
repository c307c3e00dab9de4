"""DSSE envelopes (Dead Simple Signing Envelope, protocol v1.0.2) with Ed25519.

What is signed is ``PAE(type, payload)``, so a signature can never be taken for one over something else, e.g. a TLS
transcript. An envelope's identity is the SHA-256 of its payload: signatures may be added, the digest stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .._core import verify_ed25519
from ..errors import Malformed, SignatureInvalid, UnsupportedVersion
from . import limits
from .digests import b64decode, b64encode, is_hex, sha256
from .jsonstrict import canonical, parse_object

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_SIGNATURES = 4
"""Signatures of one envelope: a receipt has two."""


class Signer(Protocol):
    """A signing key by handle."""

    @property
    def public(self) -> bytes:
        """32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature; `keyid` is the signer's public key in hex."""

    keyid: str
    sig: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload with its signatures."""

    payload: bytes
    signatures: tuple[Signature, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the payload, hex: the statement's identity."""
        return sha256(self.payload)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form of DSSE section 'Envelope'."""
        return {
            "payloadType": PAYLOAD_TYPE,
            "payload": b64encode(self.payload),
            "signatures": [{"keyid": s.keyid, "sig": b64encode(s.sig)} for s in self.signatures],
        }

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical(self.as_dict())

    def verify(self, keyid: str) -> bytes:
        """The payload, if `keyid` has validly signed it. Raises `SignatureInvalid`."""
        for signature in self.signatures:
            if signature.keyid == keyid:
                verify_ed25519(bytes.fromhex(keyid), signature.sig, pae(self.payload))
                return self.payload
        raise SignatureInvalid(f"no signature by {keyid[:16]}")

    def valid_signatures(self) -> tuple[Signature, ...]:
        """Those of its signatures that verify, by whoever."""
        found = []
        for signature in self.signatures:
            try:
                self.verify(signature.keyid)
            except (SignatureInvalid, Malformed):
                continue
            found.append(signature)
        return tuple(found)

    def with_signature(self, signer: Signer) -> Envelope:
        """The same payload, signed by one more key."""
        signature = Signature(signer.public.hex(), signer.sign(pae(self.payload)))
        return Envelope(self.payload, (*self.signatures, signature))


def pae(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, signers: Sequence[Signer]) -> Envelope:
    """An envelope signed by each of `signers`."""
    envelope = Envelope(payload, ())
    for signer in signers:
        envelope = envelope.with_signature(signer)
    return envelope


def from_bytes(data: bytes) -> Envelope:
    """Parse hostile bytes. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`; verifies no signature."""
    return from_dict(parse_object(data, limit=limits.STATEMENT_BYTES))


def from_dict(value: Any) -> Envelope:
    """Parse an envelope that stands inside other strictly parsed JSON."""
    if not isinstance(value, dict) or set(value) != {"payloadType", "payload", "signatures"}:
        raise Malformed("an envelope has exactly payloadType, payload and signatures")
    kind, payload, signatures = value["payloadType"], value["payload"], value["signatures"]
    if kind != PAYLOAD_TYPE:
        raise UnsupportedVersion(f"payloadType must be {PAYLOAD_TYPE}")
    if not isinstance(payload, str) or not isinstance(signatures, list):
        raise Malformed("payload is a string and signatures a list")
    if not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise Malformed(f"an envelope has 1 to {MAX_SIGNATURES} signatures")
    parsed = tuple(_signature(item) for item in signatures)
    if len({item.keyid for item in parsed}) != len(parsed):
        raise Malformed("a key signs an envelope once")
    return Envelope(b64decode(payload, max_bytes=limits.STATEMENT_BYTES), parsed)


def _signature(item: Any) -> Signature:
    if not isinstance(item, dict) or set(item) != {"keyid", "sig"}:
        raise Malformed("a signature has exactly keyid and sig")
    keyid, sig = item["keyid"], item["sig"]
    if not isinstance(keyid, str) or not is_hex(keyid, 32) or not isinstance(sig, str):
        raise Malformed("keyid is an Ed25519 public key in lower-case hex")
    raw = b64decode(sig, max_bytes=64)
    if len(raw) != 64:
        raise Malformed("an Ed25519 signature has 64 bytes")
    return Signature(keyid, raw)


__all__ = [
    "MAX_SIGNATURES",
    "PAYLOAD_TYPE",
    "Envelope",
    "Signature",
    "Signer",
    "from_bytes",
    "from_dict",
    "pae",
    "sign",
]
