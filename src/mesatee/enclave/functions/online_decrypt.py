"""Opens a file that was encrypted elsewhere, with a key that nobody sees."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from mesatee._core import aead_open
from mesatee.errors import Malformed

CIPHERS: Final = ("aes-128-gcm", "aes-256-gcm", "chacha20-poly1305")
ENCODINGS: Final = ("raw", "hex", "base64")
NONCE_BYTES: Final = 12
KEY_CHARS: Final = 256
"""Of a key file, most: 32 bytes in hex are 64 characters."""


def online_decrypt(
    data: bytes,
    key: bytes,
    aad: bytes | None = None,
    *,
    cipher: str = "aes-256-gcm",
    nonce: str | None = None,
    data_encoding: str = "raw",
    key_encoding: str = "raw",
) -> bytes:
    """Decrypt `data` with `key`: authenticated encryption that another system made.

    The key is a file of its own, so that its owner seals it and approves each task that uses it. `cipher` is
    ``aes-256-gcm`` or ``chacha20-poly1305`` (key of 32 bytes) or ``aes-128-gcm`` (16 bytes). `data` is the nonce of
    12 bytes, the ciphertext and the tag of 16 bytes, one behind the other; if the nonce is kept apart, `nonce` gives
    it in hex, and `data` begins with the ciphertext. `aad` is the associated data that was authenticated with it, if
    there was any. `data_encoding` and `key_encoding` say how the files are written: ``raw``, ``hex`` or ``base64``;
    white space around hex and base64 does not count. Ciphertext and plaintext are both held in memory.

    Nothing comes out of data that was altered, cut, or made with another key, nonce, cipher or associated data: the
    whole is authenticated first, by AWS-LC. The key lies in the memory of the run, which ends with it.

    Reveals the whole plaintext to the output's receivers, and nothing of the key. To the receivers of `diagnostics`
    it says whether the data opened.
    """
    if cipher not in CIPHERS:
        raise Malformed(f"cipher is one of {', '.join(CIPHERS)}")
    if len(key) > KEY_CHARS:
        raise Malformed(f"key has {len(key)} bytes, the limit is {KEY_CHARS}: it is one key and nothing else")
    sealed = _decoded("data", data, data_encoding)
    if nonce is None:
        if len(sealed) < NONCE_BYTES:
            raise Malformed(f"data is shorter than its nonce of {NONCE_BYTES} bytes")
        start, sealed = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    else:
        start = _decoded("nonce", nonce.encode("utf-8", "replace"), "hex")
    return aead_open(cipher, _decoded("key", key, key_encoding), start, aad or b"", sealed)


def _decoded(name: str, value: bytes, encoding: str) -> bytes:
    # No error here says what the bytes were.
    try:
        match encoding:
            case "raw":
                return value
            case "hex":
                return binascii.unhexlify(value.strip())
            case "base64":
                return base64.b64decode(b"".join(value.split()), validate=True)
    except ValueError:
        raise Malformed(f"{name} is not {encoding}") from None
    raise Malformed(f"{name}_encoding is one of {', '.join(ENCODINGS)}")
