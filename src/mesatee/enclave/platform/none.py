"""A machine without any attester (level 1)."""

from __future__ import annotations

from mesatee.attestation.evidence import Claims
from mesatee.attestation.tee import none


class NoAttester:
    """Passes the claims on and proves nothing."""

    tee: str = "none"
    measurement: str = ""

    def evidence(self, claims: Claims, at: int | None = None) -> bytes:
        """See `Attester.evidence`."""
        return none.build(claims.encode())


__all__ = ["NoAttester"]
