"""Cases of captured evidence: folders with a `meta.json`, and the verdict on each under one policy.

What a case expects is never read here: `question` takes the TEE's name, the files' names and the time out of a
`meta.json`, and a check sees nothing else. `expectation` reads the rest, for whoever compares afterwards.

>>> check_folder({"tee": "abacus"}, {}).reasons
('no verifier for abacus is built in',)
"""

from __future__ import annotations

import importlib
import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from mesatee.attestation import subjects
from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.detect import detect_case
from mesatee.attestation.verdict import Verdict
from mesatee.errors import InputError, Malformed, MesateeError, TooLarge, TrustError, UnsupportedVersion
from mesatee.protocol import limits

POLICY_VERSION: Final = 1
_FIXED: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "measurements": "any",
        "roots": "vendors",
        "case_anchors": ["cca", "psa", "tpm"],
        "debug": "contraindicated",
        "signature_only": "none",
        "tcb_not_up_to_date": "warning",
        "tcb_no_match": "contraindicated",
    }
)
"""What the verifiers do, whatever a policy says. A policy states it all the same, so that its reader need not guess."""


@dataclass(frozen=True, slots=True)
class CorpusPolicy:
    """What evidence of unknown machines must show, where nobody knows their measurements.

    Any measurement counts. Roots are the vendors', and a case's own anchors for Arm and TPM alone, which have
    no vendor's root. Debug and a TCB level that nothing matches are contraindicated, a TCB that is known but
    not up to date is a warning, and what proves only a signature, a replay or a format is "none".
    """

    missing_crl: bool = True
    """A missing CRL is reported, not refused."""
    devices: frozenset[str] = frozenset()
    """SHA-256 of public keys (SubjectPublicKeyInfo) of Keystone and OP-TEE devices that a relying party names, hex. No
    case names any."""

    @classmethod
    def from_toml(cls, text: bytes) -> CorpusPolicy:
        """Read a policy file; every key must be there. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`."""
        if len(text) > limits.TRUST_POLICY_BYTES:
            raise TooLarge(f"a policy has {limits.TRUST_POLICY_BYTES} bytes at most")
        try:
            value = tomllib.loads(text.decode())
        # tomllib's error is a ValueError, like that of a wrong encoding; brackets nest without a bound in it.
        except (ValueError, RecursionError) as error:
            raise Malformed(f"the policy is not TOML: {str(error)[:200] or type(error).__name__}") from None
        if value.get("version") != POLICY_VERSION or value.keys() != {"version", "evidence"}:
            raise UnsupportedVersion(f"a policy has version = {POLICY_VERSION} and the table [evidence]")
        table = value["evidence"]
        if not isinstance(table, dict) or table.keys() != {*_FIXED, "missing_crl"}:
            raise Malformed("[evidence] names exactly: " + ", ".join(sorted([*_FIXED, "missing_crl"])))
        for name, only in _FIXED.items():
            if table[name] != only:
                raise UnsupportedVersion(f"{name} can only be {only!r} in this version")
        words = {"allowed": True, "refused": False}
        if table["missing_crl"] not in ("allowed", "refused"):
            raise Malformed('missing_crl is "allowed" or "refused"')
        return cls(missing_crl=words[table["missing_crl"]])


Check: TypeAlias = Callable[[Mapping[str, bytes], int | None, CorpusPolicy], Verdict]

_MODULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "azure-vtpm": "azure",
        "cca": "cca",
        "eventlog": "eventlog",
        "keystone": "keystone",
        "nitro": "nitro",
        "nvidia-gpu": "nvidia",
        "optee": "optee",
        "psa": "psa",
        "ratls": "ratls",
        "sgx": "sgx",
        "snp": "snp",
        "tdx": "tdx",
        "tpm": "tpm",
    }
)
"""Value of ``tee`` in `meta.json` -> module in `attestation/tee`."""


def plain_verdict(tier: Status, *reasons: str) -> Verdict:
    """A verdict that establishes nothing."""
    unknown = Answer.NOT_ESTABLISHED
    return Verdict(
        tier=tier,
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
        reasons=reasons,
    )


