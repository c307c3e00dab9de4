"""RISC-V Keystone: a report by the security monitor.

Source: Keystone, sdk/include/shared/eyrie_call.h and sm_call.h, runtime/call/syscall.c. Inside an enclave,
``attest_enclave(report, data, size)`` is system call 1003 of the Eyrie runtime, which asks the security monitor (SBI
call 3002) and always writes 2048 bytes; the report is the first 1352 of them (packed `report_t`).

What cannot run here, and is not claimed to: this system call exists in no Linux kernel and Python has no call for it,
so the program that puts MesaTEE into a Keystone enclave hands the call in as a function. Only what is checked of its
answer is tested, against a function that answers as the documents say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from mesatee.attestation.bundle import Bundle
from mesatee.enclave.platform.collect import exactly_64
from mesatee.errors import Malformed, Unavailable

SYSTEM_CALL: Final = 1003
"""RUNTIME_SYSCALL_ATTEST_ENCLAVE."""
BUFFER_BYTES: Final = 2048
"""What the runtime writes, in bytes, whatever the report's size."""
REPORT_BYTES: Final = 1352
_DATA_LENGTH: Final = slice(64, 72)
_DATA: Final = slice(72, 136)

Attest = Callable[[bytearray, bytes], int]
"""``attest(report, data)`` fills the 2048 bytes of `report` and returns what the system call returns."""


class KeystoneCollector:
    """Collects a security monitor's report."""

    tee: str = "keystone"
    level: int = 4
    links: Mapping[str, bytes] = MappingProxyType({})

    def __init__(self, attest: Attest) -> None:
        """`attest`: the runtime's system call."""
        self._attest = attest

    def collect(self, report_data: bytes) -> Bundle:
        """See `Collector.collect`."""
        data = exactly_64(report_data)
        room = bytearray(BUFFER_BYTES)
        if (result := self._attest(room, data)) != 0:
            raise Unavailable(f"Keystone's runtime gave no report: {result}")
        if len(room) != BUFFER_BYTES:
            raise Malformed("Keystone's runtime changed the size of the buffer")
        if int.from_bytes(room[_DATA_LENGTH], "little") != len(data) or room[_DATA] != data:
            raise Malformed("Keystone's report does not carry our report data")
        return Bundle(self.tee, {"report": bytes(room[:REPORT_BYTES])})


__all__ = ["BUFFER_BYTES", "REPORT_BYTES", "SYSTEM_CALL", "Attest", "KeystoneCollector"]
