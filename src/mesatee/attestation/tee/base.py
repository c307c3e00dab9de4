"""What a module of one TEE must offer: parse -> verify -> validate.

parse     bytes to a frozen struct. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`, nothing else.
verify    signatures, chains and times, against the trust anchors and `at`. Answers, never decides.
validate  the proven values against the policy and the claims. Returns objections in plain language.

To add a TEE: its module here, its row in `evidence.TEE_OF_TAG`, and its row in `verify.TEE_MODULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mesatee.attestation.appraisal import Answer, Scalar
from mesatee.attestation.endorsements import NOTHING, Endorsements
from mesatee.attestation.evidence import Claims
from mesatee.attestation.trust import RoleTrust

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class Proof:
    """What `verify` established."""

    level: int
    level_reason: str
    simulated: bool
    hardware: bool
    measurement: str
    """Hex; empty when nothing was measured."""
    report_data: bytes
    """64 bytes."""
    signature: Answer
    chain: Answer
    tcb: Answer
    freshness: Answer
    expires: int | None
    """When the evidence ends, or the first of the endorsements that were relied on, Unix seconds; None when nothing of
    it ends."""
    reasons: tuple[str, ...] = ()
    objections: tuple[str, ...] = ()
    """What the policy has against the platform, where `verify` can say it best."""
    environments: Mapping[str, str] = field(default_factory=dict)
    """Environments that the evidence itself measures, hex."""
    claims: Mapping[str, Scalar] = field(default_factory=dict)
    vector: Mapping[str, int] = field(default_factory=dict)
    """AR4SI values, see `appraisal.VECTOR`."""


@dataclass(frozen=True, slots=True)
class Tee(Generic[Parsed]):
    """One TEE's three steps."""

    name: str
    parse: Callable[[bytes], Parsed]
    verify: Callable[[Parsed, RoleTrust, int], Proof]
    validate: Callable[[Proof, Claims, RoleTrust], tuple[str, ...]]

    complete: Callable[[Parsed, Endorsements], Parsed] | None = None
    """Adds endorsements to evidence that can use any."""

    def prove(self, body: bytes, trust: RoleTrust, at: int, endorsements: Endorsements = NOTHING) -> Proof:
        """Parse, complete and verify."""
        parsed = self.parse(body)
        if self.complete is not None:
            parsed = self.complete(parsed, endorsements)
        return self.verify(parsed, trust, at)


__all__ = ["Proof", "Tee"]
