from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from tests.support import tokens
from tests.support.mutate import QUICK, mutated

from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.tee import cca
from mesatee.errors import InputError, Malformed, MesateeError, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

CPAK = ec.generate_private_key(ec.SECP384R1())
RAK = ec.generate_private_key(ec.SECP384R1())
OTHER = ec.generate_private_key(ec.SECP384R1())
COMPONENT = {1: "BL", 2: b"\x01" * 32, 4: "1.0", 5: b"\x02" * 32}


def realm_claims(rak: bytes, **changes: Any) -> dict[int, Any]:
    found = {
        10: b"\x0c" * 64,
        44235: bytes(64),
        44236: "sha-256",
        44237: rak,
        44238: b"\x11" * 32,
        44239: [bytes(32)] * 4,
        44240: "sha-512",
    }
    return found | {int(key[1:]): value for key, value in changes.items()}


def platform_claims(rak: bytes, **changes: Any) -> dict[int, Any]:
    found = {
        265: "http://arm.com/CCA-SSD/1.0.0",
        10: hashlib.sha512(rak).digest(),
        2396: b"\x21" * 32,
        256: b"\x01" + b"\x22" * 32,
        2401: b"\x23",
        2395: 0x3000,
        2399: [COMPONENT],
        2402: "sha-256",
    }
    return found | {int(key[1:]): value for key, value in changes.items()}


def build(
    platform: dict[int, Any], realm: dict[int, Any], cpak: Any = CPAK, rak: Any = RAK, tag: int = 399
) -> bytes:
    parts = {
        44234: tokens.sign1(cpak, cbor2.dumps(platform)),
        44241: tokens.sign1(rak, cbor2.dumps(realm)),
    }
    collection: Any = {key: [263, part] for key, part in parts.items()} if tag == 907 else parts
    return cbor2.dumps(cbor2.CBORTag(tag, collection) if tag else collection)


def good(**changes: Any) -> bytes:
    rak = tokens.point(RAK)
    return build(platform_claims(rak, **changes), realm_claims(rak))


def check(token: bytes, **files: bytes) -> Any:
    return cca.check({"token": token, "cpak": tokens.pem(CPAK), **files}, None, tokens.POLICY)


@pytest.mark.parametrize("tag", [399, 907, 0])
def test_a_token_of_our_own(tag: int):
    rak = tokens.point(RAK)
    verdict = check(build(platform_claims(rak), realm_claims(rak), tag=tag))
    assert (verdict.tier, verdict.level, verdict.reasons) == (Status.AFFIRMING, 4, ())
    assert verdict.measurement == "11" * 32
    assert verdict.claims["platform.lifecycle"] == "secured"


def test_another_firmware_is_another_claim():
    """Firmware makes the realm and its token, so that a relying party may want to compare it."""
    rak = tokens.point(RAK)
    ours = check(good()).claims["measurement.platform"]
    for change in ({2: b"\x77" * 32}, {5: b"\x77" * 32}):
        other = platform_claims(rak, _2399=[COMPONENT | change])
        assert check(build(other, realm_claims(rak))).claims["measurement.platform"] != ours


def test_the_realms_key_as_cose_key():
    point = tokens.point(RAK)
    rak = cbor2.dumps({1: 2, -1: 2, -2: point[1:49], -3: point[49:]})
    platform = platform_claims(rak, _265="tag:arm.com,2023:cca_platform#1.0.0")
    verdict = check(build(platform, realm_claims(rak, _265="tag:arm.com,2023:realm#1.0.0")))
    assert verdict.tier is Status.AFFIRMING


def test_captured_cases():
    tokens.agree("cca")


def test_the_platform_vouches_for_another_realm_key_with_both_signatures_valid():
    # Platform token of one machine, realm token of another: each is signed by its right key.
    other = tokens.point(OTHER)
    verdict = check(build(platform_claims(tokens.point(RAK)), realm_claims(other), rak=OTHER))
    assert verdict.tier is Status.CONTRAINDICATED
    assert (verdict.signature, verdict.chain, verdict.binding) == (
        Answer.AFFIRMED,
        Answer.AFFIRMED,
        Answer.REFUSED,
    )


