"""A machine without any attester (level 1)."""

from __future__ import annotations

from collections.abc import Mapping

from mesatee.attestation.evidence import Claims
from mesatee.attestation.tee import none


class NoAttester:
    """Passes the claims on and proves nothing."""

    tee: str = "none"
    level: int = 1
    measurement: str = ""

    def __init__(self, environments: Mapping[str, str] | None = None) -> None:
        """`environments`: name -> digest, which nothing vouches for."""
        self.environments: Mapping[str, str] = dict(environments or {})

    def evidence(self, claims: Claims, at: int | None = None) -> bytes:
        """See `Attester.evidence`."""
        return none.build(claims.encode())


__all__ = ["NoAttester"]
