"""Verification of a DCAP quote: whose signature, which platform, in which state. Policy on values is elsewhere.

Spec: Intel SGX ECDSA Quote Library Reference (DCAP), appendix A, and Intel's quote verification procedure
(Quote Verification Library, section 4.1.2). Pure: quote, collateral, roots and time are arguments.

Negative answers need proof as much as positive ones: a forged or foreign piece is REFUSED, a missing one is
NOT_ESTABLISHED.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeAlias, TypeVar

from mesatee import _core
from mesatee.attestation.appraisal import Answer
from mesatee.attestation.chains import ChainResult, read_certificate, verify_chain
from mesatee.attestation.tee import dcap_pck, dcap_tcb
from mesatee.attestation.tee.dcap_collateral import Collateral, Signed
from mesatee.attestation.tee.dcap_quote import TEE_SGX, Quote
from mesatee.errors import EvidenceRefused, InputError, Malformed, MesateeError, UnsupportedVersion
from mesatee.protocol import limits

INTEL_SGX_ROOT: Final = bytes.fromhex("44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3")
"""SHA-256 of the certificate "Intel SGX Root CA", valid until the end of 2049."""
INTEL_SGX_ROOT_DER: Final = base64.b64decode(
    "MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3Qg"
    "Q0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYT"
    "AlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoM"
    "EUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYTAlVTMFkwEwYHKoZI"
    "zj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi71OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxF"
    "P2sJBK5zlKOBuzCBuDAfBgNVHSMEGDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJMEegRaBDhkFodHRwczovL2Nl"
    "cnRpZmljYXRlcy50cnVzdGVkc2VydmljZXMuaW50ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInz"
    "g7SVUr9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYIKoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9C"
    "iSDcNoowLuPRLsWGf/Yi7GSX94BgwTwgAiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI="
)
"""That certificate itself, for chains that come without it."""
ANCHORS: Final = (INTEL_SGX_ROOT_DER,)
_ES256: Final = "ecdsa-p256-sha256"
_PCK_SUBJECT: Final = "CN=Intel SGX PCK Certificate"
_PCK_ISSUERS: Final = frozenset({"CN=Intel SGX PCK Platform CA", "CN=Intel SGX PCK Processor CA"})
_TCB_SIGNER: Final = "CN=Intel SGX TCB Signing"
_PCK_LEAF: Final = 4
_PCK_CHAIN: Final = 5
_YES, _NO, _UNKNOWN = Answer.AFFIRMED, Answer.REFUSED, Answer.NOT_ESTABLISHED

Verify = Callable[[str, bytes, bytes, bytes], None]
Statement = TypeVar("Statement", dcap_tcb.TcbInfo, dcap_tcb.QeIdentity)


@dataclass(slots=True)
class Findings:
    """What was found out about a quote."""

    signature: Answer = _UNKNOWN
    """The whole way from the PCK key to the body: QE report, attestation key, quote."""
    chain: Answer = _UNKNOWN
    revocation: Answer = _UNKNOWN
    """Of the PCK chain and of the signers of the collateral."""
    tcb: Answer = _UNKNOWN
    """AFFIRMED: a TCB level is established, whichever. REFUSED: the collateral is forged or foreign, the QE is
    not Intel's, or no level matches."""
    match: dcap_tcb.Match | None = None
    """The level; only where `tcb` is affirmed."""
    pck: dcap_pck.PckExtension | None = None
    tcb_info: dcap_tcb.TcbInfo | None = None
    reasons: list[str] = field(default_factory=list)
    expires: int | None = None
    """When the first of certificates, lists and statements is over that the answers rely on, Unix seconds."""

    def until(self, *ends: int | None) -> None:
        """Bring `expires` forward to the first of `ends`."""
        known = [end for end in (self.expires, *ends) if end is not None]
        self.expires = min(known, default=None)

    def say(self, *reasons: str) -> None:
        """Add reasons, each once."""
        self.reasons += [reason for reason in dict.fromkeys(reasons) if reason not in self.reasons]


