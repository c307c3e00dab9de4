from __future__ import annotations

import hashlib

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.attestation import Claims, evidence, report_data
from mesatee.errors import InputError, Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)
NAMES = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=limits.NAME_CHARS)
CLAIMS = st.builds(
    Claims,
    st.binary(min_size=32, max_size=32),
    st.sampled_from(evidence.ROLES),
    st.none() | HEX,
    st.dictionaries(NAMES, HEX, max_size=limits.ENVIRONMENTS),
    st.none() | st.binary(min_size=8, max_size=64),
    st.dictionaries(
        NAMES.map("x-".__add__), st.integers(0, 9) | st.binary(max_size=9) | st.booleans(), max_size=16
    ),
)
PLAIN = Claims.of_key(b"spki", "worker")


@given(CLAIMS)
def test_claims_round_trip(claims: Claims) -> None:
    assert Claims.parse(claims.encode()) == claims


@given(st.sampled_from(sorted(evidence.TEE_OF_TAG)), st.binary(max_size=100), CLAIMS)
def test_evidence_round_trip(tag: int, body: bytes, claims: Claims) -> None:
    found = evidence.decode(evidence.encode(tag, body, claims.encode()))
    assert (found.tag, found.body, found.claims) == (tag, body, claims)


@given(st.binary(max_size=300))
def test_hostile_bytes_raise_only_our_errors(data: bytes) -> None:
    for parse in (evidence.decode, Claims.parse):
        with pytest.raises(InputError):
            parse(data)


def test_pubkey_hash_is_that_of_interoperable_ra_tls() -> None:
    raw = cbor2.loads(PLAIN.encode())
    assert cbor2.loads(raw["pubkey-hash"]) == [1, hashlib.sha256(b"spki").digest()]


def test_report_data() -> None:
    assert report_data(b"claims") == hashlib.sha256(b"claims").digest() + bytes(32)


def test_unknown_tag() -> None:
    value = cbor2.dumps(cbor2.CBORTag(60_001, [b"", PLAIN.encode()]), canonical=True)
    with pytest.raises(UnsupportedVersion, match="60001"):
        evidence.decode(value)


@pytest.mark.parametrize("inner", [[b""], [b"", b"", b""], [b"", "text"], b"", [[], b""], {"a": b""}])
def test_wrong_shape(inner: object) -> None:
    with pytest.raises(Malformed):
        evidence.decode(cbor2.dumps(cbor2.CBORTag(evidence.TAG_NONE, inner), canonical=True))


def test_trailing_bytes_and_untagged() -> None:
    good = evidence.encode(evidence.TAG_NONE, bytes(64), PLAIN.encode())
    evidence.decode(good)
    with pytest.raises(Malformed):
        evidence.decode(good + b"\0")
    with pytest.raises(Malformed):
        evidence.decode(good[5:])


def test_size_one_below_and_one_above() -> None:
    claims = PLAIN.encode()
    room = limits.EVIDENCE_BYTES - len(evidence.encode(evidence.TAG_NONE, bytes(1_000), claims)) + 1_000
    value = evidence.encode(evidence.TAG_NONE, bytes(room), claims)
    assert len(value) == limits.EVIDENCE_BYTES
    evidence.decode(value)
    with pytest.raises(TooLarge):
        evidence.encode(evidence.TAG_NONE, bytes(room + 1), claims)
    with pytest.raises(TooLarge):
        evidence.decode(value + b"\0")


def changed(**changes: object) -> bytes:
    return cbor2.dumps(dict(cbor2.loads(PLAIN.encode())) | changes, canonical=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "party"},
        {"role": 1},
        {"pubkey-hash": bytes(32)},
        {"pubkey-hash": cbor2.dumps([2, bytes(32)])},
        {"pubkey-hash": cbor2.dumps([1, bytes(31)])},
        {"service": bytes(31)},
        {"service": "5e" * 32},
        {"service": None},
        {"environments": {}},
        {"environments": {"base": bytes(31)}},
        {"environments": {"": bytes(32)}},
        {"environments": []},
        {"nonce": None},
        {"nonce": bytes(7)},
        {"nonce": bytes(65)},
        {"other": [1]},
    ],
)
def test_claims_refused(changes: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        Claims.parse(changed(**changes))


def test_claims_limits_one_above() -> None:
    environments = {f"e{index}": bytes(32) for index in range(limits.ENVIRONMENTS + 1)}
    with pytest.raises(TooLarge):
        Claims.parse(changed(environments=environments))
    with pytest.raises(TooLarge):
        Claims.parse(changed(**{f"x{index}": 1 for index in range(limits.EXTRA_CLAIMS + 1)}))
    with pytest.raises(TooLarge):
        Claims.parse(changed(x=bytes(limits.CLAIMS_BYTES)))
    with pytest.raises(Malformed):
        Claims.parse(changed(environments={"n" * (limits.NAME_CHARS + 1): bytes(32)}))


def test_own_mistakes_are_refused_when_encoding() -> None:
    with pytest.raises(Malformed):
        Claims(bytes(32), "worker", extra={"service": bytes(32)}).encode()
    with pytest.raises(Malformed):
        Claims(bytes(31), "worker").encode()
    with pytest.raises(Malformed):
        Claims(bytes(32), "worker", service="XX" * 32).encode()
