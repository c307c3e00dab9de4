"""Trust anchors of Arm tokens: the public keys of devices, as whoever provisioned them hands them out.

Bare public keys (PEM, DER, JWK, JWK Set, certificate) count for every device. In a list in the form of Veraison's
stores, ``[{"pkey": JWK, "instance-id": hex, "implementation-id": hex}, ...]``, a key counts only for the device
and the implementation beside it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mesatee import _core
from mesatee.attestation.tee import _files, cose, keys
from mesatee.errors import InputError, KeyRefused, Malformed, TooLarge, TrustError
from mesatee.protocol import jsonstrict, limits

_ROLE: Final = re.compile(r"anchor|public|cpak|iak|key|^ta$")
"""Roles of files that can be nothing but anchors; files with other roles count if they hold some."""
_PEM_KEY: Final = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Anchor:
    """One key, parsed where it is used: a bad one in a long list must not hide the good ones."""

    key: Any
    """PEM or DER bytes, or a JWK as parsed JSON."""
    instance: bytes | None = None
    """None: the key counts for every device."""
    implementation: bytes | None = None

    def public(self) -> keys.PublicKey:
        """Raises `Malformed` or `UnsupportedVersion`."""
        if not isinstance(self.key, bytes):
            return keys.from_jwk(self.key)
        return keys.from_pem(self.key) if self.key.startswith(b"-") else keys.from_spki(self.key)


def parse(data: bytes) -> tuple[Anchor, ...]:
    """All anchors in a file; none if it is of another kind. Raises `Malformed` or `TooLarge`."""
    if len(data) > limits.TRUST_ANCHOR_BYTES:
        raise TooLarge(f"trust anchors have {len(data)} bytes, the limit is {limits.TRUST_ANCHOR_BYTES}")
    if data.lstrip()[:1] in (b"[", b"{"):
        found = tuple(_json(jsonstrict.parse(data, limit=limits.TRUST_ANCHOR_BYTES)))
    elif b"-----BEGIN" in data:
        found = tuple(Anchor(block) for block in _PEM_KEY.findall(data))
        if b"BEGIN CERTIFICATE" in data:
            found += tuple(Anchor(_core.X509.parse(der).spki) for der in _core.pem_certificates(data))
    else:
        spki = _files.plain(data)
        found = (Anchor(spki),) if spki[:1] == b"\x30" else ()
    if len(found) > limits.TRUST_ANCHORS:
        raise TooLarge(f"more than {limits.TRUST_ANCHORS} trust anchors")
    return found


def _json(value: Any) -> Iterator[Anchor]:
    match value:
        case list():
            for item in value:
                yield from _json(item)
        case {"kty": str()}:
            yield Anchor(value)
        case {"keys": list(found)}:
            yield from map(Anchor, found)
        case {"pkey": key}:
            instance = _identifier(value, "instance-id", "inst-id")
            implementation = _identifier(value, "implementation-id", "impl-id")
            yield Anchor(key.encode() if isinstance(key, str) else key, instance, implementation)


def _identifier(entry: dict[str, Any], *names: str) -> bytes | None:
    """An identifier as hex or base64: 33 and 32 bytes, so that the two never look alike."""
    value = next((entry[name] for name in names if name in entry), None)
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(r"([0-9A-Fa-f]{2}){32,64}", value):
        return bytes.fromhex(value)
    try:
        if isinstance(value, str) and len(value) <= limits.CLAIM_CHARS:
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise Malformed("an identifier of a trust anchor is neither hexadecimal nor base64")


def of_case(files: Mapping[str, bytes], token: str) -> tuple[Anchor, ...]:
    """All anchors that a case brings beside its `token`; none is an answer too.

    Raises `Malformed` or `TooLarge` for an anchor file that has no anchors.
    """
    found: list[Anchor] = []
    for role, data in sorted(files.items()):
        if role == token:
            continue
        certain = _ROLE.search(role) is not None
        try:
            anchors = parse(data)
        except InputError:
            if certain:
                raise
            continue
        if certain and not anchors:
            raise Malformed(f"the file with the role {role!r} holds no public key")
        found += anchors
    return tuple(found)


def verify(message: cose.Message, anchors: tuple[Anchor, ...], instance: bytes, implementation: bytes) -> str:
    """Verify a token under the keys for one device; returns the SHA-256 of the one that signed it, hex.

    Raises `KeyRefused` if there is none for it, and what
    `cose.verify` raises if it verifies under none of them.
    """
    failure: InputError | TrustError = KeyRefused("no trust anchor is for this device")
    for anchor in anchors:
        if anchor.instance in (None, instance) and anchor.implementation in (None, implementation):
            try:
                key = anchor.public()
                cose.verify(message, key)
            except (InputError, TrustError) as error:
                failure = error
            else:
                return hashlib.sha256(key.spki).hexdigest()
    raise failure


__all__ = ["Anchor", "of_case", "parse", "verify"]
