"""SGX under Gramine: pseudo files that the library OS serves inside the enclave.

Source: Gramine, Documentation/attestation.rst. ``/dev/attestation/attestation_type`` says ``none``, ``dcap`` or
``epid`` (removed in 1.8); 64 bytes written to ``user_report_data`` go into the quote that is then read from
``quote``. The files are the process's own. ``keys/_sgx_mrenclave`` is a sealing key that the CPU derives from the
enclave's measurement, 16 bytes.

Tested against a fake of the files. No SGX machine was at hand.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mesatee.attestation.bundle import Bundle
from mesatee.enclave.platform.collect import exactly_64
from mesatee.enclave.platform.kernel import Kernel, Linux, read_file, read_secret, reported, wipe, write_file
from mesatee.errors import Malformed, NotFound, Unavailable

FOLDER: Final = Path("dev/attestation")
"""Gramine's pseudo files, below the root of the file system."""
QUOTE_BYTES: Final = 16 * 1024
"""A quote, in bytes: with its certificate chain some 4,700."""
SEALING_KEY_BYTES: Final = 16
_REPORT_DATA: Final = slice(368, 432)
"""Where a quote (version 3) carries the report data: 48 bytes of header, 320 into the report body."""
# Between the write and the read nobody else of this process may write.
_lock = threading.Lock()


class GramineCollector:
    """Collects a DCAP quote."""

    tee: str = "sgx"
    level: int = 4
    links: Mapping[str, bytes] = MappingProxyType({})

    def __init__(self, *, root: Path = Path("/"), kernel: Kernel | None = None) -> None:
        """Raises `NotFound` outside of Gramine, `Unavailable` if its manifest asks for no DCAP attestation."""
        self._kernel = kernel or Linux()
        self._folder = root / FOLDER
        with reported("Gramine's /dev/attestation"):
            kind = bytes(read_file(self._kernel, self._folder / "attestation_type", 64)).strip()
        if kind != b"dcap":
            raise Unavailable(
                f"Gramine's attestation type is {kind.decode('ascii', 'replace')!r}, not 'dcap'",
                hint='write sgx.remote_attestation = "dcap" into the manifest',
            )

    def collect(self, report_data: bytes) -> Bundle:
        """See `Collector.collect`."""
        data = exactly_64(report_data)
        with reported("Gramine's /dev/attestation"), _lock:
            write_file(self._kernel, self._folder / "user_report_data", data)
            quote = bytes(read_file(self._kernel, self._folder / "quote", QUOTE_BYTES))
        if quote[_REPORT_DATA] != data:
            raise Malformed("Gramine's quote does not carry our report data")
        return Bundle(self.tee, {"quote": quote})


def sealing_key(*, root: Path = Path("/"), kernel: Kernel | None = None) -> bytearray:
    """The key of this enclave's measurement on this CPU, 16 bytes. The caller wipes it.

    Raises `NotFound` outside of Gramine and `Unavailable` if it is no key: gramine-direct, which is no enclave,
    has none.
    """
    path = root / FOLDER / "keys" / "_sgx_mrenclave"
    with reported("Gramine's sealing key"):
        key = read_secret(kernel or Linux(), path, SEALING_KEY_BYTES)
    if not key:
        raise NotFound("Gramine has no sealing key here")
    if len(key) != SEALING_KEY_BYTES or not any(key):
        wipe(key)
        raise Unavailable(f"Gramine's sealing key is not one of {SEALING_KEY_BYTES} bytes")
    return key


__all__ = ["FOLDER", "QUOTE_BYTES", "SEALING_KEY_BYTES", "GramineCollector", "sealing_key"]
