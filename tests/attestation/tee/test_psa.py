from __future__ import annotations

import contextlib
import json
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from tests.support import tokens
from tests.support.mutate import QUICK, mutated

from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.tee import psa
from mesatee.errors import InputError, Malformed, MesateeError, UnsupportedVersion

IAK = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
COMPONENTS = [{1: "SPE", 2: b"\x01" * 32, 4: "2.1", 5: b"\x02" * 32}]
SECOND: dict[int, Any] = {
    265: "tag:psacertified.org,2023:psa#tfm",
    2394: -1,
    2395: 0x3000,
    2396: b"\x31" * 32,
    2399: COMPONENTS,
    10: b"\x0a" * 32,
    256: b"\x01" + b"\x32" * 32,
}
FIRST: dict[int, Any] = {
    -75000: "PSA_IOT_PROFILE_1",
    -75001: 1,
    -75002: 0x3000,
    -75003: b"\x31" * 32,
    -75006: COMPONENTS,
    -75008: b"\x0a" * 32,
    -75009: b"\x01" + b"\x32" * 32,
}


def build(claims: dict[int, Any], key: Any = IAK, **more: Any) -> bytes:
    return tokens.sign1(key, cbor2.dumps(claims), -7, **more)


def check(token: bytes, **files: bytes) -> Any:
    return psa.check({"token": token, **(files or {"iak": tokens.pem(IAK)})}, None, tokens.POLICY)


@pytest.mark.parametrize(
    "claims",
    [
        SECOND,
        SECOND | {265: "http://arm.com/psa/2.0.0"},
        FIRST,
        {key: value for key, value in FIRST.items() if key != -75000},
    ],
)
def test_tokens_of_our_own(claims: dict[int, Any]):
    verdict = check(build(claims))
    assert (verdict.tier, verdict.level, verdict.reasons) == (Status.AFFIRMING, 3, ())
    assert verdict.claims["implementation"] == "31" * 32


def test_captured_cases():
    tokens.agree("psa")


def test_a_mac_establishes_nothing():
    payload = cbor2.dumps(SECOND)
    mac = cbor2.dumps(cbor2.CBORTag(17, [cbor2.dumps({1: 5}), {}, payload, bytes(32)]))
    for files in ({}, {"iak": tokens.pem(IAK)}, {"iak_key": b"a shared secret"}):
        verdict = psa.check({"token": mac, **files}, None, tokens.POLICY)
        assert (verdict.tier, verdict.signature) == (Status.NONE, Answer.NOT_ESTABLISHED)


def test_a_mac_under_the_tag_of_a_signature():
    protected = cbor2.dumps({1: 5})
    message = cbor2.dumps(cbor2.CBORTag(18, [protected, {}, cbor2.dumps(SECOND), bytes(32)]))
    assert check(message).tier is Status.CONTRAINDICATED


def test_another_devices_key():
    verdict = check(build(SECOND, OTHER))
    assert (verdict.tier, verdict.signature) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_without_an_anchor_nothing_is_proven():
    assert psa.check({"token": build(SECOND)}, None, tokens.POLICY).tier is Status.NONE


def test_an_anchor_of_another_device_does_not_count():
    numbers = IAK.public_key().public_numbers()
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        **{name: tokens.base64url(getattr(numbers, name).to_bytes(32)) for name in ("x", "y")},
    }
    mine = {"pkey": jwk, "instance-id": "01" + "32" * 32, "implementation-id": "31" * 32}
    for changes, tier in (
        ({}, Status.AFFIRMING),
        ({"instance-id": "01" + "33" * 32}, Status.CONTRAINDICATED),
        ({"implementation-id": "32" * 32}, Status.CONTRAINDICATED),
    ):
        anchor = json.dumps([{"pkey": jwk, **mine, **changes}]).encode()
        assert check(build(SECOND), trust_anchor_json=anchor).tier is tier


@pytest.mark.parametrize("lifecycle", [0, 0x1000, 0x2000, 0x4000, 0x5000, 0x6000, 0x3100])
def test_only_a_secured_device_counts(lifecycle: int):
    assert check(build(SECOND | {2395: lifecycle})).tier is Status.CONTRAINDICATED


def test_a_device_that_measured_nothing():
    claims = {key: value for key, value in FIRST.items() if key != -75006} | {-75007: 1}
    assert check(build(claims)).tier is Status.CONTRAINDICATED


@pytest.mark.parametrize(
    "change",
    [
        {265: "PSA_IOT_PROFILE_1"},
        {265: "tag:example.com,2020:psa"},
        {265: 7},
        {2395: 1 << 16},
        {2396: b""},
        {256: b"\x01" * 32},
        {10: b"\x01" * 33},
        {2399: [{2: b"\x01" * 32}]},
        {2394: "1"},
    ],
)
def test_claims_of_the_wrong_kind(change: dict[int, Any]):
    with pytest.raises((Malformed, UnsupportedVersion)):
        psa.parse(build(SECOND | change))


def mutation(every: bool) -> None:
    files = {"token": build(SECOND), "iak": tokens.pem(IAK)}
    tokens.never_affirmed("psa", files, None, ["token", "iak"], every)


def test_no_flipped_bit_is_affirmed():
    mutation(every=False)


@pytest.mark.slow
def test_no_flipped_bit_at_all_is_affirmed():
    mutation(every=True)


WHOLE = build(FIRST)


@QUICK
@given(mutated(WHOLE))
def test_hostile_bytes(data: bytes):
    with contextlib.suppress(InputError):
        psa.parse(data)
    try:
        verdict = check(data)
        assert verdict.tier is not Status.AFFIRMING or verdict.claims == check(WHOLE).claims
    except MesateeError:
        pass
