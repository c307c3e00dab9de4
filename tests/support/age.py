"""Sealed files for tests: ours made and opened in memory, and one written by hand from the age specification."""

import base64
import hmac
import os
import re
import tempfile

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from tests.support.memfd import memory

from mesatee import _core
from mesatee.errors import MesateeError

CHUNK = 64 * 1024
THEIRS = pyrage.x25519.Identity.generate()
MANY = 1 << 40


def load(identity: str) -> _core.AgeKey:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(f"{identity}\n")
        file.flush()
        return _core.AgeKey.load(file.name)


OURS = load(str(THEIRS))


def everything(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def seal(plain: bytes, *recipients: str) -> tuple[bytes, _core.Sealed]:
    with memory(plain) as source, memory() as target:
        sealed = _core.age_seal(source, target, recipients)
        return everything(target), sealed


def unseal(sealed: bytes, key: _core.FileKey | _core.AgeKey, limit: int = MANY) -> bytes:
    """By its file and by its bytes, which end alike."""
    with memory(sealed) as source, memory() as target, memory() as other:
        try:
            size = _core.age_open(source, target, key, limit)
        except MesateeError as error:
            with pytest.raises(type(error), match=re.escape(error.message)):
                _core.age_open(sealed, other, key, limit)
            raise
        assert _core.age_open(sealed, other, key, limit) == size
        out = everything(target)
        assert everything(other) == out
    assert size == len(out)
    return out


def at_random(sealed: bytes, key: _core.FileKey | _core.AgeKey) -> bytes:
    with memory(sealed) as source:
        reader = _core.AgeReader(source, key)
    return reader.read_at(0, reader.size)


def header_bytes(sealed: bytes) -> int:
    return re.search(rb"\n--- [^\n]*\n", sealed).end()  # type: ignore[union-attr]


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=salt or None, info=info).derive(key)


def b64(raw: bytes) -> bytes:
    return base64.b64encode(raw).rstrip(b"=")


def stanza(file_key: bytes, recipient: bytes) -> bytes:
    """An X25519 recipient stanza (C2SP age, "The X25519 recipient type")."""
    ephemeral = X25519PrivateKey.generate()
    share = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(recipient))
    key = hkdf(shared, share + recipient, b"age-encryption.org/v1/X25519")
    body = ChaCha20Poly1305(key).encrypt(bytes(12), file_key, None)
    return b"-> X25519 " + b64(share) + b"\n" + b64(body) + b"\n"


def handmade(stanzas: bytes, file_key: bytes, chunks: list[bytes]) -> bytes:
    """An age file written from the specification, with chunks as given."""
    head = b"age-encryption.org/v1\n" + stanzas + b"---"
    head += b" " + b64(hmac.digest(hkdf(file_key, b"", b"header"), head, "sha256")) + b"\n"
    nonce = b"N" * 16
    cipher = ChaCha20Poly1305(hkdf(file_key, nonce, b"payload"))
    for index, chunk in enumerate(chunks):
        last = index == len(chunks) - 1
        nonce += cipher.encrypt(index.to_bytes(11, "big") + bytes([last]), chunk, None)
    return head + nonce


def bech32_public(identity: _core.AgeKey) -> bytes:
    """The 32 bytes behind ``age1...``."""
    letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    number = 0
    for letter in identity.recipient[4:-6]:
        number = number << 5 | letters.index(letter)
    return (number >> 4).to_bytes(32, "big")
