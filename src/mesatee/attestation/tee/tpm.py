"""A TPM 2.0's quote: which values its PCRs had, signed by a key that signs nothing but what the TPM itself says.

Steps, from TCG TPM 2.0 Library 1.59 (Part 1 to 3) and the PC Client Platform Firmware Profile (PFP):

1. parse        TPMS_ATTEST, with the TPM's magic number (Part 2, 10.12.8): without it, the bytes are somebody
                else's that the key merely signed
2. key          restricted, fixedTPM, fixedParent, sensitiveDataOrigin, sign, not decrypt (Part 2, 8.3; Part 1, 27.5)
3. signature    TPMT_SIGNATURE, by this key (Part 2, 11.3.4)
4. trust        the key is the one that the relying party named, or has a certificate up to a pinned root
5. PCR digest   of the given values of the selected PCRs, by the hash of the signature (Part 3, 18.4)
6. replay       of the firmware's log to the quoted PCRs (PFP 10.1)
7. freshness    the caller's nonce is in extraData
8. one session  several quotes (of several banks) are of one boot and for one nonce: parts of two make no whole

The measurement is SHA-256 over the selection of PCRs as it was signed and the digest of their values (`Attest`), of
the quote of the strongest bank.

A TPM vouches for the boot of the system that it stands in, not for its memory: level 3. It stands in the way of
nobody who can write to that memory, or who holds the bus between it and the processor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from mesatee import _core
from mesatee.attestation.appraisal import Answer, Scalar, Status
from mesatee.attestation.chains import verify_chain
from mesatee.attestation.corpus import CorpusPolicy
from mesatee.attestation.tee import _tpm_files, eventlog
from mesatee.attestation.tee._settle import Answers, settle
from mesatee.attestation.tee._tpm_files import Key, Pcrs, Pieces, Quote
from mesatee.attestation.tee._tpm_parse import Attest, Public, parse_attest, parse_public, parse_signature
from mesatee.attestation.verdict import Verdict
from mesatee.errors import InputError, MesateeError, SignatureInvalid, TrustError
from mesatee.protocol import limits

GOOGLE_ROOT: Final = bytes.fromhex("594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2")
"""SHA-256 of "EK/AK CA Root", which certifies the attestation keys of Google's virtual machines."""
LEVEL: Final = 3
SIMULATORS: Final = frozenset({0x2019_1023_0016_3636, 0x2024_0125_0012_0000})
"""firmwareVersion of libtpms 0.9 and 0.10, the library in swtpm and in emulators' virtual TPMs, as it stands in quotes
of keys of the endorsement hierarchy; of others a TPM obfuscates it. Such a TPM is a program of whoever runs the
machine. That a quote has another version proves no hardware: for that the attestation key is pinned, or certified."""
BOOT_PCRS: Final = frozenset(range(8))
"""What the firmware and what it starts are measured into (PFP 3.3.4)."""
_STRENGTH: Final = ("sha1", "sha256", "sha384", "sha512")
_KNOWN_EXTENSIONS: Final = ("2.5.29.17", "2.5.29.37")
"""Critical in TPM certificates whose subject is empty, or that name their use (TCG EK Credential Profile)."""


@dataclass(slots=True)
class Measured:
    """What the quotes of one case prove, under one key."""

    answers: Answers = field(default_factory=Answers)
    replay: Answer = Answer.NOT_ESTABLISHED
    objections: list[str] = field(default_factory=list)
    claims: dict[str, Scalar] = field(default_factory=dict)
    measurement: str = ""
    values: bool = False
    """The values of all PCRs of each quote are proven."""
    simulated: bool = False
    """The TPM that signed says that it is a program."""
    boot: bool = False
    """The values of PCR 0 to 7 of one bank are proven."""

    @property
    def good(self) -> bool:
        """Signed, by values that are known, and nothing against it."""
        bad = self.objections or self.answers.refused or self.replay is Answer.REFUSED
        return self.answers.signature is Answer.AFFIRMED and self.boot and not bad