def _lazy(tee: str, module: str) -> Check:
    """The check of a TEE, imported when it is first called: few callers need all of them."""
    path = f"mesatee.attestation.tee.{module}"

    def check(files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
        try:
            found: Check = importlib.import_module(path).check
        except ModuleNotFoundError as error:
            if error.name != path:
                raise
            return plain_verdict(Status.NONE, f"no verifier for {tee} is built in")
        return found(files, at, policy)

    return check


CHECKS: Final[Mapping[str, Check]] = MappingProxyType(
    {tee: _lazy(tee, module) for tee, module in _MODULES.items()}
)
"""Value of ``tee`` in `meta.json` -> the check."""


def subject(tee: str, files: Mapping[str, bytes]) -> str:
    """Which machine the evidence is of, as endorsements name it (`endorsements.Endorsement.subject`); empty where
    the class has no such name, or the evidence does not parse.
    """
    return subjects.subject(tee, files)


# -- meta.json --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """What a verifier may know of a case."""

    id: str | None
    tee: str | None
    names: Mapping[str, str] = field(default_factory=dict)
    """Role -> name of a file in the case's folder."""
    at: int | None = None


def question(meta: bytes) -> Question:
    """Everything in a `meta.json` that is not the answer. Raises `Malformed` or `TooLarge`."""
    value = _object(meta)
    names = value.get("files", {})
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise Malformed("files is not an object of roles and names")
    if len(names) > limits.CASE_FILES:
        raise TooLarge(f"a case has {limits.CASE_FILES} files at most")
    for name in names.values():
        # The folder is the case: nothing outside of it may be read, whoever wrote the meta.json.
        if name.startswith("/") or "\\" in name or "\0" in name or {"", ".", ".."} & set(name.split("/")):
            raise Malformed("a file's name leads out of the case's folder")
    return Question(_text(value, "id"), _text(value, "tee"), names, parse_time(value.get("at")))


@dataclass(frozen=True, slots=True)
class Expectation:
    """The verdict that a case names. `tier` is None where the specification leaves room."""

    tier: Status | None


def expectation(meta: bytes) -> Expectation | None:
    """What a case expects; None if it says nothing. Only called once all verdicts are there."""
    try:
        found = _object(meta).get("expected")
    except InputError:
        return None
    if not isinstance(found, dict) or "tier" not in found:
        return None
    try:
        return Expectation(None if found["tier"] is None else Status(found["tier"]))
    except ValueError:
        return None


def parse_time(value: object) -> int | None:
    """Unix seconds of an ISO 8601 text (UTC unless it says otherwise) or of a number. Raises `Malformed`."""
    match value:
        case None:
            return None
        case bool():
            pass
        case int() | float() if math.isfinite(value) and abs(value) < 2**40:
            return math.floor(value)
        case str() if len(value) <= limits.NAME_CHARS:
            try:
                if value.strip().lstrip("-").isdecimal():
                    return parse_time(int(value))
                moment = datetime.fromisoformat(value.strip())
                return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
            except (ValueError, OverflowError):
                pass
        case _:
            pass
    raise Malformed("the time is neither ISO 8601 nor a Unix number")


def _object(meta: bytes) -> dict[str, Any]:
    """A `meta.json`. Its claims hold integers of 64 bits without a sign, which our wire format does not know."""
    if len(meta) > limits.CASE_META_BYTES:
        raise TooLarge(f"a meta.json has {limits.CASE_META_BYTES} bytes at most")
    try:
        value = json.loads(meta.decode("utf-8-sig"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise Malformed("meta.json is not JSON") from None
    if not isinstance(value, dict):
        raise Malformed("meta.json is not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a key stands twice in meta.json")
    return found


def _text(value: Mapping[str, Any], name: str) -> str | None:
    found = value.get(name)
    if found is not None and not (isinstance(found, str) and len(found) <= limits.HOST_MESSAGE_BYTES):
        raise Malformed(f"{name} is not a short text")
    return found


# -- verdicts ---------------------------------------------------------------------------------------


def check_folder(
    meta: Mapping[str, Any], files: Mapping[str, bytes], policy: CorpusPolicy | None = None
) -> Verdict:
    """The verdict on a case. Of `meta` only ``tee`` and ``at`` are looked at; `files` are by role."""
    try:
        tee, at = _text(meta, "tee"), parse_time(meta.get("at"))
    except InputError as error:
        return plain_verdict(Status.NONE, error.message)
    return check(tee, files, at, policy or CorpusPolicy())


def check(tee: str | None, files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
    """The verdict on files under their roles. Never raises: what a check refuses is contraindicated.

    Without a known `tee` the contents decide which check is asked.
    """
    notes: list[str] = []
    if tee is None or tee not in CHECKS:
        try:
            found = detect_case(files)
        except TrustError as error:
            return plain_verdict(Status.CONTRAINDICATED, error.message)
        if found is None:
            known = f"no verifier for {tee} is built in" if tee else "nothing in the case is of a known kind"
            return plain_verdict(Status.NONE, known)
        notes.append(f"taken for {found.tee} by its contents: {found.kind}")
        tee, files = found.tee, {**found.files, **files}
    for role, data in files.items():
        if len(data) > limits.CASE_FILE_BYTES:
            return plain_verdict(
                Status.CONTRAINDICATED, f"{role} has more than {limits.CASE_FILE_BYTES} bytes"
            )
    try:
        verdict = CHECKS[tee](files, at, policy)
    except (InputError, TrustError) as error:
        verdict = plain_verdict(Status.CONTRAINDICATED, error.message)
    except MesateeError as error:
        verdict = plain_verdict(Status.NONE, error.message)
    # A flaw in one verifier must neither hide the verdicts on all other cases nor say anything about this one.
    except Exception as error:  # noqa: BLE001
        verdict = plain_verdict(Status.NONE, f"internal error: {type(error).__name__}")
    return _bounded(replace(verdict, reasons=(*notes, *verdict.reasons)), policy)


def _bounded(verdict: Verdict, policy: CorpusPolicy) -> Verdict:
    """A second look at what no good tier can go with, so that one verifier's slip cannot make bad evidence good."""
    if verdict.tier not in (Status.AFFIRMING, Status.WARNING):
        return verdict
    answers = {
        "signature": verdict.signature,
        "chain": verdict.chain,
        "revocation": verdict.revocation,
        "replay": verdict.replay,
        "binding": verdict.binding,
    }
    refused = [f"the {name} is refused" for name, answer in answers.items() if answer is Answer.REFUSED]
    if not policy.missing_crl and verdict.revocation is not Answer.AFFIRMED:
        refused.append("the policy asks for revocation lists")
    if refused:
        return replace(verdict, tier=Status.CONTRAINDICATED, level=1, reasons=(*verdict.reasons, *refused))
    if Answer.NOT_ESTABLISHED in (verdict.signature, verdict.chain):
        note = "signature and chain are not both established"
        return replace(verdict, tier=Status.NONE, level=1, reasons=(*verdict.reasons, note))
    return verdict


__all__ = [
    "CHECKS",
    "Check",
    "CorpusPolicy",
    "Expectation",
    "Question",
    "check",
    "check_folder",
    "expectation",
    "parse_time",
    "plain_verdict",
    "question",
]
