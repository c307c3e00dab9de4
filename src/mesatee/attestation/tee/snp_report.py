"""The attestation report of AMD SEV-SNP, as bytes and as a frozen value. Nothing here is verified.

Spec: "SEV Secure Nested Paging Firmware ABI Specification" (AMD publication 56860), sections 4.3 (guest policy),
7.3 (ATTESTATION_REPORT) and 2.2 (TCB_VERSION). All numbers are little-endian.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mesatee.attestation.appraisal import Scalar
from mesatee.errors import Malformed, UnsupportedVersion

REPORT_BYTES: Final = 1_184
VERSIONS: Final = range(2, 16)
"""From 3 on the report names the CPU, from 5 on the mitigations. AMD has filled reserved fields only, so that later
versions are read as 5, and what they add is not looked at."""
LATEST_VERSION: Final = 5
"""The latest whose fields are all known here."""
ECDSA_P384_SHA384: Final = 1
SIGNED_BYTES: Final = 0x2A0
_NUMBER_BYTES: Final = 72
"""Of r and of s in the signature."""
_FIELD_BYTES: Final = 48
"""Of a number on P-384."""
SIGNATURE_END: Final = SIGNED_BYTES + 2 * _NUMBER_BYTES

POLICY_SMT: Final = 1 << 16
POLICY_MIGRATE_MA: Final = 1 << 18
POLICY_DEBUG: Final = 1 << 19
POLICY_SINGLE_SOCKET: Final = 1 << 20
POLICY_KNOWN: Final = (1 << 26) - 1
"""Minimum ABI version (16 bits), SMT, reserved, migration agent, debug, single socket, CXL, AES-256-XTS, RAPL,
ciphertext hiding, no page swap."""
_KEYS: Final[Mapping[int, str]] = MappingProxyType({0: "VCEK", 1: "VLEK", 7: "none"})
"""SIGNING_KEY in bits 2 to 4 of KEY_INFO."""
VMPLS: Final = 4
"""Privilege levels of a guest. A report that the host asked for has another number there."""


@dataclass(frozen=True, slots=True)
class Report:
    """A parsed report."""

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: int
    key_info: int
    report_data: bytes
    """64 bytes that the guest chose."""
    measurement: bytes
    """SHA-384 of the guest's initial memory."""
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    """Of the migration agent; all ones if there is none."""
    reported_tcb: bytes
    """What the signing key was derived from."""
    cpuid: tuple[int, int, int] | None
    """Family, model and stepping; None before version 3."""
    chip_id: bytes
    """64 bytes; zero if the platform hides it."""
    committed_tcb: bytes
    launch_tcb: bytes
    signed: bytes
    signature: bytes
    """r || s, big-endian as everywhere else, 96 bytes."""

    @property
    def debug(self) -> bool:
        """The host may read and write the guest's memory."""
        return bool(self.policy & POLICY_DEBUG)

    @property
    def signing_key(self) -> str:
        """Which kind of key is said to have signed."""
        return _KEYS.get(self.key_info >> 2 & 7, "of an unknown kind")

    @property
    def chip_key_masked(self) -> bool:
        """The platform was told not to sign."""
        return bool(self.key_info & 2)

    def claims(self) -> dict[str, Scalar]:
        """What the report says, bytes in hex."""
        found: dict[str, Scalar] = {
            "tee": "snp",
            "debug": self.debug,
            "platform.smt": bool(self.platform_info & 1),
            "measurement.code": self.measurement.hex(),
            "measurement.author_key": self.author_key_digest.hex() if self.key_info & 1 else None,
            "measurement.id_key": self.id_key_digest.hex(),
            "report_data": self.report_data.hex(),
            "host_data": self.host_data.hex(),
            "policy.abi": f"{self.policy >> 8 & 0xFF}.{self.policy & 0xFF}",
            "policy.migration_agent": bool(self.policy & POLICY_MIGRATE_MA),
            "policy.single_socket": bool(self.policy & POLICY_SINGLE_SOCKET),
            "policy.smt": bool(self.policy & POLICY_SMT),
            "platform.chip_id": self.chip_id.hex(),
            "platform.info": self.platform_info,
            "snp.family_id": self.family_id.hex(),
            "snp.guest_svn": self.guest_svn,
            "snp.image_id": self.image_id.hex(),
            "snp.policy": self.policy,
            "snp.report_id": self.report_id.hex(),
            "snp.report_id_ma": self.report_id_ma.hex(),
            "snp.signing_key": self.signing_key,
            "snp.tcb.committed": self.committed_tcb.hex(),
            "snp.tcb.current": self.current_tcb.hex(),
            "snp.tcb.launch": self.launch_tcb.hex(),
            "snp.tcb.reported": self.reported_tcb.hex(),
            "snp.version": self.version,
            "snp.vmpl": self.vmpl,
        }
        if self.cpuid is not None:
            found["platform.cpuid"] = "-".join(f"{number:02x}" for number in self.cpuid)
        return found


