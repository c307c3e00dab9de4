"""RA-TLS: X.509 certificates that carry evidence for their own key.

Which extension, and how the evidence vouches for the key:

- 2.23.133.5.4.9 (TCG DICE tagged evidence, CCC "interoperable RA-TLS"): CBOR tag([evidence, claims]); the report
  data begins with SHA-256(claims), and the claim ``pubkey-hash`` is the digest of the SubjectPublicKeyInfo. RATS-TLS
  and newer Gramine make these.
- 1.2.840.113741.1337.6 (Gramine; its encoders write 0.6.9.42.840.113741.1337.6), 1.2.840.113741.1.13.1 (Intel SGX SDK;
  in Intel's own PCK certificates the same identifier means something else), 1.3.6.1.4.1.311.105.1 (EGo) and
  1.2.840.113556.10.1.1 and .2 (Open Enclave): a quote, or Open Enclave's report around it; the report data begins
  with a digest of the public key.
- A Nitro document as the hex of a DNS name (Evervault): no specification says what it vouches for, so the verdict
  is "none" at best.

The evidence itself is judged by its TEE's own module. Here: the certificate, and what binds the two.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from mesatee import _core
from mesatee.attestation import detect, foreign
from mesatee.attestation.appraisal import Answer, Scalar, Status
from mesatee.attestation.corpus import CorpusPolicy, plain_verdict
from mesatee.attestation.tee import ratls_claims
from mesatee.attestation.verdict import Verdict
from mesatee.errors import EvidenceRefused, InputError, Malformed, TrustError

NAME: Final = "ratls"
DICE: Final = "2.23.133.5.4.9"
OPEN_ENCLAVE: Final = ("1.2.840.113556.10.1.1", "1.2.840.113556.10.1.2")
PCK: Final = "1.2.840.113741.1.13.1"
"""The SGX SDK's, and also what Intel's PCK certificates say of a platform, which is no evidence."""
LEGACY: Final[Mapping[str, str]] = MappingProxyType(
    {
        "1.2.840.113741.1337.6": "Gramine",
        "0.6.9.42.840.113741.1337.6": "Gramine",
        PCK: "Intel SGX SDK",
        "1.3.6.1.4.1.311.105.1": "EGo",
        **dict.fromkeys(OPEN_ENCLAVE, "Open Enclave"),
    }
)
"""Extension -> who makes such certificates."""
LOCAL_TAGS: Final = (60001, 60002)
"""A TDREPORT and an EREPORT: only the processor that made them can verify their MACs."""
_SAN: Final = "2.5.29.17"
_NITRO_HEX: Final = re.compile(rb"(?:8444|d28444)a1013822[0-9a-f]+")
_COPIES: Final = re.compile(r"ext_.*|(evidence_?)?quote|report|document")
"""Roles of files that repeat a part of the certificate."""
_SCAN_BYTES: Final = 64
"""How far into an extension evidence is looked for: behind headers and the heads of nested octet strings."""
_OF_ONE_PIECE: Final = frozenset({"report_data", "ratls.extension", "ratls.flavour"})
"""Claims in which two pieces of evidence for one key differ."""
_WORST_FIRST: Final = (Status.CONTRAINDICATED, Status.NONE, Status.WARNING, Status.AFFIRMING)
_INTEL_QE_AT: Final = 12
"""Where a quote names the vendor of its quoting enclave."""


@dataclass(frozen=True, slots=True)
class Carried:
    """Evidence in a certificate."""

    flavour: str
    identifier: str
    """Of the extension."""
    tee: str
    """As in `corpus.CHECKS`, or empty if nobody verifies this."""
    evidence: bytes
    claims: bytes | None = None
    """The claims beside it, as the report data vouches for them."""
    pubkey_hash: tuple[str, bytes] | None = None
    """Algorithm and digest that the claims name."""
    proprietary: bool = False
    """Nobody has specified what it vouches for."""


# -- parse ------------------------------------------------------------------------------------------------


def certificate_in(files: Mapping[str, bytes]) -> _core.X509:
    """The certificate of a case: the role ``certificate``, or else the one that carries evidence, or else any.

    Raises `Malformed` if there is none, and `EvidenceRefused` if there are two with evidence.
    """
    roles = ["certificate"] if "certificate" in files else sorted(files, key=lambda r: ("cert" not in r, r))
    found: list[_core.X509] = []
    error: InputError | None = None
    for role in roles:
        try:
            found += _certificates(files[role])
        except InputError as why:
            error = error or why
    with_evidence = {item.der: item for item in found if _carries(item)}
    if len(with_evidence) > 1:
        raise EvidenceRefused("the case has two certificates with evidence", hint="give one of them")
    for certificate in (*with_evidence.values(), *found):
        return certificate
    raise error or Malformed("there is no certificate in the case")


def _certificates(data: bytes) -> list[_core.X509]:
    """Certificates in PEM or DER, or the one with evidence in whatever else `detect` looks through."""
    # Quotes hold PEM too, so DER is recognised by its beginning.
    if data[:1] == b"\x30":
        return [_core.X509.parse(_bare(data), lenient=True)]
    if b"-----BEGIN" in data and not foreign.is_json(data):
        return [_core.X509.parse(der, lenient=True) for der in _core.pem_certificates(data)]
    try:
        der = detect.detect(data).files["certificate"]
    except (InputError, KeyError):
        # One without evidence, or with padding; its parser says what is wrong with it.
        der = foreign.plain(data) or data
    return [_core.X509.parse(_bare(der), lenient=True)]


def _carries(certificate: _core.X509) -> bool:
    try:
        return detect.detect(certificate.der).tee == NAME
    except InputError:
        return False


def _bare(data: bytes) -> bytes:
    """DER without the padding that buffers of fixed size leave behind it."""
    octets = data[1] & 0x7F if len(data) > 1 else 0
    end = 2 + octets + int.from_bytes(data[2 : 2 + octets])
    return data[:end] if not data[end:].strip(b"\0\r\n") else data


def find(certificate: _core.X509) -> tuple[Carried, ...]:
    """All evidence that a certificate carries: in the specified forms, or else in others; empty if there is none.

    Newer Gramine writes its own form and the interoperable one, each with a quote of its own.
    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    extensions = certificate.extensions
    found = [_dice(extensions[DICE][1])] if DICE in extensions else []
    for identifier, flavour in LEGACY.items():
        if identifier in extensions:
            evidence = _located(extensions[identifier][1])
            if evidence is not None:
                found.append(Carried(flavour, identifier, *evidence))
            elif identifier != PCK:
                raise Malformed(f"the extension {identifier} holds no evidence of a kind that is known")
    return tuple(found or _unspecified(extensions))


