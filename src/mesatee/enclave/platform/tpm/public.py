"""Public areas of TPM keys: the templates that we create from, names, and the form that others read.

The endorsement key's templates are L-1 (RSA 2048) and L-2 (NIST P-256) of the TCG EK Credential Profile for TPM
2.0, annex B.3: a key made from one of them is the one whose certificate the manufacturer issued.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from mesatee.enclave.platform import spki
from mesatee.enclave.platform.tpm.wire import NO_ALGORITHM, SHA256, Reader, sized, u16, u32
from mesatee.errors import Malformed, UnsupportedVersion

Algorithm: TypeAlias = Literal["ecc", "rsa"]

RSA: Final = 0x0001
KEYED_HASH: Final = 0x0008
ECC: Final = 0x0023
_AES: Final = 0x0006
_CFB: Final = 0x0043
_RSASSA: Final = 0x0014
_ECDSA: Final = 0x0018
_P256: Final = 0x0003
_RSA_BITS: Final = 2048
_DEFAULT_EXPONENT: Final = 65537

# Part 2, section 8.3 (TPMA_OBJECT).
FIXED_TPM: Final = 1 << 1
FIXED_PARENT: Final = 1 << 4
_ORIGIN: Final = 1 << 5
_USER_WITH_AUTH: Final = 1 << 6
_ADMIN_WITH_POLICY: Final = 1 << 7
NO_DA: Final = 1 << 10
RESTRICTED: Final = 1 << 16
_DECRYPT: Final = 1 << 17
_SIGN: Final = 1 << 18

EK_POLICY: Final = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
"""PolicySecret of the endorsement hierarchy (EK Credential Profile, annex B.3.3)."""


def _area(kind: int, attributes: int, policy: bytes, parameters: bytes, unique: bytes | bytearray) -> bytes:
    """A TPMT_PUBLIC with SHA-256 names."""
    return u16(kind) + u16(SHA256) + u32(attributes) + sized(policy) + parameters + unique


def _decrypting(algorithm: Algorithm, attributes: int, policy: bytes, unique: bool) -> bytes:
    """A restricted decryption key: of the endorsement hierarchy, or a parent of others."""
    protects = u16(_AES) + u16(128) + u16(_CFB) + u16(NO_ALGORITHM)
    if algorithm == "rsa":
        room = sized(bytes(256) if unique else b"")
        return _area(RSA, attributes, policy, protects + u16(_RSA_BITS) + u32(0), room)
    room = sized(bytes(32) if unique else b"")
    return _area(ECC, attributes, policy, protects + u16(_P256) + u16(NO_ALGORITHM), room + room)


def ek_template(algorithm: Algorithm) -> bytes:
    """The endorsement key: templates L-1 and L-2."""
    attributes = FIXED_TPM | FIXED_PARENT | _ORIGIN | _ADMIN_WITH_POLICY | RESTRICTED | _DECRYPT
    return _decrypting(algorithm, attributes, EK_POLICY, unique=True)


def ak_template(algorithm: Algorithm) -> bytes:
    """An attestation key: restricted, so that it signs nothing but what the TPM itself says."""
    attributes = FIXED_TPM | FIXED_PARENT | _ORIGIN | _USER_WITH_AUTH | NO_DA | RESTRICTED | _SIGN
    no_cipher = u16(NO_ALGORITHM)
    if algorithm == "rsa":
        scheme = no_cipher + u16(_RSASSA) + u16(SHA256) + u16(_RSA_BITS) + u32(0)
        return _area(RSA, attributes, b"", scheme, sized(b""))
    scheme = no_cipher + u16(_ECDSA) + u16(SHA256) + u16(_P256) + u16(NO_ALGORITHM)
    return _area(ECC, attributes, b"", scheme, sized(b"") + sized(b""))


def storage_template() -> bytes:
    """A storage key of the owner, the parent of what is sealed (TCG Provisioning Guidance, section 7.5.1)."""
    attributes = FIXED_TPM | FIXED_PARENT | _ORIGIN | _USER_WITH_AUTH | NO_DA | RESTRICTED | _DECRYPT
    return _decrypting("ecc", attributes, b"", unique=False)


def sealed_template(policy: bytes) -> bytes:
    """Data that only a session with this policy unseals: the password opens nothing."""
    return _area(KEYED_HASH, FIXED_TPM | FIXED_PARENT | NO_DA, policy, u16(NO_ALGORITHM), sized(b""))


@dataclass(frozen=True, slots=True)
class Public:
    """A key's public area."""

    area: bytes
    """The TPMT_PUBLIC."""
    kind: int
    attributes: int
    policy: bytes
    x: bytes
    """The RSA modulus, or the point's X."""
    y: bytes
    """The RSA exponent, or the point's Y."""

    @property
    def name(self) -> bytes:
        """Algorithm and digest of the public area, 34 bytes (Part 1, section 16)."""
        return u16(SHA256) + hashlib.sha256(self.area).digest()

    @classmethod
    def parse(cls, area: bytes) -> Public:
        """Raises `Malformed`, or `UnsupportedVersion` for a key that is neither RSA nor on P-256."""
        reader = Reader.of(area)
        kind, hashed = reader.number(2), reader.number(2)
        if hashed != SHA256:
            raise UnsupportedVersion("a TPM key is not named by SHA-256")
        attributes, policy = reader.number(4), reader.sized(64)
        if kind not in (RSA, ECC):
            raise UnsupportedVersion(f"a TPM key of type {kind:#x} is neither RSA nor elliptic")
        if reader.number(2) != NO_ALGORITHM:
            reader.take(4)
        scheme = reader.number(2)
        if scheme not in (NO_ALGORITHM, _RSASSA, _ECDSA):
            raise UnsupportedVersion(f"a TPM key has signing scheme {scheme:#x}")
        if scheme != NO_ALGORITHM:
            reader.take(2)
        if kind == RSA:
            reader.take(2)
            exponent = reader.number(4) or _DEFAULT_EXPONENT
            x, y = reader.sized(512), exponent.to_bytes(3 if exponent < 1 << 24 else 4)
        else:
            if reader.number(2) != _P256:
                raise UnsupportedVersion("a TPM key is on another curve than P-256")
            if reader.number(2) != NO_ALGORITHM:
                reader.take(2)
            x, y = reader.sized(32), reader.sized(32)
        reader.done()
        if not x or not y:
            raise Malformed("a TPM key has no public part")
        return cls(bytes(area), kind, attributes, policy, x, y)

    @property
    def spki(self) -> bytes:
        """DER SubjectPublicKeyInfo."""
        return spki.rsa(self.x, self.y) if self.kind == RSA else spki.p256(self.x, self.y)

    @property
    def pem(self) -> bytes:
        """`spki` as PEM."""
        return spki.pem("PUBLIC KEY", self.spki)


__all__ = [
    "ECC",
    "EK_POLICY",
    "RSA",
    "Algorithm",
    "Public",
    "ak_template",
    "ek_template",
    "sealed_template",
    "storage_template",
]
