"""Structures of TPM 2.0: attestation, public area and signature, read strictly and believed in nothing.

Spec: TCG TPM 2.0 Library, Part 2 "Structures", 1.59. Numbers are big-endian; a TPM2B has its size in front.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mesatee import _core
from mesatee.attestation.tee.eventlog import HASHES, PCRS
from mesatee.errors import EvidenceRefused, Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

GENERATED: Final = b"\xffTCG"
"""TPM_GENERATED_VALUE: a restricted key signs nothing that begins so unless the TPM made it (Part 2, 6.2)."""
QUOTE: Final = 0x8018
RSA: Final = 0x0001
ECC: Final = 0x0023
_NULL: Final = 0x0010
_RSASSA, _RSAPSS, _ECDSA = 0x0014, 0x0016, 0x0018
_CURVES: Final[Mapping[int, tuple[str, int]]] = MappingProxyType(
    {0x0003: ("p256", 32), 0x0004: ("p384", 48), 0x0005: ("p521", 66)}
)
_ATTRIBUTES: Final[Mapping[int, str]] = MappingProxyType(
    {1: "fixedTPM", 4: "fixedParent", 5: "sensitiveDataOrigin", 16: "restricted", 18: "sign"}
)
"""Bits of TPMA_OBJECT that an attestation key has: made in this TPM, never leaves it, signs only the TPM's words."""
_DECRYPT: Final = 17


@dataclass(slots=True)
class _Reader:
    what: str
    data: bytes
    position: int = 0

    def __post_init__(self) -> None:
        if len(self.data) > limits.TPM_BYTES:
            raise TooLarge(f"{self.what} has {len(self.data)} bytes, the limit is {limits.TPM_BYTES}")

    def take(self, count: int) -> bytes:
        piece = self.data[self.position : self.position + count]
        if len(piece) != count:
            raise Malformed(f"{self.what} is cut short")
        self.position += count
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def sized(self) -> bytes:
        """A TPM2B."""
        return self.take(self.number(2))

    def done(self) -> None:
        if self.position != len(self.data):
            raise Malformed(f"bytes follow {self.what}")


def unprefixed(data: bytes) -> bytes:
    """What is in a TPM2B, if `data` is one from its first byte to its last; else `data`."""
    return data[2:] if len(data) > 2 and int.from_bytes(data[:2]) == len(data) - 2 else data


@dataclass(frozen=True, slots=True)
class Attest:
    """TPMS_ATTEST of TPM2_Quote (Part 2, 10.12.8 and 10.12.1)."""

    signer: bytes
    """Qualified name of the key that signed."""
    extra: bytes
    """The caller's nonce."""
    clock: int
    """Milliseconds."""
    resets: int
    restarts: int
    safe: bool
    firmware: int
    selection: tuple[tuple[str, tuple[int, ...]], ...]
    """Bank and indices, in the order that the digest has them."""
    selected: bytes
    """The same as it was signed: TPML_PCR_SELECTION (Part 2, 10.9.7)."""
    digest: bytes

    @property
    def measurement(self) -> str:
        """SHA-256 over the selection as signed and the digest, hex.

        The digest alone is over values, and does not say of which registers: others can be extended to hold the same.
        """
        return hashlib.sha256(self.selected + self.digest).hexdigest()

    @property
    def session(self) -> tuple[object, ...]:
        """What two quotes have in common if one TPM made them in one boot for one nonce (Part 1, 36)."""
        return self.signer, self.extra, self.resets, self.restarts, self.safe, self.firmware

    def covers(self, bank: str) -> frozenset[int]:
        """Indices that were quoted of a bank."""
        return frozenset(index for name, indices in self.selection if name == bank for index in indices)


