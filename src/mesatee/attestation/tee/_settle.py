"""From separate answers to one tier, for verifiers whose evidence knows no TCB levels.

Such evidence (Nitro, Arm tokens, Keystone, SPDM measurements) says nothing about a TCB being up to date, so
that answer stays "not established" without lowering the tier. Everything that was refused or objected to
contraindicates, and what was not established of signature and chain leaves no tier at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mesatee.attestation.appraisal import Answer, Scalar, Status
from mesatee.attestation.verdict import Verdict


@dataclass(slots=True)
class Answers:
    """What a verifier has found so far."""

    signature: Answer = Answer.NOT_ESTABLISHED
    chain: Answer = Answer.NOT_ESTABLISHED
    revocation: Answer = Answer.NOT_ESTABLISHED
    binding: Answer = Answer.NOT_ESTABLISHED
    reasons: list[str] = field(default_factory=list)
    anchor: str | None = None
    """SHA-256 of the public key (SubjectPublicKeyInfo) or root certificate in which the chain ends, hex, where it is
    not a vendor's that is pinned here. Whoever trusts the evidence must pin it."""

    expires: int | None = None
    """When the first thing is over that the answers rely on, Unix seconds; see `Verdict.expires`."""

    @property
    def refused(self) -> bool:
        """Whether any answer is a refusal."""
        return Answer.REFUSED in (self.signature, self.chain, self.revocation, self.binding)

    @property
    def proven(self) -> bool:
        """Whether signature and chain are both affirmed."""
        return self.signature is Answer.AFFIRMED and self.chain is Answer.AFFIRMED


def settle(
    answers: Answers,
    objections: Sequence[str],
    *,
    level: int,
    measurement: str,
    claims: Mapping[str, Scalar],
    best: Status = Status.AFFIRMING,
    simulated: bool = False,
) -> Verdict:
    """The verdict. `best` is the tier if nothing speaks against the evidence; `level` counts only then."""
    tier = best if answers.proven else Status.NONE
    if answers.refused or objections:
        tier = Status.CONTRAINDICATED
    return Verdict(
        tier=tier,
        signature=answers.signature,
        chain=answers.chain,
        revocation=answers.revocation,
        tcb=Answer.NOT_ESTABLISHED,
        tcb_status=None,
        replay=Answer.NOT_ESTABLISHED,
        binding=answers.binding,
        level=level if tier is Status.AFFIRMING else 1,
        measurement=measurement,
        simulated=simulated,
        reasons=(*objections, *answers.reasons),
        claims=claims if answers.anchor is None else {**claims, "anchor": answers.anchor},
        expires=answers.expires,
    )


__all__ = ["Answers", "settle"]
