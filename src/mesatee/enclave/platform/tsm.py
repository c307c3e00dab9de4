"""configfs-tsm, the kernel's common interface for reports of AMD SEV-SNP, Intel TDX and Arm CCA (Linux 6.7 on).

Source: Linux, Documentation/ABI/testing/configfs-tsm-report and drivers/virt/coco/guest/report.c. One request:

1. Make an entry; ENXIO says that no provider is registered.
2. Read ``provider``, which says the format; write ``privlevel`` as decimal text where one is asked for.
3. Write ``inblob``, at most 64 bytes, by one write. configfs passes it on when the file is closed and drops the
   result of that, so only ``generation`` tells whether it was taken.
4. Read ``outblob`` and, for SNP, ``auxblob``: the report is made at the first read.
5. ``generation`` must have grown by the number of our writes: otherwise the report is somebody else's.
6. Remove the entry, also after a failure: entries stay until somebody does.

Tested against a fake of these files. No machine with such a provider was at hand.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mesatee.attestation.bundle import Bundle
from mesatee.enclave.platform import snp_certs
from mesatee.enclave.platform.collect import exactly_64
from mesatee.enclave.platform.kernel import Kernel, Linux, read_file, reported, write_file
from mesatee.errors import Conflict, Malformed, Unavailable, UnsupportedVersion

REPORTS: Final = Path("sys/kernel/config/tsm/report")
"""Where entries are made, below the root of the file system."""
CCEL: Final = Path("sys/firmware/acpi/tables/data/CCEL")
"""The confidential computing event log of a TDX guest (UEFI 2.11 section 38)."""
CCEL_BYTES: Final = 1024 * 1024
"""The event log as the firmware reserves room for it, in bytes; the part in use is far smaller."""
OUTBLOB_BYTES: Final = 32 * 1024
"""A report, in bytes (TSM_REPORT_OUTBLOB_MAX is 32 KiB, 16 MiB in later kernels, which no provider needs)."""
ATTEMPTS: Final = 5
"""How often a request is made while the device is busy or another process interferes."""
WAIT_SECONDS: Final = 0.1
"""Before the second attempt; doubled before each further one. The host limits how often a guest may ask."""
PRIVILEGE_LEVELS: Final = range(4)
_AGAIN: Final = frozenset({errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT})
_PROVIDERS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {"sev_guest": ("snp", "report"), "tdx_guest": ("tdx", "quote"), "arm_cca_guest": ("cca", "token")}
)
"""Name of the provider -> class of TEE and role of the report."""


class TsmCollector:
    """Collects by configfs-tsm."""

    level: int = 4
    links: Mapping[str, bytes] = MappingProxyType({})

    def __init__(
        self, *, root: Path = Path("/"), kernel: Kernel | None = None, privlevel: int | None = None
    ) -> None:
        """Learn the provider. Raises `NotFound` without one, `UnsupportedVersion` for one that is not known.

        `privlevel`: the VMPL that an SNP report is for; by default the kernel's own.
        """
        if privlevel is not None and privlevel not in PRIVILEGE_LEVELS:
            raise Malformed("a privilege level is 0 to 3")
        self._kernel = kernel or Linux()
        self._reports = root / REPORTS
        self._ccel = root / CCEL
        self._privlevel = privlevel
        with reported("configfs-tsm"), self._entry() as entry:
            self._provider = self._text(entry / "provider")
        if self._provider not in _PROVIDERS:
            raise UnsupportedVersion(
                f"configfs-tsm has a provider that is not known: {self._provider[:40]!r}"
            )
        self.tee, self._role = _PROVIDERS[self._provider]

    @contextlib.contextmanager
    def _entry(self) -> Iterator[Path]:
        path = self._reports / f"mesatee-{os.getpid()}-{secrets.token_hex(6)}"
        self._kernel.mkdir(path)
        try:
            yield path
        finally:
            self._kernel.rmdir(path)

    def _text(self, path: Path) -> str:
        return read_file(self._kernel, path, 4096).decode("ascii", "replace").strip()

    def _generation(self, entry: Path) -> int:
        text = self._text(entry / "generation")
        if not text.isascii() or not text.isdecimal():
            raise Malformed("configfs-tsm's generation is not a number")
        return int(text)

    def collect(self, report_data: bytes) -> Bundle:
        """See `Collector.collect`."""
        data = exactly_64(report_data)
        last: OSError | Conflict | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(WAIT_SECONDS * (1 << attempt - 1))
            try:
                files = self._once(data)
            except Conflict as error:
                last = error
            except OSError as error:
                if error.errno not in _AGAIN:
                    with reported("configfs-tsm"):
                        raise
                last = error
            else:
                return Bundle(self.tee, files | self._event_log())
        raise Unavailable(f"configfs-tsm gave no report in {ATTEMPTS} attempts: {last}") from None

    def _once(self, data: bytes) -> dict[str, bytes]:
        with self._entry() as entry:
            # 2.
            if self._text(entry / "provider") != self._provider:
                raise Unavailable("configfs-tsm has another provider than when this process started")
            before = self._generation(entry)
            writes = 1
            if self._privlevel is not None:
                write_file(self._kernel, entry / "privlevel", str(self._privlevel).encode())
                writes += 1
            # 3.
            write_file(self._kernel, entry / "inblob", data)
            # 4.
            report = bytes(read_file(self._kernel, entry / "outblob", OUTBLOB_BYTES))
            table = self._auxiliary(entry)
            # 5.
            if self._generation(entry) != before + writes:
                raise Conflict("configfs-tsm's entry was written by somebody else, or did not take our data")
        if not report:
            raise Unavailable("configfs-tsm gave an empty report")
        return {self._role: report, **snp_certs.pieces(table)}

    def _auxiliary(self, entry: Path) -> bytes:
        """The certificate table; empty if this kernel or host gives none."""
        if self.tee != "snp":
            return b""
        try:
            return bytes(read_file(self._kernel, entry / "auxblob", snp_certs.TABLE_BYTES))
        except FileNotFoundError:
            return b""

    def _event_log(self) -> dict[str, bytes]:
        """TDX: the log that the RTMRs replay. Without its filling; absent if the firmware has none."""
        if self.tee != "tdx":
            return {}
        try:
            log = bytes(read_file(self._kernel, self._ccel, CCEL_BYTES))
        except (FileNotFoundError, PermissionError):
            return {}
        # Behind the last event the firmware's room is filled with one byte, 0xFF or 0.
        log = log.rstrip(b"\xff") if log.endswith(b"\xff") else log.rstrip(b"\0")
        return {"ccel": log} if log else {}


__all__ = ["ATTEMPTS", "CCEL", "OUTBLOB_BYTES", "REPORTS", "TsmCollector"]
