"""Which machine evidence is of, as the vendors' services and `endorsements.Endorsement.subject` name it.

Of an Intel platform that is the FMSPC in its PCK certificate (Intel SGX PCK Certificate and CRL Specification,
section 1.3.5); of an AMD one the chip id and the reported TCB in its report (SEV-SNP firmware ABI, table 23, and
VCEK certificate and KDS interface specification, section 4.1). Only what is needed to ask for endorsements is
read, and nothing of it is believed: whoever lies here gets endorsements that do not fit.

The piece of evidence that is looked at is the one that its verifier judges, chosen by the verifier's own function: a
bundle with a second quote could else keep endorsements away from the first.

>>> find("snp", {"report": b"too short"}) is None
True
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from mesatee._core import X509
from mesatee.attestation.detect import SNP_REPORT_BYTES
from mesatee.errors import InputError, Malformed, TrustError

IntelCa: TypeAlias = Literal["platform", "processor"]
Product: TypeAlias = Literal["Milan", "Genoa", "Turin"]

SGX_EXTENSION: Final = "1.2.840.113741.1.13.1"
FMSPC_BYTES: Final = 6
CHIP_ID_BYTES: Final[Mapping[Product, int]] = {"Milan": 64, "Genoa": 64, "Turin": 8}
"""Bytes of the hardware id that the service asks for; reports always have room for 64."""
PRODUCTS: Final = tuple(CHIP_ID_BYTES)

_FMSPC_OID: Final = bytes.fromhex("060a2a864886f84d010d0104")
"""1.2.840.113741.1.13.1.4 with its tag and length."""


@dataclass(frozen=True, slots=True)
class IntelPlatform:
    """A platform of SGX or TDX."""

    fmspc: str
    """6 bytes in lower-case hex."""
    ca: IntelCa
    """Which of Intel's two CAs issued its PCK certificate."""

    @property
    def subject(self) -> str:
        """As in `endorsements.Endorsement.subject`."""
        return self.fmspc


@dataclass(frozen=True, slots=True)
class AmdPlatform:
    """A processor with SEV-SNP."""

    product: Product | None
    """None where the report does not say: those of version 2."""
    chip_id: str
    """Lower-case hex: 64 bytes, 8 on Turin; empty where the report hides it."""
    tcb: Mapping[str, int]
    """Name of a security patch level in the service's interface -> its value."""
    vlek: bool
    """Signed by a key of the cloud provider's, not by that of the chip."""

    @property
    def subject(self) -> str:
        """As in `endorsements.Endorsement.subject`."""
        return self.chip_id


Platform: TypeAlias = IntelPlatform | AmdPlatform


def find(tee: str, files: Mapping[str, bytes]) -> Platform | None:
    """The platform that evidence of class `tee` in `files` (role -> bytes) is of; None where the class has no such
    name, or the files do not say. Raises nothing for bad evidence: that is its verifier's to do.
    """
    try:
        match tee:
            case "sgx" | "tdx":
                return _intel(files)
            case "snp":
                return _amd(_snp_report(files))
            case "azure-vtpm":
                return _azure(files)
    except (InputError, TrustError):
        pass
    return None


def subject(tee: str, files: Mapping[str, bytes]) -> str:
    """The name of the platform in lower-case hex; empty where `find` has none."""
    found = find(tee, files)
    return found.subject if found is not None else ""


# Verifiers are imported when they are needed, as `corpus` does: few callers need all of them.


def _azure(files: Mapping[str, bytes]) -> Platform | None:
    """An Azure machine is of the hardware that its HCL report names."""
    from mesatee.attestation.tee import _tpm_files, azure

    pieces = _tpm_files.gather(files)
    hcl = _tpm_files.one([data.rstrip(b"\0") for data in pieces.hcl], "HCL report") or b""
    start = azure.HEADER_BYTES + azure.HARDWARE_BYTES
    kind = int.from_bytes(hcl[start + 8 : start + 12], "little")
    if kind == azure.SNP:
        return _amd(hcl[azure.HEADER_BYTES : start])
    quote = _tpm_files.one(pieces.td_quotes, "TD quote")
    if kind != azure.TDX or quote is None:
        return None
    return _intel({"quote": quote, **{role: data for role, data in files.items() if role != "quote"}})


