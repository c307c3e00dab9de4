"""A TPM in Python with a key of our own: PCRs, a firmware's log and quotes, in the formats of the specification."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ATTESTATION_KEY = 0x00050072
"""fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign."""
NONCE = b"a nonce of this very session...."


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


@cache
def rsa_key(number: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, 2_048)


@dataclass
class Machine:
    """A TPM with one key, 24 PCRs and a firmware log, in the formats of the specification."""

    key: Any = field(default_factory=lambda: rsa_key(1))
    attributes: int = ATTESTATION_KEY
    pcrs: dict[int, bytes] = field(default_factory=lambda: {i: bytes(32) for i in range(24)})
    log: bytes = b""

    def boot(self, *measured: tuple[int, bytes]) -> Machine:
        spec = b"Spec ID Event03\0" + bytes(4) + bytes([0, 2, 0, 2]) + struct.pack("<IHHB", 1, 11, 32, 0)
        self.log = struct.pack("<II", 0, 3) + bytes(20) + struct.pack("<I", len(spec)) + spec
        for register, data in measured:
            digest = hashlib.sha256(data).digest()
            self.pcrs[register] = hashlib.sha256(self.pcrs[register] + digest).digest()
            self.log += (
                struct.pack("<IIIH", register, 1, 1, 11) + digest + struct.pack("<I", len(data)) + data
            )
        return self

    def attest(
        self,
        nonce: bytes = NONCE,
        magic: bytes = b"\xffTCG",
        kind: int = 0x8018,
        select: bytes = b"\xff\xff\xff",
        digest: bytes | None = None,
        clock: int = 1_000,
        resets: int = 2,
    ) -> bytes:
        chosen = [self.pcrs[i] for i in range(8 * len(select)) if select[i // 8] >> i % 8 & 1]
        digest = hashlib.sha256(b"".join(chosen)).digest() if digest is None else digest
        when = struct.pack(">QIIB", clock, resets, 3, 1) + bytes(8)
        selection = struct.pack(">IHB", 1, 11, len(select)) + select
        return (
            magic
            + struct.pack(">H", kind)
            + sized(b"\0\x0b" + bytes(32))
            + sized(nonce)
            + when
            + selection
            + sized(digest)
        )

    def sign(self, message: bytes, scheme: int = 0x14) -> bytes:
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(hashes.SHA256())))
            parts = [n.to_bytes((n.bit_length() + 7) // 8) for n in (r, s)]
            return struct.pack(">HH", 0x18, 11) + b"".join(map(sized, parts))
        how: Any = padding.PKCS1v15()
        if scheme == 0x16:
            how = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        return struct.pack(">HH", scheme, 11) + sized(self.key.sign(message, how, hashes.SHA256()))

    def pem(self) -> bytes:
        encoded: bytes = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return encoded

    def public(self) -> bytes:
        numbers = self.key.public_key().public_numbers()
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            head = struct.pack(">HHI", 0x23, 11, self.attributes) + sized(b"")
            size = (self.key.curve.key_size + 7) // 8
            curve = {256: 3, 384: 4}[self.key.curve.key_size]
            unique = sized(numbers.x.to_bytes(size)) + sized(numbers.y.to_bytes(size))
            return head + struct.pack(">HHHHH", 0x10, 0x18, 11, curve, 0x10) + unique
        head = struct.pack(">HHI", 1, 11, self.attributes) + sized(b"")
        modulus = sized(numbers.n.to_bytes(256))
        return head + struct.pack(">HHHHI", 0x10, 0x14, 11, 2_048, 0) + modulus

    def values(self) -> bytes:
        return json.dumps({"sha256": {str(i): v.hex() for i, v in self.pcrs.items()}}).encode()

    def case(self, message: bytes | None = None, **files: bytes) -> dict[str, bytes]:
        message = self.attest() if message is None else message
        found = {
            "quote": message,
            "signature": self.sign(message),
            "ak_public_pem": self.pem(),
            "pcrs": self.values(),
            "nonce": NONCE,
        }
        if self.log:
            found["eventlog"] = self.log
        return found | files


def booted(number: int = 1) -> Machine:
    return Machine(rsa_key(number)).boot((0, b"firmware"), (4, b"kernel"), (7, bytes(4)))


def spki(machine: Machine) -> bytes:
    """The attestation key's SubjectPublicKeyInfo, DER."""
    encoded: bytes = machine.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded
