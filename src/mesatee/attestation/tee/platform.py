"""Evidence of hardware in a channel: a `bundle.Bundle`, judged by its class's own verifier.

The verifier of a class answers for evidence under nobody's policy (`corpus.CHECKS`). Here its answers become a
`Proof` for one peer: what the evidence vouches for, the level, and what the relying party's policy has against it.

A peer brings its own evidence and may bring certificates, whose chain must end in a vendor's pinned root. Beside what
the relying party collected it is one more voice: it neither replaces nor hides that. It can
never bring its own trust anchor: where a class has no vendor's root, the key in which the chain ends must be one
that the policy pins, whatever the bundle holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from mesatee.attestation import corpus
from mesatee.attestation.appraisal import LEVELS, Answer, Scalar, Status
from mesatee.attestation.bundle import Bundle
from mesatee.attestation.endorsements import Endorsements, beside
from mesatee.attestation.evidence import Claims
from mesatee.attestation.tee.base import Proof, Tee
from mesatee.attestation.trust import ANCHORED, ANY, RoleTrust
from mesatee.attestation.verdict import Verdict
from mesatee.errors import Malformed

LEVEL_REASONS: Final[Mapping[int, str]] = {
    1: "nothing was proven",
    3: "the machine's boot was measured, but its memory is open to its operator and to physical access",
    4: "the machine's memory is encrypted; nobody measured the system around it",
    5: "an encrypted machine or enclave, and the measured boot of its system: proven, linked, and both measured",
}
_WITHOUT_TCB: Final = frozenset({"azure-vtpm", "cca", "keystone", "nitro", "nvidia-gpu", "psa", "snp", "tpm"})
"""Classes whose vendors publish no levels of TCB; there the policy's reference values must say which version
counts."""
_REPORT_DATA: Final[Mapping[str, str]] = {
    "azure-vtpm": "tpm.nonce",
    "cca": "realm.challenge",
    "keystone": "data",
    "nitro": "user_data",
    "psa": "nonce",
    "tpm": "tpm.nonce",
}
"""The claim that holds what the attester was given to vouch for, where it is not ``report_data``."""
_WITH_SMT: Final = frozenset({"azure-vtpm", "sgx", "snp", "tdx"})
"""Classes of machines whose cores may run two threads at once, of which another's may be one."""
_REPORT_BYTES: Final = 64
_DIGEST_BYTES: Final = 32


def parse(body: bytes) -> Bundle:
    """Raises `Malformed` or `TooLarge`. The pieces are parsed by `verify`."""
    return Bundle.parse(body)


def complete(bundle: Bundle, endorsements: Endorsements) -> Bundle:
    """With what was collected about this machine, which nothing that the bundle brings can replace or push out."""
    found = endorsements.lookup(bundle.tee, corpus.subject(bundle.tee, bundle.files))
    return Bundle(bundle.tee, beside(found, bundle.files))


def verify(bundle: Bundle, trust: RoleTrust, at: int) -> Proof:
    """Answer what is proven at `at` (Unix seconds).

    1. The class's own verifier: signature, chain, revocation, TCB, replay.
    2. A chain that ends in a key of the bundle proves nothing, unless the policy pins that key.
    3. The report data that the evidence vouches for.
    4. What the policy has against the platform (`objections`).
    """
    verdict, proof = judge(bundle, trust, at)
    return replace(proof, report_data=_report_data(bundle.tee, verdict))


def judge(bundle: Bundle, trust: RoleTrust, at: int) -> tuple[Verdict, Proof]:
    """`verify` without step 3, for evidence that nobody shows as his own: the proof's report data is empty, so that it
    vouches for no claims at all.
    """
    # 1. Verdict.
    verdict = corpus.check(
        bundle.tee, bundle.files, at, corpus.CorpusPolicy(devices=frozenset(trust.anchors))
    )
    reasons = list(verdict.reasons)
    # 2. Anchor.
    chain = verdict.chain
    if bundle.tee in ANCHORED and chain is Answer.AFFIRMED:
        anchor = verdict.claims.get("anchor")
        if not isinstance(anchor, str) or anchor not in trust.anchors:
            chain = Answer.REFUSED
            reasons.append(f"device key {anchor or '(not named)'} is not one that the policy names")
    level = verdict.level if chain is Answer.AFFIRMED and verdict.tier is not Status.CONTRAINDICATED else 1
    # A replay or binding that failed inside the evidence is as bad as a forged signature.
    signature = verdict.signature
    if Answer.REFUSED in (verdict.replay, verdict.binding):
        signature = Answer.REFUSED
    against = objections(bundle.tee, verdict, trust)
    proof = Proof(
        level=level,
        level_reason=LEVEL_REASONS.get(level, LEVELS[level]),
        simulated=verdict.simulated,
        hardware=not verdict.simulated,
        measurement=verdict.measurement,
        report_data=b"",
        signature=signature,
        chain=Answer.REFUSED if verdict.revocation is Answer.REFUSED else chain,
        tcb=_tcb(bundle.tee, verdict, trust),
        freshness=Answer.NOT_ESTABLISHED,
        expires=verdict.expires,
        reasons=tuple(reasons),
        objections=against,
        claims=verdict.claims,
        vector=_vector(verdict, chain, trust),
    )
    return verdict, proof


