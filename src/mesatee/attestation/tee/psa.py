"""Arm PSA attestation tokens, as TrustZone devices make them (Trusted Firmware-M).

Spec: RFC 9783. Profiles: ``PSA_IOT_PROFILE_1`` (PSA Attestation API 1.0, claims from -75000 down),
``http://arm.com/psa/2.0.0`` (TF-M), ``tag:psacertified.org,2019:psa#legacy`` and
``tag:psacertified.org,2023:psa#tfm`` (RFC 9783 section 5).

What it proves: which firmware booted on a device that holds its initial attestation key (IAK), and the
device's life cycle. Memory is not encrypted: whoever reads the RAM reads the data (level 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mesatee.attestation import _cbor
from mesatee.attestation.appraisal import Answer, Scalar
from mesatee.attestation.tee import _files, anchors, arm, cose
from mesatee.attestation.tee._settle import Answers, settle
from mesatee.attestation.verdict import Verdict
from mesatee.errors import InputError, TrustError, UnsupportedVersion
from mesatee.protocol import limits

if TYPE_CHECKING:
    from mesatee.attestation.corpus import CorpusPolicy

LEVEL: Final = 3
"""Measured boot."""
PROFILE_1: Final = "PSA_IOT_PROFILE_1"
PROFILES: Final = (
    PROFILE_1,
    "http://arm.com/psa/2.0.0",
    "tag:psacertified.org,2019:psa#legacy",
    "tag:psacertified.org,2023:psa#tfm",
)


@dataclass(frozen=True, slots=True)
class _Keys:
    """Where a profile keeps its claims."""

    profile: int
    client: int
    lifecycle: int
    implementation: int
    components: int
    nonce: int
    instance: int
    service: int
    reference: int


_P1: Final = _Keys(-75000, -75001, -75002, -75003, -75006, -75008, -75009, -75010, -75005)
_P2: Final = _Keys(265, 2394, 2395, 2396, 2399, 10, 256, 2400, 2398)
_P1_UNMEASURED: Final = -75007
"""Profile 1: says in place of the components that nothing was measured."""


@dataclass(frozen=True, slots=True)
class Token:
    """A parsed token; nothing of it is verified yet."""

    message: cose.Message
    profile: str
    client: int
    lifecycle: arm.LifeCycle
    implementation: bytes
    instance: bytes
    nonce: bytes
    components: tuple[arm.Component, ...]
    reference: str
    """The certification reference or hardware version; empty when absent."""


def parse(data: bytes) -> Token:
    """Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.

    1. COSE_Sign1 or COSE_Mac0 (section 5.1.2).
    2. The profile decides which keys hold the claims. Profile 1 may leave its name out.
    3. The mandatory claims with their sizes (section 4), and what is used of the others.
    """
    # 1. Envelope.
    message = cose.parse(data)
    fields = _cbor.ForeignClaims.of("a PSA token", _cbor.decode_foreign(message.payload, limits.COSE_BYTES))
    # 2. Profile.
    where = _P2 if fields.has(_P2.profile) else _P1
    profile = fields.text(where.profile) if fields.has(where.profile) else PROFILE_1
    if profile not in PROFILES or (profile == PROFILE_1) is not (where is _P1):
        raise UnsupportedVersion(f"PSA token of profile {profile!r}")
    # 3. Claims.
    unmeasured = where is _P1 and not fields.has(_P1.components) and fields.has(_P1_UNMEASURED)
    return Token(
        message=message,
        profile=profile,
        client=fields.number(where.client, -(1 << 31), (1 << 31) - 1),
        lifecycle=arm.LifeCycle(fields.number(where.lifecycle, 0, 0xFFFF)),
        implementation=fields.bytes(where.implementation, arm.IMPLEMENTATION_BYTES),
        instance=arm.instance(fields, where.instance),
        nonce=fields.bytes(where.nonce, *arm.DIGESTS),
        components=() if unmeasured else arm.components(fields.items(where.components)),
        reference=fields.text(where.reference) if fields.has(where.reference) else "",
    )


def verify(token: Token, known: tuple[anchors.Anchor, ...]) -> Answers:
    """Answer what is proven, under the devices' keys `known`.

    1. A Mac0 token (section 5.1.2 allows it) proves something only to the holder of the device's own key, who could
       have made it himself: nothing is established.
    2. The signature verifies under an anchor for this device: its IAK is the root, there is no certificate (section 7).
    """
    answers = Answers()
    # 1. MAC.
    if token.message.mac:
        answers.reasons.append("a COSE_Mac0 token: nobody but the holder of its key can verify it")
        return answers
    # 2. Signature.
    if not known:
        answers.reasons.append("no trust anchor was given")
        return answers
    try:
        answers.anchor = anchors.verify(token.message, known, token.instance, token.implementation)
    except (InputError, TrustError) as error:
        answers.signature = Answer.REFUSED
        answers.reasons.append(f"signature of the token: {error.message}")
        return answers
    answers.signature = answers.chain = Answer.AFFIRMED
    return answers


def validate(token: Token) -> tuple[str, ...]:
    """What the corpus policy has against the values."""
    measured = () if token.components else ("the device measured no software",)
    return (*token.lifecycle.objections(), *measured)


def claims(token: Token) -> dict[str, Scalar]:
    """The token's claims, in one vocabulary."""
    return {
        "client": token.client,
        "debug": token.lifecycle.debug,
        "implementation": token.implementation.hex(),
        "instance": token.instance.hex(),
        "lifecycle": token.lifecycle.state,
        "nonce": token.nonce.hex(),
        "profile": token.profile,
        "reference": token.reference,
        **arm.claims(token.components),
    }


def check(files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
    """Appraise one case: role ``token``, and the anchors that it brings. Tokens carry no time, so `at` decides
    nothing. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    token = parse(_files.evidence(files, "psa", "token"))
    known = () if token.message.mac else anchors.of_case(files, "token")
    return settle(
        verify(token, known),
        validate(token),
        level=LEVEL,
        measurement=arm.digest(token.components),
        claims=claims(token),
    )


__all__ = ["LEVEL", "PROFILES", "Token", "check", "claims", "parse", "validate", "verify"]
