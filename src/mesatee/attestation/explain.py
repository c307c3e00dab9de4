"""Why a policy refuses evidence that lies in a file, in words.

A file is no peer. Evidence in it is judged as far as it goes by itself, and what is missing is said: raw evidence was
shown on no channel, so whose it is was not judged, and nothing here accepts anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mesatee.attestation import detect
from mesatee.attestation import evidence as ev
from mesatee.attestation.appraisal import LEVELS, Answer
from mesatee.attestation.bundle import Bundle
from mesatee.attestation.endorsements import NOTHING, Endorsements
from mesatee.attestation.tee import composite, platform
from mesatee.attestation.tee.base import Proof
from mesatee.attestation.trust import TrustPolicy
from mesatee.attestation.verify import platform_objections, policy_objections, tee_of, too_low
from mesatee.errors import InputError

BOUND: Final = (
    "the report vouches for the claims, and they for a channel key; that a peer holds it was not judged"
)
UNBOUND: Final = "it came on no channel: whose machine made it, and when, was not judged"
_NAMES: Final[Mapping[str, str]] = {
    "signature": "its signature",
    "chain": "the chain of trust in its key",
    "tcb": "its TCB",
    "freshness": "its time",
}
_NEEDED: Final = ("signature", "chain")
"""Answers that must be given above level 1, and not merely not refused; see `verify.appraise`."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Evidence under the policy for one role."""

    role: ev.Role
    kind: str
    """What the file is, e.g. ``extension`` or ``bundle``."""
    tee: str
    level: int
    measurement: str
    simulated: bool
    refused: tuple[str, ...]
    """Every reason why it would be refused. Empty is no acceptance, see `binding`."""
    notes: tuple[str, ...]
    """What its own verifier says besides."""
    binding: str
    """What of its binding to a peer was judged."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "role": self.role,
            "kind": self.kind,
            "tee": self.tee,
            "level": self.level,
            "measurement": self.measurement,
            "simulated": self.simulated,
            "refused": list(self.refused),
            "notes": list(self.notes),
            "binding": self.binding,
        }

    def lines(self) -> list[str]:
        """Plain-language lines."""
        simulated = ", SIMULATED" if self.simulated else ""
        level = f"level {self.level} ({LEVELS[self.level]})"
        head = f"As a {self.role}, evidence of TEE class {self.tee}{simulated}, {level}"
        if self.refused:
            found = [f"{head} is refused:", *(f"  - {reason}" for reason in self.refused)]
        else:
            found = [f"{head}: nothing in the file speaks against it."]
        return [*found, f"  Binding: {self.binding}.", *(f"  Note: {note}" for note in self.notes)]


def explain(
    data: bytes, policy: TrustPolicy, at: int, endorsements: Endorsements = NOTHING
) -> tuple[Explanation, ...]:
    """Judge what is in `data` under `policy` at `at` (Unix seconds): the value of a certificate's extension, for the
    role that it names; or a bundle, or whatever `detect` knows, for both roles.

    Raises `InputError` for what is no evidence.
    """
    try:
        found = ev.decode(data)
    except InputError as error:
        kind, bundle = _raw(data, error)
        return tuple(_bundle(kind, bundle, policy, at, role, endorsements) for role in ev.ROLES)
    return (_extension(found, policy, at, endorsements),)


def _raw(data: bytes, instead: InputError) -> tuple[str, Bundle]:
    """What the file is otherwise. Raises `instead` for a tagged item: that is an extension, and a bad one."""
    try:
        return "bundle", Bundle.parse(data)
    except InputError:
        # Evidence of other makers comes in many formats, and a bundle is only ours.
        pass
    try:
        found = detect.detect(data)
    except InputError:
        raise instead from None
    return found.kind, Bundle(found.tee, found.files)


def _extension(found: ev.Evidence, policy: TrustPolicy, at: int, endorsements: Endorsements) -> Explanation:
    role = found.claims.role
    trust = policy.role(role)
    tee = tee_of(found)
    proof = tee.prove(found.body, trust, at, endorsements)
    against = policy_objections(found.tee, proof, found.claims, trust, endorsements, at)
    against += tee.validate(proof, found.claims, trust)
    if proof.report_data != ev.report_data(found.claims_bytes):
        against = ("the report does not vouch for the claims beside it", *against)
    return _explained(role, "extension", found.tee, proof, against, trust.minimum_level, BOUND)


def _bundle(
    kind: str, bundle: Bundle, policy: TrustPolicy, at: int, role: ev.Role, endorsements: Endorsements
) -> Explanation:
    trust = policy.role(role)
    if bundle.tee in ev.COMPOSITES:
        proof = composite.TEE.prove(bundle.encode(), trust, at, endorsements)
    else:
        _, proof = platform.judge(platform.complete(bundle, endorsements), trust, at)
    # Claims, and so a service statement, are not in such a file; which one it would be is part of the binding.
    against = platform_objections(bundle.tee, proof, trust, endorsements, at) + proof.objections
    return _explained(role, kind, bundle.tee, proof, against, trust.minimum_level, UNBOUND)


def _explained(
    role: ev.Role,
    kind: str,
    tee: str,
    proof: Proof,
    against: tuple[str, ...],
    minimum: int,
    binding: str,
) -> Explanation:
    refused = list(against)
    for name in ("signature", "chain", "tcb", "freshness"):
        answer = getattr(proof, name)
        if answer is Answer.REFUSED:
            refused.append(f"{_NAMES[name]} is refused")
        elif answer is Answer.NOT_ESTABLISHED and name in _NEEDED and max(proof.level, minimum) > 1:
            refused.append(f"{_NAMES[name]} is not established")
    if proof.level < minimum:
        refused.append(f"{too_low(proof.level, minimum)}: {proof.level_reason}")
    return Explanation(
        role=role,
        kind=kind,
        tee=tee,
        level=proof.level,
        measurement=proof.measurement,
        simulated=proof.simulated,
        refused=tuple(dict.fromkeys(refused)),
        notes=tuple(dict.fromkeys(proof.reasons)),
        binding=binding,
    )


__all__ = ["BOUND", "UNBOUND", "Explanation", "explain"]