def _unspecified(extensions: Mapping[str, tuple[bool, bytes]]) -> Iterator[Carried]:
    """Evidence where nobody specified it; but a document says itself what it is."""
    for identifier, (_, value) in extensions.items():
        if identifier != _SAN:
            if (evidence := _located(value)) is not None:
                yield Carried("unknown", identifier, *evidence, proprietary=True)
        elif (hexed := _NITRO_HEX.search(value)) is not None:
            document = bytes.fromhex(hexed[0][: len(hexed[0]) & ~1].decode())
            yield Carried("Nitro in a name", identifier, "nitro", document, proprietary=True)


def _dice(value: bytes) -> Carried:
    """Tagged evidence (CCC interoperable RA-TLS, "Evidence extension")."""
    tagged = ratls_claims.tagged_evidence(value)
    if tagged.number in LOCAL_TAGS:
        return Carried("interoperable", DICE, "", tagged.evidence)
    found = _located(tagged.evidence)
    tee, evidence = found or ("", tagged.evidence)
    return Carried(
        "interoperable", DICE, tee, evidence, tagged.claims, ratls_claims.pubkey_hash(tagged.claims)
    )


def _located(value: bytes) -> tuple[str, bytes] | None:
    """TEE and evidence in an extension's value, whatever short head stands before it."""
    # A quote behind Open Enclave's headers, which detection does not look for.
    at = value[: _SCAN_BYTES + len(detect.INTEL_QE_VENDOR)].find(detect.INTEL_QE_VENDOR) - _INTEL_QE_AT
    if at > 0:
        value = value[at:]
    try:
        found = detect.detect(value)
    except InputError:
        return None
    if found.tee not in ("sgx", "tdx", "snp", "nitro"):
        return None
    return found.tee, value if at > 0 else found.files[found.role]


# -- verify -----------------------------------------------------------------------------------------------


