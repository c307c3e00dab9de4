from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st

from mesatee.enclave.platform import spki


@given(st.integers(min_value=1 << 1023, max_value=1 << 4096).map(lambda n: n | 1))
def test_rsa(modulus: int) -> None:
    der = spki.rsa(modulus.to_bytes(513), b"\1\0\1")
    found = load_der_public_key(der)
    assert isinstance(found, rsa.RSAPublicKey)
    assert found.public_numbers() == rsa.RSAPublicNumbers(65537, modulus)


def test_p256() -> None:
    numbers = ec.derive_private_key(7, ec.SECP256R1()).public_key().public_numbers()
    der = spki.p256(numbers.x.to_bytes(32), numbers.y.to_bytes(32))
    found = load_pem_public_key(spki.pem("PUBLIC KEY", der))
    assert isinstance(found, ec.EllipticCurvePublicKey)
    assert found.public_numbers() == numbers
