"""What kind of evidence bytes are, by their content, through the wrappings that tools put around them.

Detection decides which verifier is asked, and nothing else. It looks at magic numbers and lengths; that a
format is right to the last byte is for its verifier to say. Hex, base64, PEM and JSON around evidence are undone. What
holds evidence of two machines is refused: which of them counts must not hang on the order in which they stand.

>>> detect(b"ff544347801800" .ljust(200, b"0")).tee
'tpm'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mesatee._core import X509, pem_certificates
from mesatee.attestation import foreign
from mesatee.errors import EvidenceRefused, InputError, Malformed, TooLarge
from mesatee.protocol import limits
from mesatee.protocol.jsonstrict import BOM, parse_foreign

INTEL_QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
SNP_REPORT_BYTES: Final = 1_184
KEYSTONE_REPORT_BYTES: Final = 1_352
TDX_TEE_TYPE: Final = 0x81
RATLS_EXTENSIONS: Final = frozenset(
    {
        "0.6.9.42.840.113741.1337.6",
        "1.2.840.113556.10.1.1",
        "1.2.840.113741.1.13.1",
        "1.2.840.113741.1337.6",
        "1.3.6.1.4.1.311.105.1",
        "2.23.133.5.4.9",
    }
)
"""Extensions that carry evidence: of Gramine (as mis-encoded, and as meant), Open Enclave, Intel, EGo and DICE."""
_NITRO_HEAD: Final = bytes.fromhex("8444a1013822")
"""COSE_Sign1 whose protected header names ES384."""
_INTEL_EXTENSION: Final = "1.2.840.113741.1.13.1"
"""Also the PCK certificates' own extension, which is no quote."""
_ORDER: Final = (
    "ratls",
    "azure-vtpm",
    "nvidia-gpu",
    "tdx",
    "sgx",
    "snp",
    "nitro",
    "cca",
    "psa",
    "tpm",
    "keystone",
    "eventlog",
)
"""Where several kinds stand side by side, the one that contains the others comes first."""
_CONTAINS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "azure-vtpm": frozenset({"sgx", "tdx", "snp"}),
        "ratls": frozenset({"sgx", "tdx", "snp", "nitro"}),
    }
)
"""Kind -> kinds that are parts of it, and may stand beside it once more."""
_ALONE: Final = frozenset({"azure-vtpm", "cca", "keystone", "nitro", "psa", "ratls", "sgx", "snp", "tdx"})
"""Kinds of which a verifier takes one piece. Of TPMs, GPUs and logs it takes all that there are."""


@dataclass(frozen=True, slots=True)
class Found:
    """What bytes were taken for."""

    tee: str
    """As ``tee`` in a `meta.json`."""
    kind: str
    """The format, for people."""
    role: str
    files: Mapping[str, bytes]
    """Role -> bytes as a verifier takes them: the wrapping, if it is itself evidence, and what was in it."""
    wrapping: tuple[str, ...] = ()
    """Outermost first."""


def detect(data: bytes) -> Found:
    """Raises `Malformed` for what is of no known kind, `TooLarge`, and `EvidenceRefused` for what holds evidence of two
    machines.
    """
    if len(data) > limits.CASE_FILE_BYTES:
        raise TooLarge(f"evidence has {limits.CASE_FILE_BYTES} bytes at most")
    found = _detect(data, limits.WRAPPINGS)
    if found is None:
        raise Malformed("not evidence of a kind that is known here")
    return found


def detect_case(files: Mapping[str, bytes]) -> Found | None:
    """The most telling of several files. Raises `EvidenceRefused` if they are evidence of two machines."""
    found: list[Found] = []
    for data in files.values():
        try:
            found.append(detect(data))
        except InputError:
            continue
    return _one(found)


def _one(found: Iterable[Found]) -> Found | None:
    """The one that contains the others. Raises `EvidenceRefused` where two stand side by side that differ."""
    pieces = list(found)
    if not pieces:
        return None
    best = min(pieces, key=lambda item: _ORDER.index(item.tee))
    alone = [item for item in pieces if item.tee in _ALONE - _CONTAINS.get(best.tee, frozenset())]
    # A report that is told as JSON of its fields has no bytes to compare here; its verifier does that.
    if differ(item.files[item.role] for item in alone if item.role != FIELDS):
        kinds = " and ".join(sorted({item.tee for item in alone}))
        raise EvidenceRefused(
            f"there are two pieces of evidence that differ ({kinds})", hint="give each of them alone"
        )
    return best


