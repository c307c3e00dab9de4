"""No TEE (level 1): the peer says which key, role and service it has, and proves nothing.

The body is the 64 bytes of report data, unsigned, so that the same binding check runs on it as on every other
kind. It is accepted only where a policy lists the class ``none`` and asks for level 1 and for no measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mesatee.attestation.appraisal import Answer
from mesatee.attestation.evidence import TAG_NONE, Claims, encode, report_data
from mesatee.attestation.tee.base import Proof, Tee
from mesatee.attestation.trust import RoleTrust
from mesatee.errors import Malformed

LEVEL_REASON: Final = (
    "nothing is proven: the peer only asserts its key, role and service; whoever runs it can read all data"
)


@dataclass(frozen=True, slots=True)
class NoEvidence:
    """The body of a peer without a TEE."""

    report_data: bytes


def build(claims: bytes) -> bytes:
    """The extension's value for these claims."""
    return encode(TAG_NONE, report_data(claims), claims)


def parse(body: bytes) -> NoEvidence:
    """Raises `Malformed`."""
    if len(body) != 64:
        raise Malformed("the body of evidence `none` is not 64 bytes of report data")
    return NoEvidence(body)


def verify(parsed: NoEvidence, trust: RoleTrust, at: int) -> Proof:
    """Nothing can be established."""
    return Proof(
        level=1,
        level_reason=LEVEL_REASON,
        simulated=False,
        hardware=False,
        measurement="",
        report_data=parsed.report_data,
        signature=Answer.NOT_ESTABLISHED,
        chain=Answer.NOT_ESTABLISHED,
        tcb=Answer.NOT_ESTABLISHED,
        freshness=Answer.NOT_ESTABLISHED,
        expires=None,
        reasons=(LEVEL_REASON,),
    )


def validate(proof: Proof, claims: Claims, trust: RoleTrust) -> tuple[str, ...]:
    """Its claims are self-asserted: there is nothing to compare them with."""
    return ()


TEE: Final = Tee("none", parse, verify, validate)

__all__ = ["LEVEL_REASON", "TEE", "NoEvidence", "build", "parse", "validate", "verify"]
