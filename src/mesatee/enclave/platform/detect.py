"""Which attesters this machine has, best first, and why the others are absent.

Detecting opens devices but asks for no evidence. A name in `/dev` proves nothing to a peer: what counts is whether
the evidence verifies.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesatee.attestation.evidence import COMPOSITES
from mesatee.enclave.platform.collect import Collector, CompositeCollector
from mesatee.enclave.platform.kernel import Kernel, Linux, opened, reported
from mesatee.errors import MesateeError, NotFound, Unavailable

_TPM: Final = Path("dev/tpmrm0")
_READ_WRITE: Final = os.O_RDWR


@dataclass(frozen=True, slots=True)
class Candidate:
    """One interface, as it is found on this machine."""

    interface: str
    """E.g. ``configfs-tsm``."""
    tee: str
    """Class of TEE; for an interface that is absent, of those that it could serve."""
    level: int
    """The level that its evidence can prove."""
    reason: str
    """In words: what is there, or why it is not to be used."""
    open: Callable[[], Collector] | None = None
    """Makes the collector; None if the interface is absent."""
    simulated: bool = False
    """It says itself that it is software."""

    @property
    def present(self) -> bool:
        """Whether it can be used."""
        return self.open is not None


def detect(root: Path = Path("/"), kernel: Kernel | None = None, tpm: str = "") -> list[Candidate]:
    """Every interface that this version knows, those that are present first, the highest level first.

    `tpm`: where the TPM is, as in `tpm.transport.connect`; by default ``/dev/tpmrm0`` below `root`.
    """
    system = kernel or Linux()
    probes = (_azure, _tsm, _sev_guest, _gramine, _nsm, _keystone, _tpm, _optee)
    found = [probe(root, system, tpm) for probe in probes]
    if both := _combined(found):
        found.append(both)
    # Stable, so that of two interfaces to the same TEE the first above stays first.
    return sorted(found, key=lambda each: (not each.present, -each.level))


def _combined(found: list[Candidate]) -> Candidate | None:
    """An enclave or encrypted machine with a TPM of the system around it."""
    inner = next((each for each in found if each.open and f"{each.tee}+tpm" in COMPOSITES), None)
    outer = next((each for each in found if each.open and each.tee == "tpm"), None)
    if inner is None or outer is None or inner.open is None or outer.open is None:
        return None
    makes_inner, makes_outer = inner.open, outer.open
    return Candidate(
        f"{inner.interface} and {outer.interface}",
        f"{inner.tee}+{outer.tee}",
        5,
        f"{inner.reason}, and around it {outer.reason}",
        lambda: CompositeCollector(makes_inner(), makes_outer()),
        simulated=inner.simulated or outer.simulated,
    )


def _probe(
    interface: str, tee: str, level: int, there: str, make: Callable[[], Collector], check: Callable[[], None]
) -> Candidate:
    try:
        check()
    except MesateeError as error:
        return Candidate(interface, tee, level, error.message)
    return Candidate(interface, tee, level, there, make)


def _openable(kernel: Kernel, root: Path, path: Path) -> None:
    """Raises `NotFound` or `Unavailable` unless this process can open the device."""
    with reported(f"/{path}"), opened(kernel, root / path, _READ_WRITE):
        pass


def _tsm(root: Path, kernel: Kernel, tpm: str) -> Candidate:
    from mesatee.enclave.platform.tsm import TsmCollector

    try:
        collector = TsmCollector(root=root, kernel=kernel)
    except NotFound:
        reason = "no provider: not a confidential guest, or Linux before 6.7, or configfs is not mounted"
        return Candidate("configfs-tsm", "snp, tdx, cca", 4, reason)
    except MesateeError as error:
        return Candidate("configfs-tsm", "snp, tdx, cca", 4, error.message)
    there = f"a confidential guest of class {collector.tee}"
    return Candidate("configfs-tsm", collector.tee, 4, there, lambda: collector)


def _sev_guest(root: Path, kernel: Kernel, tpm: str) -> Candidate:
    from mesatee.enclave.platform import sev_guest

    return _probe(
        "/dev/sev-guest",
        "snp",
        4,
        "an SEV-SNP guest",
        lambda: sev_guest.SevGuestCollector(root=root, kernel=kernel),
        lambda: _openable(kernel, root, sev_guest.DEVICE),
    )


def _gramine(root: Path, kernel: Kernel, tpm: str) -> Candidate:
    from mesatee.enclave.platform.gramine import GramineCollector

    def make() -> Collector:
        return GramineCollector(root=root, kernel=kernel)

    def check() -> None:
        make()

    return _probe("Gramine's /dev/attestation", "sgx", 4, "an SGX enclave under Gramine", make, check)


def _nsm(root: Path, kernel: Kernel, tpm: str) -> Candidate:
    from mesatee.enclave.platform import nsm

    return _probe(
        "/dev/nsm",
        "nitro",
        4,
        "an AWS Nitro Enclave",
        lambda: nsm.NsmCollector(root=root, kernel=kernel),
        lambda: _openable(kernel, root, nsm.DEVICE),
    )


def _keystone(root: Path, kernel: Kernel, tpm: str) -> Candidate:
    reason = (
        "it cannot be found from here: a program that is built as a Keystone enclave hands its own call in"
    )
    return Candidate("Keystone's runtime", "keystone", 4, reason)


def _tpm(root: Path, kernel: Kernel, tpm: str) -> Candidate:
    from mesatee.enclave.platform.tpm import NvCounter, Tpm, TpmCollector, connect

    interface = tpm or f"/{_TPM}"
    try:
        with Tpm(connect(tpm, root, kernel)) as found:
            vendor, simulated = found.vendor(), NvCounter(found).simulated
    except MesateeError as error:
        return Candidate(interface, "tpm", 3, error.message)
    there = f"a TPM 2.0 of {vendor}" + (", which is a simulator and proves nothing" if simulated else "")
    return Candidate(
        interface, "tpm", 3, there, lambda: TpmCollector(tpm, root=root, kernel=kernel), simulated
    )


def _azure(root: Path, kernel: Kernel, tpm: str) -> Candidate:
    interface, tee = "a paravisor's report in the TPM", "azure-vtpm"
    if not tpm:
        try:
            _openable(kernel, root, _TPM)
        except (NotFound, Unavailable) as error:
            return Candidate(interface, tee, 5, error.message)
    # Only now, for it loads an HTTP client.
    from mesatee.enclave.platform.azure import AzureCollector

    try:
        collector = AzureCollector(tpm, root=root, kernel=kernel)
    except MesateeError as error:
        return Candidate(interface, tee, 5, error.message)
    return Candidate(interface, tee, 5, "an Azure confidential machine", lambda: collector)


def _optee(root: Path, kernel: Kernel, tpm: str) -> Candidate:
    from mesatee.enclave.platform import optee

    return _probe(
        "/dev/tee0",
        "optee",
        1,
        "a trusted execution environment's driver, which answers every process and so vouches for none",
        lambda: optee.OpteeCollector(root=root, kernel=kernel),
        lambda: _openable(kernel, root, optee.DEVICE),
    )


__all__ = ["Candidate", "detect"]
