"""Sealing to the boot that was measured: a secret that the TPM gives back only while chosen PCRs are as they were.

The policy is one PolicyPCR (TPM 2.0 Part 3 section 23.7); the object has no password. What is kept on disk is the
TPM's own encrypted form of it, of use to no other TPM.

What it does not prove: who made the object. Whoever may use this TPM can seal another secret to the same PCRs and
put it in the file's place. That opens nothing which was sealed before; that the keys are still the service's own
is what owners check by the service statement's digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesatee import _core
from mesatee.enclave.platform.kernel import Linux, opened
from mesatee.enclave.platform.tpm.commands import Tpm
from mesatee.enclave.platform.tpm.public import sealed_template, storage_template
from mesatee.enclave.platform.tpm.wire import OWNER, SHA256, Code, selection, u32
from mesatee.errors import Malformed, Unavailable, UnsupportedVersion

SECRET_BYTES: Final = 32
"""What is sealed, in bytes."""
FILE_BYTES: Final = 8 * 1024
"""The sealed object's file, in bytes: it has some 800."""
RESETTABLE: Final = 16
"""PCRs from this one on can be reset while the system runs (PC Client profile, table 4.2): no use for sealing."""
DEFAULT_PCRS: Final = (0, 2, 4, 7, 8, 9)
"""Firmware, option ROMs, boot loader, secure boot, and what the boot loader measured of kernel and command line."""
_FORMAT: Final = "mesatee tpm sealed v1"
_DEPTH: Final = 3


def pcr_policy(values: Mapping[int, bytes]) -> bytes:
    """The policy digest of a fresh session after one PolicyPCR of these SHA-256 PCR values."""
    digest = hashlib.sha256(b"".join(value for _, value in sorted(values.items()))).digest()
    return hashlib.sha256(bytes(32) + u32(Code.POLICY_PCR) + selection(values, SHA256) + digest).digest()


@dataclass(frozen=True, slots=True)
class SealedObject:
    """A sealed secret, as it lies on disk. Nothing in it is secret."""

    pcrs: tuple[int, ...]
    private: bytes
    """TPM2B_PRIVATE's content: encrypted by the TPM."""
    public: bytes
    """TPMT_PUBLIC, with the policy's digest."""

    def encode(self) -> bytes:
        """The file's content."""
        fields = {
            "format": _FORMAT,
            "pcrs": list(self.pcrs),
            "private": self.private.hex(),
            "public": self.public.hex(),
        }
        return json.dumps(fields, sort_keys=True).encode()

    @classmethod
    def parse(cls, data: bytes) -> SealedObject:
        """Raises `Malformed`, `TooLarge` or `UnsupportedVersion`."""
        fields = _core.parse_json(data, FILE_BYTES, _DEPTH)
        if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
            raise UnsupportedVersion(f"the sealed object is not of format {_FORMAT!r}")
        if set(fields) != {"format", "pcrs", "private", "public"}:
            raise Malformed("the sealed object has other fields than its format says")
        pcrs = fields["pcrs"]
        if not isinstance(pcrs, list) or not all(type(pcr) is int for pcr in pcrs):
            raise Malformed("'pcrs' of the sealed object is not a list of numbers")
        return cls(_sealable(pcrs), _hex(fields["private"]), _hex(fields["public"]))


def _hex(value: object) -> bytes:
    try:
        return bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        raise Malformed("a field of the sealed object is not hex") from None


def _sealable(pcrs: Iterable[int]) -> tuple[int, ...]:
    chosen = tuple(sorted(set(pcrs)))
    if not chosen or not all(0 <= pcr < RESETTABLE for pcr in chosen):
        raise Malformed(f"keys are sealed to one or more of the PCRs 0 to {RESETTABLE - 1}")
    return chosen


def seal_new(
    tpm: Tpm, pcrs: Iterable[int] = DEFAULT_PCRS, expected: Mapping[int, bytes] | None = None
) -> SealedObject:
    """Seal a new random secret to the PCRs as they are, or to the values that an update will make of them.

    `expected`: PCR -> value in place of the present one. Nobody sees the secret; `unseal` gives it.
    """
    chosen = _sealable(pcrs)
    values = tpm.pcr_read(chosen) | {pcr: value for pcr, value in (expected or {}).items() if pcr in chosen}
    if expected and set(expected) - set(chosen):
        raise Malformed("values are expected of PCRs that are not sealed to")
    with tpm.primary(OWNER, storage_template()) as parent:
        template = sealed_template(pcr_policy(values))
        private, public = tpm.create_sealed(parent.handle, template, _random())
    return SealedObject(chosen, private, public)


def unseal(tpm: Tpm, sealed: SealedObject) -> _core.SecretKey:
    """The secret as a key. Raises `KeyRefused` if other PCRs, or another TPM, are found."""
    with tpm.primary(OWNER, storage_template()) as parent:
        secret = tpm.unseal(parent.handle, sealed.private, sealed.public, sealed.pcrs)
    # Overwritten there, whatever its length.
    return _core.SecretKey.adopt(secret)


def _random() -> bytearray:
    """From the kernel, into memory that can be wiped: `os.urandom` gives bytes, which cannot."""
    kernel, room = Linux(), bytearray(SECRET_BYTES)
    with opened(kernel, Path("/dev/urandom"), os.O_RDONLY) as handle:
        if kernel.readinto(handle, room) != SECRET_BYTES:
            raise Unavailable("the kernel gave too little randomness")
    return room


__all__ = [
    "DEFAULT_PCRS",
    "FILE_BYTES",
    "RESETTABLE",
    "SECRET_BYTES",
    "SealedObject",
    "pcr_policy",
    "seal_new",
    "unseal",
]
