"""Evidence of measured boot: a quote by an attestation key, the PCRs that it is about, and the event log.

The attestation key is a primary key of the endorsement hierarchy, made anew for each connection from a fixed
template: the TPM gives the same key each time, so nothing has to be kept. A verifier believes in it

1. by a certificate, where a provider left one in NV memory (Google: RSA 0x01c10000, P-256 0x01c10002, each with
   the key's template one above it), or
2. by the endorsement key's certificate (manufacturers: 0x01c00002, 0x01c0000a) and a credential that only the
   TPM with both keys can open: `activate`, TPM 2.0 Part 1 section 24.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mesatee.attestation.bundle import Bundle
from mesatee.attestation.evidence import LINKS
from mesatee.enclave.platform.collect import nonce_of
from mesatee.enclave.platform.kernel import Kernel, Linux, read_file, reported
from mesatee.enclave.platform.tpm.commands import Key, Quoted, Tpm
from mesatee.enclave.platform.tpm.public import Algorithm, ak_template, ek_template
from mesatee.enclave.platform.tpm.registers import PINNED_PCRS
from mesatee.enclave.platform.tpm.transport import connect
from mesatee.enclave.platform.tpm.wire import ENDORSEMENT, Reader, selection
from mesatee.errors import Malformed, NotFound, Unavailable

EVENT_LOG: Final = Path("sys/kernel/security/tpm0/binary_bios_measurements")
"""The firmware's event log (TCG PC Client Platform Firmware Profile), below the root."""
EVENT_LOG_BYTES: Final = 1024 * 1024
"""An event log, in bytes, as the kernel may show it. Evidence in a certificate must be smaller still."""
AK_NAME_CLAIM: Final = LINKS["tpm"]
"""The claim by which an enclave's evidence names the TPM's attestation key."""
_QUOTES: Final = 3
"""Attempts at a quote and the PCRs that it is about: something may extend one in between."""
_EK_CERTIFICATE: Final[Mapping[Algorithm, int]] = MappingProxyType({"rsa": 0x01C0_0002, "ecc": 0x01C0_000A})
_AK_CERTIFICATE: Final[Mapping[Algorithm, int]] = MappingProxyType({"rsa": 0x01C1_0000, "ecc": 0x01C1_0002})
_ATTEST_QUOTE: Final = 0x8018
_GENERATED: Final = 0xFF54_4347


def pcr_json(pcrs: Mapping[int, bytes]) -> bytes:
    """PCRs of the SHA-256 bank, as a bundle's piece ``pcrs`` has them."""
    return json.dumps({"sha256": {str(pcr): value.hex() for pcr, value in sorted(pcrs.items())}}).encode()


def quote_with_pcrs(tpm: Tpm, key: int, nonce: bytes, pcrs: Iterable[int]) -> tuple[Quoted, dict[int, bytes]]:
    """A quote and the very values that it is about. Raises `Unavailable` if PCRs do not hold still."""
    chosen = sorted(set(pcrs))
    for _ in range(_QUOTES):
        before = tpm.pcr_read(chosen)
        made = tpm.quote(key, nonce, chosen)
        _check_ours(made.attest, nonce, chosen)
        if tpm.pcr_read(chosen) == before:
            return made, before
    raise Unavailable("PCRs change while they are quoted")


def _check_ours(attest: bytes, nonce: bytes, pcrs: Iterable[int]) -> None:
    """Raises `Malformed` unless the TPM quoted what it was asked for (TPMS_ATTEST, Part 2 section 10.12.12).

    The verifier checks far more. This only finds a transport that mixes up answers before a peer does.
    """
    reader = Reader.of(attest)
    if reader.number(4) != _GENERATED or reader.number(2) != _ATTEST_QUOTE:
        raise Malformed("the TPM's answer is not a quote")
    reader.sized()
    if reader.sized() != nonce:
        raise Malformed("the TPM quoted another nonce")
    reader.take(17 + 8)
    if reader.take(len(selection(pcrs))) != selection(pcrs):
        raise Malformed("the TPM quoted other PCRs")


