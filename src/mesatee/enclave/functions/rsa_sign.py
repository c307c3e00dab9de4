"""Signs a message with an RSA key that nobody sees."""

from __future__ import annotations

import base64
from typing import Final

from mesatee._core import rsa_signature
from mesatee.errors import Malformed

SCHEMES: Final = ("pkcs1", "pss")
HASHES: Final = ("sha256", "sha384", "sha512")
ENCODINGS: Final = ("raw", "base64")


def rsa_sign(
    key: bytes, message: bytes, *, scheme: str = "pkcs1", hash: str = "sha256", encoding: str = "raw"
) -> bytes:
    """Sign `message` with the RSA private key in `key`.

    The key is a file of its own, so that its owner seals it and approves each task that signs with it, over the
    digest of the message. It is in PEM or DER, PKCS#8 or PKCS#1, without a password, of 2048 to 8192 bits; its
    numbers must fit each other. `scheme` is ``pkcs1`` (RSASSA-PKCS1-v1_5: the same bytes each time) or ``pss``
    (RSASSA-PSS with MGF1 over the same hash and a random salt as long as the hash: other bytes each time); `hash` is
    ``sha256``, ``sha384`` or ``sha512``. `encoding` is ``raw`` (as many bytes as the modulus) or ``base64`` (one line
    with its end). The message is hashed as it is, in whatever format.

    AWS-LC signs, with blinding; the signature is verified before it leaves. The key lies in the memory of the run,
    which ends with it.

    Reveals to the receivers of the output the signature, from which the key does not follow; not the message, but
    whoever has a guess of it and the public key can check it.
    """
    for name, value, known in (
        ("scheme", scheme, SCHEMES),
        ("hash", hash, HASHES),
        ("encoding", encoding, ENCODINGS),
    ):
        if value not in known:
            raise Malformed(f"{name} is one of {', '.join(known)}")
    made = rsa_signature(f"{scheme}-{hash}", key, message)
    return made if encoding == "raw" else base64.b64encode(made) + b"\n"
