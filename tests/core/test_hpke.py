"""HPKE wraps (`rust/sealing/src/wrap.rs`), with OpenSSL by way of `cryptography` as the oracle."""

import os

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee import _core
from mesatee.errors import InputError, KeyRefused, Malformed

SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
OURS = _core.HpkeKey.generate()
ENC_BYTES = 1120
MLKEM_PUBLIC_BYTES = 1184


def theirs_of(public: bytes) -> MLKEM768X25519PublicKey:
    return MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(public[:MLKEM_PUBLIC_BYTES]),
        X25519PublicKey.from_public_bytes(public[MLKEM_PUBLIC_BYTES:]),
    )


@settings(max_examples=20)
@given(st.binary(max_size=200), st.binary(max_size=64))
def test_openssl_opens_ours_and_we_theirs(plaintext: bytes, info: bytes) -> None:
    mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes(
        Encoding.Raw, PublicFormat.Raw
    )
    # The oracle has no associated data.
    wrap = _core.hpke_wrap_bytes(public, plaintext, info, b"")
    assert len(wrap) == ENC_BYTES + len(plaintext) + 16
    assert SUITE.decrypt(wrap, MLKEM768X25519PrivateKey(mlkem, x25519), info=info) == plaintext
    assert (
        OURS.unwrap_bytes(SUITE.encrypt(plaintext, theirs_of(OURS.public), info=info), info, b"") == plaintext
    )
    with pytest.raises(InvalidTag):
        SUITE.decrypt(wrap, MLKEM768X25519PrivateKey(mlkem, x25519), info=info + b"x")


@settings(max_examples=30)
@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=40))
def test_round_trip_is_bound_to_info_and_aad(plaintext: bytes, info: bytes, aad: bytes) -> None:
    wrap = _core.hpke_wrap_bytes(OURS.public, plaintext, info, aad)
    assert OURS.unwrap_bytes(wrap, info, aad) == plaintext
    for other in ((info + b"x", aad), (info, aad + b"x"), (aad + b"y", info)):
        with pytest.raises(KeyRefused):
            OURS.unwrap_bytes(wrap, *other)
    with pytest.raises(KeyRefused):
        _core.HpkeKey.generate().unwrap_bytes(wrap, info, aad)


@settings(max_examples=60)
@given(st.data())
def test_altered_wraps_are_refused(data: st.DataObject) -> None:
    wrap = bytearray(_core.hpke_wrap_bytes(OURS.public, b"0123456789abcdef", b"i", b"a"))
    wrap[data.draw(st.integers(0, len(wrap) - 1))] ^= data.draw(st.integers(1, 255))
    for unwrap in (OURS.unwrap_bytes, OURS.unwrap_file_key):
        with pytest.raises(KeyRefused):
            unwrap(bytes(wrap), b"i", b"a")


@given(st.binary(max_size=1300))
def test_any_bytes_are_refused_with_our_errors(wrap: bytes) -> None:
    with pytest.raises((KeyRefused, Malformed)):
        OURS.unwrap_bytes(wrap, b"", b"")
    with pytest.raises(InputError):
        _core.hpke_wrap_bytes(wrap[:1215], b"", b"", b"")


def test_lengths() -> None:
    assert len(OURS.public) == 1216
    wrap = _core.hpke_wrap_bytes(OURS.public, b"", b"i", b"a")
    assert OURS.unwrap_bytes(wrap, b"i", b"a") == b""
    with pytest.raises(Malformed):
        OURS.unwrap_bytes(wrap[:-1], b"i", b"a")
    for length in (15, 17):
        with pytest.raises(Malformed):
            OURS.unwrap_file_key(_core.hpke_wrap_bytes(OURS.public, bytes(length), b"i", b"a"), b"i", b"a")
    # ML-KEM coefficients must be below 3329 (FIPS 203, section 7.2).
    with pytest.raises(Malformed):
        _core.hpke_wrap_bytes(b"\xff" * 1216, b"", b"", b"")


def test_file_keys_pass_by_wrap() -> None:
    source, target, again = (os.memfd_create(name) for name in ("s", "t", "a"))
    os.write(source, b"data")
    os.lseek(source, 0, os.SEEK_SET)
    key = _core.age_seal(source, target, []).file_key
    wrap = key.wrap(OURS.public, b"info", b"aad")
    assert len(wrap) == ENC_BYTES + 32
    passed = OURS.unwrap_file_key(wrap, b"info", b"aad")
    os.lseek(target, 0, os.SEEK_SET)
    assert _core.age_open(target, again, passed, 4) == 4
    assert os.pread(again, 9, 0) == b"data"
    with pytest.raises(KeyRefused):
        OURS.unwrap_file_key(wrap, b"info", b"other owner")
    for fd in (source, target, again):
        os.close(fd)
