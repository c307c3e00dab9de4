"""Public keys of evidence, from every form in which they come, as DER SubjectPublicKeyInfo (RFC 5280).

COSE_Key (RFC 9053 section 7), JWK (RFC 7517, RFC 7518 section 6), PEM, raw elliptic curve points (SEC 1).
A `PublicKey` knows its kind, so that an algorithm named by the signer can be held against the key: the signer
never chooses how his own key is used.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from mesatee import _core
from mesatee.attestation import _cbor
from mesatee.errors import Malformed, UnsupportedVersion
from mesatee.protocol import limits

Kind: TypeAlias = Literal["p256", "p384", "p521", "rsa", "ed25519"]
Curve: TypeAlias = Literal["p256", "p384", "p521"]

SIZES: Final[Mapping[Curve, int]] = MappingProxyType({"p256": 32, "p384": 48, "p521": 66})
"""Bytes of one coordinate."""
_COSE_CURVES: Final[Mapping[int, Curve]] = MappingProxyType({1: "p256", 2: "p384", 3: "p521"})
_JWK_CURVES: Final[Mapping[str, Curve]] = MappingProxyType(
    {"P-256": "p256", "P-384": "p384", "P-521": "p521"}
)
# The whole of a SubjectPublicKeyInfo before the key itself is fixed for these kinds (RFC 5480, RFC 8410).
_PREFIXES: Final[tuple[tuple[Kind, bytes, int], ...]] = (
    ("p256", bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"), 64),
    ("p384", bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004"), 96),
    ("p521", bytes.fromhex("30819b301006072a8648ce3d020106052b810400230381860004"), 132),
    ("ed25519", bytes.fromhex("302a300506032b6570032100"), 32),
)
_ED25519_PREFIX: Final = _PREFIXES[3][1]
_RSA: Final = bytes.fromhex("300d06092a864886f70d010101050003")
"""AlgorithmIdentifier rsaEncryption (RFC 3279 section 2.3.1) and the tag of the BIT STRING after it."""
_PEM: Final = re.compile(
    rb"\s*-----BEGIN PUBLIC KEY-----\s+([A-Za-z0-9+/=\s]+?)\s*-----END PUBLIC KEY-----\s*"
)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that can verify."""

    kind: Kind
    spki: bytes


def from_spki(spki: bytes) -> PublicKey:
    """Recognise the kind of a SubjectPublicKeyInfo. Raises `UnsupportedVersion` for a kind not known.

    The bytes are parsed in full where the key is used.
    """
    for kind, prefix, size in _PREFIXES:
        if spki.startswith(prefix) and len(spki) == len(prefix) + size:
            return PublicKey(kind, spki)
    if _RSA in spki[:24]:
        return PublicKey("rsa", spki)
    raise UnsupportedVersion("a public key is neither P-256, P-384, P-521, RSA nor Ed25519")


def ed25519_spki(key: bytes) -> bytes:
    """The SubjectPublicKeyInfo of 32 bytes of Ed25519 public key (RFC 8410). Raises `Malformed`."""
    if len(key) != 32:
        raise Malformed("an Ed25519 key is not 32 bytes")
    return _ED25519_PREFIX + key


def from_point(point: bytes) -> PublicKey:
    """An uncompressed point, 04 || x || y; its length tells the curve. Raises `Malformed`."""
    for curve, size in SIZES.items():
        if len(point) == 1 + 2 * size and point[0] == 4:
            return PublicKey(curve, _core.spki_from_point(curve, point))
    raise Malformed("a key is not an uncompressed point of P-256, P-384 or P-521")


def _from_coordinates(curve: Curve, x: bytes, y: bytes) -> PublicKey:
    if not len(x) == len(y) == SIZES[curve]:
        raise Malformed(f"a coordinate of a {curve} key is not {SIZES[curve]} bytes")
    return PublicKey(curve, _core.spki_from_point(curve, b"\x04" + x + y))


def from_cose_key(encoded: bytes) -> PublicKey:
    """A COSE_Key (RFC 9052 section 7): EC2 with both coordinates, or Ed25519. Raises `Malformed` or
    `UnsupportedVersion`.
    """
    key = _cbor.ForeignClaims.of("a COSE_Key", _cbor.decode_foreign(encoded, limits.COSE_BYTES))
    if key.has(4) and 2 not in key.items(4):
        raise Malformed("a COSE_Key is not meant for verifying")
    match key.number(1, 0, 1 << 16):
        case 2:
            number = key.number(-1, 0, 1 << 16)
            if number not in _COSE_CURVES:
                raise UnsupportedVersion(f"a COSE_Key is on curve {number}")
            return _from_coordinates(_COSE_CURVES[number], key.bytes(-2), key.bytes(-3))
        case 1 if key.number(-1, 0, 1 << 16) == 6:
            return PublicKey("ed25519", ed25519_spki(key.bytes(-2)))
        case kind:
            raise UnsupportedVersion(f"a COSE_Key is of type {kind}")


def from_jwk(value: Any) -> PublicKey:
    """A JSON Web Key that was parsed already: EC or Ed25519. Raises `Malformed` or `UnsupportedVersion`."""
    if not isinstance(value, dict):
        raise Malformed("a JWK is not a JSON object")
    match value.get("kty"), value.get("crv"):
        case "EC", str(curve) if curve in _JWK_CURVES:
            return _from_coordinates(_JWK_CURVES[curve], _unbase64url(value, "x"), _unbase64url(value, "y"))
        case "OKP", "Ed25519":
            return PublicKey("ed25519", ed25519_spki(_unbase64url(value, "x")))
    raise UnsupportedVersion("a JWK is neither P-256, P-384, P-521 nor Ed25519")


def _unbase64url(value: dict[str, Any], name: str) -> bytes:
    text = value.get(name)
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,256}", text):
        raise Malformed(f"{name!r} of a JWK is not base64url")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise Malformed(f"{name!r} of a JWK is not base64url") from None


def from_pem(text: bytes) -> PublicKey:
    """One PEM block ``PUBLIC KEY`` (RFC 7468 section 13) and nothing else. Raises `Malformed` or
    `UnsupportedVersion`.
    """
    found = _PEM.fullmatch(text) if len(text) <= limits.KEY_FILE_BYTES else None
    if found is None:
        raise Malformed("not one PEM block PUBLIC KEY")
    try:
        return from_spki(base64.b64decode(b"".join(found[1].split()), validate=True))
    except binascii.Error:
        raise Malformed("a PEM block PUBLIC KEY is not base64") from None


__all__ = [
    "SIZES",
    "Kind",
    "PublicKey",
    "ed25519_spki",
    "from_cose_key",
    "from_jwk",
    "from_pem",
    "from_point",
    "from_spki",
]
