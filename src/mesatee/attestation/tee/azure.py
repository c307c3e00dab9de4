"""Azure's confidential VM: a hardware report of the paravisor (HCL), and a quote of the vTPM inside of it.

The hardware report is made once, at boot, so a caller's nonce cannot be in it. Two links make the whole:
the report's data is the hash of the runtime data, which names the vTPM's attestation key; and this key signs a
quote with the nonce. Either link alone proves nothing about the system that runs.

Steps:

1. parse      the HCL report: header, hardware report, IgvmRequestData (OpenHCL, `openhcl_attestation_protocol`,
              `igvm_attest::get`)
2. hardware   the SNP report, or for TDX the TD quote made from the TDREPORT, by its own verifier
3. link 1     report data == hash of the runtime data, and for TDX the quote is of this very TDREPORT
4. key        HCLAkPub of the runtime data is the key that everybody else names
5. link 2     the vTPM's quote is signed by HCLAkPub (steps of `tpm`): PCR digest, replay and nonce
6. level      5 only if all of that holds: an encrypted VM (4) whose boot the vTPM measured

The measurement with a quote is SHA-256 over the hardware's measurement (the paravisor's) and the vTPM's (which
registers held what): the paravisor is the same for every customer, and which system it started is in the registers.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from mesatee import _core
from mesatee.attestation.appraisal import Answer, Scalar, Status
from mesatee.attestation.corpus import CorpusPolicy, plain_verdict
from mesatee.attestation.tee import _tpm_files, tpm
from mesatee.attestation.tee._tpm_files import Pieces
from mesatee.attestation.verdict import Verdict
from mesatee.errors import EvidenceRefused, Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

MAGIC: Final = b"HCLA"
HEADER_BYTES: Final = 32
HARDWARE_BYTES: Final = 1_184
"""Space of the hardware report, whichever it is: an SNP report fills it."""
TDREPORT_BYTES: Final = 1_024
SNP: Final = 2
TDX: Final = 4
HASHES: Final = {1: "sha256", 2: "sha384", 3: "sha512"}
AK_NAME: Final = "HCLAkPub"
LEVEL: Final = 5
_ENDORSEMENTS: Final = re.compile(r"crl|cert|vcek|vlek|chain|aux")
_SNP_DATA: Final = slice(0x50, 0x90)
_TDREPORT_DATA: Final = slice(128, 192)
_TDREPORT_TDINFO: Final = slice(512, 1_024)


@dataclass(frozen=True, slots=True)
class HclReport:
    """Parsed, not believed."""

    kind: int
    """`SNP` or `TDX`."""
    hardware: bytes
    """The SNP report, or the TDREPORT."""
    runtime: bytes
    """The runtime data, as hashed."""
    hash: str
    ak: bytes
    """HCLAkPub as DER SubjectPublicKeyInfo."""
    configuration: Mapping[str, Any]
    """What the runtime data says of the VM."""

    @property
    def report_data(self) -> bytes:
        """64 bytes, of the hardware report."""
        return self.hardware[_SNP_DATA if self.kind == SNP else _TDREPORT_DATA]

    @property
    def expected_data(self) -> bytes:
        """What `report_data` must be: the hash of the runtime data, padded with zeros."""
        return hashlib.new(self.hash, self.runtime).digest().ljust(64, b"\0")


# -- parse -----------------------------------------------------------------------------------------


def parse(data: bytes) -> HclReport:
    """Step 1. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`."""
    if len(data) > limits.HCL_BYTES:
        raise TooLarge(f"the HCL report has {len(data)} bytes, the limit is {limits.HCL_BYTES}")
    start = HEADER_BYTES + HARDWARE_BYTES
    if data[:4] != MAGIC or len(data) < start + 20:
        raise Malformed("not an HCL report, or cut short")
    _, version, report_type, hash_type, size = (_u32(data, start + 4 * i) for i in range(5))
    if version != 1:
        raise UnsupportedVersion(f"the HCL report's request data is of version {version}; 1 is known")
    if report_type not in (SNP, TDX) or hash_type not in HASHES:
        raise UnsupportedVersion(f"the HCL report is of type {report_type} with hash {hash_type}")
    runtime = data[start + 20 : start + 20 + size]
    if len(runtime) != size:
        raise Malformed("the runtime data of the HCL report is cut short")
    hardware = data[HEADER_BYTES:start]
    value = _runtime(runtime)
    return HclReport(
        report_type,
        hardware if report_type == SNP else hardware[:TDREPORT_BYTES],
        runtime,
        HASHES[hash_type],
        _ak(value.get("keys")),
        value.get("vm-configuration", {}) if isinstance(value.get("vm-configuration", {}), dict) else {},
    )


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _runtime(data: bytes) -> dict[str, Any]:
    """The runtime data is JSON; a name that stands twice would mean different keys to different readers."""
    try:
        value = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise Malformed("the runtime data of the HCL report is not JSON") from None
    if not isinstance(value, dict):
        raise Malformed("the runtime data of the HCL report is not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a name stands twice in the runtime data of the HCL report")
    return found


def _ak(keys: object) -> bytes:
    """HCLAkPub, an RSA key as JWK (RFC 7517 and 7518, section 6.3.1)."""
    named = (
        [key for key in keys if isinstance(key, dict) and key.get("kid") == AK_NAME]
        if isinstance(keys, list)
        else []
    )
    if len(named) != 1:
        raise Malformed(f"the runtime data of the HCL report has {len(named)} keys of the name {AK_NAME}")
    if named[0].get("kty") != "RSA":
        raise UnsupportedVersion(f"{AK_NAME} is not an RSA key")
    return _core.spki_from_rsa(_number(named[0].get("n")), _number(named[0].get("e")))


def _number(value: object) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,2048}", value):
        raise Malformed(f"{AK_NAME} is not a JWK")
    try:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except ValueError:
        raise Malformed(f"{AK_NAME} is not a JWK") from None


# -- verify ----------------------------------------------------------------------------------------


def _hardware(
    hcl: HclReport, pieces: Pieces, files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy
) -> Verdict:
    """Step 2. The verifiers of the hardware are imported when they are needed: each is as long as this one."""
    verifier = _verifier("snp" if hcl.kind == SNP else "tdx")
    if hcl.kind == SNP:
        # Revocation lists and tables of certificates are for that verifier to read.
        others = [data for role, data in pieces.others.items() if _ENDORSEMENTS.search(role.lower())]
        certificates = [*pieces.certificates, *pieces.anchors, *others]
        return verifier(hcl.hardware, certificates, at, policy)
    quote = _tpm_files.one(pieces.td_quotes, "TD quote")
    if quote is None:
        return plain_verdict(
            Status.NONE, "there is no TD quote: a TDREPORT alone is good only on its own machine"
        )
    _same_td(hcl, quote)
    used = {"hcl_report", "quote", "signature", "ak_public_pem", "evidence_json", "pcrs"}
    collateral = {role: data for role, data in files.items() if role not in used and data != quote}
    # Below the guest runs Azure's paravisor, which handles #VE in its place.
    return verifier(quote, collateral, at, policy, partitioned=True)


def _verifier(name: str) -> Callable[..., Verdict]:
    path = f"mesatee.attestation.tee.{name}"
    try:
        found: Callable[..., Verdict] = importlib.import_module(path).appraise
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        return lambda *_, **__: plain_verdict(Status.NONE, f"no verifier for {name} is built in")
    return found


def _same_td(hcl: HclReport, quote: bytes) -> None:
    """Step 3 for TDX: the quote repeats the TDREPORT, whose own MAC only the same processor can check.

    TDINFO (TDX module specification, 22.6.3) has the fields of the quote's body from TDATTRIBUTES to RTMR 3 in the
    same order. Raises `EvidenceRefused`.
    """
    body = 54 if int.from_bytes(quote[:2], "little") == 5 else 48
    if quote[body + 520 : body + 584] != hcl.report_data:
        raise EvidenceRefused(
            "the TD quote has other report data than the HCL report: it is of another machine"
        )
    fields = quote[body + 120 : body + 520]
    # The HCL report is from the boot, and run-time registers can be extended later: they are not compared.
    if fields[:208] != hcl.hardware[_TDREPORT_TDINFO][:208]:
        raise EvidenceRefused("the TD quote is of another TD than the HCL report")


def _links(hcl: HclReport, pieces: Pieces, objections: list[str]) -> Answer:
    """Steps 3 and 4."""
    if hcl.report_data != hcl.expected_data:
        objections.append(
            "the hardware report is not over this runtime data: it was altered, or is another VM's"
        )
    if any(key.spki != hcl.ak for key in pieces.keys):
        objections.append(f"the attestation key is not the {AK_NAME} of the HCL report")
    return Answer.REFUSED if objections else Answer.AFFIRMED


# -- cases -----------------------------------------------------------------------------------------


def check(files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
    """Appraise an HCL report with the vTPM's quote. Raises `InputError` or `TrustError`."""
    pieces = _tpm_files.gather(files)
    # 1. Parse.
    report = _tpm_files.one(_trimmed(pieces.hcl), "HCL report")
    if report is None:
        raise Malformed("there is no HCL report")
    hcl = parse(report)
    # 3 and 4. First link: what the hardware vouches for.
    objections: list[str] = []
    binding = _links(hcl, pieces, objections)
    # 2. Hardware.
    hardware = _hardware(hcl, pieces, files, at, policy)
    # 5. Second link: what the vTPM says under the key that the hardware vouches for.
    measured = tpm.measure(pieces, hcl.ak)
    return _settle(hcl, hardware, measured, binding, objections)


def _trimmed(reports: Sequence[bytes]) -> list[bytes]:
    # The same report is longer where somebody kept the NV index's padding.
    return [data.rstrip(b"\0") for data in reports]


def _settle(
    hcl: HclReport, hardware: Verdict, measured: tpm.Measured, binding: Answer, objections: Sequence[str]
) -> Verdict:
    """Step 6."""
    reasons = [*measured.answers.reasons, *hardware.reasons]
    against = [*objections, *measured.objections]
    if measured.replay is Answer.REFUSED:
        against.append("the event log is not of the boot that was quoted")
    quote = measured.answers.signature
    if quote is Answer.NOT_ESTABLISHED:
        reasons.append("there is no quote of the vTPM: nothing is proven of the system in the VM")
    measurement, parts = _measurement(hardware, measured)
    bad = bool(against) or measured.answers.refused or Answer.REFUSED in (binding, hardware.signature)
    tier = Status.CONTRAINDICATED if bad else hardware.tier
    signature = Answer.REFUSED if quote is Answer.REFUSED else hardware.signature
    linked = binding is Answer.AFFIRMED and measured.good
    level = hardware.level
    if tier is not Status.AFFIRMING:
        level = 1 if tier is not Status.WARNING else level
    elif linked and hardware.level >= 4:
        level = LEVEL
    if tier is Status.AFFIRMING and not linked:
        reasons.append(f"level {level} and not {LEVEL}: the boot of the system in the VM is not proven")
    if Answer.REFUSED in (measured.answers.binding, binding):
        binding = Answer.REFUSED
    return replace(
        hardware,
        tier=tier,
        signature=signature,
        replay=measured.replay,
        binding=binding,
        level=level,
        measurement=measurement,
        reasons=(*against, *reasons),
        claims={} if bad else {**hardware.claims, **measured.claims, **parts, **_configuration(hcl)},
    )


def _measurement(hardware: Verdict, measured: tpm.Measured) -> tuple[str, dict[str, Scalar]]:
    """Of both together, and the claims from which it can be computed again; without a quote, the hardware's."""
    if not hardware.measurement or not measured.measurement:
        return hardware.measurement, {}
    parts = {"measurement.hardware": hardware.measurement, "measurement.boot": measured.measurement}
    return hashlib.sha256(b"".join(map(bytes.fromhex, parts.values()))).hexdigest(), dict(parts)


def _configuration(hcl: HclReport) -> dict[str, Scalar]:
    """What the paravisor says of the VM, under the hardware's signature."""
    names = {"secure-boot": "azure.secure_boot", "tpm-enabled": "azure.tpm", "vmUniqueId": "azure.vm"}
    found: dict[str, Scalar] = {"azure.ak": hashlib.sha256(hcl.ak).hexdigest()}
    for name, claim in names.items():
        value = hcl.configuration.get(name)
        if isinstance(value, bool) or (isinstance(value, str) and len(value) <= limits.NAME_CHARS):
            found[claim] = value
    return found


__all__ = ["AK_NAME", "LEVEL", "MAGIC", "HclReport", "check", "parse"]