# -- verify ----------------------------------------------------------------------------------------


def quoted(quote: Quote, spki: bytes, public: Public | None = None) -> tuple[Attest, str]:
    """Steps 1 to 3 for one quote: what it says, and the hash of its signature.

    Raises `EvidenceRefused` (not the TPM's words), `SignatureInvalid`, or an `InputError`.
    """
    # 1. Parse.
    attest = parse_attest(quote.message)
    # 3. Signature. Bare bytes do not name their hash: the PCR digest is as long as it.
    fitting = next((name for name, size in eventlog.HASHES.values() if size == len(attest.digest)), "sha256")
    hash_name = fitting

    def check_one(data: bytes) -> None:
        nonlocal hash_name
        signature = parse_signature(data)
        hash_name = signature.hash or (public and public.scheme_hash) or fitting
        signature.verify(spki, quote.message, hash_name)

    for data in quote.signatures:
        check_one(data)
    if quote.signatures:
        return attest, hash_name
    failure: MesateeError = SignatureInvalid("the quote has no signature")
    for data in quote.guesses[: limits.TPM_QUOTES]:
        try:
            check_one(data)
        except (InputError, TrustError) as error:
            failure = error
        else:
            return attest, hash_name
    raise failure


def pcr_digest(attest: Attest, pcrs: Mapping[str, Mapping[int, bytes]], hash_name: str) -> bytes | None:
    """Step 5: the digest that these values have under the quote's selection; None if one is not given."""
    state = hashlib.new(hash_name)
    for bank, indices in attest.selection:
        for index in indices:
            value = pcrs.get(bank, {}).get(index)
            if value is None:
                return None
            state.update(value)
    return state.digest()


def measure(pieces: Pieces, spki: bytes, public: Public | None = None) -> Measured:
    """Steps 1 to 3 and 5 to 8 for all quotes of a case, all of which must be by this key."""
    found = Measured()
    if public is not None:
        # 2. Key.
        found.objections += public.objections()
    pcrs = _tpm_files.one_set(pieces.pcrs)
    proven: Pcrs = {}
    best: tuple[int, Attest] | None = None
    sessions: set[tuple[object, ...]] = set()
    found.values = bool(pieces.quotes)
    for quote in pieces.quotes:
        try:
            attest, hash_name = quoted(quote, spki, public)
        except (InputError, TrustError) as error:
            found.answers.signature = Answer.REFUSED
            found.answers.reasons.append(f"quote {quote.name[: limits.NAME_CHARS]}: {error.message}")
            continue
        if found.answers.signature is not Answer.REFUSED:
            found.answers.signature = Answer.AFFIRMED
        _values(found, attest, pcrs, hash_name, proven)
        _fresh(found, attest, pieces.nonces)
        sessions.add(attest.session)
        strength = max((_STRENGTH.index(bank) for bank, indices in attest.selection if indices), default=-1)
        if best is None or strength > best[0]:
            best = strength, attest
    # 8. One session.
    if len(sessions) > 1:
        found.objections.append(
            "the quotes are of different boots or for different nonces: together they prove nothing"
        )
    if best is not None and best[0] == 0:
        found.answers.reasons.append(
            "only SHA-1 PCRs were quoted: whoever chose what was measured may have a collision"
        )
    found.boot = any(values.keys() >= BOOT_PCRS for values in proven.values())
    _replay(found, pieces.eventlogs, proven)
    if best is not None:
        _describe(found, best[1], proven)
    return found


def _values(found: Measured, attest: Attest, pcrs: Pcrs, hash_name: str, proven: Pcrs) -> None:
    """Step 5."""
    banks = [bank for bank, indices in attest.selection if indices]
    if not banks:
        found.objections.append("the quote is of no PCR")
        return
    if len(set(banks)) != len(banks):
        found.objections.append("the quote selects twice from one bank")
        return
    digest = pcr_digest(attest, pcrs, hash_name)
    if digest is None:
        found.values = False
        found.answers.reasons.append("the values of the quoted PCRs did not all come with the quote")
    elif digest != attest.digest:
        found.objections.append("the PCR values that came with the quote are not those that it signs")
    else:
        for bank, indices in attest.selection:
            proven.setdefault(bank, {}).update({index: pcrs[bank][index] for index in indices})


