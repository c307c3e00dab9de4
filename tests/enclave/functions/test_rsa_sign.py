"""RSA signatures, verified by pyca/cryptography (OpenSSL), which also makes the keys."""

from __future__ import annotations

import base64

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee.enclave.functions.rsa_sign import HASHES, rsa_sign
from mesatee.errors import InputError, Malformed, TooLarge

PKCS8, PKCS1 = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
KIND = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(65537, 2048)


def written(key, encoding=PEM, format=PKCS8, password=None):
    under = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(encoding, format, under)


def pss(kind):
    return padding.PSS(padding.MGF1(kind), kind.digest_size)


@pytest.mark.parametrize("hash", HASHES)
def test_another_implementation_verifies_both_schemes(key, hash):
    data, kind = written(key), KIND[hash]

    @settings(deadline=None, max_examples=10)
    @given(st.binary(max_size=300))
    def check(message):
        made = rsa_sign(data, message, hash=hash)
        assert made == key.sign(message, padding.PKCS1v15(), kind)
        made = rsa_sign(data, message, scheme="pss", hash=hash)
        key.public_key().verify(made, message, pss(kind), kind)
        with pytest.raises(InvalidSignature):
            key.public_key().verify(made, message + b"!", pss(kind), kind)
        assert made != rsa_sign(data, message, scheme="pss", hash=hash)

    check()


@pytest.mark.parametrize("encoding", [PEM, DER])
@pytest.mark.parametrize("format", [PKCS8, PKCS1])
def test_keys_in_every_form(key, encoding, format):
    expected = key.sign(b"message", padding.PKCS1v15(), hashes.SHA256())
    data = written(key, encoding, format)
    assert rsa_sign(data, b"message") == expected
    assert rsa_sign(data, b"message", encoding="base64") == base64.b64encode(expected) + b"\n"
    if encoding is PEM:
        assert rsa_sign(b"\n" + data.replace(b"\n", b"\r\n"), b"message") == expected


def test_a_key_of_another_size():
    large = rsa.generate_private_key(65537, 3072)
    assert len(rsa_sign(written(large), b"")) == 384


def test_keys_that_are_refused(key):
    good = written(key)
    small = rsa.generate_private_key(65537, 1024)
    for data, said in (
        (b"", "2048 to 8192"),
        (b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", "neither PEM nor DER"),
        (good + good, "neither PEM nor DER"),
        (good[:-30], "neither PEM nor DER"),
        (good.replace(b"M", b"*", 1), "neither PEM nor DER"),
        (written(key, password=b"secret"), "password"),
        (written(small), "2048 to 8192"),
        (written(ec.generate_private_key(ec.SECP256R1())), "2048 to 8192"),
        (key.public_key().public_bytes(DER, serialization.PublicFormat.SubjectPublicKeyInfo), "2048 to 8192"),
    ):
        with pytest.raises(Malformed, match=said):
            rsa_sign(data, b"message")
    longest = good.ljust(16 * 1024, b"\n")
    assert rsa_sign(longest, b"message")
    with pytest.raises(TooLarge, match="16 KiB"):
        rsa_sign(longest + b"\n", b"message")
    for args in ({"scheme": "raw"}, {"hash": "sha1"}, {"encoding": "hex"}):
        with pytest.raises(Malformed, match="is one of"):
            rsa_sign(good, b"message", **args)


def test_a_damaged_key_gives_no_wrong_signature(key):
    """A signature that was computed with a wrong number would let anybody compute the key."""
    data = written(key, DER)
    refused = 0
    for at in range(30, len(data), 41):
        bad = bytearray(data)
        bad[at] ^= 4
        try:
            made = rsa_sign(bytes(bad), b"message")
        except InputError:
            refused += 1
            continue
        key.public_key().verify(made, b"message", padding.PKCS1v15(), hashes.SHA256())
    assert refused > 20
