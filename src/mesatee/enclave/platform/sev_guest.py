"""/dev/sev-guest, AMD's own interface for SEV-SNP reports and derived keys (Linux 5.19 on).

Source: Linux, include/uapi/linux/sev-guest.h and Documentation/virt/coco/sev-guest.rst; AMD 56860 (SNP firmware ABI),
sections 7.2 (derived keys) and 7.3 (reports). Every request is a structure with the addresses of another two, for
the request and for the response; the firmware's and the host's error codes come back in it even if the call fails.

Tested against a fake of the device. No such machine was at hand.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mesatee.attestation.bundle import Bundle
from mesatee.enclave.platform import snp_certs
from mesatee.enclave.platform.collect import exactly_64
from mesatee.enclave.platform.kernel import Buffer, Kernel, Linux, opened, reported, wipe
from mesatee.errors import Malformed, TooLarge, Unavailable

DEVICE: Final = Path("dev/sev-guest")
"""The device, below the root of the file system."""
GET_REPORT: Final = 0xC020_5300
GET_DERIVED_KEY: Final = 0xC020_5301
GET_EXT_REPORT: Final = 0xC020_5302
REPORT_BYTES: Final = 1184
"""An attestation report (56860, table 23)."""
ATTEMPTS: Final = 6
"""How often is asked while the host is busy."""
WAIT_SECONDS: Final = 0.25
"""Between attempts, in seconds: the host lets a guest ask some times a second."""
_GUEST_REQUEST: Final = struct.Struct("<B7xQQQ")
_REPORT_REQUEST: Final = struct.Struct("<64sI28x")
_EXT_REQUEST: Final = struct.Struct("<64sI28xQI4x")
_KEY_REQUEST: Final = struct.Struct("<IIQIIQ")
_RESPONSE_BYTES: Final = 4000
_KEY_RESPONSE_BYTES: Final = 64
_HEADER: Final = 32
_KEY_BYTES: Final = 32
_PAGE: Final = 4096
_VERSION: Final = 1
_TOO_SHORT: Final = 1
_BUSY: Final = 2
_AGAIN: Final = frozenset({errno.EAGAIN, errno.EBUSY, errno.EINTR})

# 56860, table 19: what is mixed into a derived key.
MIX_POLICY: Final = 1 << 0
MIX_IMAGE_ID: Final = 1 << 1
MIX_FAMILY_ID: Final = 1 << 2
MIX_MEASUREMENT: Final = 1 << 3
MIX_SVN: Final = 1 << 4
MIX_TCB: Final = 1 << 5


@dataclass(frozen=True, slots=True)
class _Codes:
    """What came back in ``exitinfo2``."""

    firmware: int
    host: int


class SevGuest:
    """The device's three requests."""

    def __init__(self, *, root: Path = Path("/"), kernel: Kernel | None = None) -> None:
        """Nothing is opened yet."""
        self._kernel = kernel or Linux()
        self._path = root / DEVICE

    def report(self, data: bytes, vmpl: int = 0) -> bytes:
        """SNP_GET_REPORT: the report alone."""
        response = Buffer(bytes(_RESPONSE_BYTES))
        codes = self._ask(GET_REPORT, Buffer(_REPORT_REQUEST.pack(exactly_64(data), vmpl)), response)
        _check(codes)
        return _report(bytes(response))

    def extended_report(self, data: bytes, vmpl: int = 0) -> tuple[bytes, bytes]:
        """SNP_GET_EXT_REPORT: the report and the host's certificate table, which may be empty."""
        room = 4 * _PAGE
        for _ in range(2):
            table, response = Buffer(bytes(room)), Buffer(bytes(_RESPONSE_BYTES))
            request = Buffer(_EXT_REQUEST.pack(exactly_64(data), vmpl, table.address, len(table)))
            codes = self._ask(GET_EXT_REPORT, request, response)
            if codes.host != _TOO_SHORT:
                _check(codes)
                return _report(bytes(response)), bytes(table)
            # The length that is needed was written back.
            needed = _EXT_REQUEST.unpack(bytes(request))[3]
            if not room < needed <= snp_certs.TABLE_BYTES or needed % _PAGE:
                raise TooLarge(f"the host's certificate table has {needed} bytes")
            room = needed
        raise Unavailable("the host's certificate table grows while it is read")

    def derived_key(self, mix: int, vmpl: int = 0, svn: int = 0, tcb: int = 0) -> bytearray:
        """SNP_GET_DERIVED_KEY from the chip's endorsement key: 32 bytes, which the caller wipes."""
        response = Buffer(bytes(_KEY_RESPONSE_BYTES))
        request = Buffer(_KEY_REQUEST.pack(0, 0, mix, vmpl, svn, tcb))
        _check(self._ask(GET_DERIVED_KEY, request, response))
        secret = response.move(_HEADER, _HEADER + _KEY_BYTES)
        if int.from_bytes(bytes(response)[:4], "little") != 0 or not any(secret):
            wipe(secret)
            raise Unavailable("the SNP firmware gave no derived key")
        return secret

    def _ask(self, request: int, argument: Buffer, response: Buffer) -> _Codes:
        packed = _GUEST_REQUEST.pack(_VERSION, argument.address, response.address, 0)
        with reported("/dev/sev-guest"), opened(self._kernel, self._path, os.O_RDWR) as handle:
            for attempt in range(ATTEMPTS):
                if attempt:
                    time.sleep(WAIT_SECONDS)
                message = bytearray(packed)
                failed: OSError | None = None
                try:
                    self._kernel.ioctl(handle, request, message)
                except OSError as error:
                    failed = error
                info = _GUEST_REQUEST.unpack(message)[3]
                codes = _Codes(info & 0xFFFF_FFFF, info >> 32)
                if codes.host == _BUSY or (failed is not None and failed.errno in _AGAIN):
                    continue
                if failed is not None and codes == _Codes(0, 0):
                    raise failed
                return codes
        raise Unavailable(f"/dev/sev-guest was busy {ATTEMPTS} times")