def self_signed(certificate: _core.X509) -> tuple[Answer, str | None]:
    """Whether the certificate's key signed it; not established if it says that somebody else did."""
    if certificate.issuer_der != certificate.subject_der:
        return Answer.NOT_ESTABLISHED, "the certificate is issued by somebody else, who is not known here"
    try:
        _core.verify_signature(
            certificate.signature_algorithm, certificate.spki, certificate.signature, certificate.tbs
        )
    except (InputError, TrustError) as error:
        return Answer.REFUSED, f"the certificate is not signed by its own key: {error.message}"
    return Answer.AFFIRMED, None


def bound(carried: Carried, spki: bytes, report_data: bytes) -> tuple[Answer, str | None]:
    """Whether evidence with `report_data` (64 bytes) vouches for the key `spki` (DER), in its flavour's way.

    1. Interoperable: report data = SHA-256(claims), and the claims name the key.
    2. Legacy: report data = digest of the key, or of claims behind the quote that hold the key.
    """
    if carried.flavour == "interoperable":
        if carried.claims is None or carried.pubkey_hash is None:
            return Answer.REFUSED, "the claims beside the evidence name no key"
        if not _begins(report_data, hashlib.sha256(carried.claims).digest()):
            return Answer.REFUSED, "the evidence does not vouch for the claims beside it"
        algorithm, digest = carried.pubkey_hash
        if hashlib.new(algorithm, spki).digest() != digest:
            return Answer.REFUSED, "the evidence was made for another key"
        return Answer.AFFIRMED, None
    for form in _forms(spki):
        if any(
            _begins(report_data, hashlib.new(name, form).digest()) for name in ("sha256", "sha384", "sha512")
        ):
            return Answer.AFFIRMED, None
    quoted = carried.identifier in OPEN_ENCLAVE and carried.tee in ("sgx", "tdx")
    if quoted and _custom_claims(carried.evidence, spki, report_data):
        return Answer.AFFIRMED, None
    if carried.proprietary:
        return Answer.NOT_ESTABLISHED, "nobody has specified what the evidence vouches for"
    return Answer.REFUSED, "the evidence was made for another key"


def _begins(report_data: bytes, digest: bytes) -> bool:
    return report_data == digest.ljust(len(report_data), b"\0")


def _forms(spki: bytes) -> Iterator[bytes]:
    """The encodings of a public key that the libraries hash."""
    yield spki
    body = base64.b64encode(spki)
    lines = b"".join(body[start : start + 64] + b"\n" for start in range(0, len(body), 64))
    pem = b"-----BEGIN PUBLIC KEY-----\n" + lines + b"-----END PUBLIC KEY-----\n"
    # Open Enclave hashes the C string with its NUL.
    yield pem
    yield pem + b"\0"
    # The bit string alone: a point, or an RSA key of PKCS #1.
    if (key := _bit_string(spki)) is not None:
        yield key
        yield key[1:]


def _bit_string(spki: bytes) -> bytes | None:
    """The key in a SubjectPublicKeyInfo: SEQUENCE { SEQUENCE algorithm, BIT STRING }."""
    position = 2 + (spki[1] & 0x7F if spki[1] & 0x80 else 0)
    if spki[position : position + 1] != b"\x30" or spki[position + 1] & 0x80:
        return None
    position += 2 + spki[position + 1]
    if spki[position : position + 1] != b"\x03":
        return None
    size = spki[position + 1]
    position += 2 + (size & 0x7F if size & 0x80 else 0)
    # One byte counts the unused bits.
    return spki[position + 1 :]


def _custom_claims(evidence: bytes, spki: bytes, report_data: bytes) -> bool:
    """Open Enclave's newer evidence: claims behind the quote, which hold the key."""
    module = importlib.import_module("mesatee.attestation.tee.dcap_quote")
    try:
        rest = evidence[module.parse(evidence).length :]
    except InputError:
        return False
    return _begins(report_data, hashlib.sha256(rest).digest()) and any(form in rest for form in _forms(spki))


# -- verdict ----------------------------------------------------------------------------------------------


