"""SNP reports as the JSON of named fields that Rust's `sev` crate and trustee write, put back into bytes.

The bytes are what was signed, so a wrong guess here only fails to verify.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from mesatee.attestation.tee import snp_report
from mesatee.errors import Malformed

_NUMBERS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "version": (0x00, 4),
        "guest_svn": (0x04, 4),
        "policy": (0x08, 8),
        "vmpl": (0x30, 4),
        "sig_algo": (0x34, 4),
        "plat_info": (0x40, 8),
        "key_info": (0x48, 4),
        "author_key_en": (0x48, 4),
        "_author_key_en": (0x48, 4),
        "cpuid_fam_id": (0x188, 1),
        "cpuid_mod_id": (0x189, 1),
        "cpuid_step": (0x18A, 1),
        "current_build": (0x1E8, 1),
        "current_minor": (0x1E9, 1),
        "current_major": (0x1EA, 1),
        "committed_build": (0x1EC, 1),
        "committed_minor": (0x1ED, 1),
        "committed_major": (0x1EE, 1),
        "launch_mit_vector": (0x1F8, 8),
        "current_mit_vector": (0x200, 8),
    }
)
_BYTES: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "family_id": (0x10, 16),
        "image_id": (0x20, 16),
        "report_data": (0x50, 64),
        "measurement": (0x90, 48),
        "host_data": (0xC0, 32),
        "id_key_digest": (0xE0, 48),
        "author_key_digest": (0x110, 48),
        "report_id": (0x140, 32),
        "report_id_ma": (0x160, 32),
        "chip_id": (0x1A0, 64),
    }
)
_TCBS: Final[Mapping[str, int]] = MappingProxyType(
    {"current_tcb": 0x38, "reported_tcb": 0x180, "committed_tcb": 0x1E0, "launch_tcb": 0x1F0}
)
_R, _S, _NUMBER_BYTES = 0x2A0, 0x2E8, 72


def rebuild(value: Mapping[str, Any]) -> bytes:
    """The bytes of a report from its fields; fields that are missing are zero. Raises `Malformed`."""
    data = bytearray(snp_report.REPORT_BYTES)
    for name, (offset, size) in _NUMBERS.items():
        if value.get(name) is not None:
            data[offset : offset + size] = _number(value[name], size)
    for name, (offset, size) in _BYTES.items():
        if name in value:
            data[offset : offset + size] = _sequence(value[name], size)
    for name, offset in _TCBS.items():
        if name in value:
            data[offset : offset + 8] = _tcb(value[name])
    signature = value.get("signature")
    if not isinstance(signature, dict):
        raise Malformed("the SNP report in JSON has no signature")
    data[_R : _R + _NUMBER_BYTES] = _sequence(signature.get("r"), _NUMBER_BYTES)
    data[_S : _S + _NUMBER_BYTES] = _sequence(signature.get("s"), _NUMBER_BYTES)
    return bytes(data)


def _number(value: Any, size: int) -> bytes:
    if type(value) is not int or not 0 <= value < 1 << 8 * size:
        raise Malformed(f"a field of the SNP report in JSON is not a number of {size} bytes")
    return value.to_bytes(size, "little")


def _sequence(value: Any, size: int) -> bytes:
    fits = isinstance(value, list) and len(value) == size
    if not fits or not all(type(item) is int and 0 <= item < 256 for item in value):
        raise Malformed(f"a field of the SNP report in JSON is not {size} bytes")
    return bytes(value)


def _tcb(value: Any) -> bytes:
    if type(value) is int:
        return _number(value, 8)
    if not isinstance(value, dict):
        raise Malformed("a TCB of the SNP report in JSON is not an object")

    def part(name: str) -> int:
        return _number(value.get(name, 0), 1)[0]

    low = [part("bootloader"), part("tee")]
    # Only Turin has an FMC, and another order.
    if value.get("fmc") is not None:
        return struct.pack("8B", part("fmc"), *low, part("snp"), 0, 0, 0, part("microcode"))
    return struct.pack("8B", *low, 0, 0, 0, 0, part("snp"), part("microcode"))


__all__ = ["rebuild"]
