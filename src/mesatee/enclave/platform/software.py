"""Software trust (level 2): this installation's key signs what `measure` found.

The installation key is made once for each machine, when MesaTEE is installed there. Owners pin its
fingerprint, which they learn out of band. Who can use this key can claim any measurement.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from mesatee import _core
from mesatee.attestation.evidence import Claims, report_data
from mesatee.attestation.tee import software
from mesatee.enclave.platform.measure import Measurement
from mesatee.errors import Conflict, Malformed, NotFound
from mesatee.protocol import limits


def installation_key(path: str | os.PathLike[str]) -> _core.SigningKey:
    """The key at `path` (mode 0600), made there if there is none. Raises `KeyRefused` or `Malformed`."""
    name = os.fspath(path)
    try:
        return _core.SigningKey.load(name)
    except NotFound:
        key = _core.SigningKey.generate()
    try:
        key.save(name)
    except Conflict:
        # Another process was first: its key counts.
        return _core.SigningKey.load(name)
    return key


class SoftwareAttester:
    """Signs claims together with this process's measurement."""

    tee: str = "software"
    level: int = 2

    def __init__(
        self,
        installation: _core.SigningKey,
        measurement: Measurement,
        life_seconds: int = limits.EVIDENCE_LIFE_SECONDS,
    ) -> None:
        """`life_seconds`: for how long its evidence is valid. Raises `Malformed` outside of 1 to the
        limit.
        """
        if not 1 <= life_seconds <= limits.EVIDENCE_LIFE_SECONDS:
            raise Malformed(f"evidence lives for 1 to {limits.EVIDENCE_LIFE_SECONDS} seconds")
        self._installation = installation
        self._components = measurement.components
        self._life = life_seconds

    @property
    def environments(self) -> Mapping[str, str]:
        """The measured environments: name -> digest, hex."""
        return self._components.environments

    @property
    def measurement(self) -> str:
        """The combined measurement, hex."""
        return self._components.measurement

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the installation's public key, hex: what trust policies pin."""
        return software.fingerprint(self._installation.public)

    def evidence(self, claims: Claims, at: int | None = None) -> bytes:
        """See `Attester.evidence`."""
        if not claims.cover(self._components.environments):
            raise Malformed("the claims name other environments than were measured")
        now = int(time.time()) if at is None else at
        system = os.uname()
        encoded = claims.encode()
        payload = software.payload(
            self._components,
            report_data(encoded),
            now,
            now + self._life,
            system.release[: limits.COLUMN_CHARS],
            system.machine[: limits.NAME_CHARS],
        )
        signature = self._installation.sign(software.to_be_signed(payload))
        return software.build(payload, self._installation.public, signature, encoded)


__all__ = ["SoftwareAttester", "installation_key"]
