"""Who stands at the other end of a channel, as the handshake established it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...attestation.appraisal import Appraisal
from ...attestation.endorsements import NOTHING, Endorsements


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


__all__ = ["Peer"]
