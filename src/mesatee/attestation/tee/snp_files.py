"""SNP reports, certificates and revocation lists, in whatever shape they travel.

Reports come bare, padded, in the kernel's response to SNP_GET_REPORT (4,000 bytes, linux/sev-guest.h), followed by
a certificate table, as hex, base64 or inside of JSON. Certificates come as PEM or DER, one or many, or as the
certificate table of the extended guest request (GHCB specification, section 4.1.8.1; also the kernel's `auxblob`).
Everything is recognised by its content. Being liberal here concludes nothing: whatever is found has to verify.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mesatee import _core
from mesatee.attestation import detect, foreign
from mesatee.attestation.tee import snp_json, snp_report
from mesatee.errors import EvidenceRefused, InputError, Malformed, TooLarge
from mesatee.protocol import limits
from mesatee.protocol.jsonstrict import parse_foreign

_RESPONSE_HEAD_BYTES: Final = 32
"""Status, size of the report, 24 reserved bytes."""
_ENTRY_BYTES: Final = 24
"""An entry of a certificate table: GUID, offset, length."""
_CERTIFICATES: Final = re.compile(r"vcek|vlek|(^|_)(ask|asvk|ark)|cert|chain")
"""Roles of files that ought to hold certificates."""
EXPECTED: Final = re.compile(r"nonce|challenge|report_?data")
"""Roles of files that say what the report data must be; nothing else is looked for in them."""
_LONG_FORM: Final = (b"\x30\x81", b"\x30\x82", b"\x30\x83")


@dataclass(slots=True)
class Endorsements:
    """A pool of certificates and lists, of which nothing is verified."""

    certificates: list[_core.X509] = field(default_factory=list)
    crls: list[bytes] = field(default_factory=list)
    """DER."""
    broken: list[str] = field(default_factory=list)
    """What ought to have been a certificate, and could not be read."""

    def add(self, label: str, data: bytes, depth: int = limits.WRAPPINGS) -> bool:
        """Take what `data` holds. `label` is its name, `depth` how many wrappings to undo.

        Returns whether it was of a kind that is known here. Raises `TooLarge` for more than the pool holds: a list
        that is left out might be the one that revokes.
        """
        if depth < 0 or len(data) > limits.CASE_FILE_BYTES:
            return False
        text = data.strip(b"\0 \r\n\t")
        if data[:2] in _LONG_FORM:
            self._der(label, data)
        elif b"-----BEGIN" in text:
            self._pem(label, text)
        elif foreign.is_json(text):
            return self._json(label, text, depth)
        elif (entries := table(data)) is not None:
            for entry in entries:
                self.add(label, entry, depth - 1)
        elif (inner := foreign.plain(text)) is not None:
            return self.add(label, inner, depth - 1)
        else:
            return False
        return True

    def _pem(self, label: str, text: bytes) -> None:
        # Some environments keep chains with the line breaks spelled out.
        text = text.replace(b"\\n", b"\n")
        for der in foreign.pem_crls(text):
            self._der(label, der)
        try:
            found = _core.pem_certificates(text)
        except InputError as error:
            self._note(label, error.message)
            return
        for der in found:
            self._certificate(label, der)

    def _der(self, label: str, data: bytes) -> None:
        """One value of DER after the other, and padding."""
        for _ in range(limits.CHAIN_CERTIFICATES):
            if not data.strip(b"\0"):
                return
            # X.690 section 8.1.3: a certificate is longer than 127 bytes, so that the long form counts its length.
            octets = data[1] & 0x7F if len(data) > 1 else 0
            end = 2 + octets + int.from_bytes(data[2 : 2 + octets])
            if data[:2] not in _LONG_FORM or end > len(data):
                self._note(label, "it is not DER to its end")
                return
            self._value(label, data[:end])
            data = data[end:]

    def _value(self, label: str, der: bytes) -> None:
        try:
            _core.X509Crl.parse(der)
        except InputError:
            self._certificate(label, der)
        else:
            if der not in self.crls:
                _room(self.crls, limits.CRLS, "revocation lists")
                self.crls.append(der)

    def _certificate(self, label: str, der: bytes) -> None:
        try:
            certificate = _core.X509.parse(der)
        except InputError as error:
            self._note(label, error.message)
            return
        if all(certificate.der != other.der for other in self.certificates):
            _room(self.certificates, limits.CHAIN_CERTIFICATES, "certificates")
            self.certificates.append(certificate)

    def _json(self, label: str, text: bytes, depth: int) -> bool:
        try:
            found = list(foreign.leaves(text))
        except InputError:
            return False
        taken = [self.add(label, leaf, depth - 1) for leaf in found]
        return any(taken)

    def _note(self, label: str, why: str) -> None:
        if len(self.broken) < limits.CASE_FILES:
            self.broken.append(f"{label[: limits.NAME_CHARS]} cannot be read: {why}")


def _room(pool: Sequence[object], limit: int, what: str) -> None:
    if len(pool) == limit:
        raise TooLarge(
            f"there are more than {limit} {what} with the report, of which none may be left out",
            hint="keep only what is about this processor",
        )


@dataclass(frozen=True, slots=True)
class Case:
    """The files of a case, taken apart."""

    report: bytes
    endorsements: Endorsements
    others: Mapping[str, bytes]
    """What is neither, e.g. nonces."""
    conflict: bool
    """There are two reports that differ."""


def open_case(files: Mapping[str, bytes]) -> Case:
    """Find report and certificates in `files` (role -> bytes). Raises `Malformed` if there is no report, and
    `TooLarge` for more certificates or lists than fit, and `EvidenceRefused` for a file that holds two reports.
    """
    reports: list[bytes] = []
    endorsements = Endorsements()
    others: dict[str, bytes] = {}
    # The report first; then in the order given, in which what the relying party collected comes first.
    for role in sorted(files, key=lambda role: role != "report"):
        data = files[role]
        if EXPECTED.search(role.lower()):
            others[role] = data
            continue
        found = _report_in(data)
        if found is not None:
            report, rest = found
            reports.append(report)
            if rest.strip(b"\0\xff"):
                endorsements.add(role, rest)
        # JSON may hold both.
        if found is None or foreign.json_in(data) is not None:
            taken = endorsements.add(role, data)
            if not taken and _CERTIFICATES.search(role.lower()):
                endorsements.broken.append(f"{role[: limits.NAME_CHARS]} holds no certificate")
            elif not taken:
                others[role] = data
    if not reports:
        if "report" not in files:
            raise Malformed("there is no SNP report in the case")
        # Let the parser say what is wrong with it.
        reports.append(foreign.plain(files["report"]) or files["report"])
        others.pop("report", None)
    conflict = any(report != reports[0] for report in reports)
    return Case(reports[0], endorsements, others, conflict)


def _report_in(data: bytes) -> tuple[bytes, bytes] | None:
    """A report, and what follows it."""
    size = snp_report.REPORT_BYTES
    start = _start(data)
    if start is None:
        try:
            found = detect.detect(data)
        except InputError:
            return None
        if found.tee != "snp":
            return None
        data = _told(found)
        start = _start(data)
        if start is None:
            return None
    return data[start : start + size], data[start + size :]


def _told(found: detect.Found) -> bytes:
    """The report that a file holds as bytes or as JSON of its fields. Raises `EvidenceRefused` for two that differ."""
    whole, fields = found.files.get("report", b""), _fields(found.files.get(detect.FIELDS, b""))
    if whole and fields and not whole.startswith(fields):
        raise EvidenceRefused(
            "there are two pieces of evidence that differ (snp)", hint="give each of them alone"
        )
    return whole or fields


def _fields(data: bytes) -> bytes:
    """A report that came as JSON of its fields; empty if it did not."""
    try:
        value = parse_foreign(data, limit=limits.CASE_FILE_BYTES)
        report = value.get("attestation_report") if isinstance(value, dict) else None
        return snp_json.rebuild(report) if isinstance(report, dict) else b""
    except InputError:
        return b""


def _start(data: bytes) -> int | None:
    """Where a report begins in the bytes that a firmware or kernel gave out."""
    size = snp_report.REPORT_BYTES
    head = int.from_bytes(data[:4], "little"), int.from_bytes(data[4:8], "little")
    for start in (_RESPONSE_HEAD_BYTES, 0) if head == (0, size) else (0,):
        version = int.from_bytes(data[start : start + 4], "little")
        algorithm = int.from_bytes(data[start + 0x34 : start + 0x38], "little")
        enough = len(data) >= start + size
        if enough and version in snp_report.VERSIONS and algorithm == snp_report.ECDSA_P384_SHA384:
            return start
    return None


def table(data: bytes) -> list[bytes] | None:
    """The contents of a certificate table; None if `data` is none.

    >>> table(bytes.fromhex("aa" * 16 + "30000000" + "02000000") + bytes(24) + b"ok")
    [b'ok']
    """
    found: list[bytes] = []
    for start in range(0, limits.CHAIN_CERTIFICATES * _ENTRY_BYTES, _ENTRY_BYTES):
        entry = data[start : start + _ENTRY_BYTES]
        if len(entry) < _ENTRY_BYTES:
            return None
        if not any(entry[:16]):
            return found or None
        offset = int.from_bytes(entry[16:20], "little")
        end = offset + int.from_bytes(entry[20:], "little")
        if offset < start + _ENTRY_BYTES or end > len(data):
            return None
        # What it is says the content; a GUID could only repeat or contradict that.
        found.append(data[offset:end])
    return None


__all__ = ["EXPECTED", "Case", "Endorsements", "open_case", "table"]
