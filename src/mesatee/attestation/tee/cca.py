"""Arm Confidential Compute Architecture: the token of a realm and of the platform under it.

Spec: Realm Management Monitor specification (DEN0137) section A7.2, and draft-ffm-rats-cca-token-04 for the
newer profiles. Two COSE_Sign1 messages: the platform's, signed by the CCA platform attestation key (CPAK),
and the realm's, signed by the realm attestation key (RAK). What ties them is the platform's challenge, the
hash of the RAK: without that check, a realm token of one machine goes with the platform token of another.

What it proves: which realm (RIM, REM) runs in memory that the host cannot read, and on which firmware.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from mesatee.attestation import _cbor
from mesatee.attestation.appraisal import Answer, Scalar
from mesatee.attestation.tee import _files, anchors, arm, cose, keys
from mesatee.attestation.tee._settle import Answers, settle
from mesatee.attestation.verdict import Verdict
from mesatee.errors import InputError, Malformed, TrustError, UnsupportedVersion
from mesatee.protocol import limits

if TYPE_CHECKING:
    from mesatee.attestation.corpus import CorpusPolicy

LEVEL: Final = 4
"""Encrypted memory."""
COLLECTION: Final = 399
"""Tag of the token up to RMM 1.0: a map from label to a byte string."""
CMW: Final = 907
"""Tag of the newer token, a CMW collection: a map from label to [CoAP type, byte string]."""
_EAT_CWT: Final = 263
"""CoAP content format application/eat+cwt."""
_PLATFORM: Final = 44234
_REALM: Final = 44241
_HASHES: Final[Mapping[str, int]] = MappingProxyType({"sha-256": 32, "sha-384": 48, "sha-512": 64})
_PLATFORM_PROFILES: Final = (
    "http://arm.com/CCA-SSD/1.0.0",
    "tag:arm.com,2023:cca_platform#1.0.0",
    "tag:arm.com,2024:cca_platform#2.0.0",
)
_REALM_PROFILES: Final = ("", "tag:arm.com,2023:realm#1.0.0", "tag:arm.com,2024:realm#2.0.0")
_REMS: Final = 4


@dataclass(frozen=True, slots=True)
class Platform:
    """The platform token."""

    message: cose.Message
    profile: str
    challenge: bytes
    implementation: bytes
    instance: bytes
    config: bytes
    lifecycle: arm.LifeCycle
    components: tuple[arm.Component, ...]


@dataclass(frozen=True, slots=True)
class Realm:
    """The realm's token."""

    message: cose.Message
    profile: str
    challenge: bytes
    """64 bytes that the realm chose: its report data."""
    personalization: bytes
    initial: bytes
    """Realm initial measurement, RIM."""
    extensible: tuple[bytes, ...]
    """Four realm extensible measurements, REM."""
    hash_name: str
    key: bytes
    """The RAK as claimed: a COSE_Key, or a raw point."""
    key_hash_name: str


@dataclass(frozen=True, slots=True)
class Token:
    """A parsed token; nothing of it is verified yet."""

    platform: Platform
    realm: Realm


def parse(data: bytes) -> Token:
    """Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.

    1. The collection, in the older or the newer form (A7.2.1; draft section 3).
    2. Exactly the two tokens.
    3. Each is a COSE_Sign1 with its mandatory claims (A7.2.3.1, A7.2.3.2).
    """
    # 1. Collection. Some tools drop the older tag.
    match _cbor.decode_foreign(data, limits.COSE_BYTES):
        case _cbor.ForeignTag(number, dict(parts)) if number in (COLLECTION, CMW):
            pass
        case dict(parts):
            number = COLLECTION
        case _:
            raise Malformed(f"a CCA token is not a map with the tag {COLLECTION} or {CMW}")
    # 2. Parts.
    if set(parts) != {_PLATFORM, _REALM}:
        raise Malformed("a CCA token does not consist of a platform token and a realm token")
    platform, realm = (_part(parts[label], number) for label in (_PLATFORM, _REALM))
    # 3. Tokens.
    return Token(_platform(platform), _realm(realm))


def _part(value: _cbor.Foreign, collection: int) -> cose.Message:
    match value:
        case bytes(token) if collection == COLLECTION:
            pass
        case [int(kind), bytes(token)] if collection == CMW and kind == _EAT_CWT:
            pass
        case _:
            raise Malformed("a part of a CCA token is not wrapped as its tag says")
    message = cose.parse(token)
    if message.mac:
        raise UnsupportedVersion("a part of a CCA token is a COSE_Mac0")
    return message


def _platform(message: cose.Message) -> Platform:
    fields = _cbor.ForeignClaims.of(
        "a CCA platform token", _cbor.decode_foreign(message.payload, limits.COSE_BYTES)
    )
    profile = fields.text(265)
    if profile not in _PLATFORM_PROFILES:
        raise UnsupportedVersion(f"CCA platform token of profile {profile!r}")
    _hash_name(fields, 2402)
    return Platform(
        message=message,
        profile=profile,
        challenge=fields.bytes(10, *arm.DIGESTS),
        implementation=fields.bytes(2396, arm.IMPLEMENTATION_BYTES),
        instance=arm.instance(fields, 256),
        config=fields.bytes(2401),
        lifecycle=arm.LifeCycle(fields.number(2395, 0, 0xFFFF)),
        components=arm.components(fields.items(2399)),
    )