def differ(pieces: Iterable[bytes]) -> bool:
    """Whether pieces of evidence are not all the same one: the longest may have a head or padding that others lack."""
    bare = sorted((piece.rstrip(b"\0") for piece in pieces), key=len)
    return any(piece not in bare[-1] for piece in bare)


def _detect(data: bytes, depth: int) -> Found | None:
    for recognise in _BINARY:
        if (hit := recognise(data)) is not None:
            tee, kind, role = hit
            return Found(tee, kind, role, MappingProxyType({role: data}))
    if depth == 0:
        return None
    data = data.removeprefix(BOM)
    for name, inner in _unwrapped(data):
        if (found := _detect(inner, depth - 1)) is not None:
            return Found(found.tee, found.kind, found.role, found.files, (name, *found.wrapping))
    return _json(data, depth)


# -- binary formats ---------------------------------------------------------------------------------

Hit = tuple[str, str, str] | None


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _hcl(data: bytes) -> Hit:
    return ("azure-vtpm", "Azure HCL report", "hcl_report") if data[:4] == b"HCLA" else None


def _dcap(data: bytes) -> Hit:
    version = int.from_bytes(data[:2], "little")
    if data[12:28] != INTEL_QE_VENDOR or version not in (3, 4, 5):
        return None
    tee = "tdx" if _u32(data, 4) == TDX_TEE_TYPE else "sgx"
    return tee, f"DCAP quote version {version}", "quote"


def _open_enclave(data: bytes) -> Hit:
    # oe_report_header_t: version 1, type 2 (remote), size; then the quote.
    if _u32(data, 0) == 1 and _u32(data, 4) == 2 and (hit := _dcap(data[16:])) is not None:
        return hit[0], f"Open Enclave report with {hit[1]}", "evidence_oe"
    return None


def _snp(data: bytes) -> Hit:
    # ATTESTATION_REPORT: version 2 to 5 (later ones are refused by the verifier), signature algorithm 1 at 0x34.
    known = len(data) >= SNP_REPORT_BYTES and 2 <= _u32(data, 0) <= 15 and _u32(data, 0x34) == 1
    return ("snp", f"SNP report version {_u32(data, 0)}", "report") if known else None


def _snp_response(data: bytes) -> Hit:
    # MSG_REPORT_RSP: status, size, 24 reserved bytes; then the report.
    if _u32(data, 0) == 0 and _u32(data, 4) == SNP_REPORT_BYTES and (hit := _snp(data[32:])) is not None:
        return hit
    return None


def _nitro(data: bytes) -> Hit:
    body = data[1:] if data[:1] == b"\xd2" else data
    known = body.startswith(_NITRO_HEAD) and b"module_id" in body[: limits.DETECT_BYTES]
    return ("nitro", "AWS NSM attestation document", "document") if known else None


def _cca(data: bytes) -> Hit:
    head = data[:4]
    # Tag 399 (CCA token) or a map whose first key is 44234 (the platform token).
    if head[:3] == bytes.fromhex("d9018f") or data[:4] == bytes.fromhex("a219acca"):
        return "cca", "Arm CCA token", "token"
    if data[:1] in (b"\x84", b"\xd2") and (b"cca_platform" in data[:512] or b"arm.com/CCA" in data[:512]):
        return "cca", "Arm CCA platform token", "token"
    return None


def _psa(data: bytes) -> Hit:
    body = data[1:] if data[:1] in (b"\xd1", b"\xd2") else data
    if body[:1] != b"\x84":
        return None
    # Claims of profile 1 (-75000 and below) and of profile 2 (2394 to 2400), or the profile's name.
    marks = (b"\x3a\x00\x01\x24", b"\x19\x09\x5a", b"\x19\x09\x5b", b"PSA_IOT_PROFILE_1", b"psacertified.org")
    known = any(mark in body[: limits.DETECT_BYTES] for mark in marks)
    return ("psa", "PSA attestation token", "token") if known else None