def _report_data(tee: str, verdict: Verdict) -> bytes:
    """64 bytes. A nonce of 32 bytes (a TPM's, whose room is small) is the digest alone. Raises `Malformed`."""
    said = verdict.claims.get(_REPORT_DATA.get(tee, "report_data"))
    try:
        found = bytes.fromhex(said) if isinstance(said, str) else b""
    except ValueError:
        found = b""
    if len(found) == _DIGEST_BYTES:
        found += bytes(_REPORT_BYTES - _DIGEST_BYTES)
    if len(found) != _REPORT_BYTES:
        # Refused evidence has no claims: then its verifier says why.
        raise Malformed(
            "; ".join(("the evidence vouches for no report data of 32 or 64 bytes", *verdict.reasons))
        )
    return found


def _tcb(tee: str, verdict: Verdict, trust: RoleTrust) -> Answer:
    if verdict.tcb is Answer.REFUSED and verdict.tcb_status in trust.tcb_statuses:
        return Answer.AFFIRMED
    if verdict.tcb is Answer.AFFIRMED and verdict.tcb_status and verdict.tcb_status not in trust.tcb_statuses:
        return Answer.REFUSED
    return verdict.tcb


def objections(tee: str, verdict: Verdict, trust: RoleTrust) -> tuple[str, ...]:
    """What the policy has against the platform, in plain language."""
    found: list[str] = []
    if verdict.tier is Status.CONTRAINDICATED:
        found.append("its own verifier refuses the evidence")
    claims = verdict.claims
    if claims.get("debug") is True:
        found.append("the machine is in debug mode")
    if tee in _WITH_SMT and not trust.allow_smt and claims.get("platform.smt") is not False:
        said = (
            "two threads share a core"
            if claims.get("platform.smt")
            else "nobody says whether two threads share a core"
        )
        found.append(f"{said} (SMT), which the policy refuses")
    status = verdict.tcb_status
    if status is not None and status not in trust.tcb_statuses:
        found.append(f"its TCB is {status}, which the policy does not name")
    if verdict.tcb is Answer.NOT_ESTABLISHED and tee not in _WITHOUT_TCB and not trust.allow_tcb_unknown:
        found.append("nobody says whether its TCB is up to date: endorsements are missing")
    if (
        verdict.revocation is Answer.NOT_ESTABLISHED
        and tee not in ANCHORED
        and not trust.allow_revocation_unknown
    ):
        found.append("nobody says whether its certificates were revoked: a revocation list is missing")
    if open_ := _advisories(claims, trust):
        found.append(f"advisories are open: {', '.join(open_)}")
    return tuple(found)


def _advisories(claims: Mapping[str, Scalar], trust: RoleTrust) -> list[str]:
    said = claims.get("tcb.advisories")
    if trust.advisories == ANY or not isinstance(said, str):
        return []
    return [word for word in said.replace(",", " ").split() if word not in trust.advisories]


def _vector(verdict: Verdict, chain: Answer, trust: RoleTrust) -> dict[str, int]:
    """AR4SI values: 2 recognised and genuine, 32 known but not up to date or unrecognised, 97 refused."""
    hardware = {Answer.AFFIRMED: 2, Answer.NOT_ESTABLISHED: 0, Answer.REFUSED: 97}[chain]
    if hardware == 2 and verdict.tcb is Answer.REFUSED:
        hardware = 32 if verdict.tier is Status.WARNING else 96
    pinned = trust.measurements != ANY
    found = {
        "instance-identity": {Answer.AFFIRMED: 2, Answer.REFUSED: 97}.get(verdict.signature, 0),
        "hardware": hardware,
        "executables": 2 if pinned else 33,
        "configuration": 96 if verdict.claims.get("debug") is True else 2,
    }
    if verdict.level >= 4:
        found["runtime-opaque"] = 2
    return found


def validate(proof: Proof, claims: Claims, trust: RoleTrust) -> tuple[str, ...]:
    """The platform's objections. Environments are in the claims, which the report data binds to a measured
    workload: what that workload says of itself is as good as its measurement.
    """
    del claims, trust
    return proof.objections


TEE: Final = Tee("platform", parse, verify, validate, complete)

__all__ = ["LEVEL_REASONS", "TEE", "complete", "judge", "objections", "parse", "validate", "verify"]
