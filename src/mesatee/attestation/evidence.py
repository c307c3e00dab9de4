"""The value of the certificate extension 2.23.133.5.4.9 (TCG DICE tagged evidence, CCC interoperable RA-TLS).

    tag([evidence bstr, claims bstr])

The tag names the kind of evidence. `claims` is a deterministic CBOR map::

    {"pubkey-hash": bstr .cbor [1, SHA-256(SubjectPublicKeyInfo)],   1 is sha-256 (Named Information)
     "role": "gateway" | "worker",
     ? "service": bstr .size 32,                digest of the service statement that a gateway serves
     ? "environments": {* tstr => bstr .size 32},  digests of the environments that a worker offers
     ? "nonce": bstr,
     * tstr => bstr | tstr | int | bool}        other profiles' claims: kept, never interpreted

and the evidence's 64 bytes of report data are ``SHA-256(claims) || 32 zero bytes``: whoever signed the report
vouched for the claims, and through ``pubkey-hash`` for the key of the channel.

Tags: 60000 to 60002 are interoperable RA-TLS's own (Intel quote, TDREPORT, EREPORT). Ours are four ASCII-led
bytes in the first-come-first-served range of RFC 8949 section 9.2: "MTE" followed by the kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, cast

import cbor2

from mesatee.attestation import _cbor
from mesatee.attestation.bundle import Bundle
from mesatee.errors import Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

Role: TypeAlias = Literal["gateway", "worker"]
Extra: TypeAlias = int | bytes | str | bool

ROLES: Final[tuple[Role, ...]] = ("gateway", "worker")
TAG_NONE: Final = 0x4D544501
TAG_SOFTWARE: Final = 0x4D544502
TAG_PLATFORM: Final = 0x4D544503
"""A `bundle.Bundle`: evidence of hardware, whose class the bundle names."""
TEE_OF_TAG: Final[Mapping[int, str]] = MappingProxyType({TAG_NONE: "none", TAG_SOFTWARE: "software"})
PLATFORM_TEES: Final = frozenset(
    {"azure-vtpm", "cca", "keystone", "nitro", "psa", "sgx", "snp", "tdx", "tpm"}
)
"""Classes of TEE that a bundle may name. Event logs and devices alone prove no machine, and OP-TEE's attestation
vouches for no process: it answers any of them."""
HEADS: Final[Mapping[str, str]] = MappingProxyType(
    {"azure-vtpm": "quote", "cca": "token", "sgx": "quote", "snp": "report", "tdx": "quote"}
)
"""Classes whose evidence can be the head of a composite (`tee.composite`) -> the piece that vouches for the claims."""
LINKS: Final[Mapping[str, str]] = MappingProxyType({"nvidia-gpu": "nvidia-gpu-keys", "tpm": "tpm-ak-name"})
"""Class of another part of a composite -> the claim (bytes) by which the head names that part's key."""
COMPOSITES: Final = frozenset(
    {f"{head}+{part}" for head in ("snp", "tdx") for part in ("nvidia-gpu", "nvidia-gpu+tpm", "tpm")}
    | {"azure-vtpm+nvidia-gpu", "cca+tpm", "sgx+tpm"}
)
"""Classes of composites: the head, then the others in alphabetical order."""
PART_NONCE_BYTES: Final = 32
_PART: Final = b"mesatee composite 1\0"
_SHA_256: Final = 1
_NONCE_BYTES: Final = range(8, 65)


def _frozen(value: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(sorted(value.items())))


@dataclass(frozen=True, slots=True)
class Claims:
    """What the holder of a channel key says of itself, vouched for by the evidence beside it."""

    pubkey_hash: bytes
    """SHA-256 of the channel key's SubjectPublicKeyInfo, 32 bytes."""
    role: Role
    service: str | None = None
    """Digest of the service statement, hex."""
    environments: Mapping[str, str] = field(default_factory=dict)
    """Name of an execution environment -> its digest, hex."""
    nonce: bytes | None = None
    extra: Mapping[str, Extra] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "environments", _frozen(self.environments))
        object.__setattr__(self, "extra", MappingProxyType(dict(sorted(self.extra.items()))))

    @classmethod
    def of_key(
        cls,
        spki: bytes,
        role: Role,
        *,
        service: str | None = None,
        environments: Mapping[str, str] | None = None,
    ) -> Claims:
        """The claims of the channel key whose DER SubjectPublicKeyInfo is `spki`."""
        return cls(hashlib.sha256(spki).digest(), role, service, environments or {})

    def cover(self, measured: Mapping[str, str]) -> bool:
        """Whether they name each of these environments as it was measured.

        Further ones, which a worker measured later, stand in the claims alone: evidence binds claims to the code that
        was measured, and what that code says of itself is as good as its measurement. Who was measured as no worker has
        none.
        """
        return measured.items() <= self.environments.items() and bool(measured) >= bool(self.environments)

    def encode(self) -> bytes:
        """Deterministic CBOR. Raises `Malformed` or `TooLarge` for values that `parse` would refuse."""
        value: dict[str, object] = dict(self.extra)
        value["pubkey-hash"] = _cbor.encode([_SHA_256, self.pubkey_hash])
        value["role"] = self.role
        if self.service is not None:
            value["service"] = unhex(self.service)
        if self.environments:
            value["environments"] = {name: unhex(digest) for name, digest in self.environments.items()}
        if self.nonce is not None:
            value["nonce"] = self.nonce
        encoded = _cbor.encode(value)
        if Claims.parse(encoded) != self:
            raise Malformed("an extra claim has the name of a claim of ours")
        return encoded

    @classmethod
    def parse(cls, data: bytes) -> Claims:
        """Raises `Malformed` or `TooLarge`."""
        fields = _cbor.Fields.of("the claims", _cbor.decode(data, limits.CLAIMS_BYTES))
        hashed = fields.bytes("pubkey-hash", 36)
        if hashed[:4] != b"\x82\x01\x58\x20":
            raise Malformed("'pubkey-hash' of the claims is not CBOR of [1, SHA-256]")
        role = fields.text("role")
        if role not in ROLES:
            raise Malformed("'role' of the claims is neither gateway nor worker")
        service = fields.bytes("service", 32).hex() if fields.has("service") else None
        environments = fields.digests("environments") if fields.has("environments") else {}
        if fields.has("environments") and not environments:
            raise Malformed("'environments' of the claims is empty: leave it out")
        nonce = fields.values.get("nonce")
        if fields.has("nonce"):
            fields.taken.add("nonce")
            if not isinstance(nonce, bytes) or len(nonce) not in _NONCE_BYTES:
                raise Malformed("'nonce' of the claims is not 8 to 64 bytes (RFC 9711 section 4.1)")
        return cls(
            hashed[4:],
            role,
            service,
            environments,
            cast(bytes | None, nonce),
            _extra(fields.rest()),
        )


