"""Evidence in, appraisal out. Pure: the time is an argument, and nothing is read or fetched.

`appraise` is what a channel calls inside the handshake: it returns an `Appraisal` that the policy accepts, or
raises. `examine` answers the same questions without deciding, for people who want to know why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from mesatee.attestation import corpus, reference
from mesatee.attestation import evidence as ev
from mesatee.attestation.appraisal import LEVELS, Answer, Appraisal, Status, tier
from mesatee.attestation.bundle import Bundle
from mesatee.attestation.endorsements import NOTHING, Endorsements
from mesatee.attestation.remembered import Remembered
from mesatee.attestation.tee import composite, none, platform, software
from mesatee.attestation.tee.base import Proof, Tee
from mesatee.attestation.trust import ANY, GatewayTrust, RoleTrust, TrustPolicy
from mesatee.errors import EvidenceRefused, LevelTooLow, MesateeError
from mesatee.protocol import limits

TEE_MODULES: Final[Mapping[int, Tee[Any]]] = MappingProxyType(
    {ev.TAG_NONE: none.TEE, ev.TAG_SOFTWARE: software.TEE, ev.TAG_PLATFORM: platform.TEE}
)


def tee_of(found: ev.Evidence) -> Tee[Any]:
    """The module that judges this evidence."""
    return composite.TEE if found.tee in ev.COMPOSITES else TEE_MODULES[found.tag]


def examine(
    extension: bytes | None,
    spki: bytes,
    policy: TrustPolicy,
    at: int,
    role: ev.Role,
    endorsements: Endorsements = NOTHING,
) -> Appraisal:
    """Appraise the evidence of a peer whose channel key is `spki` (DER), which acts in `role`, at `at` (Unix
    seconds), with the help of `endorsements` and the reference values in it.

    1. There is evidence (absence is refused, never skipped).
    2. Decode it: tag, body, claims (CCC interoperable RA-TLS).
    3. The claims are about this channel's key: pubkey-hash = SHA-256(SPKI).
    4. The claims are about this role.
    5. Parse the body and verify signature, chain, TCB status and time (the TEE's module).
    6. The report vouches for the claims: report data = SHA-256(claims) || zeros.
    7. Validate the values against the policy: TEE class, simulation, measurement, service, the TEE's own
    rules.
    8. The level, and the status that all answers together deserve.

    Returns an appraisal of any status. Raises `Malformed`, `TooLarge` and `UnsupportedVersion` for what is
    not evidence, and `EvidenceRefused` for evidence that is not this peer's: that of another has no verdict
    here.
    """
    # 1. Presence.
    if extension is None:
        raise EvidenceRefused(
            "the peer showed no evidence", hint="connect to a gateway or worker, not to a party"
        )
    # 2. Decode.
    found = ev.decode(extension)
    # 3. Channel key.
    spki_hash = hashlib.sha256(spki).digest()
    if found.claims.pubkey_hash != spki_hash:
        raise EvidenceRefused("the evidence was made for another channel key")
    # 4. Role.
    if found.claims.role != role:
        raise EvidenceRefused(f"the evidence is that of a {found.claims.role}, a {role} was expected")
    # 5. Proof.
    trust = policy.role(role)
    tee = tee_of(found)
    proof = tee.prove(found.body, trust, at, endorsements)
    # 6. Binding of the claims.
    if proof.report_data != ev.report_data(found.claims_bytes):
        raise EvidenceRefused("the report does not vouch for the claims beside it")
    # 7. Policy.
    objections = policy_objections(found.tee, proof, found.claims, trust, endorsements, at) + tee.validate(
        proof, found.claims, trust
    )
    # 8. Level and status.
    if proof.level < trust.minimum_level:
        objections += (too_low(proof.level, trust.minimum_level),)
    expires = at + trust.max_age_seconds
    if proof.expires is not None:
        expires = min(expires, proof.expires)
        if expires <= at:
            objections += ("something that it relies on has ended",)
    return Appraisal(
        status=_status(proof, bool(objections)),
        level=proof.level,
        level_reason=proof.level_reason,
        tee=found.tee,
        simulated=proof.simulated,
        hardware=proof.hardware,
        measurement=proof.measurement,
        signature=proof.signature,
        chain=proof.chain,
        tcb=proof.tcb,
        policy=Answer.REFUSED if objections else Answer.AFFIRMED,
        freshness=proof.freshness,
        reasons=(*objections, *proof.reasons),
        role=role,
        service=found.claims.service,
        evidence_digest=hashlib.sha256(extension).hexdigest(),
        policy_digest=policy.digest,
        spki_hash=spki_hash.hex(),
        at=at,
        expires=expires,
        environments=found.claims.environments,
        claims=proof.claims,
        vector=proof.vector,
    )


def relevant(extension: bytes, endorsements: Endorsements) -> Endorsements:
    """The part of a collection that can matter to this evidence; nothing for what cannot be decoded."""
    try:
        found = ev.decode(extension)
        parts = _parts(found)
    except MesateeError:
        return NOTHING
    items = tuple(
        item
        for item in endorsements.items
        if any(item.tee == part.tee and item.subject in ("", subject) for part, subject in parts)
    )
    return Endorsements(items, reference.of_class(endorsements.references, found.tee))


def _parts(found: ev.Evidence) -> list[tuple[Bundle, str]]:
    """The bundles in evidence of hardware, each with the name of its machine."""
    if found.tag != ev.TAG_PLATFORM:
        return []
    if found.tee in ev.COMPOSITES:
        parsed = composite.parse(found.body)
        bundles = [parsed.head, *parsed.others]
    else:
        bundles = [platform.parse(found.body)]
    return [(bundle, corpus.subject(bundle.tee, bundle.files)) for bundle in bundles]


def appraise(
    extension: bytes | None,
    spki: bytes,
    policy: TrustPolicy,
    at: int,
    role: ev.Role,
    endorsements: Endorsements = NOTHING,
) -> Appraisal:
    """`examine`, and refuse whatever the policy does not accept.

    1. Examine.
    2. No question was answered with "refused", other than the level.
    3. Above level 1, signature and chain are established, not merely not refused. (Reports of some TEEs carry
    no
       time: there the channel's nonces prove that the key is live, and the appraisal says "not established".)
    4. The level is reached.

    Raises `EvidenceRefused`, `LevelTooLow` (proven, but too low) and what `examine` raises.
    """
    # 1. Examine.
    appraisal = examine(extension, spki, policy, at, role, endorsements)
    trust = policy.role(role)
    below = appraisal.level < trust.minimum_level
    # 2. and 3. Proof.
    proven = (appraisal.signature, appraisal.chain)
    refused = Answer.REFUSED in (*proven, appraisal.tcb, appraisal.freshness)
    if refused or (appraisal.level > 1 and Answer.NOT_ESTABLISHED in proven):
        raise EvidenceRefused(f"evidence of the {role} refused: " + "; ".join(appraisal.reasons))
    # 4. Level: said first, because another machine is needed, whatever else the policy objects to.
    if below:
        raise LevelTooLow(f"{too_low(appraisal.level, trust.minimum_level)}: {appraisal.level_reason}")
    if appraisal.policy is not Answer.AFFIRMED:
        raise EvidenceRefused(f"evidence of the {role} refused: " + "; ".join(appraisal.reasons))
    return appraisal


def too_low(level: int, minimum: int) -> str:
    """In words."""
    return (
        f"level {level} ({LEVELS[level]}) is below {minimum} ({LEVELS[minimum]}), which the policy asks for"
    )


def policy_objections(
    tee: str, proof: Proof, claims: ev.Claims, trust: RoleTrust, endorsements: Endorsements, at: int
) -> tuple[str, ...]:
    """What the policy has against the proven values, of any TEE."""
    found = [*platform_objections(tee, proof, trust, endorsements, at), *composite.stripped(tee, claims)]
    if isinstance(trust, GatewayTrust) and trust.service != ANY and claims.service not in trust.service:
        found.append(f"service statement {claims.service or '(none)'} is not one that the policy names")
    return tuple(found)


def platform_objections(
    tee: str, proof: Proof, trust: RoleTrust, endorsements: Endorsements, at: int
) -> tuple[str, ...]:
    """Those that need no claims."""
    found: list[str] = []
    if tee not in trust.tees:
        found.append(f"TEE class {tee} is not one that the policy names")
    if proof.simulated and not trust.allow_simulated:
        found.append("the hardware is simulated")
    if objection := reference.objection(proof.measurement, endorsements.references, trust, tee, at):
        found.append(objection)
    if proof.claims.get("policy.migration_agent") is True and not trust.allow_migration:
        found.append("an agent may move the guest to other machines, which the policy refuses")
    return (*found, *trust.claims_against(tee, proof.claims))


def _status(proof: Proof, objected: bool) -> Status:
    """AR4SI: the worst tier of the vector, and never better than the answers allow."""
    answers = (proof.signature, proof.chain, proof.tcb, proof.freshness)
    if objected or Answer.REFUSED in answers:
        return Status.CONTRAINDICATED
    tiers = {tier(value) for value in proof.vector.values()} - {Status.NONE}
    if not tiers or proof.level == 1:
        return Status.NONE
    for status in (Status.CONTRAINDICATED, Status.WARNING):
        if status in tiers:
            return status
    # Something that nobody established is not affirmed.
    return Status.WARNING if Answer.NOT_ESTABLISHED in answers else Status.AFFIRMING


class AppraisalCache:
    """Remembers accepted appraisals, so that a peer that connects again costs one comparison. May be shared by
    threads.

    An entry counts only for the same evidence, channel key, policy, role and endorsements, from the time it was made
    until it expires: that is the policy's age limit, or the earliest end of anything that it relied on. Refusals are
    not kept.
    """

    def __init__(self, size: int = limits.APPRAISALS_CACHED) -> None:
        self._kept: Remembered[Appraisal] = Remembered(size)

    def appraise(
        self,
        extension: bytes | None,
        spki: bytes,
        policy: TrustPolicy,
        at: int,
        role: ev.Role,
        endorsements: Endorsements = NOTHING,
    ) -> Appraisal:
        """As the function `appraise`."""
        if extension is None or len(extension) > limits.EVIDENCE_BYTES:
            return appraise(extension, spki, policy, at, role, endorsements)
        # The bytes themselves: they are few and bounded, and to compare them is faster than a digest of them.
        key = (extension, spki, policy.digest, role, endorsements.digest)
        if (kept := self._kept.get(key, at)) is not None:
            return kept
        fresh = appraise(extension, spki, policy, at, role, endorsements)
        self._kept.put(key, fresh, fresh.at, fresh.expires)
        return fresh

    def __len__(self) -> int:
        return len(self._kept)


__all__ = [
    "TEE_MODULES",
    "AppraisalCache",
    "appraise",
    "examine",
    "platform_objections",
    "policy_objections",
    "relevant",
    "tee_of",
    "too_low",
]