def _realm(message: cose.Message) -> Realm:
    fields = _cbor.ForeignClaims.of(
        "a CCA realm token", _cbor.decode_foreign(message.payload, limits.COSE_BYTES)
    )
    profile = fields.text(265) if fields.has(265) else ""
    if profile not in _REALM_PROFILES:
        raise UnsupportedVersion(f"CCA realm token of profile {profile!r}")
    extensible = fields.items(44239)
    measured = [item for item in extensible if isinstance(item, bytes) and len(item) in arm.DIGESTS]
    if not len(measured) == len(extensible) == _REMS:
        raise Malformed(f"a CCA realm token has not {_REMS} extensible measurements")
    return Realm(
        message=message,
        profile=profile,
        challenge=fields.bytes(10, 64),
        personalization=fields.bytes(44235, 64),
        initial=fields.bytes(44238, *arm.DIGESTS),
        extensible=tuple(measured),
        hash_name=_hash_name(fields, 44236),
        key=fields.bytes(44237),
        key_hash_name=_hash_name(fields, 44240),
    )


def _hash_name(fields: _cbor.ForeignClaims, key: int) -> str:
    name = fields.text(key)
    if name not in _HASHES:
        raise UnsupportedVersion(f"{fields.what} uses the hash {name!r}")
    return name


def realm_key(realm: Realm) -> keys.PublicKey:
    """The RAK: a raw point in tokens without a profile, a COSE_Key since (the two never look alike)."""
    return keys.from_point(realm.key) if realm.key[:1] == b"\x04" else keys.from_cose_key(realm.key)


def verify(token: Token, known: tuple[anchors.Anchor, ...]) -> Answers:
    """Answer what is proven, under the platforms' keys `known`.

    1. The realm token's signature verifies under the RAK that it claims.
    2. The platform vouches for that RAK: its challenge is the hash of claim 44237's bytes (A7.2.3.1.7).
    3. The platform token's signature verifies under an anchor for this platform: its CPAK is the root.
    """
    answers = Answers()
    # 1. Realm.
    try:
        cose.verify(token.realm.message, realm_key(token.realm))
    except (InputError, TrustError) as error:
        answers.signature = Answer.REFUSED
        answers.reasons.append(f"signature of the realm token: {error.message}")
    # 2. Binding.
    name = token.realm.key_hash_name.replace("-", "")
    bound = hashlib.new(name, token.realm.key).digest() == token.platform.challenge
    answers.binding = Answer.AFFIRMED if bound else Answer.REFUSED
    if not bound:
        answers.reasons.append("the platform token does not vouch for the realm's key")
    # 3. Platform.
    if not known:
        answers.reasons.append("no trust anchor was given")
        return answers
    platform = token.platform
    try:
        answers.anchor = anchors.verify(platform.message, known, platform.instance, platform.implementation)
    except (InputError, TrustError) as error:
        answers.signature = Answer.REFUSED
        answers.reasons.append(f"signature of the platform token: {error.message}")
        return answers
    answers.chain = Answer.AFFIRMED
    if answers.signature is not Answer.REFUSED:
        answers.signature = Answer.AFFIRMED
    return answers


def validate(token: Token) -> tuple[str, ...]:
    """What the corpus policy has against the values."""
    found = list(token.platform.lifecycle.objections())
    size = _HASHES[token.realm.hash_name]
    # RMM pads measurements with zeros to 64 bytes, and tokens made by hand do so too; shorter is impossible.
    if any(len(item) < size for item in (token.realm.initial, *token.realm.extensible)):
        found.append(f"a realm measurement is shorter than its hash {token.realm.hash_name}")
    return tuple(found)


def claims(token: Token) -> dict[str, Scalar]:
    """The token's claims, in one vocabulary."""
    platform, realm = token.platform, token.realm
    return {
        "debug": platform.lifecycle.debug,
        "platform.config": platform.config.hex(),
        "platform.implementation": platform.implementation.hex(),
        "platform.instance": platform.instance.hex(),
        "platform.lifecycle": platform.lifecycle.state,
        "platform.profile": platform.profile,
        "realm.challenge": realm.challenge.hex(),
        "realm.hash": realm.hash_name,
        "realm.key": hashlib.sha256(realm.key).hexdigest(),
        "realm.personalization": realm.personalization.hex(),
        "realm.profile": realm.profile,
        "measurement.platform": arm.digest(platform.components),
        "measurement.rim": realm.initial.hex(),
        **{f"measurement.rem{index}": value.hex() for index, value in enumerate(realm.extensible)},
        **arm.claims(platform.components),
    }


def check(files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
    """Appraise one case: role ``token``, and the anchors that it brings. Tokens carry no time, so `at` decides
    nothing. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    token = parse(_files.evidence(files, "cca", "token"))
    return settle(
        verify(token, anchors.of_case(files, "token")),
        validate(token),
        level=LEVEL,
        measurement=token.realm.initial.hex(),
        claims=claims(token),
    )


__all__ = [
    "CMW",
    "COLLECTION",
    "LEVEL",
    "Platform",
    "Realm",
    "Token",
    "check",
    "claims",
    "parse",
    "realm_key",
    "validate",
    "verify",
]
