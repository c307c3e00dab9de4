"""AMD SEV-SNP virtual machines, by attestation reports of versions 2 and later, signed with a VCEK or a VLEK.

Spec: "SEV Secure Nested Paging Firmware ABI Specification" (AMD publication 56860) for the report, "Versioned Chip
Endorsement Key (VCEK) Certificate and KDS Interface Specification" (57230) for certificates, and its sibling for
VLEKs (58369). The report's layout is in `snp_report`, what wraps report and certificates in `snp_files`.

What it proves: the initial memory of a VM, on a processor by AMD whose firmware is of the version that the report
says. It does not prove that this version is the newest one: AMD publishes no list, so a policy must name a minimum.
VMs of more than the initial memory (disks, later software) vouch for it themselves, or not at all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from mesatee import _core
from mesatee.attestation import foreign
from mesatee.attestation.appraisal import Answer, Scalar, Status
from mesatee.attestation.chains import read_certificate, verify_chain
from mesatee.attestation.tee import snp_published, snp_report
from mesatee.attestation.tee._settle import Answers, settle
from mesatee.attestation.tee.snp_files import EXPECTED, Case, Endorsements, open_case
from mesatee.attestation.tee.snp_report import Report
from mesatee.attestation.verdict import Verdict
from mesatee.errors import InputError, Malformed, TooLarge, TrustError
from mesatee.protocol import limits

if TYPE_CHECKING:
    from mesatee.attestation.corpus import CorpusPolicy

NAME: Final = "snp"
LEVEL: Final = 4
"""Encrypted memory, in a system that nobody attests."""
ROOTS: Final[Mapping[bytes, str]] = MappingProxyType(
    {
        bytes.fromhex("69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"): "Milan",
        bytes.fromhex("4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"): "Genoa",
        bytes.fromhex("1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"): "Turin",
    }
)
"""SHA-256 of AMD's root certificates (ARK) -> the product line that it signs for."""
_LINES: Final[Mapping[str, str]] = MappingProxyType(
    {"Milan": "Milan", "Genoa": "Genoa", "Bergamo": "Genoa", "Siena": "Genoa", "Turin": "Turin"}
)
"""Product -> line whose keys and layouts it shares."""
_CPUS: Final = (
    (0x19, range(0x00, 0x10), "Milan"),
    (0x19, range(0x10, 0x20), "Genoa"),
    # Bergamo and Siena.
    (0x19, range(0xA0, 0xB0), "Genoa"),
    (0x1A, range(0x00, 0x20), "Turin"),
)
"""Family, models, line (57230, section 3.1)."""

_AMD: Final = "1.3.6.1.4.1.3704.1."
_PRODUCT: Final = _AMD + "2"
_HWID: Final = _AMD + "4"
_CSP: Final = _AMD + "5"
_TCB: Final = _AMD + "3."
# Component of each byte of a TCB version, by the last number of its OID (57230, table 8; 56860, table 3).
# 1 boot loader, 2 TEE, 3 SNP firmware, 8 microcode, 9 FMC; 4 to 7 are reserved.
_LAYOUT: Final = (1, 2, 4, 5, 6, 7, 3, 8)
_LAYOUT_TURIN: Final = (9, 1, 2, 3, 5, 6, 7, 8)
_RESERVED: Final = frozenset({4, 5, 6, 7})
_NAMES: Final = MappingProxyType({1: "boot_loader", 2: "tee", 3: "snp", 8: "microcode", 9: "fmc"})
_TURIN_HWID_BYTES: Final = 8
_KIND: Final = re.compile(r"(?:^|[,+])CN=SEV-(VCEK|VLEK)(?:$|[,+])")