def check(files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
    """The verdict on a case (role -> bytes) at `at` (Unix seconds). Of its files only the certificate counts, and
    collateral.

    1. The certificate, and all evidence in it.
    2. The certificate is signed by its own key.
    3. The evidence's own verdict.
    4. The evidence vouches for the certificate's key.
    5. The certificate's validity.
    6. Where it carries several pieces, each is judged like this, and all say the same: the worst verdict counts.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion` if there is no certificate with evidence, and
    `EvidenceRefused` if it is evidence of two machines or programs.
    """
    # 1. Parse.
    certificate = certificate_in(files)
    pieces = find(certificate)
    if not pieces:
        raise Malformed("the certificate carries no evidence")
    collateral = {
        role: data for role, data in files.items() if not _COPIES.fullmatch(role) and role != "certificate"
    }
    verdicts = [_judge(certificate, carried, collateral, at, policy) for carried in pieces]
    # 6. Agreement.
    said = [
        {name: value for name, value in verdict.claims.items() if name not in _OF_ONE_PIECE}
        for carried, verdict in zip(pieces, verdicts, strict=True)
        if carried.tee
    ]
    if any(other != said[0] for other in said):
        raise EvidenceRefused(
            "the certificate carries two pieces of evidence that differ: "
            + " and ".join(carried.identifier for carried in pieces)
        )
    return min(verdicts, key=lambda verdict: _WORST_FIRST.index(verdict.tier))


def _judge(
    certificate: _core.X509,
    carried: Carried,
    collateral: Mapping[str, bytes],
    at: int | None,
    policy: CorpusPolicy,
) -> Verdict:
    """Steps 2 to 5 of `check` for one piece of evidence."""
    # 2. Self-signature.
    signed, why = self_signed(certificate)
    reasons = [] if why is None else [why]
    # 3. Evidence.
    verdict = _evidence(carried, collateral, at, policy)
    # 4. Binding.
    binding, why = Answer.NOT_ESTABLISHED, None
    if (report_data := verdict.claims.get("report_data")) is not None:
        binding, why = bound(carried, certificate.spki, bytes.fromhex(str(report_data)))
    elif (key := verdict.claims.get("public_key")) is not None and key == certificate.spki.hex():
        binding = Answer.AFFIRMED
    reasons += [] if why is None else [why]
    # 5. Validity.
    valid = at is not None and certificate.not_before <= at <= certificate.not_after
    if not valid:
        reasons.append("the certificate's own dates do not cover the time, or there is no time")
    return _settle(verdict, carried, certificate, signed, binding, valid, reasons)


def _evidence(
    carried: Carried, collateral: Mapping[str, bytes], at: int | None, policy: CorpusPolicy
) -> Verdict:
    """The verdict of the TEE's own module."""
    if not carried.tee:
        return plain_verdict(Status.NONE, "nobody but the machine that made it can verify this evidence")
    path = f"mesatee.attestation.tee.{carried.tee}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        return plain_verdict(Status.NONE, f"no verifier for {carried.tee} is built in")
    found: Verdict
    if carried.tee == "nitro":
        found = module.check({"document": carried.evidence}, at, policy)
    elif carried.tee == "snp":
        found = module.check({**collateral, "report": carried.evidence}, at, policy)
    else:
        found = module.appraise(carried.evidence, collateral, at, policy)
    return found


def _settle(
    verdict: Verdict,
    carried: Carried,
    certificate: _core.X509,
    signed: Answer,
    binding: Answer,
    valid: bool,
    reasons: list[str],
) -> Verdict:
    """The evidence's verdict, and never better than the certificate around it deserves."""
    tier = verdict.tier
    if tier is not Status.CONTRAINDICATED:
        if Answer.REFUSED in (signed, binding, verdict.binding):
            tier = Status.CONTRAINDICATED
        elif Answer.NOT_ESTABLISHED in (signed, binding) or not valid or carried.proprietary:
            tier = Status.NONE
    claims: dict[str, Scalar] = {
        **verdict.claims,
        "certificate.sha256": hashlib.sha256(certificate.der).hexdigest(),
        "certificate.spki_sha256": hashlib.sha256(certificate.spki).hexdigest(),
        "ratls.extension": carried.identifier,
        "ratls.flavour": carried.flavour,
    }
    good = tier in (Status.AFFIRMING, Status.WARNING)
    # The certificate's signature and the evidence's are both needed.
    both = {signed, verdict.signature}
    signature = next(
        (answer for answer in (Answer.REFUSED, Answer.NOT_ESTABLISHED) if answer in both), signed
    )
    return replace(
        verdict,
        tier=tier,
        signature=signature,
        binding=Answer.REFUSED if verdict.binding is Answer.REFUSED else binding,
        level=verdict.level if good else 1,
        reasons=(*reasons, *verdict.reasons),
        claims=claims,
    )


__all__ = [
    "DICE",
    "LEGACY",
    "LOCAL_TAGS",
    "NAME",
    "OPEN_ENCLAVE",
    "Carried",
    "bound",
    "certificate_in",
    "check",
    "find",
    "self_signed",
]
