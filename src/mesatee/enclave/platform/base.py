"""What an attester of this machine must offer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mesatee.attestation.evidence import Claims


class Attester(Protocol):
    """Produces evidence that binds claims to this machine. Verifying is `mesatee.attestation`'s job."""

    @property
    def tee(self) -> str:
        """Class of the TEE, as in `mesatee.attestation.evidence.TEE_OF_TAG`."""

    @property
    def level(self) -> int:
        """The level that its evidence can prove, 1 to 5."""

    @property
    def environments(self) -> Mapping[str, str]:
        """The execution environments that were measured: name -> digest, hex."""

    @property
    def measurement(self) -> str:
        """What evidence of this attester will say was measured, hex; empty when nothing is."""

    def evidence(self, claims: Claims, at: int | None = None) -> bytes:
        """The value of certificate extension 2.23.133.5.4.9 for these claims.

        `at` (Unix seconds) is the time that the evidence carries, if it carries one; by default this
        machine's clock. Raises `Malformed` for claims that this attester cannot vouch for and `Unavailable`
        if the machine fails.
        """


__all__ = ["Attester"]
