"""What a TEE's verifier says of one piece of evidence with its endorsements, before any channel or role is known.

`appraisal.Appraisal` is about a peer, under a party's trust policy. A `Verdict` is about evidence alone, under
the corpus policy (`corpus.CorpusPolicy`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mesatee.attestation.appraisal import Answer, Scalar, Status


@dataclass(frozen=True, slots=True)
class Verdict:
    """Separate answers to separate questions, and the tier that they deserve together."""

    tier: Status
    signature: Answer
    """The evidence is signed by the key that it names."""
    chain: Answer
    """That key descends from a trusted root."""
    revocation: Answer
    """No certificate on the way was revoked."""
    tcb: Answer
    """The platform is up to date."""
    tcb_status: str | None
    """The vendor's word for it, if it has one."""
    replay: Answer
    """The event log leads to the measured registers."""
    binding: Answer
    """The evidence vouches for the nonce, key or claims that came with it."""
    level: int
    """1 to 5, see `appraisal.LEVELS`."""
    measurement: str
    """Hex; empty when nothing was measured."""
    simulated: bool
    reasons: tuple[str, ...] = ()
    claims: Mapping[str, Scalar] = field(default_factory=dict)
    expires: int | None = None
    """The earliest end of what the verdict relied on (certificates, revocation lists, the vendor's statements), Unix
    seconds; None when nothing of it ends. No appraisal may outlive it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "claims", MappingProxyType(dict(sorted(self.claims.items()))))

    def as_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return {
            "tier": self.tier.value,
            "signature": self.signature.value,
            "chain": self.chain.value,
            "revocation": self.revocation.value,
            "tcb": self.tcb.value,
            "tcb_status": self.tcb_status,
            "replay": self.replay.value,
            "binding": self.binding.value,
            "level": self.level,
            "measurement": self.measurement,
            "simulated": self.simulated,
            "reasons": list(self.reasons),
            "claims": dict(self.claims),
            "expires": self.expires,
        }


__all__ = ["Verdict"]
