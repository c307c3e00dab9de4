"""Intel's PKI in small: a vendor, machines with their quotes, and the collateral on them, made by another library."""

from __future__ import annotations

import datetime
import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from mesatee.attestation.tee import dcap_quote

NOW = 1_800_000_000
DAY = 86_400
QE_SIGNER = bytes(range(32))
FMSPC = "00906ea10000"


def moment(at: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)


def stamp(at: int) -> str:
    return moment(at).strftime("%Y-%m-%dT%H:%M:%SZ")


def sign(key: Any, message: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def point(key: Any) -> bytes:
    encoded: bytes = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    return encoded[1:]


def der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    head = (
        bytes([size])
        if size < 128
        else b"\x81" + bytes([size])
        if size < 256
        else b"\x82" + size.to_bytes(2, "big")
    )
    return bytes([tag]) + head + content


def sgx_extension(components: bytes, pcesvn: int, fmspc: str) -> bytes:
    base = bytes.fromhex("2a864886f84d010d01")

    def entry(arcs: bytes, value: bytes) -> bytes:
        return der(0x30, der(0x06, base + arcs), value)

    def number(value: int) -> bytes:
        return der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))

    svns = [entry(bytes([2, i + 1]), number(svn)) for i, svn in enumerate(components)]
    tcb = der(0x30, *svns, entry(b"\x02\x11", number(pcesvn)), entry(b"\x02\x12", der(0x04, components)))
    ppid, pceid = der(0x04, bytes(16)), der(0x04, bytes(2))
    return der(
        0x30,
        entry(b"\x01", ppid),
        entry(b"\x02", tcb),
        entry(b"\x03", pceid),
        entry(b"\x04", der(0x04, bytes.fromhex(fmspc))),
    )


@dataclass
class Entity:
    key: Any
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def issue(name: str, issuer: Entity | None, *, ca: bool, extension: bytes | None = None) -> Entity:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(issuer.certificate.subject if issuer else named(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(NOW - 900 * DAY))
        .not_valid_after(moment(NOW + 900 * DAY))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
    )
    if extension is not None:
        identifier = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
        builder = builder.add_extension(x509.UnrecognizedExtension(identifier, extension), critical=False)
    signer = issuer.key if issuer else key
    return Entity(key, builder.sign(signer, hashes.SHA256()))


def revocations(
    issuer: Entity,
    *revoked: Entity,
    start: int = NOW - 10 * DAY,
    end: int = NOW + 20 * DAY,
    number: int | None = None,
) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(moment(start))
        .next_update(moment(end))
    )
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for entity in revoked:
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(entity.certificate.serial_number)
            .revocation_date(moment(NOW - 11 * DAY))
            .build()
        )
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


class Vendor:
    """The root, the CA of platforms and the signer of collateral."""

    def __init__(self) -> None:
        self.root = issue("Intel SGX Root CA", None, ca=True)
        self.ca = issue("Intel SGX PCK Platform CA", self.root, ca=True)
        self.signer = issue("Intel SGX TCB Signing", self.root, ca=False)
        der_root = self.root.certificate.public_bytes(serialization.Encoding.DER)
        self.anchors = (hashlib.sha256(der_root).digest(),)

    def statement(self, value: dict[str, Any]) -> tuple[str, str]:
        text = json.dumps(value, separators=(",", ":"))
        return text, sign(self.signer.key, text.encode()).hex()


VENDOR = Vendor()


