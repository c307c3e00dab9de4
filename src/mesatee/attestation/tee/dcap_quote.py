"""Intel DCAP quotes, bytes to structs: SGX (version 3, and 4 and 5), TDX (version 4, and 5 with TD 1.0 or TD 1.5).

Spec: Intel SGX ECDSA Quote Library Reference (DCAP), appendix A "Quote Format" (version 3); Intel TDX DCAP
Quoting Library API, appendix A (versions 4 and 5). Integers are little-endian. Nothing here is verified.

What follows the signature data is padding (it is normal: 70 bytes, or zeros up to 8,000); it is not signed and
never looked at, so the length of a file says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from mesatee.errors import Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

TEE_SGX: Final = 0x00
TEE_TDX: Final = 0x81
HEADER_BYTES: Final = 48
ENCLAVE_REPORT_BYTES: Final = 384
TD_REPORT_10_BYTES: Final = 584
TD_REPORT_15_BYTES: Final = 648
ATTESTATION_KEY_P256: Final = 2
ATTESTATION_KEY_P384: Final = 3
CERTIFICATION_PCK_CHAIN: Final = 5
"""The PEM chain from the PCK certificate to the root."""
CERTIFICATION_QE_REPORT: Final = 6
"""Versions 4 and 5 wrap the QE's report and its own certification data in this one."""
INTEL_QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_BODY_TYPES: Final = {
    1: (TEE_SGX, ENCLAVE_REPORT_BYTES),
    2: (TEE_TDX, TD_REPORT_10_BYTES),
    3: (TEE_TDX, TD_REPORT_15_BYTES),
}


@dataclass(frozen=True, slots=True)
class EnclaveReport:
    """An SGX report body (SDM volume 3D, section 39.15; 384 bytes)."""

    raw: bytes
    cpusvn: bytes
    miscselect: int
    attributes: bytes
    """16 bytes: flags, then XFRM."""
    mrenclave: bytes
    mrsigner: bytes
    isvprodid: int
    isvsvn: int
    report_data: bytes

    @property
    def debug(self) -> bool:
        """A debugger can read the enclave (attributes bit 1)."""
        return bool(self.attributes[0] & 0x02)


@dataclass(frozen=True, slots=True)
class TdReport:
    """A TD report body: 584 bytes (TD 1.0) or 648 (TD 1.5, with the last two fields)."""

    raw: bytes
    tee_tcb_svn: bytes
    mrseam: bytes
    mrsignerseam: bytes
    seamattributes: bytes
    tdattributes: bytes
    xfam: bytes
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes | None
    """TCB of the TDX module that runs now; `tee_tcb_svn` is the one that launched the TD."""
    mr_service_td: bytes | None
    """Zero unless a service TD, e.g. one that migrates it, is bound to the TD."""

    @property
    def debug(self) -> bool:
        """The host can read the TD (TUD, bit 0 of TDATTRIBUTES)."""
        return bool(self.tdattributes[0] & 0x01)


Body: TypeAlias = EnclaveReport | TdReport


@dataclass(frozen=True, slots=True)
class Quote:
    """A parsed quote."""

    version: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    user_data: bytes
    body: Body
    signed: bytes
    """What `signature` is over: header, body descriptor (version 5) and body."""
    signature: bytes
    """r || s, by the attestation key."""
    attestation_key: bytes
    """x || y on P-256."""
    qe_report: EnclaveReport
    qe_report_signature: bytes
    """r || s, by the PCK."""
    qe_auth_data: bytes
    certification_type: int
    certification_data: bytes
    length: int
    """Bytes up to the end of the signature data: what follows is padding."""


class _Reader:
    """Takes pieces off the front; refuses to go past the end."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.what, self.position = data, what, 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise Malformed(f"{self.what} ends before its last field")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def done(self) -> None:
        if self.position != len(self.data):
            raise Malformed(f"{self.what} is longer than its fields")


def parse(data: bytes) -> Quote:
    """Parse a quote of at most `limits.EVIDENCE_BYTES` bytes.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    # Some buffers are larger than any quote; what they are padded with is never looked at.
    if not data[limits.EVIDENCE_BYTES :].strip(b"\0"):
        data = data[: limits.EVIDENCE_BYTES]
    if len(data) > limits.EVIDENCE_BYTES:
        raise TooLarge(f"a quote has {len(data)} bytes, the limit is {limits.EVIDENCE_BYTES}")
    reader = _Reader(data, "a quote")
    version = reader.number(2)
    if version not in (3, 4, 5):
        raise UnsupportedVersion(f"a quote of version {version}; 3, 4 and 5 are known")
    if (key_type := reader.number(2)) != ATTESTATION_KEY_P256:
        raise UnsupportedVersion(f"attestation key of type {key_type}; 2 (ECDSA P-256) is known")
    tee_type = reader.number(4)
    # In versions 4 and 5 these four bytes are reserved.
    qe_svn, pce_svn = reader.number(2), reader.number(2)
    if (vendor := reader.take(16)) != INTEL_QE_VENDOR:
        raise UnsupportedVersion(f"a quote by the QE vendor {vendor.hex()}, which is not Intel")
    user_data = reader.take(20)
    body = _body(reader, version, tee_type)
    signed = data[: reader.position]
    signature_data = reader.take(reader.number(4))
    return _signature_data(
        version, tee_type, (qe_svn, pce_svn), user_data, body, signed, signature_data, reader.position
    )