def verify(
    quote: Quote, collateral: Collateral, at: int | None, anchors: Sequence[bytes] = ANCHORS
) -> Findings:
    """All answers about `quote` at `at` (Unix seconds; None: nothing that depends on time is established).

    1. The attestation key signed the quote.
    2. The QE's report names that key: report data = SHA-256(key || authentication data) || zeros.
    3. The PCK signed the QE's report.
    4. The PCK certificate descends from Intel's root.
    5. Intel signed QE identity and TCB info, they are current, and about this kind of TEE and platform.
    6. The QE is the one of the identity.
    7. The platform's TCB level, with the TDX module's and the QE's.
    8. Nothing on the way was revoked. Without both revocation lists no good level is established.

    Raises nothing: what does not hold is REFUSED, with the reason.
    """
    found = Findings()
    pck = _PckKey.of(quote, collateral, found)
    _signature(quote, pck, found)  # 1 to 3.
    answers: list[Answer] = []
    if pck is not None:
        _chain(pck, collateral, at, anchors, found, answers)  # 4.
    _tcb(quote, collateral, at, anchors, found, answers)  # 5 to 7.
    # 8. Revocation.
    found.revocation = _NO if _NO in answers else _UNKNOWN if _UNKNOWN in answers or not answers else _YES
    if found.match is not None and found.revocation is not _YES:
        status = found.match.status
        found.say(f"the collateral says {status}, but without all revocation lists that is not established")
        # What speaks against a platform counts all the same.
        found.tcb = _NO if status is dcap_tcb.TcbStatus.REVOKED else _UNKNOWN
        found.match = None
    found.say(*collateral.notes)
    return found


# -- signatures -----------------------------------------------------------------------------------------


def pck_certificate(quote: Quote, collateral: Collateral) -> _core.X509 | None:
    """The certificate that `verify` takes for the platform's; not verified. None if there is none."""
    found = _PckKey.of(quote, collateral, Findings())
    return found.leaf if found is not None else None


@dataclass(frozen=True, slots=True)
class _PckKey:
    """The PCK certificate and what came with it."""

    leaf: _core.X509
    others: tuple[bytes, ...]

    @classmethod
    def of(cls, quote: Quote, collateral: Collateral, found: Findings) -> _PckKey | None:
        """From the quote where it has one, and only then from elsewhere: by its key, not by its name."""
        if quote.certification_type not in (_PCK_LEAF, _PCK_CHAIN):
            # Types 1 to 3: the quote names the platform, and its certificate comes apart from it.
            # The name too: SGX SDKs put quotes into certificates of their own under the same identifier.
            given = [
                c
                for c in collateral.certificates
                if dcap_pck.SGX_EXTENSION in c.extensions and _PCK_SUBJECT in _parts(c.subject)
            ]
            signers = [
                c for c in given if not _objection(c.spki, quote.qe_report_signature, quote.qe_report.raw)
            ]
            if not given:
                kind = quote.certification_type
                found.say(f"certification data of type {kind} holds no PCK certificate, and none was given")
                return None
            return cls((signers or given)[0], ())
        try:
            ders = _certificates(quote.certification_data)
            parsed = [read_certificate(der) for der in ders]
        except InputError as error:
            found.signature = found.chain = _NO
            found.say(f"the PCK certificates in the quote: {error.message}")
            return None
        if not parsed:
            found.say("the quote has no PCK certificate where it should be")
            return None
        # The order is not fixed: the PCK certificate is the one that names a platform.
        leaf = next((c for c in parsed if dcap_pck.SGX_EXTENSION in c.extensions), parsed[0])
        return cls(leaf, tuple(der for der in ders if der != leaf.der))


def _certificates(data: bytes) -> list[bytes]:
    """DER of certificates in PEM, or one after the other in DER. Raises `Malformed` or `TooLarge`."""
    if b"-----BEGIN" in data:
        return _core.pem_certificates(data.rstrip(b"\0"))
    found: list[bytes] = []
    while data.rstrip(b"\0") and len(found) < limits.CHAIN_CERTIFICATES:
        count = data[1] & 0x7F if len(data) > 1 and data[1] & 0x80 else 0
        size = 2 + count + int.from_bytes(data[2 : 2 + count])
        if data[0] != 0x30 or not 2 <= count <= 3 or size > len(data):
            raise Malformed("they are neither PEM nor DER")
        found.append(data[:size])
        data = data[size:]
    return found


def _objection(
    spki: bytes, signature: bytes, message: bytes, verify: Verify = _core.verify_signature
) -> str | None:
    """Why `signature` (r || s on P-256) does not hold; None if it does."""
    try:
        verify(_ES256, spki, signature, message)
    except MesateeError as error:
        return error.message
    return None


