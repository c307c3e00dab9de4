from __future__ import annotations

import base64
import contextlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tests.support import tokens

from mesatee.attestation.tee import anchors, cose
from mesatee.errors import InputError, KeyRefused, Malformed, SignatureInvalid, TooLarge
from mesatee.protocol import limits

KEY, OTHER = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
INSTANCE, IMPLEMENTATION = b"\x01" + b"\x05" * 32, b"\x06" * 32
MESSAGE = cose.parse(tokens.sign1(KEY, b"payload"))


def jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    point = tokens.point(key)
    return {
        "kty": "EC",
        "crv": "P-384",
        "x": tokens.base64url(point[1:49]),
        "y": tokens.base64url(point[49:]),
    }


def entry(key: ec.EllipticCurvePrivateKey, instance: bytes = INSTANCE) -> dict[str, object]:
    return {"pkey": jwk(key), "instance-id": instance.hex(), "implementation-id": IMPLEMENTATION.hex()}


def dumps(value: object) -> bytes:
    return json.dumps(value).encode()


CERTIFICATE = tokens.certificate("device", KEY, "device", KEY)


@pytest.mark.parametrize(
    "data",
    [
        tokens.pem(KEY),
        b"a comment\n" + tokens.pem(OTHER) + tokens.pem(KEY),
        tokens.spki(KEY),
        base64.b64encode(tokens.spki(KEY)),
        tokens.pem_chain([CERTIFICATE]),
        dumps(jwk(KEY)),
        dumps({"keys": [jwk(OTHER), jwk(KEY)]}),
        dumps(entry(KEY)),
        dumps([entry(OTHER), entry(KEY)]),
        dumps([{"pkey": jwk(KEY)}]),
        dumps([{"pkey": jwk(KEY), "inst-id": base64.b64encode(INSTANCE).decode()}]),
        dumps([{"pkey": tokens.pem(KEY).decode()}]),
        # A bad key in a long list does not hide the good ones.
        dumps([{"pkey": {"kty": "EC"}}, entry(KEY)]),
    ],
)
def test_every_form(data: bytes):
    anchors.verify(MESSAGE, anchors.parse(data), INSTANCE, IMPLEMENTATION)


def test_other_keys_and_other_devices():
    with pytest.raises(SignatureInvalid):
        anchors.verify(MESSAGE, anchors.parse(tokens.pem(OTHER)), INSTANCE, IMPLEMENTATION)
    for value in ([], [entry(KEY, b"\x01" + b"\x07" * 32)]):
        with pytest.raises(KeyRefused):
            anchors.verify(MESSAGE, anchors.parse(dumps(value)), INSTANCE, IMPLEMENTATION)


def test_files_of_a_case():
    files = {"token": b"", "cpak": tokens.pem(KEY), "rv": b"[1.5]", "notes": b"text"}
    assert len(anchors.of_case(files, "token")) == 1
    assert anchors.of_case({"token": tokens.pem(KEY)}, "token") == ()
    for bad in (b"text", b"", b"{}", b"[1.5]"):
        with pytest.raises(Malformed):
            anchors.of_case({"trust_anchor_json": bad}, "token")


def test_identifiers():
    for bad in ("zz", 7, "", "é"):
        with contextlib.suppress(Malformed):
            found = anchors.parse(dumps([{"pkey": jwk(KEY), "instance-id": bad}]))
            assert found[0].instance is not None


def test_limits():
    anchors.parse(dumps([{"pkey": {}}] * limits.TRUST_ANCHORS))
    with pytest.raises(TooLarge):
        anchors.parse(dumps([{"pkey": {}}] * (limits.TRUST_ANCHORS + 1)))
    anchors.parse(b" " * (limits.TRUST_ANCHOR_BYTES - 2) + b"[]")
    with pytest.raises(TooLarge):
        anchors.parse(b" " * (limits.TRUST_ANCHOR_BYTES - 1) + b"[]")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["pkey", "kty", "keys", "instance-id"]), inner)
    ),
    max_leaves=8,
)


@given(JSON.map(dumps) | st.binary(max_size=100))
def test_any_bytes(data: bytes):
    with contextlib.suppress(InputError):
        for anchor in anchors.parse(data):
            anchor.public()