def _check(codes: _Codes) -> None:
    if codes != _Codes(0, 0):
        raise Unavailable(
            f"/dev/sev-guest: firmware error {codes.firmware:#x}, host error {codes.host:#x}",
            hint="the codes are those of AMD 56860 and of the GHCB specification",
        )


def _report(response: bytes) -> bytes:
    """MSG_REPORT_RSP (56860, table 25): status, size, 24 reserved bytes, the report."""
    status, size = struct.unpack_from("<II", response)
    if status != 0:
        raise Unavailable(f"the SNP firmware gave no report: status {status:#x}")
    if size != REPORT_BYTES:
        raise Malformed(f"an SNP report has {size} bytes, not {REPORT_BYTES}")
    return response[_HEADER : _HEADER + size]


class SevGuestCollector:
    """Collects by /dev/sev-guest, for kernels without configfs-tsm."""

    tee: str = "snp"
    level: int = 4
    links: Mapping[str, bytes] = MappingProxyType({})

    def __init__(self, *, root: Path = Path("/"), kernel: Kernel | None = None, vmpl: int = 0) -> None:
        """`vmpl`: the privilege level that the report is for."""
        self._device = SevGuest(root=root, kernel=kernel)
        self._vmpl = vmpl

    def collect(self, report_data: bytes) -> Bundle:
        """See `Collector.collect`."""
        report, table = self._device.extended_report(report_data, self._vmpl)
        return Bundle(self.tee, {"report": report, **snp_certs.pieces(table)})


__all__ = [
    "DEVICE",
    "GET_DERIVED_KEY",
    "GET_EXT_REPORT",
    "GET_REPORT",
    "MIX_FAMILY_ID",
    "MIX_IMAGE_ID",
    "MIX_MEASUREMENT",
    "MIX_POLICY",
    "MIX_SVN",
    "MIX_TCB",
    "SevGuest",
    "SevGuestCollector",
]
