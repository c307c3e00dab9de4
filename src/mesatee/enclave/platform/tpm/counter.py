"""A counter that only goes up: an NV index of type counter (TPM 2.0 Part 1 section 37.2.4).

It survives restarts and cannot be set back, not even by removing and defining it again: a TPM starts a new
counter from the highest value that any of its counters ever had. Whoever may use the TPM can count it up, or
remove it; that stops a service, it does not roll it back.

A simulated TPM's counter counts as simulated: its state is a file, which its owner copies back at will.
"""

from __future__ import annotations

from mesatee.enclave.platform.tpm.commands import (
    NV_AUTH_READ,
    NV_AUTH_WRITE,
    NV_COUNTER,
    NV_NO_DA,
    NV_WRITTEN,
    Tpm,
)
from mesatee.errors import Conflict, Malformed, NotFound

INDEX = 0x0180_4D54
"""Where the counter lies by default: in the owner's range (TCG registry of reserved handles), ending in "MT"."""
_BYTES = 8
_ATTRIBUTES = NV_COUNTER | NV_AUTH_READ | NV_AUTH_WRITE | NV_NO_DA
_SIMULATOR = "IBM SW"
"""What swtpm and libtpms call themselves."""


class NvCounter:
    """A monotonic counter in a TPM."""

    def __init__(self, tpm: Tpm, index: int = INDEX) -> None:
        self._tpm = tpm
        self._index = index

    def create(self) -> int:
        """Define and start it; returns its first value. Raises `Conflict` if something is there already."""
        if self._tpm.nv_public(self._index) is not None:
            raise Conflict(f"NV index {self._index:#x} is in use")
        self._tpm.nv_define(self._index, _ATTRIBUTES, _BYTES)
        # It has no value before it was counted up once.
        return self.increment()

    def increment(self) -> int:
        """One more; returns the new value. Raises `NotFound`."""
        self._check_counter()
        self._tpm.nv_increment(self._index)
        return self.read()

    def read(self) -> int:
        """The present value. Raises `NotFound` if it was never created."""
        if not self._check_counter() & NV_WRITTEN:
            raise NotFound(f"the counter at NV index {self._index:#x} was never counted up")
        return int.from_bytes(self._tpm.nv_read(self._index))

    def _check_counter(self) -> int:
        """The attributes. An ordinary index in its place could be written at will."""
        found = self._tpm.nv_public(self._index)
        if found is None:
            raise NotFound(f"the TPM has no counter at NV index {self._index:#x}")
        if found.attributes & 0xF0 != NV_COUNTER or found.size != _BYTES:
            raise Malformed(f"NV index {self._index:#x} is not a counter")
        return found.attributes

    @property
    def simulated(self) -> bool:
        """Whether the TPM says that it is software. Only a certified endorsement key proves the contrary."""
        return self._tpm.vendor().startswith(_SIMULATOR)


__all__ = ["INDEX", "NvCounter"]
