from __future__ import annotations

import contextlib

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from mesatee.enclave.platform.tpm.public import Public, ak_template, ek_template, storage_template
from mesatee.enclave.platform.tpm.wire import sized
from mesatee.errors import MesateeError

RSA_AREA = ak_template("rsa")[:-2] + sized(b"\xc5" + bytes(254) + b"\1")
ECC_KEY = ec.derive_private_key(0x1234, ec.SECP256R1()).public_key().public_numbers()
ECC_AREA = ak_template("ecc")[:-4] + sized(ECC_KEY.x.to_bytes(32)) + sized(ECC_KEY.y.to_bytes(32))


def test_keys_as_others_read_them() -> None:
    found = serialization.load_pem_public_key(Public.parse(ECC_AREA).pem)
    assert isinstance(found, ec.EllipticCurvePublicKey)
    assert found.public_numbers() == ECC_KEY
    modulus = serialization.load_der_public_key(Public.parse(RSA_AREA).spki)
    assert isinstance(modulus, rsa.RSAPublicKey)
    assert modulus.public_numbers().e == 65537
    assert modulus.public_numbers().n == int.from_bytes(b"\xc5" + bytes(254) + b"\1")


def test_templates_have_the_sizes_of_the_profile() -> None:
    # EK Credential Profile, tables 3 and 4, as bytes.
    assert len(ek_template("rsa")) == 314
    assert len(ek_template("ecc")) == 122
    assert len(storage_template()) == 26


def test_hostile_areas() -> None:
    for area in (RSA_AREA, ECC_AREA, ek_template("ecc")):
        for cut in range(len(area)):
            with pytest.raises(MesateeError):
                Public.parse(area[:cut])
        with pytest.raises(MesateeError):
            Public.parse(area + b"\0")


@given(st.binary(max_size=120))
def test_random_areas(area: bytes) -> None:
    with contextlib.suppress(MesateeError):
        Public.parse(area)


@given(st.integers(min_value=0, max_value=len(ECC_AREA) * 8 - 1))
def test_flipped_bits(bit: int) -> None:
    flipped = bytearray(ECC_AREA)
    flipped[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(MesateeError):
        assert Public.parse(bytes(flipped)).name != Public.parse(ECC_AREA).name