@dataclass(frozen=True, slots=True)
class Endorsement:
    """The certificate of a key that signs reports."""

    certificate: _core.X509
    kind: str
    """VCEK (of a chip) or VLEK (of a cloud)."""
    product: str
    """E.g. ``Milan-B0``."""
    tcb: Mapping[int, int]
    """Last number of the component's OID -> version."""
    hwid: bytes | None
    csp: str | None

    @property
    def line(self) -> str | None:
        """The product's line; None if it is unknown."""
        return _LINES.get(self.product.partition("-")[0])

    def tcb_bytes(self) -> bytes:
        """The TCB version in the form that reports of this product have it. Raises `Malformed`."""
        layout = _LAYOUT_TURIN if self.line == "Turin" else _LAYOUT
        if missing := set(layout) - _RESERVED - self.tcb.keys():
            raise Malformed(f"the {self.kind} lacks components {sorted(missing)} of the TCB")
        return bytes(self.tcb.get(number, 0) for number in layout)


def parse_endorsement(certificate: _core.X509) -> Endorsement | None:
    """What a VCEK or VLEK says; None if the certificate is neither. Raises `Malformed`."""
    kind = _KIND.search(certificate.subject)
    extensions = certificate.extensions
    if kind is None or _PRODUCT not in extensions:
        return None
    tcb = {
        int(name.removeprefix(_TCB)): _small(value)
        for name, (_, value) in extensions.items()
        if re.fullmatch(re.escape(_TCB) + "[1-9]", name)
    }
    hwid, csp = extensions.get(_HWID), extensions.get(_CSP)
    return Endorsement(
        certificate,
        kind[1],
        _ia5(extensions[_PRODUCT][1]),
        MappingProxyType(tcb),
        None if hwid is None else hwid[1],
        None if csp is None else _ia5(csp[1]),
    )


def _small(der: bytes) -> int:
    """A DER INTEGER from 0 to 255."""
    value = int.from_bytes(der[2:], signed=True) if der[:1] == b"\x02" and len(der) in (3, 4) else -1
    if not 0 <= value <= 0xFF or der[1] != len(der) - 2 or len(der) != 3 + (value >> 7):
        raise Malformed("a TCB component of the certificate is not a number of one byte")
    return value


def _ia5(der: bytes) -> str:
    """A short DER IA5String."""
    if len(der) < 3 or der[0] != 0x16 or der[1] != len(der) - 2 or not der[2:].isascii():
        raise Malformed("a name in the certificate is not an IA5String")
    text = der[2:].decode("ascii")
    if not text.isprintable():
        raise Malformed("a name in the certificate is not printable")
    return text


# -- verify -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Findings:
    """What was found out about a report."""

    answers: Answers
    endorsement: Endorsement | None = None
    line: str | None = None
    tcb_genuine: Answer = Answer.NOT_ESTABLISHED
    """The signing key is the one of the TCB that the report names."""

    def refuse_chain(self, reason: str) -> None:
        """The certificate is not that of the key that ought to have signed."""
        self.answers.chain = Answer.REFUSED
        self.answers.reasons.append(reason)


def verify(
    report: Report, endorsements: Endorsements, at: int | None, roots: Mapping[bytes, str] = ROOTS
) -> Findings:
    """Answer what is proven at `at` (Unix seconds).

    1. The certificate of the key that signed: the kind that the report names, if it is there.
    2. The signature over the first 0x2A0 bytes (56860, section 7.3).
    3. The chain VCEK, ASK, ARK or VLEK, ASVK, ARK, up to a pinned root. Of a chain that came without ASK, ASVK or
       ARK, what AMD publishes is taken.
    4. Revocation: AMD's lists are by the ARK, about ASK and ASVK (57230, section 2.4).
    5. One product: of the root, the intermediate, the certificate and, since version 3, the report.
    6. The certificate's TCB is the reported one.
    7. The certificate's chip is that of the report, unless it is the key of a cloud or the chip is hidden.
    """
    found = Findings(Answers())
    answers = found.answers
    # 1. Certificate.
    endorsement = found.endorsement = _pick(report, endorsements, answers.reasons)
    if endorsement is None:
        answers.reasons.append(f"there is no certificate of a {report.signing_key}")
        if endorsements.broken:
            found.refuse_chain("; ".join(endorsements.broken))
        return found
    # 2. Signature.
    why = _signed(report, endorsement)
    answers.signature = Answer.AFFIRMED if why is None else Answer.REFUSED
    if why is not None:
        answers.reasons.append(f"the report is not signed by the {endorsement.kind}: {why}")
    if report.chip_key_masked:
        answers.reasons.append("the platform was told not to sign (MASK_CHIP_KEY)")
    # 3. Chain.
    _chain(found, endorsement, endorsements, at, roots)
    # 5. Product.
    _product(found, report, endorsement)
    # 6. TCB.
    try:
        same = endorsement.tcb_bytes() == report.reported_tcb
    except Malformed as error:
        answers.reasons.append(error.message)
        same = False
    if not same:
        found.tcb_genuine = Answer.REFUSED
        answers.reasons.append(f"the {endorsement.kind} is of another TCB than the report")
    elif answers.proven:
        found.tcb_genuine = Answer.AFFIRMED
    # 7. Chip.
    _chip(found, report, endorsement)
    return found


