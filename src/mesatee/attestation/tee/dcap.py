"""What SGX and TDX have in common around the verification of a quote: finding it in the files of a case, what
it is bound to, and the tier that all answers deserve together.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mesatee.attestation import detect, foreign
from mesatee.attestation.appraisal import Answer, Scalar, Status
from mesatee.attestation.tee import dcap_collateral, dcap_pck, dcap_quote, dcap_tcb, dcap_verify
from mesatee.attestation.tee.dcap_events import report_data_in
from mesatee.attestation.tee.dcap_tcb import TcbStatus
from mesatee.attestation.verdict import Verdict
from mesatee.errors import InputError, Malformed, UnsupportedVersion
from mesatee.protocol import limits

if TYPE_CHECKING:
    from mesatee.attestation.corpus import CorpusPolicy

OE_HEADER_BYTES: Final = 16
"""``oe_report_header_t``: version, type, size of the report."""
_NAMES: Final = {dcap_quote.TEE_SGX: "sgx", dcap_quote.TEE_TDX: "tdx"}
_OTHER_QUOTES: Final = (1, 2)
"""Versions of EPID quotes, which another service verifies."""
_PREFIX_BYTES: Final = 16
"""A nonce that does not fill the report data alone must have this length, or it could match by chance."""
_EXPECTED: Final = re.compile(r"nonce|challenge|report_?data")


@dataclass(frozen=True, slots=True)
class Case:
    """The files of a case, taken apart."""

    quote: bytes
    """From its header; padding or what the wrapper put behind it may follow."""
    texts: tuple[bytes, ...]
    """JSON texts that the quote was found in, which may hold collateral and logs too."""
    others: Mapping[str, bytes]
    """Everything else: collateral, logs, nonces."""
    conflict: bool
    """The case has two quotes that differ."""


def open_case(files: Mapping[str, bytes]) -> Case:
    """Find the quote in `files` (role -> bytes) through whatever wraps it. Raises `Malformed`."""
    quotes: list[bytes] = []
    texts: list[bytes] = []
    used: set[str] = set()
    # Names say where to look first; files of any name are looked at if that finds nothing.
    named = {role for role in files if re.search(r"quote|evidence|report(?!_?data)", role.lower())}
    for roles in (sorted(named, key=lambda role: (role != "quote", role)), sorted(files.keys() - named)):
        for role in roles:
            found = _quote_in(files[role])
            if found is None:
                continue
            used.add(role)
            quotes.append(found)
            # What is not itself the quote is something around it.
            if found is not files[role] and (text := foreign.json_in(files[role])) is not None:
                texts.append(text)
        if quotes:
            break
    if not quotes:
        if "quote" not in files:
            raise Malformed("there is no DCAP quote in the case")
        # Let the parser say what is wrong with it.
        quotes, used = [files["quote"]], {"quote"}
    others = {role: data for role, data in files.items() if role not in used}
    return Case(quotes[0], tuple(texts), others, _differ(quotes))


def _differ(quotes: Sequence[bytes]) -> bool:
    return len(quotes) > 1 and len({_core_of(quote) for quote in quotes}) > 1


def _quote_in(data: bytes) -> bytes | None:
    if data[12:28] == dcap_quote.INTEL_QE_VENDOR:
        return data
    try:
        found = detect.detect(data)
    except InputError:
        return None
    if found.tee not in _NAMES.values():
        return None
    inner = found.files[found.role]
    return inner[OE_HEADER_BYTES:] if found.role == "evidence_oe" else inner


def _core_of(data: bytes) -> bytes:
    """A quote without what follows it."""
    try:
        return data[: dcap_quote.parse(data).length]
    except InputError:
        return data


def parse(data: bytes, tee_type: int) -> dcap_quote.Quote | Verdict:
    """The quote, or the verdict that it is of a kind which is not verified here.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    try:
        quote = dcap_quote.parse(data)
    except UnsupportedVersion as error:
        key_type, version = int.from_bytes(data[2:4], "little"), int.from_bytes(data[:2], "little")
        if version in _OTHER_QUOTES or (version in (3, 4, 5) and key_type == dcap_quote.ATTESTATION_KEY_P384):
            return _nothing(error.message)
        raise
    if quote.tee_type != tee_type:
        raise Malformed(f"the quote is of {_NAMES[quote.tee_type]}, not of {_NAMES[tee_type]}")
    return quote


def _nothing(reason: str) -> Verdict:
    unknown = Answer.NOT_ESTABLISHED
    return Verdict(
        tier=Status.NONE,
        signature=unknown,
        chain=unknown,
        revocation=unknown,
        tcb=unknown,
        tcb_status=None,
        replay=unknown,
        binding=unknown,
        level=1,
        measurement="",
        simulated=False,
        reasons=(reason,),
    )


def forget() -> None:
    """Parse all collateral anew from now on: for measuring. Signatures and certificates are remembered in `chains`."""
    dcap_collateral.forget()
    dcap_pck.parse.cache_clear()
    dcap_tcb.parse_tcb_info.cache_clear()
    dcap_tcb.parse_qe_identity.cache_clear()


# -- binding --------------------------------------------------------------------------------------------