def _tpm(data: bytes) -> Hit:
    magic = bytes.fromhex("ff5443478018")
    if data[:6] == magic or data[2:8] == magic:
        return "tpm", "TPM 2.0 quote", "quote"
    # go-tpm-tools' Attestation message begins with field 1, a TPMT_PUBLIC.
    if data[:1] == b"\x0a" and magic in data:
        return "tpm", "go-tpm-tools attestation", "attestation_pb"
    return None


def _event_log(data: bytes) -> Hit:
    # The first event of a crypto-agile log (TCG PFP, section 10.2.1); the no-action event has no digest.
    if _u32(data, 4) == 3 and data[8:28] == bytes(20) and data[32:47] == b"Spec ID Event03":
        return "eventlog", "TCG event log", "eventlog"
    # A log of SHA-1 events has no magic: its events must follow each other to the end, or to padding.
    position, events = 0, 0
    while len(data) - position >= 32 and events < limits.DETECT_EVENTS:
        register, kind = _u32(data, position), _u32(data, position + 4)
        if kind == 0 or not (register <= 23 or (register == 0xFFFFFFFF and kind == 3)):
            break
        position += 32 + _u32(data, position + 28)
        if position > len(data):
            return None
        events += 1
    padded = events == limits.DETECT_EVENTS or not any(data[position : position + 32])
    known = (events >= 4 and padded) or (events > 0 and position == len(data))
    return ("eventlog", "TCG event log of SHA-1", "eventlog") if known else None


def _keystone(data: bytes) -> Hit:
    size = int.from_bytes(data[64:72], "little")
    known = len(data) == KEYSTONE_REPORT_BYTES and size <= 1_024
    return ("keystone", "Keystone report", "report") if known else None


def _spdm(data: bytes) -> Hit:
    # GET_MEASUREMENTS of 37 bytes, then MEASUREMENTS of the same version.
    known = (
        data[:1] in (b"\x10", b"\x11", b"\x12") and data[1:2] == b"\xe0" and data[37:39] == data[:1] + b"\x60"
    )
    return ("nvidia-gpu", "SPDM measurements", "spdm") if known else None


def _certificate(data: bytes) -> Hit:
    if data[:1] != b"\x30":
        return None
    try:
        extensions = X509.parse(data, lenient=True).extensions
    except InputError:
        return None
    for identifier, (_, value) in extensions.items():
        if identifier == _INTEL_EXTENSION and INTEL_QE_VENDOR not in value[:64]:
            continue
        # Some carry a Nitro document, raw or as the hex of a DNS name.
        if identifier in RATLS_EXTENSIONS or _NITRO_HEAD in value or _NITRO_HEAD.hex().encode() in value:
            return "ratls", f"X.509 certificate with evidence in {identifier}", "certificate"
    return None


_BINARY: Final[tuple[Callable[[bytes], Hit], ...]] = (
    _certificate,
    _hcl,
    _dcap,
    _open_enclave,
    _snp_response,
    _snp,
    _nitro,
    _cca,
    _psa,
    _spdm,
    _tpm,
    _event_log,
    _keystone,
)


# -- wrappings --------------------------------------------------------------------------------------


def _unwrapped(data: bytes) -> list[tuple[str, bytes]]:
    """Names of wrappings, and what is in them."""
    found = [("PEM", der) for der in [_pem(data)] if der is not None]
    if (text := foreign.unwrapped(data)) is not None:
        found.append(text)
    if (rest := _comment(data)) is not None:
        found.append(("comment", rest))
    return found


def _pem(data: bytes) -> bytes | None:
    """The one certificate with evidence in a PEM text. Raises `EvidenceRefused` if there are two."""
    try:
        found = {der for der in pem_certificates(data[: limits.PEM_BYTES]) if _certificate(der) is not None}
    except InputError:
        return None
    if len(found) > 1:
        raise EvidenceRefused("two certificates with evidence stand in one text", hint="give one of them")
    return found.pop() if found else None


def _comment(data: bytes) -> bytes | None:
    """What follows lines that begin with a hash sign, as licences stand before some projects' test data."""
    lines = re.match(rb"(?:#[^\n]*+\n)++", data)
    return data[lines.end() :] or None if lines else None


