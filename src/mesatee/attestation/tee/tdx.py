"""Intel TDX virtual machines ("TDs"), by DCAP quotes of versions 4 and 5.

Spec: Intel TDX DCAP Quoting Library API, appendix A; Intel TDX Module ABI, TDATTRIBUTES. Verification is in
`dcap_verify`, TCB levels and the TDX module in `dcap_tcb`, event logs in `dcap_events`.

What the verdict does not prove: which programs run in the TD. Its registers hold digests, and somebody must know
what they should be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from mesatee.attestation import foreign
from mesatee.attestation.appraisal import Answer
from mesatee.attestation.corpus import CorpusPolicy
from mesatee.attestation.tee import dcap, dcap_events, dcap_quote, dcap_verify, eventlog
from mesatee.attestation.verdict import Verdict
from mesatee.errors import InputError, Malformed

NAME: Final = "tdx"
SEPT_VE_DISABLE: Final = 1 << 28
MIGRATABLE: Final = 1 << 29
_LOG: Final = re.compile(r"ccel|event_?log")
_TUD: Final = 0xFF
"""TD Under Debug: bit 0 is debug, the others are reserved for the like of it."""
_KNOWN: Final = _TUD | SEPT_VE_DISABLE | MIGRATABLE | 1 << 30 | 1 << 31 | 1 << 63
"""Also protection keys (30), key locker (31) and performance counters (63), which open nothing to the host."""


def check(files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
    """The verdict on a case (role -> bytes) at `at` (Unix seconds), with the replay of its event log.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion` if there is no quote of TDX in it.
    """
    return _appraise(dcap.open_case(files), at, policy, False, dcap_verify.ANCHORS)


def appraise(
    quote: bytes,
    collateral: Mapping[str, bytes],
    at: int | None,
    policy: CorpusPolicy,
    *,
    partitioned: bool = False,
    anchors: Sequence[bytes] = dcap_verify.ANCHORS,
) -> Verdict:
    """The verdict on one quote, for formats that carry it; see `sgx.appraise`.

    `partitioned`: a paravisor runs in the TD below the guest and handles #VE (Azure), so SEPT_VE_DISABLE need not
    be set.
    """
    return _appraise(dcap.Case(quote, (), collateral, False), at, policy, partitioned, anchors)


def _appraise(
    case: dcap.Case, at: int | None, policy: CorpusPolicy, partitioned: bool, anchors: Sequence[bytes]
) -> Verdict:
    # Parse.
    quote = dcap.parse(case.quote, dcap_quote.TEE_TDX)
    if isinstance(quote, Verdict):
        return quote
    body = quote.body
    if not isinstance(body, dcap_quote.TdReport):
        raise Malformed("the quote is not that of a TD")
    # Validate; `dcap.appraise` verifies.
    attributes = int.from_bytes(body.tdattributes, "little")
    values = dcap.Values(
        debug=("the TD can be debugged: its memory can be read",) if attributes & _TUD else (),
        objections=tuple(_objections(body, attributes, partitioned)),
        measurement=body.mrtd.hex(),
        claims={
            "tee": NAME,
            "debug": bool(attributes & _TUD),
            "measurement.code": body.mrtd.hex(),
            "tdx.attributes": body.tdattributes.hex(),
            "tdx.mrconfigid": body.mrconfigid.hex(),
            "tdx.mrowner": body.mrowner.hex(),
            "tdx.mrownerconfig": body.mrownerconfig.hex(),
            "tdx.mrseam": body.mrseam.hex(),
            "tdx.tee_tcb_svn": body.tee_tcb_svn.hex(),
            "tdx.xfam": body.xfam.hex(),
            **{f"tdx.rtmr{index}": rtmr.hex() for index, rtmr in enumerate(body.rtmrs)},
            **({"tdx.mr_service_td": body.mr_service_td.hex()} if body.mr_service_td else {}),
            **({"tdx.tee_tcb_svn2": body.tee_tcb_svn2.hex()} if body.tee_tcb_svn2 else {}),
        },
    )
    return dcap.appraise(case, quote, at, policy, values, _replay(case, body), anchors)


def _objections(body: dcap_quote.TdReport, attributes: int, partitioned: bool) -> list[str]:
    found = []
    if not attributes & SEPT_VE_DISABLE and not partitioned:
        found.append("SEPT_VE_DISABLE is off: the host can inject exceptions where the TD touches its memory")
    if attributes & MIGRATABLE:
        found.append("the TD can be migrated to another machine")
    if attributes & ~_KNOWN:
        found.append("TDATTRIBUTES has bits that are not known")
    if body.mr_service_td is not None and any(body.mr_service_td):
        found.append("a service TD is bound to the TD, and nobody says which one may be")
    return found


def _replay(case: dcap.Case, body: dcap_quote.TdReport) -> tuple[Answer, list[str]]:
    """Whether the event logs of the case lead to the TD's registers."""
    texts = list(case.texts)
    logs: list[bytes] = []
    for role, data in case.others.items():
        if not _LOG.search(role.lower()) or "table" in role.lower():
            continue
        if (text := foreign.json_in(data)) is not None:
            texts.append(text)
        else:
            logs.append(foreign.plain(data) or data)
    answers: list[Answer] = []
    reasons: list[str] = []
    for text in texts:
        answer, why = dcap_events.replay_json(text, body.rtmrs)
        answers.append(answer)
        reasons += why
        logs += dcap_events.ccel_in(text)
    for data in logs:
        answer, why = _replay_ccel(data, body.rtmrs)
        answers.append(answer)
        reasons += why
    if Answer.REFUSED in answers:
        return Answer.REFUSED, reasons
    return (Answer.AFFIRMED if Answer.AFFIRMED in answers else Answer.NOT_ESTABLISHED), reasons


def _replay_ccel(data: bytes, rtmrs: Sequence[bytes]) -> tuple[Answer, list[str]]:
    """The confidential computing event log (UEFI, section 38.4.1), by the module for TCG event logs."""
    try:
        registers = eventlog.replay_ccel(data)
    except InputError as error:
        return Answer.REFUSED, [f"the CCEL log: {error.message}"]
    # A register that the log does not extend says nothing: RTMR3 belongs to what runs after the start.
    found = {index: value for index, value in enumerate(registers) if any(value)}
    return dcap_events.compare(found, rtmrs)


__all__ = ["MIGRATABLE", "NAME", "SEPT_VE_DISABLE", "appraise", "check"]