def bound(case: Case, quote: dcap_quote.Quote) -> tuple[Answer, list[str]]:
    """Whether the report data is what the case says that it should be: a nonce, or claims behind the quote."""
    data = quote.body.report_data
    answers: list[Answer] = []
    reasons: list[str] = []
    named = [(role, item) for role, item in case.others.items() if _EXPECTED.search(role.lower())]
    named += [("the text around it", item) for text in case.texts if (item := report_data_in(text))]
    for role, expected in named:
        why = None
        if not expected.strip():
            why = "{} is empty: leave it out, or put into it what the report data must be"
        elif len(expected) > limits.CLAIMS_BYTES:
            why = f"{{}} has more than {limits.CLAIMS_BYTES} bytes, too many for what report data is made of"
        elif not holds(expected, data):
            why = "the report data is not made of {}"
        answers.append(Answer.REFUSED if why else Answer.AFFIRMED)
        if why:
            reasons.append(why.format(role[: limits.NAME_CHARS]))
    # Open Enclave puts its custom claims behind the quote.
    claims = case.quote[quote.length :]
    if claims and data == hashlib.sha256(claims).digest().ljust(64, b"\0"):
        answers.append(Answer.AFFIRMED)
    if Answer.REFUSED in answers:
        return Answer.REFUSED, reasons
    return (Answer.AFFIRMED if answers else Answer.NOT_ESTABLISHED), reasons


def holds(expected: bytes, report_data: bytes) -> bool:
    """Whether `report_data` is `expected`, padded or hashed, in any encoding that files of nonces have.

    >>> holds(b"0x" + b"ab" * 32, bytes.fromhex("ab" * 32) + bytes(32)), holds(b"x", b"y" * 64)
    (True, False)
    """
    forms = [expected, expected.strip()]
    if (inner := foreign.plain(expected)) is not None:
        forms.append(inner)
    for form in forms:
        digests = [hashlib.new(name, form).digest() for name in ("sha256", "sha384", "sha512")]
        if report_data in [value.ljust(64, b"\0") for value in (form, *digests)]:
            return True
        if any(len(v) >= _PREFIX_BYTES and report_data.startswith(v) for v in (form, *digests)):
            return True
    return False


# -- verdict --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Values:
    """What a TEE's module found in the values of the body."""

    debug: Sequence[str]
    """Whoever can debug it reads it: contraindicated, whatever else is known."""
    objections: Sequence[str]
    """Speak against what would be good else; they make nothing of evidence that proves nothing."""
    measurement: str
    claims: Mapping[str, Scalar]


def appraise(
    case: Case,
    quote: dcap_quote.Quote,
    at: int | None,
    policy: CorpusPolicy,
    values: Values,
    replay: tuple[Answer, Sequence[str]] = (Answer.NOT_ESTABLISHED, ()),
    anchors: Sequence[bytes] = dcap_verify.ANCHORS,
) -> Verdict:
    """Verify the quote and give the verdict.

    1. What is refused, or can be debugged, is contraindicated.
    2. What is not established of signature, chain or TCB leaves no tier.
    3. Else Intel's word on the TCB decides: up to date, revoked, or something between.
    """
    collateral = {**case.others, **{f"text {n} around it": text for n, text in enumerate(case.texts)}}
    found = dcap_verify.verify(quote, dcap_collateral.gather(collateral), at, anchors)
    binding, reasons = bound(case, quote)
    status = found.match.status if found.match else None
    against = [*values.debug, *reasons]
    if case.conflict:
        against.append("the case has two quotes, and they differ")
    if Answer.REFUSED in (replay[0], binding):
        against.append("what came with the quote does not go with it")
    if not policy.missing_crl and found.revocation is not Answer.AFFIRMED:
        against.append("the policy asks for revocation lists")
    refused = Answer.REFUSED in (found.signature, found.chain, found.revocation, found.tcb)
    proven = found.signature is Answer.AFFIRMED and found.chain is Answer.AFFIRMED and status is not None
    if proven:
        against += values.objections
    if refused or against or status is TcbStatus.REVOKED:
        tier = Status.CONTRAINDICATED
    elif not proven:
        tier = Status.NONE
    else:
        tier = Status.AFFIRMING if status is TcbStatus.UP_TO_DATE else Status.WARNING
    if status is not None and status is not TcbStatus.UP_TO_DATE:
        against.append(f"Intel says of this platform: {status}")
    return Verdict(
        tier=tier,
        signature=found.signature,
        chain=found.chain,
        revocation=found.revocation,
        tcb=_up_to_date(found),
        tcb_status=None if status is None else str(status),
        replay=replay[0],
        binding=binding,
        level=4 if tier in (Status.AFFIRMING, Status.WARNING) else 1,
        measurement=values.measurement,
        simulated=False,
        reasons=tuple(
            dict.fromkeys([*against, *([] if proven else values.objections), *replay[1], *found.reasons])
        ),
        claims={**values.claims, **_claims(quote, found)},
        expires=found.expires,
    )


def _up_to_date(found: dcap_verify.Findings) -> Answer:
    if found.match is None or found.tcb is not Answer.AFFIRMED:
        return found.tcb
    return Answer.AFFIRMED if found.match.status is TcbStatus.UP_TO_DATE else Answer.REFUSED


def _claims(quote: dcap_quote.Quote, found: dcap_verify.Findings) -> dict[str, Scalar]:
    claims: dict[str, Scalar] = {
        "quote.version": quote.version,
        "report_data": quote.body.report_data.hex(),
        "user_data": quote.user_data.hex(),
        "qe.isvsvn": quote.qe_report.isvsvn,
    }
    if found.pck is not None:
        claims |= {
            "platform.fmspc": found.pck.fmspc.hex(),
            "platform.smt": found.pck.smt,
            "platform.pceid": found.pck.pceid.hex(),
            "platform.pcesvn": found.pck.pcesvn,
            "platform.ppid": found.pck.ppid.hex(),
            "platform.cpusvn": found.pck.cpusvn.hex(),
        }
    if found.match is not None:
        claims |= {"tcb.advisories": ",".join(found.match.advisories), "tcb.date": found.match.date}
    if found.match is not None and found.tcb_info is not None:
        claims["tcb.evaluation"] = found.tcb_info.evaluation_number
    return claims


__all__ = ["Case", "Values", "appraise", "bound", "forget", "holds", "open_case", "parse"]
