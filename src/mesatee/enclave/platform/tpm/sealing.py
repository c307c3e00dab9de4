"""Sealing to the boot that was measured: a secret that the TPM gives back only while chosen PCRs are as they were.

The policy is one PolicyPCR (TPM 2.0 Part 3 section 23.7); the object has no password. What is kept on disk is the
TPM's own encrypted form of it, of use to no other TPM.

An object in the file's place that somebody else made, with a secret that he knows, is refused: it must be sealed to
the registers that we seal to, whatever the file says, and the TPM's creation ticket proves what they held when it was
made, which must be what they hold now. So what made it is what
booted, in the sense of these PCRs. What a superuser of that very system does is not told apart.
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
from mesatee.enclave.platform.tpm.commands import Created, Tpm
from mesatee.enclave.platform.tpm.public import sealed_template, storage_template
from mesatee.enclave.platform.tpm.registers import PINNED_PCRS
from mesatee.enclave.platform.tpm.wire import OWNER, SHA256, Code, Reader, selection, u32
from mesatee.errors import KeyRefused, Malformed, Unavailable, UnsupportedVersion

SECRET_BYTES: Final = 32
"""What is sealed, in bytes."""
FILE_BYTES: Final = 8 * 1024
"""The sealed object's file, in bytes: it has some 800."""
RESETTABLE: Final = 16
"""PCRs from this one on can be reset while the system runs (PC Client profile, table 4.2): no use for sealing."""
_FORMAT: Final = "mesatee tpm sealed v1"
_DEPTH: Final = 3
_PARTS: Final = ("private", "area", "creation", "ticket")


def pcr_policy(values: Mapping[int, bytes]) -> bytes:
    """The policy digest of a fresh session after one PolicyPCR of these SHA-256 PCR values."""
    digest = _pcr_digest(values)
    return hashlib.sha256(bytes(32) + u32(Code.POLICY_PCR) + selection(values, SHA256) + digest).digest()


def _pcr_digest(values: Mapping[int, bytes]) -> bytes:
    return hashlib.sha256(b"".join(value for _, value in sorted(values.items()))).digest()


@dataclass(frozen=True, slots=True)
class SealedObject:
    """A sealed secret, as it lies on disk. Nothing in it is secret."""

    pcrs: tuple[int, ...]
    made: Created

    def encode(self) -> bytes:
        """The file's content."""
        fields = {
            "format": _FORMAT,
            "pcrs": list(self.pcrs),
            **{name: getattr(self.made, name).hex() for name in _PARTS},
        }
        return json.dumps(fields, sort_keys=True).encode()

    @classmethod
    def parse(cls, data: bytes) -> SealedObject:
        """Raises `Malformed`, `TooLarge` or `UnsupportedVersion`."""
        fields = _core.parse_json(data, FILE_BYTES, _DEPTH)
        if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
            raise UnsupportedVersion(f"the sealed object is not of format {_FORMAT!r}")
        if set(fields) != {"format", "pcrs", *_PARTS}:
            raise Malformed("the sealed object has other fields than its format says")
        pcrs = fields["pcrs"]
        if not isinstance(pcrs, list) or not all(type(pcr) is int for pcr in pcrs):
            raise Malformed("'pcrs' of the sealed object is not a list of numbers")
        return cls(_sealable(pcrs), Created(*(_hex(fields[name]) for name in _PARTS)))


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


def seal_new(tpm: Tpm, pcrs: Iterable[int] = PINNED_PCRS) -> SealedObject:
    """Seal a new random secret to the PCRs as they are. Nobody sees it; `unseal` gives it.

    Nothing is sealed to values that an update will make of them: that would hand the keys to a system which nobody but
    the operator chose. An update gets them as another machine does, by hand-over or from shares.
    """
    chosen = _sealable(pcrs)
    with tpm.primary(OWNER, storage_template()) as parent:
        template = sealed_template(pcr_policy(tpm.pcr_read(chosen)))
        return SealedObject(chosen, tpm.create_sealed(parent.handle, template, _random(), chosen))


def unseal(tpm: Tpm, sealed: SealedObject, pcrs: Iterable[int] = PINNED_PCRS) -> _core.SecretKey:
    """The secret as a key. Raises `KeyRefused` if other PCRs, or another TPM, are found, or if the object was made
    under other PCRs than now.

    1. The object is sealed to `pcrs`: whoever plants a file would choose registers that his system leaves as ours does.
    2. It may be unsealed by the policy alone, and the policy is of the PCRs as they are.
    3. Its creation data names these PCRs, with the values of now.
    4. The TPM confirms that the creation data is this object's, and unseals.
    """
    # 1.
    if sealed.pcrs != _sealable(pcrs):
        raise KeyRefused(
            f"the key is sealed to PCR {_listed(sealed.pcrs)}, not to {_listed(_sealable(pcrs))}",
            hint="the file is another version's, or somebody else put it there",
        )
    values = tpm.pcr_read(sealed.pcrs)
    # 2.
    if not sealed.made.area.startswith(sealed_template(pcr_policy(values))[:-2]):
        raise KeyRefused(
            "the PCRs are not those to which the key is sealed, or it is sealed otherwise",
            hint="another system booted: start the former one, or hand the keys over again",
        )
    # 3.
    reader = Reader.of(sealed.made.creation)
    chosen = selection(sealed.pcrs)
    if reader.take(len(chosen)) != chosen or reader.sized(64) != _pcr_digest(values):
        raise KeyRefused("the sealed object was made under other PCRs: somebody else may know the secret")
    # 4.
    with tpm.primary(OWNER, storage_template()) as parent:
        secret = tpm.unseal(parent.handle, sealed.made, sealed.pcrs)
    # Overwritten there, whatever its length.
    return _core.SecretKey.adopt(secret)


def _listed(pcrs: Iterable[int]) -> str:
    return ", ".join(map(str, pcrs))


def _random() -> bytearray:
    """From the kernel, into memory that can be wiped: `os.urandom` gives bytes, which cannot."""
    kernel, room = Linux(), bytearray(SECRET_BYTES)
    with opened(kernel, Path("/dev/urandom"), os.O_RDONLY) as handle:
        if kernel.readinto(handle, room) != SECRET_BYTES:
            raise Unavailable("the kernel gave too little randomness")
    return room


__all__ = [
    "FILE_BYTES",
    "RESETTABLE",
    "SECRET_BYTES",
    "SealedObject",
    "pcr_policy",
    "seal_new",
    "unseal",
]
