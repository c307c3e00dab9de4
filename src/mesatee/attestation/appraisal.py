"""What a verifier concluded from evidence: one frozen value, and its form as an EAT Attestation Result.

Separate questions get separate answers (is the signature good, does the chain end in a trusted root, is the
platform up to date, does our policy want these values, is it fresh), because "the signature is forged" and
"the policy asks for another measurement" call for different acts. "Not established" is an answer of its own
and never counts as yes.

Spec: draft-ietf-rats-ear (EAR) and draft-ietf-rats-ar4si (tiers and trustworthiness vector).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from mesatee.attestation.evidence import ROLES
from mesatee.errors import Malformed

Scalar: TypeAlias = int | str | bool | None

EAR_PROFILE: Final = "tag:github.com,2023:veraison/ear"
VERIFIER_ID: Final[Mapping[str, str]] = MappingProxyType(
    {"build": "mesatee.attestation 1", "developer": "MesaTEE"}
)
LEVELS: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: "none",
        2: "software trust",
        3: "measured boot",
        4: "encrypted memory",
        5: "enclave in an attested system",
    }
)
VECTOR: Final = (
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
)
"""The claims of an AR4SI trustworthiness vector."""


class Answer(StrEnum):
    """To one question about evidence."""

    AFFIRMED = "affirmed"
    REFUSED = "refused"
    NOT_ESTABLISHED = "not established"


class Status(StrEnum):
    """AR4SI trustworthiness tier."""

    NONE = "none"
    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"


def tier(value: int) -> Status:
    """The tier of one trustworthiness claim (AR4SI section 2.3.2).

    >>> [tier(value).value for value in (2, 33, 99, 0)]
    ['affirming', 'warning', 'contraindicated', 'none']
    """
    if value in range(-1, 2):
        return Status.NONE
    if value in range(-32, 32):
        return Status.AFFIRMING
    return Status.WARNING if value in range(-96, 96) else Status.CONTRAINDICATED


def _freeze(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(sorted(value.items())))


@dataclass(frozen=True, slots=True)
class Appraisal:
    """The verdict on one piece of evidence, under one policy, at one time."""

    status: Status
    level: int
    """1 to 5, see `LEVELS`."""
    level_reason: str
    """Why this level and no higher, and what it does not protect."""
    tee: str
    """Class of the TEE, e.g. ``software``."""
    simulated: bool
    """Real format, but made by a simulator of hardware."""
    hardware: bool
    """A hardware root of trust signed it."""
    measurement: str
    """SHA-256 or the TEE's own digest, hex; empty when nothing was measured."""
    signature: Answer
    chain: Answer
    tcb: Answer
    policy: Answer
    freshness: Answer
    reasons: tuple[str, ...]
    """What spoke against it, or is worth knowing, in plain language."""
    role: str
    service: str | None
    """Digest of the service statement that a gateway serves, hex."""
    evidence_digest: str
    policy_digest: str
    spki_hash: str
    """SHA-256 of the channel key's SubjectPublicKeyInfo, hex."""
    at: int
    """When it was appraised, Unix seconds."""
    expires: int
    """From then on it must be appraised again, Unix seconds."""
    environments: Mapping[str, str] = field(default_factory=dict)
    """Name of an execution environment -> its digest, hex."""
    claims: Mapping[str, Scalar] = field(default_factory=dict)
    """One vocabulary over all TEEs, e.g. ``measurement.code``, ``platform.arch``, ``debug``."""
    vector: Mapping[str, int] = field(default_factory=dict)
    """AR4SI trustworthiness vector."""

    def __post_init__(self) -> None:
        for name in ("environments", "claims", "vector"):
            object.__setattr__(self, name, _freeze(getattr(self, name)))

    def as_dict(self) -> dict[str, Any]:
        """All fields, JSON-able; `from_dict` is the inverse."""
        found: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, StrEnum):
                value = value.value
            elif isinstance(value, Mapping):
                value = dict(value)
            elif isinstance(value, tuple):
                value = list(value)
            found[item.name] = value
        return found

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Appraisal:
        """Rebuild from `as_dict`. Raises `Malformed`. It proves nothing: an appraisal is only as good as its
        source.
        """
        if set(value) != {item.name for item in fields(cls)}:
            raise Malformed("an appraisal has missing or unknown fields")
        ready = dict(value)
        try:
            ready["status"] = Status(ready["status"])
            for name in ("signature", "chain", "tcb", "policy", "freshness"):
                ready[name] = Answer(ready[name])
        except ValueError:
            raise Malformed("an appraisal has an unknown status or answer") from None
        _check(ready)
        ready["reasons"] = tuple(ready["reasons"])
        return cls(**ready)

    def as_ear(self) -> dict[str, Any]:
        """The claims of an EAT Attestation Result (draft-ietf-rats-ear section 3), ready to be signed as JWT
        or CWT.
        """
        return {
            "eat_profile": EAR_PROFILE,
            "iat": self.at,
            "exp": self.expires,
            "ear.verifier-id": dict(VERIFIER_ID),
            "submods": {
                self.role: {
                    "ear.status": self.status.value,
                    "ear.trustworthiness-vector": {name: self.vector.get(name, 0) for name in VECTOR},
                    "ear.appraisal-policy-id": f"sha256:{self.policy_digest}",
                    "mesatee.appraisal": self.as_dict(),
                }
            },
        }


_TYPES: Final[Mapping[str, Any]] = MappingProxyType(
    {
        **dict.fromkeys(("level", "at", "expires"), int),
        **dict.fromkeys(("simulated", "hardware"), bool),
        **dict.fromkeys(("level_reason", "tee", "measurement", "role"), str),
        **dict.fromkeys(("evidence_digest", "policy_digest", "spki_hash"), str),
        "service": str | None,
    }
)


def _check(value: Mapping[str, Any]) -> None:
    """Types of an appraisal that came as JSON: dataclasses check none."""
    for name, kind in _TYPES.items():
        if not isinstance(value[name], kind) or (kind is int and isinstance(value[name], bool)):
            raise Malformed(f"{name!r} of an appraisal has the wrong type")
    if value["level"] not in LEVELS or value["role"] not in ROLES:
        raise Malformed("an appraisal has an unknown level or role")
    reasons = value["reasons"]
    if not isinstance(reasons, list | tuple) or not all(isinstance(line, str) for line in reasons):
        raise Malformed("'reasons' of an appraisal is not a list of texts")
    for name, kind in (("environments", str), ("claims", int | str | None), ("vector", int)):
        inner = value[name]
        if not isinstance(inner, Mapping):
            raise Malformed(f"{name!r} of an appraisal is not a map")
        if not all(isinstance(key, str) and isinstance(item, kind) for key, item in inner.items()):
            raise Malformed(f"{name!r} of an appraisal has an entry of the wrong type")


__all__ = [
    "EAR_PROFILE",
    "LEVELS",
    "VECTOR",
    "VERIFIER_ID",
    "Answer",
    "Appraisal",
    "Scalar",
    "Status",
    "tier",
]
