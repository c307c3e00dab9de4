"""COSE_Sign1 and COSE_Mac0 (RFC 9052), as attestation tokens carry them.

Only what attesters use: one signer, an attached payload, the algorithm in the protected header. What the
header says is never enough: the algorithm must be one that fits the kind of key which the verifier chose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mesatee import _core
from mesatee.attestation import _cbor
from mesatee.attestation.tee.keys import Kind, PublicKey
from mesatee.errors import KeyRefused, Malformed, SignatureInvalid, UnsupportedVersion
from mesatee.protocol import limits

SIGN1: Final = 18
MAC0: Final = 17
_CWT: Final = 61
"""CBOR Web Token (RFC 8392 section 6): may stand before the COSE tag."""
_ALG: Final = 1
_CRIT: Final = 2

ALGORITHMS: Final[Mapping[tuple[int, Kind], str]] = MappingProxyType(
    {
        # ES256, ES384, ES512 (RFC 9053 section 2.1) name only a hash; the fully specified ones of RFC 9864
        # name the curve too. ES256 with P-384 and the like stay possible, as RFC 9053 has them.
        (-7, "p256"): "ecdsa-p256-sha256",
        (-7, "p384"): "ecdsa-p384-sha256",
        (-35, "p256"): "ecdsa-p256-sha384",
        (-35, "p384"): "ecdsa-p384-sha384",
        (-36, "p521"): "ecdsa-p521-sha512",
        (-9, "p256"): "ecdsa-p256-sha256",
        (-51, "p384"): "ecdsa-p384-sha384",
        (-52, "p521"): "ecdsa-p521-sha512",
        (-8, "ed25519"): "ed25519",
        (-19, "ed25519"): "ed25519",
        # RFC 8230 section 2 (PSS) and RFC 8812 section 2 (PKCS #1 v1.5).
        (-37, "rsa"): "rsa-pss-sha256",
        (-38, "rsa"): "rsa-pss-sha384",
        (-39, "rsa"): "rsa-pss-sha512",
        (-257, "rsa"): "rsa-pkcs1-sha256",
        (-258, "rsa"): "rsa-pkcs1-sha384",
        (-259, "rsa"): "rsa-pkcs1-sha512",
    }
)
_MACS: Final = (4, 5, 6, 7)
"""HMAC (RFC 9053 section 3.1)."""


@dataclass(frozen=True, slots=True)
class Message:
    """A parsed message; nothing of it is verified yet."""

    mac: bool
    """COSE_Mac0: `signature` is a tag under a key that the verifier shares."""
    algorithm: int
    protected: bytes
    payload: bytes
    signature: bytes

    def to_be_signed(self) -> bytes:
        """Sig_structure of a COSE_Sign1 (RFC 9052 section 4.4), with no external data."""
        return _cbor.encode(["Signature1", self.protected, b"", self.payload])


def parse(data: bytes, limit: int = limits.COSE_BYTES) -> Message:
    """COSE_Sign1 or COSE_Mac0. Without a tag both look alike, and the algorithm tells which it is.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    value, tag = _cbor.decode_foreign(data, limit), None
    if isinstance(value, _cbor.ForeignTag) and value.number == _CWT:
        value = value.value
    if isinstance(value, _cbor.ForeignTag):
        tag, value = value.number, value.value
    if tag not in (None, SIGN1, MAC0):
        raise UnsupportedVersion(f"CBOR tag {tag} is neither COSE_Sign1 ({SIGN1}) nor COSE_Mac0 ({MAC0})")
    match value:
        case [bytes(protected), dict(loose), bytes(payload), bytes(signature)] if payload and signature:
            algorithm = _algorithm(protected, loose)
            mac = tag == MAC0 or (tag is None and algorithm in _MACS)
            return Message(mac, algorithm, protected, payload, signature)
    raise Malformed("not a COSE message [protected, unprotected, payload, signature] with its payload")


def _algorithm(protected: bytes, loose: _cbor.ForeignMap) -> int:
    # An empty protected header may be encoded as an empty string or as an empty map (RFC 9052 section 3).
    headers = _cbor.decode_foreign(protected, limits.COSE_BYTES) if protected else {}
    if not isinstance(headers, dict):
        raise Malformed("the protected header of a COSE message is not a map")
    if _CRIT in headers or _CRIT in loose:
        raise UnsupportedVersion("a COSE message has critical headers, none is known")
    if headers.keys() & loose.keys():
        raise Malformed("a COSE header is both protected and unprotected")
    algorithm = headers.get(_ALG)
    if not isinstance(algorithm, int) or isinstance(algorithm, bool):
        raise Malformed("the protected header of a COSE message names no algorithm")
    return algorithm


def verify(message: Message, key: PublicKey) -> None:
    """Verify a COSE_Sign1 (RFC 9052 section 4.4).

    1. It is signed, not a MAC.
    2. The algorithm fits the kind of key.
    3. The signature over Sig_structure verifies.

    Raises `SignatureInvalid`, `KeyRefused` (algorithm and key do not fit), or what the key's parser raises.
    """
    # 1. Kind.
    if message.mac:
        raise SignatureInvalid("a COSE_Mac0 has no signature")
    # 2. Algorithm.
    name = ALGORITHMS.get((message.algorithm, key.kind))
    if name is None:
        raise KeyRefused(f"COSE algorithm {message.algorithm} does not go with a {key.kind} key")
    # 3. Signature.
    _core.verify_signature(name, key.spki, message.signature, message.to_be_signed())


__all__ = ["ALGORITHMS", "MAC0", "SIGN1", "Message", "parse", "verify"]
