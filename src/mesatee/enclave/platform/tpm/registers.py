"""Which registers (PCRs) count: what evidence quotes, what keys are sealed to, and where the launcher measures.

Evidence and sealing use the same registers: what another system could not show to a peer, it cannot unseal either.
"""

from __future__ import annotations

import hashlib
from typing import Final

from mesatee.attestation.evidence import unhex
from mesatee.enclave.platform.tpm.commands import Tpm
from mesatee.enclave.platform.tpm.wire import SHA256
from mesatee.errors import Conflict

RUNTIME_PCR: Final = 13
"""Where the launcher extends the measurement of this software: a register that no reset short of the machine's clears,
and that firmware, boot loader and kernel leave at zero (systemd uses it only for system extension images)."""
PINNED_PCRS: Final = (*range(10), 12, RUNTIME_PCR, 14)
"""So that one boot gives one measurement, which a trust file can pin: firmware and boot loader (0 to 7), kernel and
command line (8, 9, 12), keys of the boot loader (14) and this software. Left out is what changes while a system runs:
10 (IMA's), 11 and 15 (systemd's), and from 16 on what can be reset."""


def record(tpm: Tpm, measurement: str) -> None:
    """Extend `RUNTIME_PCR` by a measurement (hex of a digest), unless this boot has it already.

    Raises `Conflict` if something else was extended since the machine started: another version ran, and what it left
    behind is part of this boot.
    """
    digest = hashlib.sha256(unhex(measurement)).digest()
    once = hashlib.sha256(bytes(len(digest)) + digest).digest()
    found = tpm.pcr_read([RUNTIME_PCR])[RUNTIME_PCR]
    if found == once:
        return
    if any(found):
        raise Conflict(
            f"PCR {RUNTIME_PCR} already holds the measurement of something else",
            hint="another version ran since the machine started: start the machine anew",
        )
    tpm.pcr_extend(RUNTIME_PCR, digest, SHA256)


__all__ = ["PINNED_PCRS", "RUNTIME_PCR", "record"]
