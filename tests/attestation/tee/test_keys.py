from __future__ import annotations

import base64
import contextlib
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st
from tests.support import tokens

from mesatee.attestation.tee import keys
from mesatee.errors import InputError, Malformed, UnsupportedVersion
from mesatee.protocol import limits

CURVES: list[tuple[str, int, str, ec.EllipticCurvePrivateKey]] = [
    ("p256", 1, "P-256", ec.generate_private_key(ec.SECP256R1())),
    ("p384", 2, "P-384", ec.generate_private_key(ec.SECP384R1())),
    ("p521", 3, "P-521", ec.generate_private_key(ec.SECP521R1())),
]
ED25519 = ed25519.Ed25519PrivateKey.generate()
RAW = ED25519.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize(("kind", "number", "name", "key"), CURVES)
def test_every_form_of_a_curve(kind: str, number: int, name: str, key: ec.EllipticCurvePrivateKey):
    point = tokens.point(key)
    x, y = point[1 : len(point) // 2 + 1], point[len(point) // 2 + 1 :]
    for found in (
        keys.from_spki(tokens.spki(key)),
        keys.from_pem(tokens.pem(key)),
        keys.from_point(point),
        keys.from_cose_key(cbor2.dumps({1: 2, -1: number, -2: x, -3: y})),
        keys.from_jwk({"kty": "EC", "crv": name, "x": b64(x), "y": b64(y)}),
    ):
        assert (found.kind, found.spki) == (kind, tokens.spki(key))
    for bad in (x[:-1], x + b"\0", bytes(len(x))):
        with pytest.raises(InputError):
            keys.from_jwk({"kty": "EC", "crv": name, "x": b64(bad), "y": b64(y)})
        with pytest.raises(InputError):
            keys.from_cose_key(cbor2.dumps({1: 2, -1: number, -2: bad, -3: y}))


def test_ed25519_and_rsa():
    for found in (
        keys.from_spki(tokens.spki(ED25519)),
        keys.from_pem(tokens.pem(ED25519)),
        keys.from_cose_key(cbor2.dumps({1: 1, -1: 6, -2: RAW})),
        keys.from_jwk({"kty": "OKP", "crv": "Ed25519", "x": b64(RAW)}),
    ):
        assert found == keys.PublicKey("ed25519", keys.ed25519_spki(RAW))
    assert keys.from_pem(tokens.pem(rsa.generate_private_key(65537, 2048))).kind == "rsa"


def test_other_keys():
    with pytest.raises(UnsupportedVersion):
        keys.from_spki(tokens.spki(x25519.X25519PrivateKey.generate()))
    with pytest.raises(UnsupportedVersion):
        keys.from_spki(tokens.spki(ec.generate_private_key(ec.SECP256K1())))
    with pytest.raises(UnsupportedVersion):
        keys.from_cose_key(cbor2.dumps({1: 4, -1: b"secret"}))
    with pytest.raises(Malformed):
        keys.from_cose_key(cbor2.dumps({1: 1, -1: 6, -2: RAW, 4: [1]}))  # key_ops: sign only
    with pytest.raises(Malformed):
        keys.from_pem(tokens.pem(ED25519) * 2)
    with pytest.raises(Malformed):
        keys.from_pem(b" " * limits.KEY_FILE_BYTES + tokens.pem(ED25519))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kty", "crv", "x", "y"]), inner)
    ),
    max_leaves=5,
)


@given(JSON | st.fixed_dictionaries({"kty": st.just("EC"), "crv": JSON, "x": JSON, "y": JSON}))
def test_any_jwk(value: Any):
    with contextlib.suppress(InputError):
        keys.from_jwk(value)


@given(st.binary(max_size=100))
def test_any_bytes(data: bytes):
    for read in (keys.from_spki, keys.from_pem, keys.from_point, keys.from_cose_key):
        with contextlib.suppress(InputError):
            read(data)