def _pick(report: Report, endorsements: Endorsements, reasons: list[str]) -> Endorsement | None:
    """The certificate to verify with. More than one may come along: whichever verifies, for the others say
    nothing against it.
    """
    found: list[Endorsement] = []
    for certificate in endorsements.certificates:
        try:
            endorsement = parse_endorsement(certificate)
        except Malformed as error:
            endorsements.broken.append(error.message)
            continue
        if endorsement is not None:
            found.append(endorsement)
    found.sort(key=lambda item: item.kind != report.signing_key)
    if len(found) > 1:
        reasons.append(f"{len(found)} certificates of signing keys came along")
    return next((item for item in found if _signed(report, item) is None), found[0] if found else None)


def _signed(report: Report, endorsement: Endorsement) -> str | None:
    """Why not; None if it is."""
    try:
        _core.verify_signature(
            "ecdsa-p384-sha384", endorsement.certificate.spki, report.signature, report.signed
        )
    except (InputError, TrustError) as error:
        return error.message
    return None


def _chain(
    found: Findings,
    endorsement: Endorsement,
    endorsements: Endorsements,
    at: int | None,
    roots: Mapping[bytes, str],
) -> None:
    answers = found.answers
    others = [item for item in endorsements.certificates if item.der != endorsement.certificate.der]
    # Keys of other reports are no part of this chain, and may be issued by another ASK.
    others = [item for item in others if _KIND.search(item.subject) is None]
    if not endorsements.broken:
        others += _published(endorsement, others, roots)
    chain = verify_chain([endorsement.certificate, *others], roots.keys(), at)
    answers.chain = chain.chain
    if chain.chain is not Answer.AFFIRMED:
        answers.reasons += chain.reasons
        if endorsements.broken:
            # Whatever is missing may be what could not be read.
            found.refuse_chain("; ".join(endorsements.broken))
    if chain.root_sha256 is None:
        return
    if len(chain.path) != 3:
        found.refuse_chain(f"the chain has {len(chain.path)} certificates, not 3")
        return
    # 4. Revocation.
    above = verify_chain(chain.path[1:], roots.keys(), at, endorsements.crls)
    answers.revocation = above.revocation
    answers.expires = min((end for end in (chain.expires, above.expires) if end is not None), default=None)
    answers.reasons += [reason for reason in above.reasons if reason not in answers.reasons]
    # 5. Product (root and intermediate).
    found.line = roots[bytes.fromhex(chain.root_sha256)]
    issuer = _intermediate(endorsement.kind, found.line)
    if _common_name(chain.path[1]) != issuer:
        found.refuse_chain(f"a {endorsement.kind} of {found.line} is not issued by {issuer}")


def _published(
    endorsement: Endorsement, others: Sequence[_core.X509], roots: Mapping[bytes, str]
) -> list[_core.X509]:
    """What AMD publishes for all keys of this kind and line, and did not come along.

    Nothing where any other certificate came: a wrong chain is said to be wrong, not replaced by a good one.
    """
    own = [read_certificate(der) for der in _chain_of(endorsement)]
    ders = {item.der for item in own}
    if not own or hashlib.sha256(own[-1].der).digest() not in roots or any(x.der not in ders for x in others):
        return []
    came = {item.der for item in others}
    return [item for item in own if item.der not in came]