FIELDS: Final = "evidence_json"
"""Role of a JSON text that holds evidence."""
_JSON_NAMES: Final[Mapping[str, str]] = MappingProxyType({"tdx": "quote_report", "sgx": "quote_report"})


def _json(data: bytes, depth: int) -> Found | None:
    """Evidence in any string or byte array of a JSON text. The verifier gets the text too."""
    if not foreign.is_json(data):
        return None
    try:
        inner = list(foreign.leaves(data))
    except InputError:
        return None
    best = _one(found for leaf in inner if (found := _detect(leaf, depth - 1)) is not None)
    if best is not None:
        role = _JSON_NAMES.get(best.tee, FIELDS)
        files = MappingProxyType({role: data, **best.files})
        return Found(best.tee, best.kind, best.role, files, ("JSON", *best.wrapping))
    value = parse_foreign(data, limit=limits.CASE_FILE_BYTES)
    if isinstance(value, dict) and "attestation_report" in value:
        kind = "SNP report as JSON"
        return Found("snp", kind, FIELDS, MappingProxyType({FIELDS: data}), ("JSON",))
    return None


# -- roles of collateral ----------------------------------------------------------------------------

_PARTS: Final[tuple[tuple[str, str], ...]] = (
    (r"(pck|intermediate_?ca|platform|processor).*crl|crl.*(pck|platform|processor)", "pck_crl"),
    (r"root.*crl|crl.*root", "root_ca_crl"),
    (r"tcb.*(chain|cert)", "tcb_chain"),
    (r"tcb.*info", "tcb_info_response"),
    (r"qe.*(chain|cert)", "qe_identity_chain"),
    (r"qe.*identity", "qe_identity_response"),
    (r"pck.*chain", "pck_sign_chain"),
    (r"pck.*cert", "pck_cert"),
    (r"collateral.*dump", "collateral_dump"),
    (r"collateral", "collateral"),
    (r"endorsements", "endorsements_oe"),
    (r"vcek", "vcek"),
    (r"vlek", "vlek"),
    (r"ccel.*table", "ccel_table"),
    (r"ccel", "ccel"),
    (r"event_?log", "eventlog"),
    (r"cpak", "cpak"),
    (r"iak", "iak_public"),
    (r"td_?quote", "td_quote"),
    (r"root", "root"),
)
"""What is found anywhere in a name -> role, the more special ones first."""
_WHOLE: Final[tuple[tuple[str, str], ...]] = (
    (r"ask_?ark|(ask|amd|snp|cert)?_?chain", "ask_ark"),
    (r"pcrs?", "pcrs"),
    (r"(ak|aik)(_?pub(lic)?)?(_?key)?(_pem)?", "ak_public_pem"),
    (r"ta|trust_?anchors?", "trust_anchor_json"),
    (r"rv|reference_?values?", "reference_values"),
    (r"device(_?pub(lic)?)?(_?key)?", "device_public_key"),
    (r"sig|signature", "signature"),
)
"""Names that are too short to be looked for inside of others -> role."""


def role_of(name: str, tee: str) -> str:
    """The role of a collateral file, from its name: what it resembles, or else the name without its ending.

    >>> role_of("pck_crl_platform.der", "tdx"), role_of("quote.sig", "tpm"), role_of("nonce.dat", "tdx")
    ('pck_crl', 'signature', 'nonce')
    """
    low = name.lower()[-limits.HOST_MESSAGE_BYTES :]
    stem = re.sub(r"[^a-z0-9.]+", "_", low.rpartition(".")[0] or low).strip("_")
    if tee == "nvidia-gpu" and "cert" in stem:
        return "cert_chain"
    if low.endswith(".sig"):
        bank = re.search(r"sha(1|256|384|512)$", stem)
        return f"sig_{bank[0]}" if bank else "signature"
    if low.endswith(".tpmt"):
        return "ak_public_tpmt"
    for pattern, role in _WHOLE:
        if re.fullmatch(pattern, stem):
            return role
    for pattern, role in _PARTS:
        if re.search(pattern, stem):
            return role
    return stem


__all__ = ["RATLS_EXTENSIONS", "Found", "detect", "detect_case", "differ", "role_of"]
