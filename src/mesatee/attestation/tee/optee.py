"""OP-TEE: what its attestation pseudo-TA signs about a trusted application or about OP-TEE itself.

Spec: optee_os, lib/libutee/include/pta_attestation.h and core/pta/attestation.c. A response is::

    digest 32 | signature      RSASSA-PSS, SHA-256, MGF1, salt of 32 bytes, over nonce || digest

The key is made on the device at first use and has no certificate: whoever provisions the device reads it with
PTA_ATTESTATION_GET_PUBKEY and names it in his policy. The PTA does not sign which command it answered: that a
digest is of an application's header, its memory or of OP-TEE's memory is known only from the digest's value.

What it proves: the digest, fresh for the nonce, on a device with that key. It proves nothing of who asked: the PTA
answers any process of the normal world, whose kernel and programs nobody measured, and signs whatever nonce it is
given. So the evidence binds no worker: its level is 1, and no channel takes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mesatee import _core
from mesatee.attestation.appraisal import Answer, Scalar
from mesatee.attestation.tee import _files, anchors, keys
from mesatee.attestation.tee._settle import Answers, settle
from mesatee.attestation.verdict import Verdict
from mesatee.errors import InputError, KeyRefused, Malformed, TrustError
from mesatee.protocol import limits

if TYPE_CHECKING:
    from mesatee.attestation.corpus import CorpusPolicy

LEVEL: Final = 1
"""The trusted kernel is measured, and whoever runs outside of it, as every process of ours does, is not."""
NOBODY: Final = (
    "level 1: OP-TEE answers any process of the normal world, so that this vouches for none of them"
)
_DIGEST_BYTES: Final = 32
_MODULUS_BYTES: Final = (256, 512)
"""Shortest and longest: 2048 to 4096 bits; CFG_ATTESTATION_PTA_KEY_SIZE is 3072 unless a build says otherwise."""
_ALGORITHM: Final = "rsa-pss-sha256"


@dataclass(frozen=True, slots=True)
class Response:
    """A parsed response with the nonce it answers; nothing of it is verified yet."""

    nonce: bytes
    digest: bytes
    signature: bytes


def parse(response: bytes, nonce: bytes) -> Response:
    """Raises `Malformed`."""
    if not 1 <= len(nonce) <= limits.OPTEE_NONCE_BYTES:
        raise Malformed(f"the nonce of OP-TEE's attestation is not 1 to {limits.OPTEE_NONCE_BYTES} bytes")
    low, high = _MODULUS_BYTES
    if not low <= len(response) - _DIGEST_BYTES <= high:
        raise Malformed("a response of OP-TEE's attestation is not a digest and a signature")
    return Response(nonce, response[:_DIGEST_BYTES], response[_DIGEST_BYTES:])


def public_key(exponent: bytes, modulus: bytes) -> keys.PublicKey:
    """The key as PTA_ATTESTATION_GET_PUBKEY hands it out: two big-endian numbers. Raises `Malformed`."""
    return keys.PublicKey("rsa", _core.spki_from_rsa(modulus, exponent))


def verify(response: Response, key: keys.PublicKey | None, trusted: frozenset[bytes]) -> Answers:
    """Answer what is proven, under the key that came with the response and the keys that a policy names.

    1. The signature over the nonce and the digest verifies.
    2. The key is one whose SubjectPublicKeyInfo the policy names by SHA-256, in `trusted`. There is no other root.
    """
    answers = Answers()
    if key is None:
        answers.reasons.append("no public key was given")
        return answers
    # 1. Signature. It also binds the nonce.
    try:
        if key.kind != "rsa":
            raise KeyRefused("OP-TEE's attestation key is an RSA key")
        _core.verify_signature(_ALGORITHM, key.spki, response.signature, response.nonce + response.digest)
    except (InputError, TrustError) as error:
        answers.signature = Answer.REFUSED
        answers.reasons.append(f"signature over nonce and digest: {error.message}")
        return answers
    answers.signature = answers.binding = Answer.AFFIRMED
    # 2. Root.
    if hashlib.sha256(key.spki).digest() in trusted:
        answers.chain, answers.anchor = Answer.AFFIRMED, hashlib.sha256(key.spki).hexdigest()
    elif trusted:
        answers.chain = Answer.REFUSED
        answers.reasons.append("the device's key is not one that the policy names")
    else:
        answers.reasons.append("the policy names no device's key: only the signature is proven")
    return answers


def appraise(response: Response, key: keys.PublicKey | None, trusted: frozenset[bytes]) -> Verdict:
    """The verdict on a response, under the keys that a policy names."""
    claims: dict[str, Scalar] = {
        "measurement.digest": response.digest.hex(),
        "nonce": response.nonce.hex(),
    }
    if key is not None:
        claims["device"] = hashlib.sha256(key.spki).hexdigest()
    answers = verify(response, key, trusted)
    answers.reasons.append(NOBODY)
    return settle(
        answers,
        (),
        level=LEVEL,
        measurement=response.digest.hex(),
        claims=claims,
    )


def check(files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
    """Appraise one case: roles ``response`` and ``nonce``, and ``public_key`` or ``exponent`` and ``modulus``.
    For ``response`` there may be ``digest`` and ``signature``, as the attester takes it apart.

    There is no vendor's root, and the corpus policy takes no anchor from such a case: nothing is affirmed. Raises
    `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    if "response" not in files and {"digest", "signature"} <= files.keys():
        files = {**files, "response": files["digest"] + files["signature"]}
    for role in ("response", "nonce"):
        if role not in files:
            raise Malformed(f"an OP-TEE case has no file with the role {role!r}")
    named = frozenset(map(bytes.fromhex, policy.devices))
    response, key = _files.plain(files["response"]), _key(files)
    # A nonce may be text itself, or be written as text: the signature knows which.
    nonces = dict.fromkeys((files["nonce"], _files.plain(files["nonce"])))
    verdicts = [appraise(parse(response, nonce), key, named) for nonce in nonces]
    return next((found for found in verdicts if found.signature is Answer.AFFIRMED), verdicts[0])


def _key(files: Mapping[str, bytes]) -> keys.PublicKey | None:
    if "exponent" in files and "modulus" in files:
        return public_key(files["exponent"], files["modulus"])
    if "public_key" not in files:
        return None
    found = anchors.parse(files["public_key"])
    if len(found) != 1:
        raise Malformed("the file with the role 'public_key' does not hold one public key")
    return found[0].public()


__all__ = ["LEVEL", "Response", "appraise", "check", "parse", "public_key", "verify"]
