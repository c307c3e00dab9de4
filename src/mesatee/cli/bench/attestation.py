"""Verdicts on captured evidence: how many a second, of each TEE, and for SGX and TDX beside dcap-qvl.

Cold: nothing is remembered, everything is parsed and every signature verified, as right after the start of a verifier.
Known endorsements: certificates, revocation lists and collateral came along before, byte for byte, as they do for all
machines of a kind. They stay parsed, and that their signatures hold is remembered; whether they are in time, not
revoked and good enough is looked at anew, and the evidence's own signatures are verified. That is what a running
verifier does for evidence that is new. Cached: the same evidence again, within the age limit. The peer remembers
nothing, but its collateral is taken out of JSON before the clock runs. The evidence is not part of the project; where
it is not at hand the rows say so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...attestation import chains, corpus
from ...attestation.appraisal import Status
from ...attestation.remembered import Remembered
from ...attestation.tee import dcap
from ...attestation.verdict import Verdict
from ...protocol import limits
from .rows import Goal, Row, Say, compare

ROUNDS, QUICK_ROUNDS = 15, 4
BATCH_SECONDS: Final = 0.15
"""How long one sample lasts."""
PEER: Final = "dcap-qvl"
CACHED: Final = "ours, cold"
_BEST: Final = (Status.AFFIRMING, Status.WARNING, Status.NONE)
"""In this order a case of each class is chosen: bad evidence may be refused at its first byte, which costs nothing."""
KNOWN_GOAL: Final = Goal("at least as fast as the peer", ratio_at_least=1.0)
CACHED_GOAL: Final = Goal("at least 100 times a cold one", ratio_at_least=100.0)


@dataclass(frozen=True, slots=True)
class _Case:
    tee: str
    name: str
    files: Mapping[str, bytes]
    at: int


def _cases(folder: Path) -> dict[str, _Case]:
    """Of each class the case with the best verdict."""
    found: dict[str, tuple[int, _Case]] = {}
    for meta in sorted(folder.glob("*/*/meta.json")):
        question = corpus.question(meta.read_bytes())
        if question.tee is None:
            continue
        files = {role: (meta.parent / name).read_bytes() for role, name in question.names.items()}
        case = _Case(question.tee, meta.parent.name, files, question.at or int(time.time()))
        tier = corpus.check(case.tee, case.files, case.at, corpus.CorpusPolicy()).tier
        # Whole collateral in one file is what the peer reads.
        rank = (_BEST.index(tier) if tier in _BEST else len(_BEST)) * 2 + ("collateral" not in files)
        if case.tee not in found or rank < found[case.tee][0]:
            found[case.tee] = (rank, case)
    return {tee: case for tee, (_, case) in sorted(found.items())}


def _rate(work: Callable[[], object]) -> float:
    """Calls a second."""
    start, count = time.perf_counter(), 0
    while (took := time.perf_counter() - start) < BATCH_SECONDS:
        work()
        count += 1
    return count / took


def _peer(case: _Case) -> tuple[Callable[[], object] | None, str]:
    """The peer's verification of the same case, or why there is none."""
    if case.tee not in ("sgx", "tdx"):
        return None, ""
    try:
        import dcap_qvl as peer  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return None, "no peer: dcap-qvl is not installed"
    try:
        collateral: Any = peer.QuoteCollateralV3.from_json(case.files["collateral"].decode())
        peer.verify(case.files["quote"], collateral, case.at)
    # Its errors are of its own classes; whatever it says, it then is no peer for this case.
    except Exception as error:  # noqa: BLE001
        return None, f"no peer: dcap-qvl refuses the case ({type(error).__name__})"
    return lambda: peer.verify(case.files["quote"], collateral, case.at), ""


def measure(quick: bool, say: Say) -> tuple[Row, ...]:
    """The rows of ``bench attestation``."""
    folder = Path(os.environ.get("MESATEE_SHARED", "../shared")) / "evidence"
    say(f"reading the cases of {folder}")
    cases = _cases(folder)
    if not cases:
        note = "no captured evidence at hand: set MESATEE_SHARED"
        return (Row("verdicts, cold", "1/s", None, note=note),)
    rounds = QUICK_ROUNDS if quick else ROUNDS
    rows: list[Row] = []
    for case in cases.values():
        say(f"{case.tee}: {case.name}")
        rows += _measure(case, rounds)
    return tuple(rows)


def _copy(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Equal bytes in other objects: Python remembers the hash of an object that it has seen."""
    return {role: bytes(bytearray(data)) for role, data in files.items()}


def _cold(case: _Case, policy: corpus.CorpusPolicy) -> None:
    chains.forget()
    dcap.forget()
    corpus.check(case.tee, case.files, case.at, policy)


def _again(memory: Remembered[Verdict], case: _Case, policy: corpus.CorpusPolicy) -> None:
    """As `verify.AppraisalCache` does for a peer that connects again: what it shows is compared with what is kept."""
    key = (case.tee, *sorted(_copy(case.files).items()))
    if memory.get(key, case.at) is None:
        found = corpus.check(case.tee, case.files, case.at, policy)
        memory.put(key, found, case.at, case.at + limits.APPRAISAL_AGE_SECONDS)


def _measure(case: _Case, rounds: int) -> tuple[Row, ...]:
    policy = corpus.CorpusPolicy()
    memory: Remembered[Verdict] = Remembered(limits.APPRAISALS_CACHED)
    peer, note = _peer(case)
    cold: list[float] = []
    known: list[float] = []
    cached: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        cold.append(_rate(lambda: _cold(case, policy)))
        known.append(_rate(lambda: corpus.check(case.tee, case.files, case.at, policy)))
        if peer is not None:
            theirs.append(_rate(peer))
        cached.append(_rate(lambda: _again(memory, case, policy)))
    size = sum(map(len, case.files.values()))
    about = f"{case.name}, {size} bytes of evidence and endorsements"
    return (
        compare(
            f"{case.tee}, cold",
            "1/s",
            cold,
            theirs,
            peer_name=PEER if case.tee in ("sgx", "tdx") else None,
            note=f"{about}; {note}" if note else about,
        ),
        compare(
            f"{case.tee}, known endorsements",
            "1/s",
            known,
            theirs,
            peer_name=PEER if case.tee in ("sgx", "tdx") else None,
            goal=KNOWN_GOAL if case.tee in ("sgx", "tdx") else None,
            note="signatures of endorsements that came before are remembered; the evidence's own are verified",
        ),
        compare(
            f"{case.tee}, cached",
            "1/s",
            cached,
            cold,
            peer_name=CACHED,
            goal=CACHED_GOAL,
            note="the same bytes again, as they come from another connection: copied, hashed, compared",
        ),
    )


__all__ = ["measure"]
