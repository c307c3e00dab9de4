"""Who stands at the other end of a channel, as the handshake established it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...attestation.appraisal import Appraisal
from ...attestation.endorsements import NOTHING, Endorsements


@dataclass(frozen=True, slots=True)
class Peer:
    """A verified peer: a party by its identity key, or a worker by its appraised evidence."""

    role: Literal["party", "worker"]
    key: str
    certificate: bytes
    appraisal: Appraisal | None
    endorsements: Endorsements = NOTHING
    """With whose help a worker was appraised."""


__all__ = ["Peer"]
