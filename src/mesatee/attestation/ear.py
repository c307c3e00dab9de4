"""Signed appraisals: EAT Attestation Results as JWT and as CWT, for relying parties that do not verify evidence.

Whoever accepts one trusts its verifier in place of the evidence; our own channels never do, they appraise.
Signed with EdDSA (Ed25519) only, and the algorithm is not taken from the token: a token of another is refused.

Spec: draft-ietf-rats-ear (claims and their CBOR keys), RFC 7519 and RFC 7515 (JWT, JWS compact), RFC 8392 and
RFC 9052 (CWT, COSE_Sign1), RFC 8037 (EdDSA).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

import cbor2

from mesatee import _core
from mesatee.attestation import _cbor
from mesatee.attestation.appraisal import EAR_PROFILE, VECTOR, Answer, Appraisal, Status, tier
from mesatee.attestation.tee import cose, keys
from mesatee.errors import EvidenceRefused, Malformed, SignatureInvalid, TooLarge, UnsupportedVersion
from mesatee.protocol import limits
from mesatee.protocol.jsonstrict import canonical, parse_object

_JWT_HEADER: Final = {"alg": "EdDSA", "typ": "JWT"}
_EDDSA: Final = -8
_STATUS: Final[Mapping[Status, int]] = MappingProxyType(
    {Status.NONE: 0, Status.AFFIRMING: 2, Status.WARNING: 32, Status.CONTRAINDICATED: 96}
)
_PROFILE, _IAT, _EXP, _SUBMODS, _VERIFIER = 265, 6, 4, 266, 1004
_EAR_STATUS, _EAR_VECTOR, _EAR_POLICY = 1000, 1001, 1003
_APPRAISAL: Final = "mesatee.appraisal"


class Signer(Protocol):
    """An Ed25519 signing key by handle."""

    @property
    def public(self) -> bytes:
        """32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""


def to_jwt(appraisal: Appraisal, signer: Signer) -> str:
    """The appraisal as a JWT in JWS compact serialisation."""
    signed = f"{_base64url(canonical(_JWT_HEADER))}.{_base64url(canonical(appraisal.as_ear()))}"
    return f"{signed}.{_base64url(signer.sign(signed.encode()))}"


def from_jwt(token: str, public: bytes, at: int, policy: str) -> Appraisal:
    """The appraisal in a JWT by the verifier whose Ed25519 key is `public` (32 bytes), at `at` (Unix seconds).

    `policy`: the digest of the trust policy that the reader asked to be applied (`trust.TrustPolicy.digest`). What
    another policy accepts says nothing about this one.

    1. Three parts of base64url, a header that says EdDSA and nothing critical (RFC 7515 section 5.2).
    2. The signature, before anything of the payload is read.
    3. The claims (`_read`).

    Raises `Malformed`, `TooLarge`, `UnsupportedVersion`, `SignatureInvalid`, or `EvidenceRefused` out of its time
    or under another policy.
    """
    # 1. Form.
    if len(token) > limits.EAR_BYTES:
        raise TooLarge(f"an attestation result has {limits.EAR_BYTES} bytes at most")
    parts = token.split(".")
    if len(parts) != 3 or not token.isascii():
        raise Malformed("a JWT is three parts of base64url with dots between them")
    header = parse_object(_unbase64url(parts[0]), limit=limits.EAR_BYTES)
    if header.get("alg") != _JWT_HEADER["alg"] or "crit" in header:
        raise UnsupportedVersion("an attestation result is signed with EdDSA and has no critical headers")
    # 2. Signature.
    _core.verify_ed25519(public, _signature(_unbase64url(parts[2])), f"{parts[0]}.{parts[1]}".encode())
    # 3. Claims.
    return _read(parse_object(_unbase64url(parts[1]), limit=limits.EAR_BYTES), at, policy)


def to_cwt(appraisal: Appraisal, signer: Signer) -> bytes:
    """The appraisal as a CWT: a tagged COSE_Sign1 over the claims with the draft's numbers for keys."""
    said = appraisal.as_ear()
    verifier = said["ear.verifier-id"]
    inner = said["submods"][appraisal.role]
    claims: dict[int, Any] = {
        _PROFILE: said["eat_profile"],
        _IAT: said["iat"],
        _EXP: said["exp"],
        # draft-ietf-rats-ear: developer 0, build 1.
        _VERIFIER: {0: verifier["developer"], 1: verifier["build"]},
        _SUBMODS: {
            appraisal.role: {
                _EAR_STATUS: _STATUS[appraisal.status],
                _EAR_VECTOR: {VECTOR.index(name): value for name, value in appraisal.vector.items()},
                _EAR_POLICY: inner["ear.appraisal-policy-id"],
                # A claim of ours: as bytes, so that it has one form in both tokens.
                _APPRAISAL: canonical(appraisal.as_dict()),
            }
        },
    }
    message = cose.Message(False, _EDDSA, _cbor.encode({1: _EDDSA}), _cbor.encode(claims), b"")
    signature = signer.sign(message.to_be_signed())
    return _cbor.encode(cbor2.CBORTag(cose.SIGN1, [message.protected, {}, message.payload, signature]))