def _chain_of(endorsement: Endorsement) -> list[bytes]:
    """Published intermediate and root above a certificate; empty for a product that is not known."""
    line = endorsement.line
    if line is None:
        return []
    return [
        snp_published.certificate(_intermediate(endorsement.kind, line)),
        snp_published.certificate(f"ARK-{line}"),
    ]


def _intermediate(kind: str, line: str) -> str:
    """Common name of the certificate that issues keys of this kind."""
    return ("SEV-VLEK-" if kind == "VLEK" else "SEV-") + line


def _common_name(certificate: _core.X509) -> str:
    match = re.search(r"(?:^|[,+])CN=([A-Za-z0-9-]+)(?:$|[,+])", certificate.subject)
    return match[1] if match else ""


def line_of_cpu(family: int, model: int) -> str | None:
    """The product line of a CPU, None if it is not known.

    >>> line_of_cpu(0x19, 0xA0), line_of_cpu(0x17, 1)
    ('Genoa', None)
    """
    return next((line for known, models, line in _CPUS if known == family and model in models), None)


def _product(found: Findings, report: Report, endorsement: Endorsement) -> None:
    reasons = found.answers.reasons
    if endorsement.line is None:
        found.refuse_chain(f"product {endorsement.product[: limits.NAME_CHARS]!r} is not known")
    elif found.line is not None and endorsement.line != found.line:
        found.refuse_chain(f"the {endorsement.kind} is of {endorsement.product}, its root of {found.line}")
    if report.cpuid is None:
        reasons.append("the report names no CPU (version 2): the product is the certificate's")
        return
    line = line_of_cpu(report.cpuid[0], report.cpuid[1])
    if line != endorsement.line:
        found.refuse_chain(f"the report is of {line or 'an unknown CPU'}, not of {endorsement.product}")


def _chip(found: Findings, report: Report, endorsement: Endorsement) -> None:
    if endorsement.kind != report.signing_key:
        found.refuse_chain(f"the report names the key {report.signing_key}, this is a {endorsement.kind}")
    if endorsement.kind == "VLEK":
        if endorsement.csp is None or endorsement.hwid is not None:
            found.refuse_chain("the VLEK names no cloud, or a chip")
        return
    if endorsement.hwid is None or endorsement.csp is not None:
        found.refuse_chain("the VCEK names no chip, or a cloud")
        return
    if not any(report.chip_id):
        found.answers.reasons.append("the platform hides its chip (MASK_CHIP_ID)")
        return
    size = _TURIN_HWID_BYTES if endorsement.line == "Turin" else len(report.chip_id)
    # Turin's identifiers are short; some of its certificates pad them.
    if endorsement.hwid.ljust(len(report.chip_id), b"\0") != report.chip_id or len(endorsement.hwid) < size:
        found.refuse_chain("the VCEK is of another chip than the report")


# -- validate ---------------------------------------------------------------------------------------------


def objections(report: Report) -> tuple[str, ...]:
    """What the corpus policy has against the values."""
    if report.debug:
        return ("the guest's policy allows debugging: the host can read its memory",)
    return ()


def doubts(report: Report) -> tuple[str, ...]:
    """What keeps a genuine report from being affirmed: things whose meaning is not known here."""
    found = []
    if report.policy & ~snp_report.POLICY_KNOWN:
        found.append("the guest's policy has bits that are not known")
    if report.vmpl >= snp_report.VMPLS:
        found.append("the report was not asked for by the guest")
    return tuple(found)


def _notes(report: Report) -> list[str]:
    found = ["AMD publishes no list of current TCBs: whether this one is, a policy must say"]
    if report.version > snp_report.LATEST_VERSION:
        found.append(f"the report's version {report.version} is read as {snp_report.LATEST_VERSION}")
    return found


def _claims(report: Report, found: Findings) -> dict[str, Scalar]:
    claims = report.claims()
    endorsement = found.endorsement
    if endorsement is not None:
        claims |= {
            "platform.csp": endorsement.csp,
            "platform.product": endorsement.product,
            "snp.key": hashlib.sha256(endorsement.certificate.spki).hexdigest(),
        }
        for index, number in enumerate(_LAYOUT_TURIN if endorsement.line == "Turin" else _LAYOUT):
            if number in _NAMES:
                claims[f"snp.tcb.reported.{_NAMES[number]}"] = report.reported_tcb[index]
    return claims


