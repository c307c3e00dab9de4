"""Which attester the processes of a service use, what its evidence proves, and where their keys are sealed.

Names are ``none`` (level 1), ``software`` (level 2), ``auto``, or a class of TEE as trust policies name it. ``auto`` is
the best interface of this machine that a verifier of ours can judge, and software where there is none; a simulator
counts only for who asks for it by name.

Imported by gateway and worker: nothing here needs a command line, a network or a native library.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .._core import SigningKey, spki
from ..attestation import evidence as ev
from ..attestation.bundle import Bundle
from ..attestation.corpus import CHECKS, CorpusPolicy, check
from ..attestation.endorsements import Endorsements
from ..attestation.tee import platform
from ..attestation.trust import ANCHORED, RoleTrust, TrustPolicy
from ..attestation.verdict import Verdict
from ..attestation.verify import appraise
from ..enclave.platform.base import Attester
from ..enclave.platform.collect import Collector, PlatformAttester
from ..enclave.platform.detect import Candidate, detect
from ..enclave.platform.keys import FileKey, PlatformKey, SgxKey, SnpKey, TpmKey
from ..enclave.platform.measure import Measurement, environment_digest, measure
from ..enclave.platform.none import NoAttester
from ..enclave.platform.sealing import Sealing
from ..enclave.platform.software import SoftwareAttester, installation_key
from ..enclave.platform.tpm import TpmCollector
from ..errors import EvidenceRefused, LevelTooLow, Malformed, Unavailable

AUTO: Final = "auto"
NONE: Final = "none"
SOFTWARE: Final = "software"
NO_DIGEST: Final = "0" * 64
"""What keys are sealed to where there is no measurement, or no installation key."""
_LEVELS: Final[Mapping[str, int]] = {NONE: 1, SOFTWARE: 2}
_SEALS: Final = frozenset({"azure-vtpm", "sgx", "snp", "tpm"})
"""Classes whose machine gives a key that nobody else gets. Of others a gateway could only leave a key file behind."""


@functools.cache
def _measured(environments: tuple[str, ...]) -> Measurement:
    """Once for a process: it takes a while, and what the process loaded does not change."""
    return measure(environments)


@dataclass(frozen=True, slots=True)
class Choice:
    """An attester by name."""

    name: str
    level: int
    """The level that its evidence can prove."""


def usable(candidate: Candidate) -> bool:
    """Whether it is present, and evidence of its class is judged by a verifier of this version."""
    return candidate.present and candidate.tee in ev.PLATFORM_TEES and candidate.tee in CHECKS


def choose(name: str | None, level: int | None, tpm: str = "") -> Choice:
    """The attester of this name, or for this level: 2 by default, and from 3 on whatever proves it.

    `tpm`: where the TPM is, as in `tpm.transport.connect`. Raises `Malformed` for a name that is none, `Unavailable` if
    this machine does not have it, and `LevelTooLow` if it does not prove `level`.
    """
    if name is None:
        name = {1: NONE, 2: SOFTWARE, None: SOFTWARE}.get(level, AUTO)
    if tpm and name not in (AUTO, "tpm", "azure-vtpm"):
        raise Malformed(
            f"`--tpm` needs `--attester tpm` (or azure-vtpm, auto): {name} uses no TPM",
            hint="give one of them, or leave --tpm out",
        )
    if name in _LEVELS:
        found = Choice(name, _LEVELS[name])
    elif name == AUTO:
        best = next((item for item in detect(tpm=tpm) if usable(item) and not item.simulated), None)
        found = Choice(SOFTWARE, _LEVELS[SOFTWARE]) if best is None else Choice(best.tee, best.level)
    else:
        candidate = _candidate(name, tpm)
        found = Choice(candidate.tee, candidate.level)
    if level is not None and found.level < level:
        raise LevelTooLow(
            f"attester {found.name} proves level {found.level}, not {level}",
            hint="`mesatee doctor` says what this machine has, and why not more",
        )
    return found


def _candidate(tee: str, tpm: str) -> Candidate:
    if tee not in ev.PLATFORM_TEES:
        names = ", ".join((AUTO, NONE, SOFTWARE, *sorted(ev.PLATFORM_TEES)))
        raise Malformed(f"there is no attester {tee[:40]!r}", hint=f"there are: {names}")
    found = [item for item in detect(tpm=tpm) if tee in item.tee.split(", ")]
    for item in found:
        if usable(item):
            return item
    why = "; ".join(f"{item.interface}: {item.reason}" for item in found) or "no interface of it is known"
    raise Unavailable(
        f"this machine has no attester of class {tee}: {why}",
        hint=f"`mesatee doctor{' --tpm ' + tpm if tpm else ''}` says what it has",
    )


def _collector(tee: str, tpm: str) -> Collector:
    candidate = _candidate(tee, tpm)
    if candidate.open is None:
        raise Unavailable(f"this machine has no attester of class {tee}: {candidate.reason}")
    return candidate.open()


def attester(name: str, folder: Path, environments: Iterable[str], tpm: str = "") -> Attester:
    """The attester `name` (not ``auto``) for a process that offers these environments; `folder` holds the installation
    key. One of hardware is asked for evidence once, which says what it measures. Raises what the interface raises.
    """
    offered = tuple(environments)
    if name == NONE:
        return NoAttester({item: environment_digest(item) for item in offered})
    if name == SOFTWARE:
        return SoftwareAttester(installation_key(folder / "installation.key"), _measured(offered))
    collector = _collector(name, tpm)
    digests = {item: environment_digest(item) for item in offered}
    measured = judged(PlatformAttester(collector)).measurement
    return PlatformAttester(collector, measured, digests)


def judged(mine: PlatformAttester) -> Verdict:
    """What the verifier says of this machine's own evidence, under nobody's policy."""
    found = ev.decode(mine.evidence(ev.Claims.of_key(spki(SigningKey.generate().public), "worker")))
    bundle = Bundle.parse(found.body)
    return check(bundle.tee, bundle.files, int(time.time()), CorpusPolicy())


def record(name: str, tpm: str, environments: Iterable[str]) -> None:
    """The launcher measures the software into the TPM, where there is one whose registers evidence quotes.

    Raises `Conflict` if the machine ran another version since it was started.
    """
    if name in _LEVELS:
        return
    collector = _collector(name, tpm)
    if isinstance(collector, TpmCollector):
        collector.record(_measured(tuple(environments)).digest)


def trust(
    name: str, folder: Path, environments: Iterable[str], tpm: str, endorsements: Endorsements
) -> RoleTrust:
    """What a process of this installation proves, and nothing else: the policy that pins it.

    For hardware it is written from the machine's own evidence: its measurement, the key of a device that no vendor
    vouches for, and, said openly, that it is simulated if it is. Whoever gets the policy decides whether to believe it.
    Raises `EvidenceRefused` if such a policy would refuse the machine, e.g. for want of endorsements.
    """
    if name == NONE:
        return RoleTrust(tees=(NONE,), minimum_level=1, measurements="any")
    mine = attester(name, folder, environments, tpm)
    if isinstance(mine, SoftwareAttester):
        return RoleTrust(
            tees=(SOFTWARE,),
            minimum_level=2,
            measurements=(mine.measurement,),
            installation_keys=(mine.fingerprint,),
        )
    key = spki(SigningKey.generate().public)
    claims = ev.Claims.of_key(key, "worker", environments=mine.environments)
    extension = mine.evidence(claims)
    at = int(time.time())
    bundle = platform.complete(Bundle.parse(ev.decode(extension).body), endorsements)
    verdict = check(bundle.tee, bundle.files, at, CorpusPolicy())
    anchor = verdict.claims.get("anchor", verdict.claims.get("device"))
    if verdict.level < 2 and bundle.tee not in ANCHORED:
        raise EvidenceRefused(
            f"this machine's evidence of class {name} proves nothing: {'; '.join(verdict.reasons)}"
        )
    pinned = RoleTrust(
        tees=(bundle.tee,),
        minimum_level=mine.level,
        measurements=(verdict.measurement,),
        anchors=(anchor,) if bundle.tee in ANCHORED and isinstance(anchor, str) else (),
        allow_simulated=verdict.simulated,
    )
    appraise(extension, key, TrustPolicy(worker=pinned), at, "worker", endorsements)
    return pinned


def sealing(name: str, folder: Path, tpm: str = "") -> Sealing:
    """Where a gateway's keys are sealed. In every case also to its code: no process opens them by mistake.

    `folder` is the service's. Raises `Unavailable` for a class of machine that gives no key of its own, since a key
    file beside the keys would be open to the operator whom that level does not trust; and what `PlatformKey.open`
    raises.
    """
    measured = NO_DIGEST if name == NONE else _measured(()).digest
    fingerprint = NO_DIGEST
    if name == SOFTWARE:
        fingerprint = SoftwareAttester(
            installation_key(folder / "installation.key"), _measured(())
        ).fingerprint
    return Sealing(folder / "enclave", measured, fingerprint, _platform_key(name, tpm))


def _platform_key(name: str, tpm: str) -> PlatformKey:
    if name in _LEVELS:
        return FileKey()
    if name not in _SEALS:
        raise Unavailable(
            f"a machine of class {name} gives no key to seal a gateway's keys with",
            hint=f"run the gateway on one of: {', '.join(sorted(_SEALS))}",
        )
    if name == "snp":
        return SnpKey()
    return SgxKey() if name == "sgx" else TpmKey(tpm)


__all__ = [
    "AUTO",
    "NONE",
    "NO_DIGEST",
    "SOFTWARE",
    "Choice",
    "attester",
    "choose",
    "judged",
    "record",
    "sealing",
    "trust",
    "usable",
]
