"""Authenticated decryption of what pyca/cryptography (OpenSSL) encrypted."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee.enclave.functions.online_decrypt import CIPHERS, KEY_CHARS, online_decrypt
from mesatee.errors import Malformed

MAKE = {"aes-128-gcm": AESGCM, "aes-256-gcm": AESGCM, "chacha20-poly1305": ChaCha20Poly1305}
SIZE = {"aes-128-gcm": 16, "aes-256-gcm": 32, "chacha20-poly1305": 32}
WRITE = {
    "raw": lambda data: data,
    "hex": lambda data: data.hex().encode() + b"\n",
    "base64": lambda data: base64.encodebytes(data),
}


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(CIPHERS),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=12, max_size=12),
    st.binary(max_size=40),
    st.none() | st.binary(max_size=9),
    st.sampled_from(sorted(WRITE)),
    st.sampled_from(sorted(WRITE)),
)
def test_what_another_implementation_encrypted_opens(cipher, key, nonce, plain, aad, written, key_written):
    key = key[: SIZE[cipher]]
    sealed = MAKE[cipher](key).encrypt(nonce, plain, aad)
    args = {"cipher": cipher, "data_encoding": written, "key_encoding": key_written}
    file, key_file = WRITE[written](nonce + sealed), WRITE[key_written](key)
    assert online_decrypt(file, key_file, aad, **args) == plain
    apart = WRITE[written](sealed)
    assert online_decrypt(apart, key_file, aad, nonce=nonce.hex(), **args) == plain


def test_nothing_comes_out_of_what_was_altered_anywhere():
    key, nonce = bytes(range(32)), bytes(12)
    file = nonce + AESGCM(key).encrypt(nonce, b"plaintext", b"aad")
    assert online_decrypt(file, key, b"aad") == b"plaintext"
    for at in range(len(file)):
        bad = bytearray(file)
        bad[at] ^= 1
        with pytest.raises(Malformed, match="does not open"):
            online_decrypt(bytes(bad), key, b"aad")
    for cut in (file[:-1], file[:28]):
        with pytest.raises(Malformed, match="does not open"):
            online_decrypt(cut, key, b"aad")
    for bad_key, bad_aad, args in (
        (bytes(32), b"aad", {}),
        (key, None, {}),
        (key, b"aae", {}),
        (key, b"aad", {"cipher": "chacha20-poly1305"}),
        (key, b"aad", {"nonce": bytes(12).hex()}),
    ):
        with pytest.raises(Malformed, match="does not open"):
            online_decrypt(file, bad_key, bad_aad, **args)


@pytest.mark.parametrize(
    ("data", "key", "args", "said"),
    [
        (bytes(40), bytes(16), {}, "length is not the cipher"),
        (bytes(40), bytes(32), {"cipher": "aes-128-gcm"}, "length is not the cipher"),
        (bytes(40), bytes(32), {"cipher": "aes-256-cbc"}, "cipher is one of"),
        (bytes(11), bytes(32), {}, "shorter than its nonce"),
        (bytes(27), bytes(32), {}, "shorter than its tag"),
        (bytes(40), bytes(32), {"nonce": "00" * 11}, "nonce has 12 bytes"),
        (bytes(40), bytes(32), {"nonce": "é"}, "nonce is not hex"),
        (b"zz", bytes(32), {"data_encoding": "hex"}, "data is not hex"),
        (bytes(40), b"*", {"key_encoding": "base64"}, "key is not base64"),
        (bytes(40), bytes(32), {"key_encoding": "pem"}, "key_encoding is one of"),
        (bytes(40), bytes(KEY_CHARS + 1), {}, "257 bytes"),
    ],
)
def test_what_is_refused(data, key, args, said):
    with pytest.raises(Malformed, match=said):
        online_decrypt(data, key, **args)


def test_a_key_file_may_have_white_space_up_to_its_limit():
    key, nonce = bytes(range(32)), bytes(12)
    file = nonce + AESGCM(key).encrypt(nonce, b"plaintext", None)
    longest = key.hex().encode().ljust(KEY_CHARS, b"\n")
    assert online_decrypt(file, longest, key_encoding="hex") == b"plaintext"
    with pytest.raises(Malformed, match="257 bytes"):
        online_decrypt(file, longest + b"\n", key_encoding="hex")