class TpmCollector:
    """Collects from this machine's TPM, or a simulator's socket. A simulated TPM proves nothing about hardware:
    its endorsement key has no manufacturer's certificate, which is what a verifier must ask for.
    """

    tee: str = "tpm"
    level: int = 3

    def __init__(
        self,
        where: str = "",
        *,
        algorithm: Algorithm = "ecc",
        pcrs: Iterable[int] = PINNED_PCRS,
        root: Path = Path("/"),
        kernel: Kernel | None = None,
    ) -> None:
        """`where` as in `transport.connect`; nothing is opened yet."""
        self._kernel = kernel or Linux()
        self._connect: Callable[[], Tpm] = lambda: Tpm(connect(where, root, self._kernel))
        self._algorithm: Algorithm = algorithm
        self._pcrs = tuple(sorted(set(pcrs)))
        # This machine's log is of its own TPM: no simulator's quote leads to it.
        foreign = where.startswith(("unix:", "tcp:")) and root == Path("/")
        self._log = None if foreign else root / EVENT_LOG
        selection(self._pcrs)

    @property
    def links(self) -> Mapping[str, bytes]:
        """The attestation key's name, 34 bytes. Opens the TPM."""
        with self._connect() as tpm, tpm.primary(ENDORSEMENT, self._template(tpm)) as key:
            return MappingProxyType({AK_NAME_CLAIM: key.public.name})

    def _template(self, tpm: Tpm) -> bytes:
        """The provider's template if its certificate is there, else ours."""
        certificate = _AK_CERTIFICATE[self._algorithm]
        found = _optional(tpm, certificate + 1) if _optional(tpm, certificate) else None
        return found or ak_template(self._algorithm)

    def collect(self, report_data: bytes) -> Bundle:
        """See `Collector.collect`."""
        nonce = nonce_of(report_data)
        with self._connect() as tpm:
            files = self._endorsement(tpm)
            with tpm.primary(ENDORSEMENT, self._template(tpm)) as key:
                made, pcrs = quote_with_pcrs(tpm, key.handle, nonce, self._pcrs)
            files |= {
                "quote": made.attest,
                "signature": made.signature,
                "pcrs": pcr_json(pcrs),
                "ak_public_tpmt": key.public.area,
                "ak_public_pem": key.public.pem,
            }
        if log := self._event_log():
            files["eventlog"] = log
        return Bundle(self.tee, files)

    def _endorsement(self, tpm: Tpm) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        with tpm.primary(ENDORSEMENT, ek_template(self._algorithm)) as key:
            files["ek_public_tpmt"] = key.public.area
        for role, indices in (("ek_certificate", _EK_CERTIFICATE), ("ak_certificate", _AK_CERTIFICATE)):
            if found := _optional(tpm, indices[self._algorithm]):
                files[role] = certificate_of(found)
        return files

    def _event_log(self) -> bytes | None:
        """None where the kernel shows none: a verifier then knows PCRs, but not what went into them."""
        if self._log is None:
            return None
        try:
            with reported("the TPM's event log"):
                return bytes(read_file(self._kernel, self._log, EVENT_LOG_BYTES))
        except NotFound:
            return None

    def activate(self, credential: bytes, encrypted: bytes) -> bytes:
        """Open a verifier's credential (TPM2B_ID_OBJECT's and TPM2B_ENCRYPTED_SECRET's contents).

        Raises `KeyRefused` if it was made for another TPM or another attestation key.
        """
        with self._connect() as tpm, tpm.primary(ENDORSEMENT, self._template(tpm)) as ak:
            return self._activate(tpm, ak, credential, encrypted)

    def _activate(self, tpm: Tpm, ak: Key, credential: bytes, encrypted: bytes) -> bytes:
        with tpm.primary(ENDORSEMENT, ek_template(self._algorithm)) as ek:
            return tpm.activate_credential(ak.handle, ek.handle, credential, encrypted)


def _optional(tpm: Tpm, index: int) -> bytes | None:
    try:
        return tpm.nv_read(index)
    except NotFound:
        return None


def certificate_of(content: bytes) -> bytes:
    """The DER certificate at the front of an NV index, which may be filled up behind it (EK profile, 2.2.1.5.2)."""
    if len(content) < 4 or content[:2] != b"\x30\x82":
        return content
    return content[: 4 + int.from_bytes(content[2:4])]


__all__ = [
    "AK_NAME_CLAIM",
    "EVENT_LOG",
    "EVENT_LOG_BYTES",
    "TpmCollector",
    "certificate_of",
    "pcr_json",
    "quote_with_pcrs",
]