def _signature(quote: Quote, pck: _PckKey | None, found: Findings) -> None:
    # 1. Quote, by the attestation key.
    try:
        key = _core.spki_from_point("p256", quote.attestation_key)
        why = _objection(key, quote.signature, quote.signed)
    except InputError as error:
        why = error.message
    if why:
        found.signature = _NO
        found.say(f"the attestation key did not sign the quote: {why}")
    # 2. Attestation key, by the QE's report.
    named = hashlib.sha256(quote.attestation_key + quote.qe_auth_data).digest().ljust(64, b"\0")
    if quote.qe_report.report_data != named:
        found.signature = _NO
        found.say("the quoting enclave's report does not name the attestation key")
    if pck is None:
        return
    # 3. The QE's report, by the PCK.
    if why := _objection(pck.leaf.spki, quote.qe_report_signature, quote.qe_report.raw):
        found.signature = _NO
        found.say(f"the PCK did not sign the quoting enclave's report: {why}")
    if found.signature is not _NO:
        found.signature = _YES


# -- chains ---------------------------------------------------------------------------------------------


def _parts(name: str) -> set[str]:
    """The parts of a name of Intel's, which have no commas inside; a name with some has other parts."""
    return set(name.split(","))


def _authorities(collateral: Collateral) -> list[_core.X509]:
    return [c for c in collateral.certificates if c.is_ca]


def _path(
    leaf: _core.X509,
    others: Sequence[bytes],
    collateral: Collateral,
    at: int | None,
    anchors: Sequence[bytes],
) -> ChainResult:
    """The chain of `leaf`. The CA certificates of the collateral fill gaps: each must still lead to an anchor."""
    pool: list[bytes | _core.X509] = [leaf, *others]
    known = {leaf.der, *others}
    pool += [c for c in _authorities(collateral) if c.der not in known]
    return verify_chain(pool, anchors, at, collateral.crls, known=(dcap_pck.SGX_EXTENSION,))


def _chain(
    pck: _PckKey,
    collateral: Collateral,
    at: int | None,
    anchors: Sequence[bytes],
    found: Findings,
    answers: list[Answer],
) -> None:
    result = _path(pck.leaf, pck.others, collateral, at, anchors)
    found.chain = result.chain
    found.until(result.expires)
    found.say(*(f"PCK chain: {reason}" for reason in result.reasons))
    answers.append(result.revocation)
    # The same root also signs Intel's TCB signer, which must not pass for a platform.
    named = _PCK_SUBJECT in _parts(pck.leaf.subject) and _PCK_ISSUERS & _parts(pck.leaf.issuer)
    if not named or pck.leaf.is_ca:
        found.chain = _NO
        found.say(
            "the certificate that signed the quoting enclave's report is not a PCK certificate of Intel"
        )
    try:
        _, value = pck.leaf.extensions.get(dcap_pck.SGX_EXTENSION, (False, b""))
        found.pck = dcap_pck.parse(value)
    except InputError as error:
        found.chain = _NO
        found.say(f"the PCK certificate: {error.message}")


# -- TCB ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Best(Generic[Statement]):
    """Of several statements of one kind the one that counts, or why none does."""

    answer: Answer
    value: Statement | None = None
    revocation: Answer = _UNKNOWN
    reasons: tuple[str, ...] = ()
    expires: int | None = None
    """Of its signer's chain."""


_Signature: TypeAlias = tuple[Answer, Answer, tuple[str, ...], int | None]
"""Whether Intel signed a statement, whether its signer was revoked, reasons, and when the signer's chain is over."""


