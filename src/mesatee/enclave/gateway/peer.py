"""Who stands at the other end of a channel, as the handshake established it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...attestation.appraisal import Appraisal
from ...attestation.endorsements import NOTHING, Endorsements
from ...errors import KeyRefused
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


def facts_of(peer: Peer) -> WorkerFacts:
    """What was appraised of a worker. Raises `KeyRefused` for anybody else."""
    if peer.role != "worker" or peer.appraisal is None:
        raise KeyRefused("only an attested worker may do this")
    return appraised(peer, peer.appraisal)


def appraised(peer: Peer, found: Appraisal) -> WorkerFacts:
    """What is written into the log of a peer's appraisal."""
    return WorkerFacts(
        key=peer.key,
        measurement=found.measurement or "none",
        level=found.level,
        tee=found.tee,
        simulated=found.simulated,
        evidence=found.evidence_digest,
        certificate=sha256(peer.certificate),
    )


__all__ = ["Peer", "appraised", "facts_of"]
