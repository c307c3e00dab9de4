"""SNP reports, certificates and revocation lists, in whatever shape they travel.

Reports come bare, padded, in the kernel's response to SNP_GET_REPORT (4,000 bytes, linux/sev-guest.h), followed by
a certificate table, as hex, base64 or inside of JSON. Certificates come as PEM or DER, one or many, or as the
certificate table of the extended guest request (GHCB specification, section 4.1.8.1; also the kernel's `auxblob`).
Everything is recognised by its content. Being liberal here concludes nothing: whatever is found has to verify.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mesatee import _core
from mesatee.attestation import detect
from mesatee.attestation.tee import snp_json, snp_report
from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import limits
from mesatee.protocol.jsonstrict import parse as parse_json

_RESPONSE_HEAD_BYTES: Final = 32
"""Status, size of the report, 24 reserved bytes."""
_ENTRY_BYTES: Final = 24
"""An entry of a certificate table: GUID, offset, length."""
_CRL_PEM: Final = re.compile(rb"-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]*)-----END X509 CRL-----")
_CERTIFICATES: Final = re.compile(r"vcek|vlek|(^|_)(ask|asvk|ark)|cert|chain")
"""Roles of files that ought to hold certificates."""
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
        elif text[:1] in (b"{", b"["):
            return self._json(label, text, depth)
        elif (entries := table(data)) is not None:
            for entry in entries:
                self.add(label, entry, depth - 1)
        elif (inner := plain(text)) is not None:
            return self.add(label, inner, depth - 1)
        else:
            return False
        return True

    def _pem(self, label: str, text: bytes) -> None:
        # Some environments keep chains with the line breaks spelled out.
        text = text.replace(b"\\n", b"\n")
        for block in _CRL_PEM.findall(text):
            try:
                self._der(label, binascii.a2b_base64(block))
            except binascii.Error:
                self._note(label, "a revocation list is not base64")
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
            value = parse_json(text, limit=limits.CASE_FILE_BYTES)
        except InputError:
            return False
        taken = [self.add(label, leaf, depth - 1) for leaf in leaves(value)]
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
    `TooLarge` for more certificates or lists than fit.
    """
    reports: list[bytes] = []
    endorsements = Endorsements()
    others: dict[str, bytes] = {}
    # The report first; then in the order given, in which what the relying party collected comes first.
    for role in sorted(files, key=lambda role: role != "report"):
        data = files[role]
        found = _report_in(data)
        if found is not None:
            report, rest = found
            reports.append(report)
            if rest.strip(b"\0\xff"):
                endorsements.add(role, rest)
        # JSON may hold both.
        if found is None or data.lstrip()[:1] in (b"{", b"["):
            taken = endorsements.add(role, data)
            if not taken and _CERTIFICATES.search(role.lower()):
                endorsements.broken.append(f"{role[: limits.NAME_CHARS]} holds no certificate")
            elif not taken:
                others[role] = data
    if not reports:
        if "report" not in files:
            raise Malformed("there is no SNP report in the case")
        # Let the parser say what is wrong with it.
        reports.append(plain(files["report"].strip()) or files["report"])
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
        data = found.files.get("report") or _fields(data)
        start = _start(data)
        if start is None:
            return None
    return data[start : start + size], data[start + size :]


def _fields(data: bytes) -> bytes:
    """A report that came as JSON of its fields; empty if it did not."""
    try:
        value = parse_json(data, limit=limits.CASE_FILE_BYTES)
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


def plain(text: bytes) -> bytes | None:
    """What `text` is the hex or base64 of; None if it is neither."""
    dense = b"".join(text.split()).removeprefix(b"0x")
    if not dense:
        return None
    try:
        return binascii.unhexlify(dense)
    except ValueError:
        pass
    if re.fullmatch(rb"[A-Za-z0-9+/_-]+={0,2}", dense) is None:
        return None
    dense = dense.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(dense + b"=" * (-len(dense) % 4), validate=True)
    except ValueError:
        return None


def leaves(value: Any) -> Iterator[bytes]:
    """Strings and arrays of bytes in a JSON value that are long enough to be evidence."""
    stack, count = [value], 0
    while stack and count < limits.DETECT_LEAVES:
        item = stack.pop()
        if isinstance(item, str) and len(item) >= limits.DETECT_CHARS:
            count += 1
            yield item.encode("utf-8", "replace")
        elif isinstance(item, list):
            if len(item) >= limits.DETECT_CHARS and all(type(n) is int and 0 <= n < 256 for n in item):
                count += 1
                yield bytes(item)
            else:
                stack.extend(reversed(item))
        elif isinstance(item, dict):
            stack.extend(reversed(item.values()))


__all__ = ["Case", "Endorsements", "leaves", "open_case", "plain", "table"]
