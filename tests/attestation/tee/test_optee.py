from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from tests.support import tokens

from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.tee import keys, optee
from mesatee.errors import Malformed
from mesatee.protocol import limits

KEY = rsa.generate_private_key(65537, 3072)
OTHER = rsa.generate_private_key(65537, 2048)
NONCE, DIGEST = b"n" * 32, b"\xd1" * 32


def build(key: Any = KEY, nonce: bytes = NONCE, digest: bytes = DIGEST, salt: int = 32) -> bytes:
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
    return digest + key.sign(nonce + digest, scheme, hashes.SHA256())


def public(key: Any = KEY) -> keys.PublicKey:
    numbers = key.public_key().public_numbers()
    return optee.public_key(b"\x01\x00\x01", numbers.n.to_bytes(key.key_size // 8))


TRUSTED = frozenset({hashlib.sha256(public().spki).digest()})


def appraise(
    response: bytes, nonce: bytes = NONCE, key: Any = KEY, trusted: frozenset[bytes] = TRUSTED
) -> Any:
    return optee.appraise(optee.parse(response, nonce), public(key), trusted)


def test_any_process_gets_it_so_it_vouches_for_none():
    verdict = appraise(build())
    assert (verdict.tier, verdict.level) == (Status.AFFIRMING, 1)
    assert optee.NOBODY in verdict.reasons


def test_a_device_that_the_policy_names():
    verdict = appraise(build())
    assert verdict.tier is Status.AFFIRMING
    assert (verdict.measurement, verdict.binding) == (DIGEST.hex(), Answer.AFFIRMED)
    assert public().spki == tokens.spki(KEY)


def test_another_nonce_digest_or_key():
    assert appraise(build(), b"m" * 32).tier is Status.CONTRAINDICATED
    assert appraise(b"e" * 32 + build()[32:]).tier is Status.CONTRAINDICATED
    assert appraise(build(OTHER)).tier is Status.CONTRAINDICATED


def test_a_key_that_the_policy_does_not_name():
    verdict = appraise(build(OTHER), key=OTHER)
    assert (verdict.signature, verdict.chain) == (Answer.AFFIRMED, Answer.REFUSED)
    assert verdict.tier is Status.CONTRAINDICATED


def test_nonce_and_digest_that_meet_elsewhere():
    # The boundary of nonce and digest is fixed by the digest's 32 bytes: moving it changes the claims.
    response = build(nonce=NONCE + b"x", digest=DIGEST)
    assert appraise(response, NONCE).tier is Status.CONTRAINDICATED


def test_other_schemes():
    assert appraise(build(salt=20)).tier is Status.CONTRAINDICATED
    legacy = DIGEST + KEY.sign(NONCE + DIGEST, padding.PKCS1v15(), hashes.SHA256())
    assert appraise(legacy).tier is Status.CONTRAINDICATED
    key = keys.from_point(tokens.point(ec.generate_private_key(ec.SECP256R1())))
    answers = optee.verify(optee.parse(build(), NONCE), key, TRUSTED)
    assert answers.signature is Answer.REFUSED


def test_a_case_is_never_affirmed():
    files = {"response": build(), "nonce": NONCE, "public_key": tokens.pem(KEY)}
    verdict = optee.check(files, None, tokens.POLICY)
    assert (verdict.tier, verdict.signature, verdict.level) == (Status.NONE, Answer.AFFIRMED, 1)
    numbers = KEY.public_key().public_numbers()
    pieces = {"exponent": b"\x01\x00\x01", "modulus": numbers.n.to_bytes(384)}
    files = {"response": build().hex().encode(), "nonce": NONCE.hex().encode(), **pieces}
    assert optee.check(files, None, tokens.POLICY).signature is Answer.AFFIRMED
    del files["modulus"]
    assert optee.check(files, None, tokens.POLICY).tier is Status.NONE
    files = {"response": build(OTHER), "nonce": NONCE, "public_key": tokens.pem(KEY)}
    assert optee.check(files, None, tokens.POLICY).tier is Status.CONTRAINDICATED


def test_sizes():
    optee.parse(build(), b"n" * limits.OPTEE_NONCE_BYTES)
    for response, nonce in (
        (build(), b""),
        (build(), b"n" * (limits.OPTEE_NONCE_BYTES + 1)),
        (bytes(32 + 255), NONCE),
        (bytes(32 + 513), NONCE),
    ):
        with pytest.raises(Malformed):
            optee.parse(response, nonce)
    with pytest.raises(Malformed):
        optee.check({"response": build()}, None, tokens.POLICY)


def mutation(every: bool) -> None:
    for changed in tokens.flipped(build(), every):
        assert appraise(changed).tier is Status.CONTRAINDICATED


def test_no_flipped_bit_is_affirmed():
    mutation(every=False)


@pytest.mark.slow
def test_no_flipped_bit_at_all_is_affirmed():
    mutation(every=True)