def test_realm_token_signed_by_another_key_than_it_claims():
    rak = tokens.point(RAK)
    verdict = check(build(platform_claims(rak), realm_claims(rak), rak=OTHER))
    assert (verdict.tier, verdict.signature) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_platform_token_signed_by_a_key_that_is_no_anchor():
    rak = tokens.point(RAK)
    verdict = check(build(platform_claims(rak), realm_claims(rak), cpak=OTHER))
    assert (verdict.tier, verdict.signature) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_the_binding_hash_is_the_one_that_the_realm_names():
    rak = tokens.point(RAK)
    verdict = check(build(platform_claims(rak), realm_claims(rak, _44240="sha-256")))
    assert (verdict.tier, verdict.binding) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_without_an_anchor_nothing_is_proven():
    verdict = cca.check({"token": good()}, None, tokens.POLICY)
    assert (verdict.tier, verdict.signature, verdict.level) == (Status.NONE, Answer.NOT_ESTABLISHED, 1)
    rak = tokens.point(RAK)
    forged = build(platform_claims(rak), realm_claims(rak), rak=OTHER)
    assert cca.check({"token": forged}, None, tokens.POLICY).tier is Status.CONTRAINDICATED


def test_reference_values_are_no_anchors():
    values = json.dumps({"platform": [{"implementation-id": "AA" * 32}]}).encode()
    assert cca.check({"token": good(), "rv": values}, None, tokens.POLICY).tier is Status.NONE


@pytest.mark.parametrize("lifecycle", [0, 0x1000, 0x2000, 0x30FF + 1, 0x4000, 0x5000, 0x6000, 0x7000])
def test_only_a_secured_platform_counts(lifecycle: int):
    assert check(good(_2395=lifecycle)).tier is Status.CONTRAINDICATED
    assert check(good(_2395=0x30FF)).tier is Status.AFFIRMING


def test_a_measurement_shorter_than_its_hash_is_refused():
    rak = tokens.point(RAK)
    verdict = check(build(platform_claims(rak), realm_claims(rak, _44236="sha-512")))
    assert verdict.tier is Status.CONTRAINDICATED


@pytest.mark.parametrize(
    "change",
    [
        {"_10": b"\0" * 31},
        {"_2396": b"\0" * 31},
        {"_256": b"\1" * 32},
        {"_2395": -1},
        {"_2395": True},
        {"_2399": []},
        {"_2399": [{}]},
        {"_2402": "md5"},
        {"_265": "tag:example.com,2020:cca"},
        {"_265": None},
    ],
)
def test_claims_of_the_wrong_kind(change: dict[str, Any]):
    with pytest.raises((Malformed, UnsupportedVersion)):
        cca.parse(good(**change))


def test_components_limit():
    cca.parse(good(_2399=[COMPONENT] * limits.ARM_COMPONENTS))
    with pytest.raises(TooLarge):
        cca.parse(good(_2399=[COMPONENT] * (limits.ARM_COMPONENTS + 1)))


def test_collections_that_are_none():
    rak = tokens.point(RAK)
    parts = cbor2.loads(build(platform_claims(rak), realm_claims(rak), tag=0))
    for bad in (
        {44234: parts[44234]},
        parts | {1: b""},
        cbor2.CBORTag(400, parts),
        cbor2.CBORTag(907, parts),
        [],
    ):
        with pytest.raises(Malformed):
            cca.parse(cbor2.dumps(bad))
    mac = cbor2.dumps(cbor2.CBORTag(17, [cbor2.dumps({1: 5}), {}, b"p", bytes(32)]))
    with pytest.raises(UnsupportedVersion):
        cca.parse(cbor2.dumps(cbor2.CBORTag(399, parts | {44241: mac})))


WRAPPED = good()


@pytest.mark.parametrize("wrapped", [WRAPPED.hex().encode(), b"\n" + WRAPPED.hex().upper().encode() + b"\n"])
def test_a_token_as_hex_under_another_name(wrapped: bytes):
    files = {"evidence": wrapped, "cpak": tokens.pem(CPAK)}
    assert cca.check(files, None, tokens.POLICY).tier is Status.AFFIRMING


def mutation(every: bool) -> None:
    tokens.never_affirmed("cca", {"token": WRAPPED, "cpak": tokens.pem(CPAK)}, None, ["token", "cpak"], every)


def test_no_flipped_bit_is_affirmed():
    mutation(every=False)


@pytest.mark.slow
def test_no_flipped_bit_at_all_is_affirmed():
    mutation(every=True)


@QUICK
@given(mutated(WRAPPED))
def test_hostile_bytes(data: bytes):
    with contextlib.suppress(InputError):
        cca.parse(data)
    try:
        verdict = check(data)
        assert verdict.tier is not Status.AFFIRMING or verdict.claims == check(WRAPPED).claims
    except MesateeError:
        pass
