"""Signed attestation results: what a token says is what was signed, by the key that was named, in its time."""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import replace

import cbor2
import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee import _core
from mesatee.attestation import ear
from mesatee.attestation.appraisal import Answer, Appraisal, Status
from mesatee.attestation.tee import cose
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
POLICY = "33" * 32
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
    assert read(write(APPRAISAL, KEY), KEY.public, NOW, POLICY) == APPRAISAL


@pytest.mark.parametrize(("write", "read"), FORMS)
def test_another_key_and_another_time_are_refused(write, read):
    token = write(APPRAISAL, KEY)
    with pytest.raises(SignatureInvalid):
        read(token, _core.SigningKey.generate().public, NOW, POLICY)
    for at in (NOW + 60, NOW - limits.CLOCK_SKEW_SECONDS - 1):
        with pytest.raises(EvidenceRefused):
            read(token, KEY.public, at, POLICY)


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
        ear.from_jwt(jwt_of(header, APPRAISAL.as_ear()), KEY.public, NOW, POLICY)


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
        *(
            {"submods": {"worker": {**APPRAISAL.as_ear()["submods"]["worker"], **claim}}}
            for claim in (
                {"ear.appraisal-policy-id": "sha256:" + "00" * 32},
                {"ear.appraisal-policy-id": None},
                {"ear.trustworthiness-vector": {"hardware": 2}},
                {"ear.trustworthiness-vector": {"hardware": 2, "executables": 2, "other": 2}},
                {"ear.trustworthiness-vector": None},
            )
        ),
    ],
)
def test_claims_that_contradict_the_appraisal_are_refused(change):
    """Signed by the right key, but a reader of the standard claims alone would be told something else."""
    with pytest.raises((Malformed, UnsupportedVersion)):
        ear.from_jwt(jwt_of({"alg": "EdDSA"}, {**APPRAISAL.as_ear(), **change}), KEY.public, NOW, POLICY)


def test_size_is_bounded():
    with pytest.raises(TooLarge):
        ear.from_jwt("a" * (limits.EAR_BYTES + 1), KEY.public, NOW, POLICY)
    with pytest.raises(TooLarge):
        ear.from_cwt(bytes(limits.EAR_BYTES + 1), KEY.public, NOW, POLICY)


JWT, CWT = ear.to_jwt(APPRAISAL, KEY), ear.to_cwt(APPRAISAL, KEY)


@settings(max_examples=300)
@given(st.integers(0, len(JWT) - 1), st.characters(codec="ascii"))
def test_no_changed_jwt_is_accepted(position, char):
    changed = JWT[:position] + char + JWT[position + 1 :]
    if changed != JWT:
        with pytest.raises(MesateeError):
            ear.from_jwt(changed, KEY.public, NOW, POLICY)


@settings(max_examples=300)
@given(st.integers(0, len(CWT) * 8 - 1))
def test_no_changed_cwt_says_something_else(bit):
    changed = bytearray(CWT)
    changed[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(MesateeError):
        # A bit of the unsigned envelope may not matter; what was signed does.
        assert ear.from_cwt(bytes(changed), KEY.public, NOW, POLICY) == APPRAISAL


@given(st.text(max_size=80))
def test_any_text_raises_only_our_errors(text):
    with contextlib.suppress(MesateeError):
        ear.from_jwt(text, KEY.public, NOW, POLICY)


@given(st.binary(max_size=80))
def test_any_bytes_raise_only_our_errors(data):
    with contextlib.suppress(MesateeError):
        ear.from_cwt(data, KEY.public, NOW, POLICY)


@pytest.mark.parametrize(("write", "read"), FORMS)
def test_a_result_under_another_policy_is_refused(write, read):
    token = write(APPRAISAL, KEY)
    for other in ("34" * 32, "", "sha256:" + POLICY):
        with pytest.raises(EvidenceRefused, match="policy"):
            read(token, KEY.public, NOW, other)


@pytest.mark.parametrize(("write", "read"), FORMS)
@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({"vector": {"hardware": 32}}, False),
        ({"vector": {"hardware": 32}, "status": Status.WARNING}, True),
        ({"vector": {"hardware": 97}, "status": Status.WARNING}, False),
        ({"vector": {"hardware": 97}, "status": Status.NONE}, False),
        ({"vector": {"hardware": 97}, "status": Status.CONTRAINDICATED}, True),
        ({"chain": Answer.REFUSED}, False),
        ({"policy": Answer.REFUSED, "status": Status.CONTRAINDICATED}, True),
    ],
)
def test_a_status_better_than_its_details_is_refused(write, read, changes, good):
    """Signed by the right key: a reader of the status alone would trust more than was found."""
    token = write(replace(APPRAISAL, **changes), KEY)
    if good:
        assert read(token, KEY.public, NOW, POLICY).status is changes["status"]
    else:
        with pytest.raises(Malformed, match="better than"):
            read(token, KEY.public, NOW, POLICY)


def test_a_cwt_whose_vector_or_policy_is_another_is_refused():
    outer = cbor2.loads(CWT)
    for number, value in (
        (1001, {4: 2}),
        (1001, {4: 2, 2: 2, 9: 2}),
        (1001, None),
        (1003, "sha256:"),
        (1003, None),
    ):
        claims = cbor2.loads(outer.value[2])
        claims[266]["worker"][number] = value
        payload = cbor2.dumps(claims)
        signature = KEY.sign(cose.Message(False, -8, outer.value[0], payload, b"").to_be_signed())
        token = cbor2.dumps(cbor2.CBORTag(18, [outer.value[0], {}, payload, signature]))
        with pytest.raises(Malformed):
            ear.from_cwt(token, KEY.public, NOW, POLICY)
