"""Who stands at the other end of a channel, as the handshake established it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...attestation.appraisal import Appraisal
from ...attestation.endorsements import NOTHING, Endorsements
from ...errors import EvidenceRefused, KeyRefused
from ...protocol.digests import sha256
from ...protocol.statements import WorkerFacts


@dataclass(frozen=True, slots=True)
class Peer:
    """A verified peer: a party by its identity key, or a worker or another gateway by its appraised evidence."""

    role: Literal["party", "worker", "gateway"]
    key: str
    certificate: bytes
    appraisal: Appraisal | None
    endorsements: Endorsements = NOTHING
    """With whose help a worker was appraised."""
    successor: str | None = None
    """SHA-256 of the key under which a gateway would receive keys, as its evidence vouches for it."""

    def facts(self, role: Literal["worker", "gateway"], service: str) -> WorkerFacts:
        """What was appraised of an attested machine of this role, whose evidence says that it serves `service`.

        Without that a host could let a worker of another service have the keys: it would wrap the outputs to that one.
        Raises `KeyRefused` for anybody else, and `EvidenceRefused` for a machine of another service.
        """
        found = self.appraisal
        if self.role != role or found is None:
            raise KeyRefused(f"only an attested {role} may do this")
        if found.service != service:
            raise EvidenceRefused(f"the evidence of the {role} does not say that it serves this service")
        return WorkerFacts(
            key=self.key,
            measurement=found.measurement or "none",
            level=found.level,
            tee=found.tee,
            simulated=found.simulated,
            evidence=found.evidence_digest,
            certificate=sha256(self.certificate),
        )


__all__ = ["Peer"]