def _extra(values: Mapping[str, _cbor.Value]) -> dict[str, Extra]:
    if len(values) > limits.EXTRA_CLAIMS:
        raise TooLarge(f"more than {limits.EXTRA_CLAIMS} claims of other profiles")
    kept: dict[str, Extra] = {}
    for name, value in values.items():
        if value is None or isinstance(value, list | dict | _cbor.Tag):
            raise Malformed("a claim of another profile is neither number, bytes, text nor truth value")
        kept[name] = value
    return kept


@dataclass(frozen=True, slots=True)
class Evidence:
    """One decoded extension value."""

    tee: str
    """Class of the TEE, by the tag."""
    tag: int
    body: bytes
    """The attester's own format, not yet parsed."""
    claims_bytes: bytes
    claims: Claims


def encode(tag: int, body: bytes, claims: bytes) -> bytes:
    """The extension's value. Raises `TooLarge` when a certificate could not carry it."""
    value = _cbor.encode(cbor2.CBORTag(tag, [body, claims]))
    if len(value) > limits.EVIDENCE_BYTES:
        raise TooLarge(f"evidence has {len(value)} bytes, the limit is {limits.EVIDENCE_BYTES}")
    return value


def decode(extension: bytes) -> Evidence:
    """Raises `Malformed`, `TooLarge`, or `UnsupportedVersion` for a tag that no module here verifies."""
    value = _cbor.decode(extension, limits.EVIDENCE_BYTES)
    if not isinstance(value, _cbor.Tag):
        raise Malformed("the evidence is not a tagged CBOR item")
    if value.number not in TEE_OF_TAG and value.number != TAG_PLATFORM:
        raise UnsupportedVersion(
            f"evidence of CBOR tag {value.number} is not known",
            hint="known are: " + ", ".join(f"{name} ({tag})" for tag, name in TEE_OF_TAG.items()),
        )
    if isinstance(value.value, list) and len(value.value) == 2:
        body, claims = value.value
        if isinstance(body, bytes) and isinstance(claims, bytes):
            tee = TEE_OF_TAG.get(value.number) or _platform(body)
            return Evidence(tee, value.number, body, claims, Claims.parse(claims))
    raise Malformed("tagged evidence is not [evidence bytes, claims bytes]")


def _platform(body: bytes) -> str:
    tee = Bundle.parse(body).tee
    if tee not in PLATFORM_TEES and tee not in COMPOSITES:
        raise UnsupportedVersion(
            f"evidence of TEE class {tee!r} is not known",
            hint="known are: " + ", ".join(sorted(PLATFORM_TEES | COMPOSITES)),
        )
    return tee


def report_data(claims: bytes) -> bytes:
    """64 bytes: what the evidence must carry for these claims.

    >>> report_data(b"").hex()[:8], len(report_data(b""))
    ('e3b0c442', 64)
    """
    return hashlib.sha256(claims).digest() + bytes(32)


def part_data(part: str, head_data: bytes, head_report: bytes) -> bytes:
    """64 bytes: what the part of class `part` of a composite must sign, for the head's report data and very report.

    Another class, other claims or another report of the same head give another value, and so does evidence of that
    part alone.
    """
    digest = hashlib.sha256(
        _PART
        + part.encode()
        + b"\0"
        + hashlib.sha256(head_data).digest()
        + hashlib.sha256(head_report).digest()
    )
    return digest.digest() + bytes(64 - PART_NONCE_BYTES)


def unhex(digest: str) -> bytes:
    """The 32 bytes of a SHA-256 digest in lower-case hex. Raises `Malformed`."""
    if len(digest) != 64 or any(char not in "0123456789abcdef" for char in digest):
        raise Malformed("a digest is not 64 lower-case hex digits")
    return bytes.fromhex(digest)


__all__ = [
    "COMPOSITES",
    "HEADS",
    "LINKS",
    "PART_NONCE_BYTES",
    "PLATFORM_TEES",
    "ROLES",
    "TAG_NONE",
    "TAG_PLATFORM",
    "TAG_SOFTWARE",
    "TEE_OF_TAG",
    "Claims",
    "Evidence",
    "Extra",
    "Role",
    "decode",
    "encode",
    "part_data",
    "report_data",
    "unhex",
]
