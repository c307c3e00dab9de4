"""Signed attestation results: what a token says is what was signed, by the key that was named, in its time."""

from __future__ import annotations

import base64
import contextlib
import json

import cbor2
import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee import _core
from mesatee.attestation import ear
from mesatee.attestation.appraisal import Answer, Appraisal, Status
from mesatee.errors import (
    EvidenceRefused,
    InputError,
    Malformed,
    MesateeError,
    SignatureInvalid,
    TooLarge,
    UnsupportedVersion,
)
from mesatee.protocol import limits

NOW = 1_800_000_000
KEY = _core.SigningKey.generate()
APPRAISAL = Appraisal(
    status=Status.AFFIRMING,
    level=4,
    level_reason="memory is encrypted",
    tee="snp",
    simulated=False,
    hardware=True,
    measurement="11" * 48,
    signature=Answer.AFFIRMED,
    chain=Answer.AFFIRMED,
    tcb=Answer.NOT_ESTABLISHED,
    policy=Answer.AFFIRMED,
    freshness=Answer.NOT_ESTABLISHED,
    reasons=("a reason",),
    role="worker",
    service=None,
    evidence_digest="22" * 32,
    policy_digest="33" * 32,
    spki_hash="44" * 32,
    at=NOW,
    expires=NOW + 60,
    environments={"base": "55" * 32},
    claims={"smt": False},
    vector={"hardware": 2, "executables": 2},
)
FORMS = [(ear.to_jwt, ear.from_jwt), (ear.to_cwt, ear.from_cwt)]


@pytest.mark.parametrize(("write", "read"), FORMS)
def test_round_trip(write, read):
    assert read(write(APPRAISAL, KEY), KEY.public, NOW) == APPRAISAL


@pytest.mark.parametrize(("write", "read"), FORMS)
def test_another_key_and_another_time_are_refused(write, read):
    token = write(APPRAISAL, KEY)
    with pytest.raises(SignatureInvalid):
        read(token, _core.SigningKey.generate().public, NOW)
    for at in (NOW + 60, NOW - limits.CLOCK_SKEW_SECONDS - 1):
        with pytest.raises(EvidenceRefused):
            read(token, KEY.public, at)


def test_the_cwt_has_the_numbers_of_the_draft():
    outer = cbor2.loads(ear.to_cwt(APPRAISAL, KEY))
    assert outer.tag == 18
    claims = cbor2.loads(outer.value[2])
    assert set(claims) == {265, 6, 4, 266, 1004}
    inner = claims[266]["worker"]
    assert inner[1000] == 2
    assert inner[1001] == {4: 2, 2: 2}
    assert inner[1003] == "sha256:" + "33" * 32


def test_the_jwt_is_read_by_another_library():
    token = ear.to_jwt(APPRAISAL, KEY)
    key = jwt.PyJWK.from_json(ear.public_jwk(KEY.public)).key
    claims = jwt.decode(token, key, algorithms=["EdDSA"], options={"verify_exp": False, "verify_iat": False})
    assert claims["submods"]["worker"]["ear.status"] == "affirming"


def jwt_of(header, claims):
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    signed = f"{part(header)}.{part(claims)}"
    return f"{signed}.{base64.urlsafe_b64encode(KEY.sign(signed.encode())).rstrip(b'=').decode()}"


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"alg": "none"}, UnsupportedVersion),
        ({"alg": "HS256"}, UnsupportedVersion),
        ({}, UnsupportedVersion),
        ({"alg": "EdDSA", "crit": ["b64"], "b64": False}, UnsupportedVersion),
        ([], InputError),
    ],
)
def test_other_algorithms_are_refused(header, error):
    with pytest.raises(error):
        ear.from_jwt(jwt_of(header, APPRAISAL.as_ear()), KEY.public, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"iat": NOW - 1},
        {"exp": NOW + 61},
        {"eat_profile": "other"},
        {"submods": {}},
        {"submods": {"worker": {}, "gateway": {}}},
        {"submods": {"gateway": APPRAISAL.as_ear()["submods"]["worker"]}},
        {"submods": {"worker": {**APPRAISAL.as_ear()["submods"]["worker"], "ear.status": "none"}}},
        {"submods": {"worker": {"ear.status": "affirming"}}},
    ],
)
def test_claims_that_contradict_the_appraisal_are_refused(change):
    """Signed by the right key, but a reader of the standard claims alone would be told something else."""
    with pytest.raises((Malformed, UnsupportedVersion)):
        ear.from_jwt(jwt_of({"alg": "EdDSA"}, {**APPRAISAL.as_ear(), **change}), KEY.public, NOW)


def test_size_is_bounded():
    with pytest.raises(TooLarge):
        ear.from_jwt("a" * (limits.EAR_BYTES + 1), KEY.public, NOW)
    with pytest.raises(TooLarge):
        ear.from_cwt(bytes(limits.EAR_BYTES + 1), KEY.public, NOW)


JWT, CWT = ear.to_jwt(APPRAISAL, KEY), ear.to_cwt(APPRAISAL, KEY)


@settings(max_examples=300)
@given(st.integers(0, len(JWT) - 1), st.characters(codec="ascii"))
def test_no_changed_jwt_is_accepted(position, char):
    changed = JWT[:position] + char + JWT[position + 1 :]
    if changed != JWT:
        with pytest.raises(MesateeError):
            ear.from_jwt(changed, KEY.public, NOW)


@settings(max_examples=300)
@given(st.integers(0, len(CWT) * 8 - 1))
def test_no_changed_cwt_says_something_else(bit):
    changed = bytearray(CWT)
    changed[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(MesateeError):
        # A bit of the unsigned envelope may not matter; what was signed does.
        assert ear.from_cwt(bytes(changed), KEY.public, NOW) == APPRAISAL


@given(st.text(max_size=80))
def test_any_text_raises_only_our_errors(text):
    with contextlib.suppress(MesateeError):
        ear.from_jwt(text, KEY.public, NOW)


@given(st.binary(max_size=80))
def test_any_bytes_raise_only_our_errors(data):
    with contextlib.suppress(MesateeError):
        ear.from_cwt(data, KEY.public, NOW)
