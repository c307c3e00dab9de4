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
from ..attestation.corpus import CHECKS
from ..attestation.endorsements import NOTHING, Endorsements
from ..attestation.tee import composite
from ..attestation.tee.base import Proof
from ..attestation.trust import ANCHORED, ANY, RoleTrust, TrustPolicy
from ..attestation.verify import appraise, tee_of
from ..enclave.platform.base import Attester
from ..enclave.platform.collect import Collector, PlatformAttester
from ..enclave.platform.detect import Candidate, detect
from ..enclave.platform.keys import FileKey, PlatformKey, SgxKey, SnpKey, TpmKey
from ..enclave.platform.measure import Measurement, environment_digest, measure
from ..enclave.platform.none import NoAttester
from ..enclave.platform.sealing import Sealing
from ..enclave.platform.software import SoftwareAttester, installation_key
from ..enclave.platform.tpm import Tpm, connect, registers
from ..errors import EvidenceRefused, LevelTooLow, Malformed, Unavailable

AUTO: Final = "auto"
NONE: Final = "none"
SOFTWARE: Final = "software"
NO_DIGEST: Final = "0" * 64
"""What keys are sealed to where there is no measurement, or no installation key."""
_LEVELS: Final[Mapping[str, int]] = {NONE: 1, SOFTWARE: 2}
_REGISTERS: Final = frozenset(
    name for name in ev.PLATFORM_TEES | ev.COMPOSITES if {"azure-vtpm", "tpm"} & set(name.split("+"))
)
"""Classes whose evidence quotes the registers of a TPM."""
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
    judged = candidate.tee in ev.PLATFORM_TEES and candidate.tee in CHECKS
    return candidate.present and (judged or candidate.tee in ev.COMPOSITES)


def best(found: Iterable[Candidate]) -> Candidate | None:
    """What ``auto`` takes: the first that others can judge, and that is no simulator."""
    return next((item for item in found if usable(item) and not item.simulated), None)


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
        first = best(detect(tpm=tpm))
        found = Choice(SOFTWARE, _LEVELS[SOFTWARE]) if first is None else Choice(first.tee, first.level)
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
    known = ev.PLATFORM_TEES | ev.COMPOSITES
    if tee not in known:
        names = ", ".join((AUTO, NONE, SOFTWARE, *sorted(known)))
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
    return PlatformAttester(collector, _proven(PlatformAttester(collector)).measurement, digests)


def _proven(mine: Attester, endorsements: Endorsements = NOTHING) -> Proof:
    """What the verifier says of this machine's own evidence, under a policy that pins no key of it."""
    found = ev.decode(
        mine.evidence(
            ev.Claims.of_key(spki(SigningKey.generate().public), "worker", environments=mine.environments)
        )
    )
    return tee_of(found).prove(found.body, RoleTrust((found.tee,), 1, ANY), int(time.time()), endorsements)


def record(name: str, tpm: str, environments: Iterable[str]) -> None:
    """The launcher measures the software into the TPM, where there is one whose registers evidence quotes.

    Raises `Conflict` if the machine ran another version since it was started.
    """
    if name not in _REGISTERS:
        return
    with Tpm(connect(tpm)) as found:
        registers.record(found, _measured(tuple(environments)).digest)


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
    proof = _proven(mine, endorsements)
    anchors, anchored = _anchors(mine.tee, proof)
    if proof.level < 2 and not anchored:
        raise EvidenceRefused(
            f"this machine's evidence of class {name} proves nothing: {'; '.join(proof.reasons)}"
        )
    machine = proof.claims.get(composite.MACHINE)
    if mine.tee.endswith("+tpm") and machine is None:
        head = mine.tee.partition("+")[0]
        raise EvidenceRefused(
            "the processor does not say which one it is, so that nobody can enrol it with its TPM",
            hint=f"let the host show the chip's id, or use --attester {head} for level 4",
        )
    pinned = RoleTrust(
        tees=(mine.tee,),
        minimum_level=mine.level,
        measurements=(proof.measurement,),
        anchors=anchors,
        allow_simulated=proof.simulated,
        pins={mine.tee: {composite.MACHINE: (machine,)}} if isinstance(machine, str) else {},
    )
    appraise(extension, key, TrustPolicy(worker=pinned), at, "worker", endorsements)
    return pinned


def _anchors(tee: str, proof: Proof) -> tuple[tuple[str, ...], bool]:
    """The keys of this machine that no vendor vouches for, and whether its class has any."""
    head, *others = tee.split("+")
    claims = {head: ("anchor", "device"), **{part: (f"{part}.anchor", f"{part}.device") for part in others}}
    classes = sorted(ANCHORED & set(claims))
    said = [next(filter(None, map(proof.claims.get, claims[part])), None) for part in classes]
    return tuple(key for key in said if isinstance(key, str)), bool(classes)


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
    # Of a composite the processor's key, if it gives one: it comes from nowhere outside of it.
    parts = [part for part in name.split("+") if part in _SEALS]
    if not parts:
        raise Unavailable(
            f"a machine of class {name} gives no key to seal a gateway's keys with",
            hint=f"run the gateway on one of: {', '.join(sorted(_SEALS))}",
        )
    return {"snp": SnpKey, "sgx": SgxKey}.get(parts[0], lambda: TpmKey(tpm))()


__all__ = [
    "AUTO",
    "NONE",
    "NO_DIGEST",
    "SOFTWARE",
    "Choice",
    "attester",
    "best",
    "choose",
    "record",
    "sealing",
    "trust",
    "usable",
]