def parse_attest(data: bytes) -> Attest:
    """Raises `EvidenceRefused` if it is nothing that a TPM said, `Malformed`, `TooLarge` or `UnsupportedVersion`."""
    reader = _Reader("the quote", unprefixed(data))
    if reader.take(4) != GENERATED:
        raise EvidenceRefused("the signed message was not made by a TPM: it has not the TPM's magic number")
    if (kind := reader.number(2)) != QUOTE:
        raise EvidenceRefused(f"the TPM attests something else than a quote: type {kind:#06x}")
    signer, extra = reader.sized(), reader.sized()
    clock, resets, restarts = reader.number(8), reader.number(4), reader.number(4)
    safe = reader.number(1)
    if safe > 1:
        raise Malformed("the quote's clock is neither safe nor unsafe")
    firmware = reader.number(8)
    start = reader.position
    count = reader.number(4)
    if count > limits.EVENT_BANKS:
        raise TooLarge(f"the quote selects from {count} banks, the limit is {limits.EVENT_BANKS}")
    selection: list[tuple[str, tuple[int, ...]]] = []
    for _ in range(count):
        algorithm, bitmap = reader.number(2), reader.take(reader.number(1))
        if algorithm not in HASHES:
            raise UnsupportedVersion(f"the quote has PCRs of the unknown algorithm {algorithm:#06x}")
        indices = tuple(i for i in range(8 * len(bitmap)) if bitmap[i // 8] >> i % 8 & 1)
        if indices and indices[-1] >= PCRS:
            raise Malformed(f"the quote has a PCR above {PCRS - 1}")
        selection.append((HASHES[algorithm][0], indices))
    selected = reader.data[start : reader.position]
    digest = reader.sized()
    reader.done()
    return Attest(
        signer, extra, clock, resets, restarts, bool(safe), firmware, tuple(selection), selected, digest
    )


@dataclass(frozen=True, slots=True)
class Public:
    """TPMT_PUBLIC of a signing key (Part 2, 12.2.4)."""

    attributes: int
    scheme_hash: str | None
    spki: bytes

    def objections(self) -> tuple[str, ...]:
        """Why the key is no attestation key; empty if it is one."""
        lacking = [name for bit, name in _ATTRIBUTES.items() if not self.attributes >> bit & 1]
        found = [f"the attestation key is not {name}" for name in lacking]
        if self.attributes >> _DECRYPT & 1:
            found.append("the attestation key may also decrypt")
        return tuple(found)


def parse_public(data: bytes) -> Public:
    """Raises `Malformed`, `TooLarge` or `UnsupportedVersion`."""
    reader = _Reader("the public area of the TPM's key", unprefixed(data))
    kind = reader.number(2)
    if kind not in (RSA, ECC):
        raise UnsupportedVersion(f"the TPM's key is of the unknown kind {kind:#06x}")
    reader.take(2)  # name algorithm
    attributes = reader.number(4)
    reader.sized()  # policy
    if reader.number(2) != _NULL:
        reader.take(4)  # symmetric: bits and mode
    scheme_hash = None
    if reader.number(2) != _NULL:
        scheme_hash = HASHES.get(reader.number(2), ("", 0))[0] or None
    if kind == RSA:
        reader.take(2)  # bits, which the modulus shows
        exponent = reader.number(4) or 65_537
        spki = _core.spki_from_rsa(reader.sized(), exponent.to_bytes(4))
    else:
        curve = reader.number(2)
        if curve not in _CURVES:
            raise UnsupportedVersion(f"the TPM's key is on the unknown curve {curve:#06x}")
        if reader.number(2) != _NULL:
            reader.take(2)  # hash of the key derivation
        name, size = _CURVES[curve]
        x, y = reader.sized(), reader.sized()
        if max(len(x), len(y)) > size:
            raise Malformed("a coordinate of the TPM's key is too long")
        spki = _core.spki_from_point(name, x.rjust(size, b"\0") + y.rjust(size, b"\0"))
    reader.done()
    return Public(attributes, scheme_hash, spki)


@dataclass(frozen=True, slots=True)
class Signature:
    """TPMT_SIGNATURE, or the bare bytes of an RSA signature."""

    hash: str | None
    """None for bare bytes."""
    scheme: int
    parts: tuple[bytes, ...]

    def verify(self, spki: bytes, message: bytes, hash_name: str) -> None:
        """Raises what `_core.verify_signature` raises."""
        if self.scheme == _ECDSA:
            curve, size = _curve_of(spki)
            r, s = self.parts
            if max(len(r), len(s)) > size:
                raise Malformed("a number of the TPM's signature is too long")
            fixed = r.rjust(size, b"\0") + s.rjust(size, b"\0")
            return _core.verify_signature(f"ecdsa-{curve}-{hash_name}", spki, fixed, message)
        padding = "pss" if self.scheme == _RSAPSS else "pkcs1"
        return _core.verify_signature(f"rsa-{padding}-{hash_name}", spki, self.parts[0], message)


_CURVE_OIDS: Final[Mapping[bytes, tuple[str, int]]] = MappingProxyType(
    {
        bytes.fromhex("06082a8648ce3d030107"): ("p256", 32),
        bytes.fromhex("06052b81040022"): ("p384", 48),
        bytes.fromhex("06052b81040023"): ("p521", 66),
    }
)


def _curve_of(spki: bytes) -> tuple[str, int]:
    for oid, curve in _CURVE_OIDS.items():
        if oid in spki[:32]:
            return curve
    raise UnsupportedVersion("the TPM signed by ECDSA, and the key given is of another kind")


def parse_signature(data: bytes) -> Signature:
    """Raises `Malformed`, `TooLarge` or `UnsupportedVersion`."""
    if len(data) in (256, 384, 512) and not _is_signature(data):
        return Signature(None, _RSASSA, (data,))
    reader = _Reader("the TPM's signature", data)
    scheme, algorithm = reader.number(2), reader.number(2)
    if scheme not in (_RSASSA, _RSAPSS, _ECDSA) or algorithm not in HASHES:
        raise UnsupportedVersion(
            f"the TPM's signature is of the unknown scheme {scheme:#06x}, {algorithm:#06x}"
        )
    parts = (reader.sized(), reader.sized()) if scheme == _ECDSA else (reader.sized(),)
    reader.done()
    return Signature(HASHES[algorithm][0], scheme, parts)


def _is_signature(data: bytes) -> bool:
    return int.from_bytes(data[:2]) in (_RSASSA, _RSAPSS) and int.from_bytes(data[4:6]) == len(data) - 6


__all__ = [
    "GENERATED",
    "Attest",
    "Public",
    "Signature",
    "parse_attest",
    "parse_public",
    "parse_signature",
    "unprefixed",
]