def _body(reader: _Reader, version: int, tee_type: int) -> Body:
    if tee_type not in (TEE_SGX, TEE_TDX):
        raise UnsupportedVersion(f"a quote of TEE type {tee_type:#x}; SGX (0) and TDX (0x81) are known")
    if version == 5:
        kind, size = reader.number(2), reader.number(4)
        if _BODY_TYPES.get(kind) != (tee_type, size):
            raise Malformed(f"body type {kind} of {size} bytes does not suit TEE type {tee_type:#x}")
    elif version == 3 and tee_type != TEE_SGX:
        raise Malformed("a quote of version 3 is always of SGX")
    else:
        size = ENCLAVE_REPORT_BYTES if tee_type == TEE_SGX else TD_REPORT_10_BYTES
    raw = reader.take(size)
    return enclave_report(raw) if tee_type == TEE_SGX else td_report(raw)


def _signature_data(  # the pieces of one struct
    version: int,
    tee_type: int,
    svns: tuple[int, int],
    user_data: bytes,
    body: Body,
    signed: bytes,
    data: bytes,
    length: int,
) -> Quote:
    reader = _Reader(data, "the signature data of a quote")
    signature, key = reader.take(64), reader.take(64)
    if version > 3:
        kind = reader.number(2)
        if kind != CERTIFICATION_QE_REPORT:
            raise UnsupportedVersion(f"certification data of type {kind} in place of a QE report (6)")
        inner = _Reader(reader.take(reader.number(4)), "the QE report certification data")
        reader.done()
        reader = inner
    qe_report = enclave_report(reader.take(ENCLAVE_REPORT_BYTES))
    qe_signature = reader.take(64)
    auth = reader.take(reader.number(2))
    kind = reader.number(2)
    certification = reader.take(reader.number(4))
    reader.done()
    return Quote(
        version=version,
        tee_type=tee_type,
        qe_svn=svns[0],
        pce_svn=svns[1],
        user_data=user_data,
        body=body,
        signed=signed,
        signature=signature,
        attestation_key=key,
        qe_report=qe_report,
        qe_report_signature=qe_signature,
        qe_auth_data=auth,
        certification_type=kind,
        certification_data=certification,
        length=length,
    )


def enclave_report(raw: bytes) -> EnclaveReport:
    """The fields of an SGX report body. Raises `Malformed` unless it has 384 bytes."""
    if len(raw) != ENCLAVE_REPORT_BYTES:
        raise Malformed(f"an SGX report has {ENCLAVE_REPORT_BYTES} bytes, not {len(raw)}")
    return EnclaveReport(
        raw=raw,
        cpusvn=raw[:16],
        miscselect=int.from_bytes(raw[16:20], "little"),
        attributes=raw[48:64],
        mrenclave=raw[64:96],
        mrsigner=raw[128:160],
        isvprodid=int.from_bytes(raw[256:258], "little"),
        isvsvn=int.from_bytes(raw[258:260], "little"),
        report_data=raw[320:384],
    )


def td_report(raw: bytes) -> TdReport:
    """The fields of a TD report body. Raises `Malformed` unless it has 584 or 648 bytes."""
    if len(raw) not in (TD_REPORT_10_BYTES, TD_REPORT_15_BYTES):
        raise Malformed(f"a TD report has {TD_REPORT_10_BYTES} or {TD_REPORT_15_BYTES} bytes, not {len(raw)}")
    later = len(raw) == TD_REPORT_15_BYTES
    return TdReport(
        raw=raw,
        tee_tcb_svn=raw[:16],
        mrseam=raw[16:64],
        mrsignerseam=raw[64:112],
        seamattributes=raw[112:120],
        tdattributes=raw[120:128],
        xfam=raw[128:136],
        mrtd=raw[136:184],
        mrconfigid=raw[184:232],
        mrowner=raw[232:280],
        mrownerconfig=raw[280:328],
        rtmrs=(raw[328:376], raw[376:424], raw[424:472], raw[472:520]),
        report_data=raw[520:584],
        tee_tcb_svn2=raw[584:600] if later else None,
        mr_service_td=raw[600:648] if later else None,
    )


__all__ = [
    "CERTIFICATION_PCK_CHAIN",
    "TEE_SGX",
    "TEE_TDX",
    "Body",
    "EnclaveReport",
    "Quote",
    "TdReport",
    "enclave_report",
    "parse",
    "td_report",
]