@dataclass(slots=True)
class _Signers:
    """Certificates that may sign collateral, and their chains, each looked at once."""

    collateral: Collateral
    at: int | None
    anchors: Sequence[bytes]
    known: list[_core.X509] = field(default_factory=list)
    chains: dict[bytes, ChainResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known += [c for c in self.collateral.certificates if _TCB_SIGNER in _parts(c.subject)]

    def check(self, item: Signed) -> _Signature:
        """Whether Intel signed `item`."""
        if not self.known:
            if self.collateral.signer_chain:
                return _NO, _UNKNOWN, ("the chain beside it has no TCB signing certificate",), None
            return _UNKNOWN, _UNKNOWN, ("the certificate of its signer is missing",), None
        best: _Signature | None = None
        # Intel renewed the certificate of this key: one that is valid at this time is enough.
        for signer in self.known:
            # The same statement comes with every quote of a kind of machine; quotes themselves are never remembered.
            if _objection(signer.spki, item.signature, item.text, _core.verify_lasting_signature):
                continue
            chain = self._chain(signer)
            if chain.chain is _YES and chain.revocation is _YES:
                return _YES, _YES, chain.reasons, chain.expires
            rank = (chain.chain is _YES, chain.chain is _UNKNOWN, chain.revocation is not _NO)
            if best is None or rank > (best[0] is _YES, best[0] is _UNKNOWN, best[1] is not _NO):
                best = chain.chain, chain.revocation, chain.reasons, chain.expires
        return best or (_NO, _UNKNOWN, ("no TCB signing certificate given has signed it",), None)

    def _chain(self, signer: _core.X509) -> ChainResult:
        if signer.der not in self.chains:
            self.chains[signer.der] = _path(signer, (), self.collateral, self.at, self.anchors)
        return self.chains[signer.der]


def _pick(
    items: Sequence[Signed],
    signers: _Signers,
    what: str,
    parse: Callable[[bytes], Statement],
    foreign: Callable[[Statement], str | None],
) -> _Best[Statement]:
    """The latest statement that is signed, current, and about this platform.

    Intel counts its recoveries of TCBs in ``tcbEvaluationDataNumber``. It goes on issuing statements with older numbers
    for those who need time to update, so that the date alone does not say which one knows more.
    """
    good: list[_Best[Statement]] = []
    bad: list[_Best[Statement]] = []
    for item in items:
        reasons: tuple[str, ...]
        answer, revocation, reasons, expires = signers.check(item)
        value: Statement | None = None
        why: str | None = None
        if answer is not _NO:
            try:
                value = parse(item.text)
                why = foreign(value) or _stale(value, signers.at)
            except UnsupportedVersion as error:
                answer, reasons = _UNKNOWN, (*reasons, error.message)
            except InputError as error:
                why = error.message
        if why:
            answer, reasons = _NO, (why,)
        (good if answer is _YES else bad).append(
            _Best(answer, value, revocation, tuple(f"{what}: {reason}" for reason in reasons), expires)
        )
    if good:
        return max(good, key=lambda best: _knowledge(best.value))
    refused = [best for best in bad if best.answer is _NO]
    if refused or bad:
        return (refused or bad)[0]
    return _Best(_UNKNOWN, reasons=(f"{what}: there is none",))


def _knowledge(value: dcap_tcb.TcbInfo | dcap_tcb.QeIdentity | None) -> tuple[int, int]:
    return (value.evaluation_number, value.issued) if value is not None else (-1, 0)


def _stale(value: dcap_tcb.TcbInfo | dcap_tcb.QeIdentity, at: int | None) -> str | None:
    if at is not None and at < value.issued:
        return "it was issued after the time of this appraisal"
    if at is not None and at > value.next_update:
        return "it has expired"
    return None


def _tcb(
    quote: Quote,
    collateral: Collateral,
    at: int | None,
    anchors: Sequence[bytes],
    found: Findings,
    answers: list[Answer],
) -> None:
    sgx = quote.tee_type == TEE_SGX
    pck = found.pck

    def foreign_identity(value: dcap_tcb.QeIdentity) -> str | None:
        expected = "QE" if sgx else "TD_QE"
        return None if value.id == expected else f"it is about {value.id}, not {expected}"

    def foreign_info(value: dcap_tcb.TcbInfo) -> str | None:
        expected = "SGX" if sgx else "TDX"
        if value.id != expected:
            return f"it is about {value.id}, not {expected}"
        if pck is not None and (value.fmspc, value.pceid) != (pck.fmspc, pck.pceid):
            return f"it is about platforms {value.fmspc.hex()}, this one is {pck.fmspc.hex()}"
        return None

    # 5. Statements. The QvE's identity, which some bundles have too, is about no quote.
    identities = [item for item in collateral.identities if b'"QVE"' not in item.text]
    if not collateral.tcb_infos and not identities:
        found.say("there is no TCB info and no QE identity: the state of the platform is not known")
        return
    signers = _Signers(collateral, at, anchors)
    identity = _pick(identities, signers, "QE identity", dcap_tcb.parse_qe_identity, foreign_identity)
    info = _pick(collateral.tcb_infos, signers, "TCB info", dcap_tcb.parse_tcb_info, foreign_info)
    found.tcb_info = info.value
    found.say(*identity.reasons, *info.reasons)
    for best in (identity, info):
        if best.value is not None:
            answers.append(best.revocation)
            found.until(best.expires, best.value.next_update + 1)
    if _NO in (identity.answer, info.answer):
        found.tcb = _NO
        return
    try:
        if identity.answer is not _YES or identity.value is None:
            return
        # 6. Quoting enclave.
        level = dcap_tcb.match_qe(identity.value, quote.qe_report)
        if info.answer is not _YES or info.value is None or pck is None:
            return
        # 7. Platform.
        found.match = dcap_tcb.match_platform(info.value, pck.components, pck.pcesvn, quote.body, level)
        found.tcb = _YES
    except EvidenceRefused as error:
        found.tcb = _NO
        found.say(error.message)


__all__ = ["ANCHORS", "INTEL_SGX_ROOT", "INTEL_SGX_ROOT_DER", "Findings", "pck_certificate", "verify"]