@dataclass
class Machine:
    """A platform with its quoting enclave, and the collateral on it."""

    tee: str = "sgx"
    fmspc: str = FMSPC
    components: bytes = bytes([5] * 16)
    vendor: Vendor = field(default_factory=lambda: VENDOR)

    def __post_init__(self) -> None:
        extension = sgx_extension(self.components, 11, self.fmspc)
        self.pck = issue("Intel SGX PCK Certificate", self.vendor.ca, ca=False, extension=extension)
        self.attestation_key = ec.generate_private_key(ec.SECP256R1())

    def report(
        self, *, debug: bool = False, data: bytes = b"", signer: bytes = QE_SIGNER, svn: int = 8
    ) -> bytes:
        attributes = bytes([0x05 | (debug << 1)]).ljust(8, b"\0") + b"\x03".ljust(8, b"\0")
        body = bytes(48) + attributes + b"\x11" * 32 + bytes(32) + signer + bytes(96)
        return body + struct.pack("<HH", 1, svn) + bytes(60) + data.ljust(64, b"\0")

    def td_report(self, attributes: int = 1 << 28, svn: bytes = bytes([3, 1] + [3] * 14)) -> bytes:
        body = svn + bytes(48 + 48 + 8) + attributes.to_bytes(8, "little") + bytes(8) + b"\x22" * 48
        return body + bytes(144) + bytes(192) + b"\x33" * 64

    def chain(self) -> bytes:
        return self.pck.pem + self.vendor.ca.pem + self.vendor.root.pem + b"\0"

    def quote(self, body: bytes | None = None, **changes: Any) -> bytes:
        """A quote; `changes` replace one of its parts."""
        sgx_quote = self.tee == "sgx"
        if body is None:
            body = self.report(data=b"report data") if sgx_quote else self.td_report()
        head = struct.pack("<HHI", 3 if sgx_quote else 4, 2, 0 if sgx_quote else 0x81) + bytes(4)
        signed = head + dcap_quote.INTEL_QE_VENDOR + bytes(20) + body
        key = changes.get("key", point(self.attestation_key))
        signature = changes.get("signature", sign(self.attestation_key, signed))
        auth = b"auth"
        digest = hashlib.sha256(point(self.attestation_key) + auth).digest()
        qe = changes.get("qe", self.report(data=digest))
        qe_signature = changes.get("qe_signature", sign(self.pck.key, qe))
        kind, data = changes.get("certification", (5, self.chain()))
        rest = (
            qe
            + qe_signature
            + struct.pack("<H", len(auth))
            + auth
            + struct.pack("<HI", kind, len(data))
            + data
        )
        if not sgx_quote:
            rest = struct.pack("<HI", 6, len(rest)) + rest
        tail = signature + key + rest
        return bytes(signed + struct.pack("<I", len(tail)) + tail)

    def tcb_info(self, **changes: Any) -> dict[str, Any]:
        def level(svn: int, status: str) -> dict[str, Any]:
            tcb: dict[str, Any] = {"sgxtcbcomponents": [{"svn": svn}] * 16, "pcesvn": 11}
            if self.tee == "tdx":
                tcb["tdxtcbcomponents"] = [{"svn": 3}] * 16
            found = {"tcb": tcb, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status}
            return found | ({} if status == "UpToDate" else {"advisoryIDs": ["INTEL-SA-00001"]})

        module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "ff" * 8}
        levels = [{"tcb": {"isvsvn": 3}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"}]
        value = {
            "id": self.tee.upper(),
            "version": 3,
            "issueDate": stamp(NOW - 5 * DAY),
            "nextUpdate": stamp(NOW + 25 * DAY),
            "fmspc": self.fmspc,
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 20,
            "tcbLevels": [level(5, "UpToDate"), level(4, "OutOfDate"), level(3, "Revoked")],
        }
        if self.tee == "tdx":
            value |= {
                "tdxModule": module,
                "tdxModuleIdentities": [module | {"id": "TDX_01", "tcbLevels": levels}],
            }
        return value | changes

    def identity(self, **changes: Any) -> dict[str, Any]:
        value = {
            "id": "QE" if self.tee == "sgx" else "TD_QE",
            "version": 2,
            "issueDate": stamp(NOW - 5 * DAY),
            "nextUpdate": stamp(NOW + 25 * DAY),
            "tcbEvaluationDataNumber": 20,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "05000000000000000300000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": QE_SIGNER.hex(),
            "isvprodid": 1,
            "tcbLevels": [
                {"tcb": {"isvsvn": 8}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"},
                {"tcb": {"isvsvn": 6}, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": "OutOfDate"},
            ],
        }
        return value | changes

    def collateral(self, **changes: Any) -> dict[str, str]:
        """As one JSON object of strings; `changes` replace members."""
        tcb_info, tcb_signature = self.vendor.statement(changes.pop("info", self.tcb_info()))
        identity, identity_signature = self.vendor.statement(changes.pop("identity", self.identity()))
        chain = (self.vendor.signer.pem + self.vendor.root.pem).decode()
        value = {
            "pck_crl_issuer_chain": (self.vendor.ca.pem + self.vendor.root.pem).decode(),
            "root_ca_crl": revocations(self.vendor.root).hex(),
            "pck_crl": revocations(self.vendor.ca).hex(),
            "tcb_info_issuer_chain": chain,
            "tcb_info": tcb_info,
            "tcb_info_signature": tcb_signature,
            "qe_identity_issuer_chain": chain,
            "qe_identity": identity,
            "qe_identity_signature": identity_signature,
        }
        return value | changes