def parse(data: bytes) -> Report:
    """The report at the beginning of `data`; what follows it is the caller's matter.

    1. Length, version and algorithm.
    2. What the signature does not cover is the signature and zeros.
    3. Fields.

    Raises `Malformed` or `UnsupportedVersion`.
    """

    def number(offset: int, size: int) -> int:
        return int.from_bytes(data[offset : offset + size], "little")

    # 1. Envelope.
    if len(data) < REPORT_BYTES:
        raise Malformed(f"an SNP report has {REPORT_BYTES} bytes, not {len(data)}")
    version = number(0, 4)
    if version not in VERSIONS:
        raise UnsupportedVersion(f"SNP report of version {version}")
    if number(0x34, 4) != ECDSA_P384_SHA384:
        raise UnsupportedVersion("the SNP report is not signed with ECDSA on P-384 and SHA-384")
    # 2. Unsigned bytes: any other value would be a second encoding of the same report.
    if any(data[SIGNATURE_END:REPORT_BYTES]):
        raise Malformed("the SNP report has bytes behind its signature")
    # 3. Fields.
    return Report(
        version=version,
        guest_svn=number(0x04, 4),
        policy=number(0x08, 8),
        family_id=data[0x10:0x20],
        image_id=data[0x20:0x30],
        vmpl=number(0x30, 4),
        current_tcb=data[0x38:0x40],
        platform_info=number(0x40, 8),
        key_info=number(0x48, 4),
        report_data=data[0x50:0x90],
        measurement=data[0x90:0xC0],
        host_data=data[0xC0:0xE0],
        id_key_digest=data[0xE0:0x110],
        author_key_digest=data[0x110:0x140],
        report_id=data[0x140:0x160],
        report_id_ma=data[0x160:0x180],
        reported_tcb=data[0x180:0x188],
        cpuid=(data[0x188], data[0x189], data[0x18A]) if version >= 3 else None,
        chip_id=data[0x1A0:0x1E0],
        committed_tcb=data[0x1E0:0x1E8],
        launch_tcb=data[0x1F0:0x1F8],
        signed=data[:SIGNED_BYTES],
        signature=_signature(data[SIGNED_BYTES:SIGNATURE_END]),
    )


def _signature(data: bytes) -> bytes:
    """r || s with the most significant byte first. Raises `Malformed` when one is too large for the curve."""
    numbers = (data[:_NUMBER_BYTES], data[_NUMBER_BYTES:])
    if any(any(number[_FIELD_BYTES:]) for number in numbers):
        raise Malformed("the signature of the SNP report is too large for its curve")
    return b"".join(number[:_FIELD_BYTES][::-1] for number in numbers)


__all__ = [
    "LATEST_VERSION",
    "POLICY_KNOWN",
    "REPORT_BYTES",
    "SIGNATURE_END",
    "SIGNED_BYTES",
    "VERSIONS",
    "VMPLS",
    "Report",
    "parse",
]