def _replay(found: Measured, logs: Sequence[bytes], proven: Pcrs) -> None:
    """Step 6. Every log that came along must lead to the quoted values: one that does not is about another boot."""
    for data in dict.fromkeys(logs):
        log = eventlog.parse(data)
        result = eventlog.compare(log, proven)
        found.answers.reasons += result.reasons
        if Answer.REFUSED in (found.replay, result.answer):
            found.replay = Answer.REFUSED
            continue
        if result.answer is Answer.AFFIRMED:
            found.replay = Answer.AFFIRMED
            found.objections += eventlog.altered(log, result.banks[0])
            found.claims.update(eventlog.log_claims(log, result))


def _fresh(found: Measured, attest: Attest, nonces: Sequence[bytes]) -> None:
    """Step 7. An empty nonce shows nothing, and is no error."""
    for nonce in nonces:
        if attest.extra not in _tpm_files.nonce_forms(nonce):
            found.answers.binding = Answer.REFUSED
            found.answers.reasons.append("the quote has another nonce: it is old, or for somebody else")
        elif nonce and found.answers.binding is Answer.NOT_ESTABLISHED:
            found.answers.binding = Answer.AFFIRMED


def _describe(found: Measured, attest: Attest, proven: Pcrs) -> None:
    found.measurement = attest.measurement
    found.simulated = attest.firmware in SIMULATORS
    found.claims |= {
        "tpm.nonce": attest.extra.hex(),
        "tpm.clock_ms": attest.clock,
        "tpm.clock_safe": attest.safe,
        "tpm.resets": attest.resets,
        "tpm.restarts": attest.restarts,
        "tpm.firmware": f"{attest.firmware:016x}",
        "tpm.signer": attest.signer.hex(),
    }
    for bank, values in proven.items():
        found.claims |= {f"tpm.pcr.{bank}.{index}": value.hex() for index, value in values.items()}


# -- trust in the key ------------------------------------------------------------------------------


def _trusted_key(pieces: Pieces, at: int | None, answers: Answers) -> tuple[bytes | None, Public | None]:
    """Step 4: the attestation key, and its public area if one is given."""
    anchors = [key for key in pieces.keys if key.anchor]
    named: list[Key] = anchors or pieces.keys
    leaf = _leaf(pieces, named)
    if not named and leaf is None:
        return None, None
    spki = named[0].spki if named else (leaf or _core.X509.parse(pieces.certificates[0])).spki
    if any(key.spki != spki for key in pieces.keys):
        answers.chain = Answer.REFUSED
        answers.reasons.append("the evidence names another attestation key than the one that the case trusts")
    elif anchors:
        answers.chain, answers.anchor = Answer.AFFIRMED, hashlib.sha256(spki).hexdigest()
    if leaf is not None:
        _certified(pieces, leaf, spki, at, answers)
    elif not anchors:
        answers.reasons.append("the attestation key came with the evidence alone: nobody vouches for it")
    return spki, next((key.public for key in pieces.keys if key.public and key.spki == spki), None)


def _leaf(pieces: Pieces, named: Sequence[Key]) -> _core.X509 | None:
    """The certificate of the attestation key: the one that has it, or else the first that issues nothing."""
    parsed: list[_core.X509] = []
    for der in pieces.certificates:
        parsed.append(_core.X509.parse(der, lenient=True))
    keys = {key.spki for key in named}
    return next(
        (item for item in parsed if item.spki in keys),
        next((item for item in parsed if not item.is_ca), None),
    )


