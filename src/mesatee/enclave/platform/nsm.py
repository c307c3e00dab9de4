"""AWS Nitro Enclaves: /dev/nsm, the enclave's Nitro Secure Module (Linux 6.8 on, or the vendor's driver).

Source: Linux, include/uapi/linux/nsm.h; aws-nitro-enclaves-nsm-api. One ioctl carries a CBOR request of at most
4 KiB and room for a response of at most 12 KiB:

    {"Attestation": {"user_data": bstr / null, "nonce": bstr / null, "public_key": bstr / null}}
    {"Attestation": {"document": bstr}}  or  {"Error": tstr}

Mainline asks for CAP_SYS_ADMIN. Tested against a fake of the device. No such enclave was at hand.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mesatee.attestation import _cbor
from mesatee.attestation.bundle import Bundle
from mesatee.enclave.platform.collect import exactly_64
from mesatee.enclave.platform.kernel import Buffer, Kernel, Linux, opened, reported
from mesatee.errors import Malformed, Unavailable

DEVICE: Final = Path("dev/nsm")
"""The device, below the root of the file system."""
RAW: Final = 0xC020_0A00
REQUEST_BYTES: Final = 0x1000
RESPONSE_BYTES: Final = 0x3000
_RAW: Final = struct.Struct("<QQQQ")


class NsmCollector:
    """Collects an attestation document."""

    tee: str = "nitro"
    level: int = 4
    links: Mapping[str, bytes] = MappingProxyType({})

    def __init__(self, *, root: Path = Path("/"), kernel: Kernel | None = None) -> None:
        """Nothing is opened yet."""
        self._kernel = kernel or Linux()
        self._path = root / DEVICE

    def collect(self, report_data: bytes) -> Bundle:
        """See `Collector.collect`. The report data is the document's ``user_data``."""
        wanted = {"user_data": exactly_64(report_data), "nonce": None, "public_key": None}
        response = self._ask(_cbor.encode({"Attestation": wanted}))
        found = _cbor.Fields.of("the security module's response", _cbor.decode(response, RESPONSE_BYTES))
        if found.has("Error"):
            raise Unavailable(f"the security module refused: {found.text('Error')}")
        inner = found.fields("Attestation")
        found.done()
        document = inner.values.get("document")
        if set(inner.values) != {"document"} or not isinstance(document, bytes) or not document:
            raise Malformed("the security module's response has no document")
        return Bundle(self.tee, {"document": document})

    def _ask(self, request: bytes) -> bytes:
        if len(request) > REQUEST_BYTES:
            raise Malformed(f"a request to the security module has more than {REQUEST_BYTES} bytes")
        sent, room = Buffer(request), Buffer(bytes(RESPONSE_BYTES))
        message = bytearray(_RAW.pack(sent.address, len(sent), room.address, len(room)))
        with reported("/dev/nsm"), opened(self._kernel, self._path, os.O_RDWR) as handle:
            self._kernel.ioctl(handle, RAW, message)
        size = _RAW.unpack(message)[3]
        if not 0 < size <= len(room):
            raise Malformed(f"the security module says that its response has {size} bytes")
        return bytes(room)[:size]


__all__ = ["DEVICE", "RAW", "REQUEST_BYTES", "RESPONSE_BYTES", "NsmCollector"]