def from_cwt(token: bytes, public: bytes, at: int, policy: str) -> Appraisal:
    """The appraisal in a CWT by the verifier whose Ed25519 key is `public`; as `from_jwt`."""
    message = cose.parse(token, limits.EAR_BYTES)
    if message.mac or message.algorithm != _EDDSA:
        raise UnsupportedVersion("an attestation result is signed with EdDSA")
    cose.verify(message, keys.PublicKey("ed25519", keys.ed25519_spki(public)))
    claims = _cbor.ForeignClaims.of(
        "an attestation result", _cbor.decode_foreign(message.payload, limits.EAR_BYTES)
    )
    submods = claims.values.get(_SUBMODS)
    if not isinstance(submods, dict) or len(submods) != 1:
        raise Malformed("an attestation result of ours is about one peer")
    (role, inner), *_ = submods.items()
    body = inner.get(_APPRAISAL) if isinstance(inner, dict) else None
    if not isinstance(role, str) or not isinstance(inner, dict) or not isinstance(body, bytes):
        raise Malformed("an attestation result lacks the appraisal")
    names = {number: status.value for status, number in _STATUS.items()}
    status, vector = inner.get(_EAR_STATUS), inner.get(_EAR_VECTOR)
    if not isinstance(vector, dict) or not set(vector) <= set(range(len(VECTOR))):
        raise Malformed("the trustworthiness vector of an attestation result is not a map of known claims")
    value = {
        "eat_profile": claims.values.get(_PROFILE),
        "iat": claims.values.get(_IAT),
        "exp": claims.values.get(_EXP),
        "submods": {
            role: {
                "ear.status": names.get(status) if isinstance(status, int) else None,
                "ear.trustworthiness-vector": {
                    name: vector[index] for index, name in enumerate(VECTOR) if index in vector
                },
                "ear.appraisal-policy-id": inner.get(_EAR_POLICY),
                _APPRAISAL: parse_object(body, limit=limits.EAR_BYTES),
            }
        },
    }
    return _read(value, at, policy)


def _read(value: Mapping[str, Any], at: int, policy: str) -> Appraisal:
    """1. The profile. 2. One submodule with our appraisal. 3. The claims around it say the same, and status, vector
    and answers go together. 4. The policy that was asked for. 5. The time.
    """
    # 1. Profile.
    if value.get("eat_profile") != EAR_PROFILE:
        raise UnsupportedVersion(f"an attestation result has the profile {EAR_PROFILE}")
    # 2. Submodule.
    submods = value.get("submods")
    if not isinstance(submods, dict) or len(submods) != 1:
        raise Malformed("an attestation result of ours is about one peer")
    (role, inner), *_ = submods.items()
    if not isinstance(inner, dict) or not isinstance(inner.get(_APPRAISAL), dict):
        raise Malformed("an attestation result lacks the appraisal")
    appraisal = Appraisal.from_dict(inner[_APPRAISAL])
    # 3. Agreement: a reader of the standard claims alone must not be told something else.
    said = (
        role,
        inner.get("ear.status"),
        value.get("iat"),
        value.get("exp"),
        inner.get("ear.appraisal-policy-id"),
        _whole(inner.get("ear.trustworthiness-vector")),
    )
    inside = (
        appraisal.role,
        appraisal.status.value,
        appraisal.at,
        appraisal.expires,
        f"sha256:{appraisal.policy_digest}",
        _whole(appraisal.vector),
    )
    if said != inside:
        raise Malformed("the claims of an attestation result contradict the appraisal in it")
    _check_status(appraisal)
    # 4. Policy.
    if appraisal.policy_digest != policy:
        raise EvidenceRefused(
            f"the attestation result is of policy {appraisal.policy_digest[:16]}..., not of {policy[:16]}...",
            hint="ask the verifier for a result under the policy that you mean",
        )
    # 5. Time.
    if not appraisal.at - limits.CLOCK_SKEW_SECONDS <= at < appraisal.expires:
        raise EvidenceRefused(
            "the attestation result does not count at this time", hint="ask the verifier anew"
        )
    return appraisal


def _whole(vector: object) -> dict[str, Any] | None:
    """With a zero (no claim is made) for what is left out; None for what is no vector."""
    return {**dict.fromkeys(VECTOR, 0), **vector} if isinstance(vector, Mapping) else None


def _check_status(appraisal: Appraisal) -> None:
    """No status is better than the worst claim of the vector (AR4SI section 2.3.2) or a refused answer. Raises
    `Malformed`.
    """
    tiers = {tier(value) for value in appraisal.vector.values()}
    answers = (appraisal.signature, appraisal.chain, appraisal.tcb, appraisal.policy, appraisal.freshness)
    worst = Status.AFFIRMING
    if Status.CONTRAINDICATED in tiers or Answer.REFUSED in answers:
        worst = Status.CONTRAINDICATED
    elif Status.WARNING in tiers:
        worst = Status.WARNING
    good = {
        Status.CONTRAINDICATED: (Status.CONTRAINDICATED,),
        Status.WARNING: (Status.CONTRAINDICATED, Status.NONE, Status.WARNING),
        Status.AFFIRMING: tuple(Status),
    }[worst]
    if appraisal.status not in good:
        raise Malformed("the status of an attestation result is better than what it says in detail")


def _signature(raw: bytes) -> bytes:
    if len(raw) != 64:
        raise SignatureInvalid("an Ed25519 signature has 64 bytes")
    return raw


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unbase64url(text: str) -> bytes:
    try:
        found = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise Malformed("a part of a JWT is not base64url") from None
    # The decoder passes over foreign characters and bits at the end: one value has one encoding here.
    if _base64url(found) != text:
        raise Malformed("a part of a JWT is not base64url")
    return found


def public_jwk(public: bytes) -> str:
    """The verifier's key as a JWK (RFC 8037 section 2), for relying parties with other tools."""
    return json.dumps({"crv": "Ed25519", "kty": "OKP", "x": _base64url(public)})


__all__ = ["Signer", "from_cwt", "from_jwt", "public_jwk", "to_cwt", "to_jwt"]