# -- Intel ------------------------------------------------------------------------------------------


def _intel(files: Mapping[str, bytes]) -> IntelPlatform | None:
    from mesatee.attestation.tee import dcap, dcap_collateral, dcap_quote, dcap_verify

    case = dcap.open_case(files)
    pck = dcap_verify.pck_certificate(dcap_quote.parse(case.quote), dcap_collateral.gather(case.others))
    return pck_platform(pck) if pck is not None else None


def pck_platform(certificate: X509) -> IntelPlatform | None:
    """What a PCK certificate says of its platform; None for other certificates. Raises `Malformed`."""
    extension = certificate.extensions.get(SGX_EXTENSION)
    if extension is None:
        return None
    ca: IntelCa
    if "CN=Intel SGX PCK Platform CA" in certificate.issuer:
        ca = "platform"
    elif "CN=Intel SGX PCK Processor CA" in certificate.issuer:
        ca = "processor"
    else:
        raise Malformed("a PCK certificate is not of a CA of Intel's")
    for entry in _children(_only(extension[1])):
        if entry.startswith(_FMSPC_OID):
            value = entry[len(_FMSPC_OID) :]
            if value[:2] == bytes((4, FMSPC_BYTES)) and len(value) == 2 + FMSPC_BYTES:
                return IntelPlatform(value[2:].hex(), ca)
    raise Malformed("a PCK certificate names no FMSPC of 6 bytes")


def _only(der: bytes) -> bytes:
    """The content of a SEQUENCE."""
    items = list(_children(der))
    if len(items) != 1 or der[:1] != b"\x30":
        raise Malformed("the SGX extension is not one sequence")
    return items[0]


def _children(der: bytes) -> Iterator[bytes]:
    """The contents of the DER values that stand one after the other in `der`."""
    position = 0
    while position < len(der):
        size, start = der[position + 1] if position + 1 < len(der) else -1, position + 2
        if size & 0x80 and size > 0:
            count = size & 0x7F
            size, start = int.from_bytes(der[start : start + count]), start + count
        if size < 0 or start + size > len(der):
            raise Malformed("the SGX extension is cut")
        yield der[start : start + size]
        position = start + size


# -- AMD --------------------------------------------------------------------------------------------


def _snp_report(files: Mapping[str, bytes]) -> bytes:
    from mesatee.attestation.tee import snp_files

    return snp_files.open_case(files).report


def _amd(data: bytes) -> AmdPlatform | None:
    if not _is_report(data):
        return None
    product = _product(data)
    chip_id = data[0x1A0:0x1E0]
    return AmdPlatform(
        product,
        chip_id[: CHIP_ID_BYTES[product or "Milan"]].hex() if any(chip_id) else "",
        _tcb(data[0x180:0x188], product),
        vlek=(data[0x48] >> 2) & 7 == 1,
    )


def _is_report(data: bytes) -> bool:
    known = 2 <= int.from_bytes(data[:4], "little") <= 15
    return len(data) >= SNP_REPORT_BYTES and known and int.from_bytes(data[0x34:0x38], "little") == 1


def _product(report: bytes) -> Product | None:
    """From the CPUID family and model, which reports have since version 3."""
    if int.from_bytes(report[:4], "little") < 3:
        return None
    family, model = report[0x188], report[0x189]
    match family, model >> 4:
        case 0x19, 0x0:
            return "Milan"
        case 0x19, 0x1 | 0xA:
            return "Genoa"
        case 0x1A, 0x0 | 0x1:
            return "Turin"
    return None


def _tcb(value: bytes, product: Product | None) -> dict[str, int]:
    if product == "Turin":
        places = {"fmcSPL": 0, "blSPL": 1, "teeSPL": 2, "snpSPL": 3, "ucodeSPL": 7}
    else:
        places = {"blSPL": 0, "teeSPL": 1, "snpSPL": 6, "ucodeSPL": 7}
    return {name: value[place] for name, place in places.items()}


__all__ = [
    "CHIP_ID_BYTES",
    "FMSPC_BYTES",
    "PRODUCTS",
    "AmdPlatform",
    "IntelPlatform",
    "Platform",
    "Product",
    "find",
    "pck_platform",
    "subject",
]
