"""AMD's key hierarchy and SNP reports in small, made by another library, and the captured cases.

Keys of RSA are as short as our core allows, to be quick; everything else is as AMD makes it.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import struct
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

START = 1_800_000_000
DAY = 86_400
HWID = bytes(range(64))
MILAN_TCB = bytes([4, 0, 0, 0, 0, 0, 24, 219])
TURIN_TCB = bytes([1, 2, 3, 4, 0, 0, 0, 81])
OID = "1.3.6.1.4.1.3704.1."


# -- keys ------------------------------------------------------------------------------------------


@functools.cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """One key for each name."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@functools.cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    """One key for each name."""
    return ec.generate_private_key(ec.SECP384R1())


def moment(at: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)


def name_of(text: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Advanced Micro Devices"),
            x509.NameAttribute(NameOID.COMMON_NAME, text),
        ]
    )


def pss() -> padding.PSS:
    return padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)


def certificate(
    subject: str,
    key: Any,
    issuer: str,
    issuer_key: rsa.RSAPrivateKey,
    *,
    ca: bool = True,
    serial: int = 7,
    extensions: dict[str, bytes] | None = None,
) -> bytes:
    """DER, signed with RSA-PSS and SHA-384."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of(subject))
        .issuer_name(name_of(issuer))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(moment(START - DAY))
        .not_valid_after(moment(START + DAY))
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    for oid, value in (extensions or {}).items():
        builder = builder.add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False
        )
    made = builder.sign(issuer_key, hashes.SHA384(), rsa_padding=pss())
    return made.public_bytes(serialization.Encoding.DER)


def pem(*ders: bytes) -> bytes:
    return b"".join(
        x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM) for der in ders
    )


def integer(value: int) -> bytes:
    body = value.to_bytes(1 + (value >> 7))
    return bytes([2, len(body)]) + body


def ia5(text: str) -> bytes:
    return bytes([0x16, len(text)]) + text.encode()


# -- a product line --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """Root and intermediates of one product line."""

    name: str

    @property
    def ark(self) -> bytes:
        return _ark(self.name)

    @property
    def ask(self) -> bytes:
        return _intermediate(self.name, f"SEV-{self.name}")

    @property
    def asvk(self) -> bytes:
        return _intermediate(self.name, f"SEV-VLEK-{self.name}")

    @property
    def roots(self) -> dict[bytes, str]:
        return {hashlib.sha256(self.ark).digest(): self.name}

    def vcek(
        self,
        key: str = "chip",
        *,
        tcb: bytes | None = None,
        hwid: bytes = HWID,
        product: str | None = None,
        **extra: bytes,
    ) -> bytes:
        """The certificate of a chip's key."""
        more = {OID + "4": hwid, **{OID + name.removeprefix("oid"): value for name, value in extra.items()}}
        return self._endorse("SEV-VCEK", f"SEV-{self.name}", key, tcb, product, more)

    def vlek(self, key: str = "cloud", *, tcb: bytes | None = None, product: str | None = None) -> bytes:
        """The certificate of a cloud's key."""
        more = {OID + "5": ia5("CN=cc-example")}
        return self._endorse("SEV-VLEK", f"SEV-VLEK-{self.name}", key, tcb, product, more)

    def _endorse(
        self,
        subject: str,
        issuer: str,
        key: str,
        tcb: bytes | None,
        product: str | None,
        more: dict[str, bytes],
    ) -> bytes:
        turin = self.name == "Turin"
        layout = (9, 1, 2, 3, 5, 6, 7, 8) if turin else (1, 2, 4, 5, 6, 7, 3, 8)
        version = tcb or (TURIN_TCB if turin else MILAN_TCB)
        extensions = {
            OID + "1": integer(0),
            OID + "2": ia5(product or self.name),
            **{f"{OID}3.{number}": integer(version[place]) for place, number in enumerate(layout)},
            **more,
        }
        return certificate(
            subject, ec_key(key), issuer, rsa_key(issuer), ca=False, serial=1, extensions=extensions
        )

    def crl(self, *revoked: int, at: int = START) -> bytes:
        """The root's list of revoked intermediates, DER."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(name_of(f"ARK-{self.name}"))
            .last_update(moment(at - DAY))
            .next_update(moment(at + DAY))
        )
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment(at)).build()
            builder = builder.add_revoked_certificate(entry)
        made = builder.sign(rsa_key(f"ARK-{self.name}"), hashes.SHA384(), rsa_padding=pss())
        return made.public_bytes(serialization.Encoding.DER)


@functools.cache
def _ark(line: str) -> bytes:
    name = f"ARK-{line}"
    return certificate(name, rsa_key(name), name, rsa_key(name), serial=1)


@functools.cache
def _intermediate(line: str, name: str) -> bytes:
    return certificate(name, rsa_key(name), f"ARK-{line}", rsa_key(f"ARK-{line}"), serial=7)


MILAN, GENOA, TURIN = Line("Milan"), Line("Genoa"), Line("Turin")
CPUS = {"Milan": (0x19, 0x01, 1), "Genoa": (0x19, 0xA0, 1), "Turin": (0x1A, 0x02, 1)}


# -- reports ---------------------------------------------------------------------------------------


def report(
    key: str = "chip", *, line: Line = MILAN, version: int = 3, sign: bool = True, **fields: Any
) -> bytes:
    """A signed report. `fields` are: policy, vmpl, platform_info, key_info, report_data, measurement, tcb, cpu,
    chip_id."""
    data = bytearray(1184)
    struct.pack_into("<IIQ", data, 0, version, 2, fields.get("policy", 0x3001F))
    struct.pack_into("<II", data, 0x30, fields.get("vmpl", 0), 1)
    struct.pack_into("<QI", data, 0x40, fields.get("platform_info", 0x25), fields.get("key_info", 0))
    data[0x50:0x90] = fields.get("report_data", bytes(64))
    data[0x90:0xC0] = fields.get("measurement", b"\x11" * 48)
    tcb = fields.get("tcb", TURIN_TCB if line is TURIN else MILAN_TCB)
    for offset in (0x38, 0x180, 0x1E0, 0x1F0):
        data[offset : offset + 8] = tcb
    if version >= 3:
        data[0x188:0x18B] = bytes(fields.get("cpu", CPUS[line.name]))
    data[0x1A0:0x1E0] = fields.get("chip_id", HWID)
    if sign:
        r, s = decode_dss_signature(ec_key(key).sign(bytes(data[:0x2A0]), ec.ECDSA(hashes.SHA384())))
        data[0x2A0:0x2E8] = r.to_bytes(72, "little")
        data[0x2E8:0x330] = s.to_bytes(72, "little")
    return bytes(data)
