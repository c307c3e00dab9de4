from __future__ import annotations

import contextlib

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tests.support import tokens

from mesatee.attestation.tee import cose, keys
from mesatee.errors import InputError, KeyRefused, Malformed, SignatureInvalid, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
P521 = ec.generate_private_key(ec.SECP521R1())
PAYLOAD = cbor2.dumps({1: "payload"})


def public(key: ec.EllipticCurvePrivateKey) -> keys.PublicKey:
    return keys.from_point(tokens.point(key))


@pytest.mark.parametrize(("key", "algorithm"), [(P256, -7), (P384, -35), (P521, -36), (P384, -7)])
@pytest.mark.parametrize("tag", [0, 18])
def test_signatures_of_another_library(key: ec.EllipticCurvePrivateKey, algorithm: int, tag: int):
    message = cose.parse(tokens.sign1(key, PAYLOAD, algorithm, tag=tag))
    assert (message.payload, message.mac) == (PAYLOAD, False)
    cose.verify(message, public(key))


def test_a_cwt_tag_may_stand_before():
    signed = cbor2.loads(tokens.sign1(P256, PAYLOAD, -7))
    cose.verify(cose.parse(cbor2.dumps(cbor2.CBORTag(61, signed))), public(P256))


@pytest.mark.parametrize(
    ("key", "algorithm", "says"),
    [
        # The key is P-384, the header says ES512, HMAC, EdDSA or RSA.
        (P384, -35, -36),
        (P384, -35, 5),
        (P384, -35, -8),
        (P384, -35, -37),
        (P521, -36, -35),
    ],
)
def test_an_algorithm_that_does_not_go_with_the_key_is_refused(
    key: ec.EllipticCurvePrivateKey, algorithm: int, says: int
):
    message = cose.parse(tokens.sign1(key, PAYLOAD, algorithm, says))
    with pytest.raises(KeyRefused):
        cose.verify(message, public(key))


def test_wrong_algorithm_header():
    # Both algorithms go with the key; the signature was made with the other hash.
    with pytest.raises(SignatureInvalid):
        cose.verify(cose.parse(tokens.sign1(P384, PAYLOAD, -35, -7)), public(P384))


def test_es256_key_with_es384_algorithm():
    with pytest.raises(SignatureInvalid):
        cose.verify(cose.parse(tokens.sign1(P256, PAYLOAD, -7, -35)), public(P256))
    with pytest.raises((SignatureInvalid, Malformed)):
        cose.verify(cose.parse(tokens.sign1(P384, PAYLOAD, -35)), public(P256))


def test_signature_over_another_payload():
    protected, loose, _, signature = cbor2.loads(tokens.sign1(P256, PAYLOAD, -7, tag=0))
    with pytest.raises(SignatureInvalid):
        cose.verify(cose.parse(cbor2.dumps([protected, loose, b"other", signature])), public(P256))


def test_a_mac_is_no_signature():
    message = [cbor2.dumps({1: 5}), {}, PAYLOAD, bytes(32)]
    for data in (cbor2.dumps(cbor2.CBORTag(17, message)), cbor2.dumps(message)):
        found = cose.parse(data)
        assert found.mac
        with pytest.raises(SignatureInvalid):
            cose.verify(found, public(P256))


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ([cbor2.dumps({1: -7}), {}, None, bytes(64)], Malformed),  # detached payload
        ([cbor2.dumps({1: -7}), {}, PAYLOAD, b""], Malformed),
        ([cbor2.dumps({1: -7}), {}, PAYLOAD], Malformed),
        ([cbor2.dumps({1: "ES256"}), {}, PAYLOAD, bytes(64)], Malformed),
        ([cbor2.dumps({1: True}), {}, PAYLOAD, bytes(64)], Malformed),
        ([b"", {1: -7}, PAYLOAD, bytes(64)], Malformed),  # algorithm unprotected
        ([cbor2.dumps({1: -7}), {1: -7}, PAYLOAD, bytes(64)], Malformed),
        ([cbor2.dumps({1: -7, 2: [99]}), {}, PAYLOAD, bytes(64)], UnsupportedVersion),
        (cbor2.CBORTag(98, [b"", {}, PAYLOAD, []]), UnsupportedVersion),
        ({}, Malformed),
    ],
)
def test_messages_that_are_none(message: object, error: type[InputError]):
    with pytest.raises(error):
        cose.parse(cbor2.dumps(message))


def test_size_limit():
    empty = len(tokens.sign1(P256, bytes(60_000), -7))
    fits = tokens.sign1(P256, bytes(60_000 + limits.COSE_BYTES - empty), -7)
    assert len(fits) == limits.COSE_BYTES
    cose.parse(fits)
    with pytest.raises(TooLarge):
        cose.parse(fits + b"\0")


@given(
    st.binary(max_size=300) | st.binary(max_size=200).map(lambda data: b"\xd2\x84\x43\xa1\x01\x26\xa0" + data)
)
def test_any_bytes(data: bytes):
    with contextlib.suppress(InputError):
        cose.parse(data)