def _verdict(
    case: Case, at: int | None, policy: CorpusPolicy, roots: Mapping[bytes, str], expected: Iterable[bytes]
) -> Verdict:
    report = snp_report.parse(case.report)
    found = verify(report, case.endorsements, at, roots)
    answers = found.answers
    against = list(objections(report))
    if case.conflict:
        against.append("the case has two reports, and they differ")
    if found.tcb_genuine is Answer.REFUSED:
        against.append("reported TCB and certificate do not go together")
    bound = [_holds(item, report.report_data) for item in expected]
    if bound:
        answers.binding = Answer.AFFIRMED if all(bound) else Answer.REFUSED
    if not all(bound):
        against.append("the report data is not what the case says")
    if not policy.missing_crl and answers.revocation is not Answer.AFFIRMED:
        against.append("the policy asks for revocation lists")
    doubt = doubts(report)
    answers.reasons += [*doubt, *_notes(report)]
    verdict = settle(
        answers,
        against,
        level=LEVEL,
        measurement=report.measurement.hex(),
        claims=_claims(report, found),
        best=Status.WARNING if doubt else Status.AFFIRMING,
    )
    if found.tcb_genuine is Answer.REFUSED:
        return replace(verdict, tcb=Answer.REFUSED)
    return verdict


def _holds(expected: bytes, report_data: bytes) -> bool:
    """Whether `report_data` is `expected`, padded or hashed, as bytes or as text for them."""
    forms = [expected, expected.strip()]
    if (inner := foreign.plain(expected)) is not None:
        forms.append(inner)
    for form in forms:
        digests = [hashlib.new(name, form).digest() for name in ("sha256", "sha384", "sha512")]
        if report_data in [value.ljust(len(report_data), b"\0") for value in (form, *digests)]:
            return True
    return False


# -- doors ------------------------------------------------------------------------------------------------


def appraise(
    report: bytes,
    certificates: Sequence[bytes],
    at: int | None,
    policy: CorpusPolicy,
    *,
    roots: Mapping[bytes, str] = ROOTS,
) -> Verdict:
    """The verdict on one report, for formats that carry it. What binds it is for the caller to check: the claim
    ``report_data`` has it in hex.

    `certificates`: VCEK or VLEK, ASK or ASVK, ARK and revocation lists in any order, form and grouping that
    `snp_files` knows. `roots`: SHA-256 of root certificates -> product line. Raises `Malformed` or
    `UnsupportedVersion` for what is no report.
    """
    endorsements = Endorsements()
    for index, data in enumerate(certificates):
        endorsements.add(f"certificate {index + 1}", data)
    return _verdict(Case(report, endorsements, {}, False), at, policy, roots, ())


def check(files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
    """The verdict on a case (role -> bytes) at `at` (Unix seconds), under AMD's roots.

    Raises `Malformed` or `UnsupportedVersion` if there is no report in it, and `Malformed` or `TooLarge` for a nonce
    that is empty or too long.
    """
    case = open_case(files)
    return _verdict(case, at, policy, ROOTS, _expected(case.others))


def _expected(others: Mapping[str, bytes]) -> list[bytes]:
    """What the report data must be, as files of nonces say. Raises `Malformed` or `TooLarge` for an unusable one."""
    found = []
    for role, data in others.items():
        if EXPECTED.search(role.lower()) is None:
            continue
        if not data.strip():
            raise Malformed(f"{role} is empty: leave it out, or put into it what the report data must be")
        if len(data) > limits.CLAIMS_BYTES:
            raise TooLarge(
                f"{role} has {len(data)} bytes, what report data is made of {limits.CLAIMS_BYTES} at most"
            )
        found.append(data)
    return found


__all__ = [
    "LEVEL",
    "NAME",
    "ROOTS",
    "Endorsement",
    "Findings",
    "appraise",
    "check",
    "doubts",
    "line_of_cpu",
    "objections",
    "parse_endorsement",
    "verify",
]