def _certified(pieces: Pieces, leaf: _core.X509, spki: bytes, at: int | None, answers: Answers) -> None:
    if leaf.spki != spki:
        answers.chain = Answer.REFUSED
        answers.reasons.append("the attestation key's certificate is of another key")
        return
    others = [der for der in pieces.certificates if der != leaf.der]
    result = verify_chain(
        [leaf, *others, *pieces.anchors], [GOOGLE_ROOT, *pieces.anchors], at, known=_KNOWN_EXTENSIONS
    )
    if answers.chain is Answer.NOT_ESTABLISHED:
        answers.chain, answers.revocation = result.chain, result.revocation
        answers.anchor, answers.expires = result.root_sha256, result.expires
    answers.reasons += result.reasons


def _endorsed(pieces: Pieces, at: int | None, found: Measured) -> None:
    """What is known of the endorsement key, for whoever enrols the machine.

    It changes no level: anybody may copy another TPM's certificate, and nothing in a quote ties the attestation key to
    the endorsement key. Credential activation does (Part 1, 24), before the attestation key is pinned.
    """
    reasons = found.answers.reasons
    parsed = [_core.X509.parse(der, lenient=True) for der in pieces.endorsement]
    leaf = next((item for item in parsed if not item.is_ca), None)
    if leaf is None:
        reasons.append("the endorsement key is not established: no certificate of it came along")
        return
    found.claims["tpm.ek"] = hashlib.sha256(leaf.spki).hexdigest()
    if any(spki != leaf.spki for spki in pieces.endorsement_keys):
        found.objections.append("the endorsement key's certificate is of another key")
    roots = [*pieces.endorsement_anchors, *pieces.anchors]
    if not roots:
        reasons.append("the endorsement key is not established: no root of its maker was given")
        return
    others = [der for der in pieces.endorsement if der != leaf.der]
    result = verify_chain([leaf, *others, *roots], roots, at, known=_KNOWN_EXTENSIONS)
    if result.chain is Answer.REFUSED:
        found.objections += [f"endorsement key: {reason}" for reason in result.reasons]
    elif result.chain is Answer.AFFIRMED and result.root_sha256 is not None:
        found.claims["tpm.ek.root"] = result.root_sha256
        reasons.append(
            "the endorsement key is certified; only credential activation shows that the attestation key is beside it"
        )
    else:
        reasons += [f"the endorsement key is not established: {reason}" for reason in result.reasons]


# -- cases -----------------------------------------------------------------------------------------


def check(files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
    """Appraise the quotes of one TPM with all that came along. Raises `InputError` or `TrustError`."""
    pieces = _tpm_files.gather(files)
    trust = Answers()
    spki, public = _trusted_key(pieces, at, trust)
    if spki is None or not pieces.quotes:
        trust.reasons.append("there is no quote" if spki else "there is no attestation key")
        # Nobody's log or values are none the better for that, but a forged quote still is one.
        for quote in pieces.quotes:
            parse_attest(quote.message)
        return settle(trust, (), level=1, measurement="", claims={})
    found = measure(pieces, spki, public)
    _endorsed(pieces, at, found)
    answers = found.answers
    answers.chain, answers.revocation = trust.chain, trust.revocation
    answers.anchor, answers.expires = trust.anchor, trust.expires
    answers.reasons += trust.reasons
    if found.replay is Answer.REFUSED:
        found.objections.append("the event log is not of the boot that was quoted")
    verdict = settle(
        answers,
        found.objections,
        level=LEVEL if found.boot else 1,
        # Without the values, the digest of them is a signature over nothing that anybody could appraise.
        best=Status.AFFIRMING if found.values else Status.NONE,
        measurement=found.measurement,
        claims=found.claims,
        simulated=found.simulated,
    )
    verdict = replace(verdict, replay=found.replay)
    return verdict if verdict.tier in (Status.AFFIRMING, Status.NONE) else replace(verdict, claims={})


__all__ = [
    "GOOGLE_ROOT",
    "SIMULATORS",
    "Attest",
    "Measured",
    "Public",
    "check",
    "measure",
    "parse_attest",
    "parse_public",
    "parse_signature",
    "pcr_digest",
    "quoted",
]
