"""The services of Intel, AMD and Azure in small: real HTTP servers on this machine that behave as the vendors'
documents say, and can be told to misbehave. Filled with generated endorsements, or with captured ones.
"""

from __future__ import annotations

import base64
import datetime
import functools
import json
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from mesatee.attestation.subjects import AmdPlatform

NOW = int(time.time())
DAY = 86_400
FMSPC = "00a067110000"
CHIP = bytes(range(64))
TURIN_CHIP = bytes.fromhex("59790fb1c39f35c1")
MILAN_TCB = bytes([4, 0, 0, 0, 0, 0, 24, 219])
TURIN_TCB = bytes([1, 2, 3, 4, 0, 0, 0, 81])
HWID = "1.3.6.1.4.1.3704.1.4"
SGX = "1.2.840.113741.1.13.1"


# -- captured cases ---------------------------------------------------------------------------------


# -- generated keys, certificates and evidence ------------------------------------------------------


@functools.cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """One key for each name."""
    return ec.generate_private_key(ec.SECP256R1())


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def moment(at: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)


def certificate(subject: str, issuer: str, days: int = 1_000, **extensions: bytes) -> bytes:
    """DER. Names of extensions have underscores for dots, and one in front."""
    made = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key(subject).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(NOW - 5_000 * DAY))
        .not_valid_after(moment(NOW + days * DAY))
    )
    for identifier, value in extensions.items():
        dotted = ObjectIdentifier(identifier[1:].replace("_", "."))
        made = made.add_extension(x509.UnrecognizedExtension(dotted, value), critical=False)
    signed = made.sign(key(issuer), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


def crl(issuer: str, end: int = NOW + 30 * DAY) -> bytes:
    made = x509.CertificateRevocationListBuilder().issuer_name(name(issuer))
    made = made.last_update(moment(NOW - 4_000 * DAY)).next_update(moment(end))
    return made.sign(key(issuer), hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def pem(*ders: bytes, what: str = "CERTIFICATE") -> bytes:
    return b"".join(
        f"-----BEGIN {what}-----\n".encode() + base64.encodebytes(der) + f"-----END {what}-----\n".encode()
        for der in ders
    )


def tlv(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = bytes([len(body)]) if len(body) < 128 else b"\x82" + len(body).to_bytes(2)
    return bytes([tag]) + size + body


def pck(fmspc: str = FMSPC, ca: str = "Processor") -> bytes:
    """A PCK certificate; its other values are there only to be passed over."""
    arc = bytes.fromhex("2a864886f84d010d01")
    entries = [
        tlv(0x30, tlv(6, arc + b"\x01"), tlv(4, bytes(16))),
        tlv(0x30, tlv(6, arc + b"\x02"), tlv(0x30, bytes.fromhex("0403000000") * 40)),
        tlv(0x30, tlv(6, arc + b"\x04"), tlv(4, bytes.fromhex(fmspc))),
    ]
    extension = tlv(0x30, *entries)
    issuer = f"Intel SGX PCK {ca} CA"
    return certificate("Intel SGX PCK Certificate", issuer, _1_2_840_113741_1_13_1=extension)


def quote_of(chain: bytes, version: int = 3, tdx: bool = False, kind: int = 5) -> bytes:
    """A DCAP quote around some certification data, signed by nobody."""
    u16, u32 = (lambda value: value.to_bytes(2, "little")), (lambda value: value.to_bytes(4, "little"))
    vendor = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
    head = u16(version) + u16(2) + u32(0x81 if tdx else 0) + bytes(4) + vendor + bytes(20)
    size = {True: 648 if version == 5 else 584, False: 384}[tdx]
    body = (u16(3 if tdx else 1) + u32(size) if version == 5 else b"") + bytes(size)
    inner = bytes(448) + u16(32) + bytes(32) + u16(kind) + u32(len(chain)) + chain
    if version > 3:
        inner = u16(6) + u32(len(inner)) + inner
    return head + body + u32(128 + len(inner)) + bytes(128) + inner


def report(
    version: int = 3,
    cpu: tuple[int, int] = (0x19, 1),
    chip: bytes = CHIP,
    tcb: bytes = MILAN_TCB,
    vlek: bool = False,
) -> bytes:
    """An SEV-SNP report, signed by nobody."""
    made = bytearray(1_184)
    made[0] = version
    made[0x34] = 1
    made[0x48] = 4 if vlek else 0
    made[0x180:0x188] = tcb
    if version > 2:
        made[0x188], made[0x189] = cpu
    made[0x1A0 : 0x1A0 + len(chip)] = chip
    return bytes(made)


def vcek(chip: bytes = CHIP) -> bytes:
    return certificate("SEV-VCEK", "SEV-Milan", _1_3_6_1_4_1_3704_1_4=chip)


# -- servers ----------------------------------------------------------------------------------------


@dataclass
class Reply:
    """What a path answers."""

    body: bytes = b""
    kind: str = "application/json"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def raw(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Because", f"Content-Length: {len(self.body)}"]
        lines += [f"Content-Type: {self.kind}"] if self.kind else []
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass
class Fault:
    """What happens once instead of the answer: bytes to send and seconds to wait; then the connection ends."""

    where: str
    """In the path of the request that it meets."""
    script: tuple[bytes | float, ...]


class Fake(ABC):
    """One service. `url` is its base address, `asked` what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ports: list[int] = []
        """From which each of these came."""
        self.faults: list[Fault] = []
        self.ended = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake.asked.append(self.path)
                fake.ports.append(self.client_address[1])
                for fault in fake.faults:
                    if fault.where in self.path:
                        fake.faults.remove(fault)
                        self._play(fault)
                        return
                parts = urlsplit(self.path)
                words = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self.wfile.write(fake.answer(parts.path, words, dict(self.headers)).raw())

            def _play(self, fault: Fault) -> None:
                self.close_connection = True
                with suppress(OSError):
                    for step in fault.script:
                        if isinstance(step, bytes):
                            self.wfile.write(step)
                            self.wfile.flush()
                        elif fake.ended.wait(step):
                            return

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    @abstractmethod
    def answer(self, path: str, words: dict[str, str], headers: dict[str, str]) -> Reply:
        """What the vendor's service says to one request."""

    def fail(self, where: str, *script: bytes | float | Reply, times: int = 1) -> None:
        """Let the next `times` requests whose path has `where` in it end like this."""
        steps = tuple(step.raw() if isinstance(step, Reply) else step for step in script)
        self.faults += [Fault(where, steps)] * times

    @contextmanager
    def running(self) -> Iterator[Fake]:
        thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        thread.start()
        try:
            yield self
        finally:
            self.ended.set()
            self.server.shutdown()
            self.server.server_close()
            thread.join()


class Pcs(Fake):
    """Intel's service, or with `cache` one that caches it: that has the root's list too, in hex."""

    def __init__(self, cache: bool = False) -> None:
        super().__init__()
        self.cache = cache
        root, signer = certificate("Root", "Root"), certificate("Intel SGX TCB Signing", "Root")
        self.signers = pem(signer, root)
        self.tcb: dict[tuple[str, str], bytes] = {}
        self.identity: dict[str, bytes] = {}
        self.crls: dict[str, tuple[bytes, bytes]] = {}
        for ca in ("Platform", "Processor"):
            issuer = f"Intel SGX PCK {ca} CA"
            self.crls[ca.lower()] = (crl(issuer), pem(certificate(issuer, "Root"), root))
        self.root_crl = crl("Root", NOW + 300 * DAY)
        for tee in ("sgx", "tdx"):
            self.set_tcb(tee)
            self.set_identity(tee)

    def set_tcb(self, tee: str, fmspc: str = FMSPC, end: int = NOW + 20 * DAY, **more: Any) -> None:
        info = {"id": tee.upper(), "version": 3, "nextUpdate": _iso(end), "fmspc": fmspc.upper(), **more}
        text = json.dumps(info, separators=(", ", " :"))
        self.tcb[tee, fmspc] = f'{{"tcbInfo": {text} ,"signature":"{"ab" * 64}"}}'.encode()

    def set_identity(self, tee: str, end: int = NOW + 25 * DAY) -> None:
        value = {"id": "QE" if tee == "sgx" else "TD_QE", "version": 2, "nextUpdate": _iso(end)}
        text = json.dumps(value, separators=(",", ":"))
        self.identity[tee] = f'{{"enclaveIdentity":{text},"signature":"{"cd" * 64}"}}'.encode()

    def set_captured(self, tee: str, fmspc: str, ca: str, collateral: dict[str, str]) -> None:
        """Serve captured collateral in place of generated one."""
        of = collateral
        self.tcb[tee, fmspc] = (
            f'{{"tcbInfo":{of["tcb_info"]},"signature":"{of["tcb_info_signature"]}"}}'.encode()
        )
        self.identity[tee] = (
            f'{{"enclaveIdentity":{of["qe_identity"]},"signature":"{of["qe_identity_signature"]}"}}'.encode()
        )
        self.signers = of["tcb_info_issuer_chain"].encode()
        self.crls[ca] = (bytes.fromhex(of["pck_crl"]), of["pck_crl_issuer_chain"].encode())
        self.root_crl = bytes.fromhex(of["root_ca_crl"])

    @property
    def root_url(self) -> str:
        return f"{self.url}/IntelSGXRootCA.der"

    def answer(self, path: str, words: dict[str, str], headers: dict[str, str]) -> Reply:
        """PCS API version 4: 400 for parameters that are wrong, 404 for platforms that are not known."""
        ask = {"Request-ID": "1"}
        if found := re.fullmatch(r"/(sgx|tdx)/certification/v4/tcb", path):
            fmspc = words.get("fmspc", "")
            if not re.fullmatch(r"[0-9a-fA-F]{12}", fmspc) or words.get("update", "standard") not in (
                "early",
                "standard",
            ):
                return Reply(status=400, kind="")
            body = self.tcb.get((found[1], fmspc.lower()))
            chain = {"TCB-Info-Issuer-Chain": quote(self.signers.decode())}
            return Reply(body, headers=ask | chain) if body else Reply(status=404, kind="", headers=ask)
        if found := re.fullmatch(r"/(sgx|tdx)/certification/v4/qe/identity", path):
            chain = {"SGX-Enclave-Identity-Issuer-Chain": quote(self.signers.decode())}
            return Reply(self.identity[found[1]], headers=ask | chain)
        if path == "/sgx/certification/v4/pckcrl":
            if words.get("ca") not in self.crls:
                return Reply(status=400, kind="")
            der, signers = self.crls[words["ca"]]
            chain = {"SGX-PCK-CRL-Issuer-Chain": quote(signers.decode())}
            if words.get("encoding") == "der":
                return Reply(der, "application/pkix-crl", headers=ask | chain)
            return Reply(pem(der, what="X509 CRL"), "application/x-pem-file", headers=ask | chain)
        if path == "/sgx/certification/v4/rootcacrl" and self.cache:
            return Reply(self.root_crl.hex().encode(), "application/pkix-crl")
        if path == "/IntelSGXRootCA.der" and not self.cache:
            return Reply(self.root_crl, "binary/octet-stream")
        return Reply(status=404, kind="")


class Kds(Fake):
    """AMD's service. Knows chips by product and id, and asks for exactly the levels of their product."""

    def __init__(self) -> None:
        super().__init__()
        self.chips: dict[tuple[str, str], bytes] = {
            ("Milan", CHIP.hex()): vcek(),
            ("Genoa", CHIP.hex()): vcek(),
            ("Turin", TURIN_CHIP.hex()): vcek(TURIN_CHIP),
        }
        self.levels: list[dict[str, str]] = []
        chain = pem(certificate("SEV-Milan", "ARK-Milan"), certificate("ARK-Milan", "ARK-Milan"))
        self.chains = {
            (kind, name): chain for kind in ("vcek", "vlek") for name in ("Milan", "Genoa", "Turin")
        }
        self.crl = crl("ARK-Milan", NOW + 400 * DAY)

    def answer(self, path: str, words: dict[str, str], headers: dict[str, str]) -> Reply:
        found = re.fullmatch(r"/(vcek|vlek)/v1/(Milan|Genoa|Turin)/([0-9a-z_]+)", path)
        if found is None:
            return Reply(status=404, kind="")
        kind, product, what = found.groups()
        if what == "cert_chain":
            return Reply(self.chains[kind, product], "application/x-pem-file")
        if what == "crl":
            return Reply(self.crl, "application/octet-stream")
        names = {"blSPL", "teeSPL", "snpSPL", "ucodeSPL"} | ({"fmcSPL"} if product == "Turin" else set())
        if set(words) != names or not all(value.isdecimal() and int(value) < 256 for value in words.values()):
            return Reply(status=400, kind="")
        if len(what) != (16 if product == "Turin" else 128):
            return Reply(status=400, kind="")
        self.levels.append(words)
        body = self.chips.get((product, what))
        return Reply(body, "application/octet-stream") if body else Reply(status=404, kind="")

    def set_captured(self, platform: AmdPlatform, product: str, certificate: bytes, chain: bytes) -> None:
        """Serve a captured certificate in DER, and its chain."""
        self.chips[product, platform.chip_id] = certificate
        self.chains["vlek" if platform.vlek else "vcek", product] = chain


class Thim(Fake):
    """Azure's metadata service."""

    def __init__(self) -> None:
        super().__init__()
        chain = pem(certificate("SEV-Milan", "ARK-Milan"), certificate("ARK-Milan", "ARK-Milan"))
        self.value: Any = {
            "vcekCert": pem(vcek()).decode(),
            "tcbm": "DB18000000000004",
            "certificateChain": chain.decode(),
            "cacheControl": "86400",
        }

    def answer(self, path: str, words: dict[str, str], headers: dict[str, str]) -> Reply:
        if headers.get("Metadata") != "true":
            return Reply(b'{"error":"Bad request. Required metadata header not specified"}', status=400)
        if path != "/metadata/THIM/amd/certification":
            return Reply(status=404, kind="")
        return Reply(json.dumps(self.value).encode(), "application/json; charset=utf-8")


def _iso(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
