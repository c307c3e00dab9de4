"""The trust policy: which machines a relying party accepts, as TOML that a person can read.

The default refuses everything. Nothing that is left out counts as "any": where the reader wants no
restriction he writes the word. An example::

    version = 1

    [gateway]
    tees = ["software"]
    minimum_level = 2
    measurements = "any"
    installation_keys = ["<SHA-256 of the installation's Ed25519 public key>"]
    max_age_seconds = 3600
    log_origin = "log.example/bank"
    log_key = "<the log's Ed25519 public key>"
    service = ["<digest of the service statement>"]

    [worker]
    tees = ["software"]
    minimum_level = 2
    measurements = ["<digest>"]
    installation_keys = ["<...>"]
    max_age_seconds = 3600

>>> TrustPolicy().explain()[0]
'No gateway is accepted: no TEE class is listed.'
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, cast

from mesatee.attestation.appraisal import LEVELS
from mesatee.attestation.evidence import PLATFORM_TEES, TEE_OF_TAG, Role
from mesatee.errors import Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

Any_: TypeAlias = Literal["any"]
Pins: TypeAlias = tuple[str, ...] | Any_

ANY: Final[Any_] = "any"
VERSION: Final = 1
TEES: Final = tuple(sorted({*TEE_OF_TAG.values(), *PLATFORM_TEES}))
"""The TEE classes that a policy may name: those that some module verifies."""
ANCHORED: Final = frozenset({"cca", "keystone", "optee", "psa", "tpm"})
"""Classes whose devices have no vendor's root: their own keys must be pinned."""

WORDED: Final = frozenset({"azure-vtpm", "sgx", "tdx"})
"""Classes whose vendor has a word for the state of a TCB; Azure's machines have it where they run on TDX."""


@dataclass(frozen=True, slots=True)
class RoleTrust:
    """What a peer in one role must prove."""

    tees: tuple[str, ...] = ()
    """Accepted TEE classes. A level never suffices alone."""
    minimum_level: int = max(LEVELS)
    measurements: Pins = ()
    """Accepted measurements in hex, or ``any``."""
    installation_keys: tuple[str, ...] = ()
    """SHA-256 of the Ed25519 public keys that may sign software evidence, hex."""
    allow_simulated: bool = False
    """Accept evidence of a simulated TEE."""
    anchors: tuple[str, ...] = ()
    """SHA-256 of the public keys (SubjectPublicKeyInfo) of devices that no vendor's root vouches for: TPM, Arm,
    Keystone, OP-TEE. Hex."""
    auditors: tuple[str, ...] = ()
    """Ed25519 public keys, hex, that may sign bundles of reference values; see `reference`."""
    auditors_needed: int = 1
    """Of so many auditors a measurement needs the signature."""
    tcb_statuses: tuple[str, ...] = ("UpToDate",)
    """The vendor's words for a TCB that are accepted."""
    advisories: Pins = ()
    """Security advisories that are accepted as not mended, e.g. ``INTEL-SA-00615``, or ``any``."""
    allow_smt: bool = False
    """Accept machines whose evidence says that two threads share a core."""
    allow_tcb_unknown: bool = False
    """Accept evidence whose TCB no endorsement speaks of, of TEEs that have such endorsements."""
    allow_revocation_unknown: bool = False
    """Accept certificate chains for which no revocation list was at hand."""
    max_age_seconds: int = 3_600
    """After this time an appraisal must be made anew."""

    def __post_init__(self) -> None:
        for name in self.tees:
            if name not in TEES:
                raise Malformed(f"TEE class {name!r} is not known", hint="known are: " + ", ".join(TEES))
        if len(set(self.tees)) != len(self.tees):
            raise Malformed("a TEE class is listed twice")
        if self.minimum_level not in LEVELS:
            raise Malformed(f"minimum_level is not one of {min(LEVELS)} to {max(LEVELS)}")
        _check_pins("measurements", self.measurements, (64, 96, 128))
        for name in ("installation_keys", "anchors", "auditors"):
            _check_pins(name, getattr(self, name), (64,))
        if not 1 <= self.auditors_needed <= limits.TRUST_ENTRIES:
            raise Malformed(f"auditors_needed is not one of 1 to {limits.TRUST_ENTRIES}")
        if self.auditors and self.auditors_needed > len(set(self.auditors)):
            raise Malformed("auditors_needed is more than the auditors that are listed")
        _check_words("tcb_statuses", self.tcb_statuses)
        if self.advisories != ANY:
            _check_words("advisories", self.advisories)
        if not 1 <= self.max_age_seconds <= limits.APPRAISAL_AGE_SECONDS:
            raise Malformed(f"max_age_seconds is not one of 1 to {limits.APPRAISAL_AGE_SECONDS}")

    def as_dict(self) -> dict[str, Any]:
        """The TOML table, with every field written out."""
        found: dict[str, Any] = {}
        for name in _kinds(type(self)):
            value = getattr(self, name)
            found[name] = list(value) if isinstance(value, tuple) else value
        return found

    def explain(self, role: str) -> list[str]:
        """Plain-language lines."""
        if not self.tees:
            return [f"No {role} is accepted: no TEE class is listed."]
        level = f"level {self.minimum_level} ({LEVELS[self.minimum_level]}) or higher"
        lines = [f"A {role} is accepted with {level}, of TEE class {' or '.join(self.tees)}."]
        if self.measurements == ANY:
            lines.append(f"  Any code is accepted: nobody checks what the {role} runs.")
        else:
            lines += self._explain_measurements()
        if "software" in self.tees:
            keys = ", ".join(self.installation_keys) or "none is listed, so software evidence is refused"
            lines.append(f"  Software evidence must be signed by installation key: {keys}.")
            lines.append("  Software evidence trusts the operator of that machine.")
        if "none" in self.tees and self.minimum_level == 1:
            lines.append("  A peer that proves nothing at all is accepted.")
        if hardware := set(self.tees) - {"none", "software"}:
            lines += self._explain_hardware(hardware)
        if self.allow_simulated:
            lines.append("  Simulated hardware is accepted: it protects nothing.")
        lines.append(f"  An appraisal counts for {self.max_age_seconds} seconds.")
        return lines

    def _explain_measurements(self) -> list[str]:
        lines = []
        if self.measurements:
            lines.append(f"  Its measurement must be one of: {', '.join(self.measurements)}.")
        if self.auditors:
            lines.append(
                f"  A measurement is also accepted when {self.auditors_needed} of {len(self.auditors)} auditors "
                "signed it."
            )
        return lines or ["  No measurement is listed and no auditor named, so it is refused."]

    def _explain_hardware(self, tees: set[str]) -> list[str]:
        """What a machine with hardware evidence must show besides. Debug machines are always refused."""
        lines = []
        if tees & WORDED:
            words = " or ".join(self.tcb_statuses) or "(nothing listed: refused)"
            lines.append(f"  Its TCB must be: {words}.")
        if self.advisories == ANY:
            lines.append("  Known security advisories do not count against it.")
        elif self.advisories:
            lines.append(f"  These advisories may be open: {', '.join(self.advisories)}.")
        if self.allow_tcb_unknown:
            lines.append("  It is accepted, too, when nobody says whether its TCB is up to date.")
        if self.allow_revocation_unknown:
            lines.append("  It is accepted, too, when nobody says whether its certificates were revoked.")
        lines.append(
            "  Two threads may share a core."
            if self.allow_smt
            else "  Two threads must not share a core (SMT)."
        )
        if anchored := tees & ANCHORED:
            keys = ", ".join(self.anchors) or "none is listed, so it is refused"
            lines.append(f"  Of {' and '.join(sorted(anchored))} the device's key must be: {keys}.")
        return [*lines, "  A machine in debug mode is always refused."]


@dataclass(frozen=True, slots=True)
class GatewayTrust(RoleTrust):
    """What a gateway must prove, and which log and service it must serve."""

    log_origin: str = ""
    """Origin line of the log's checkpoints."""
    log_key: str = ""
    """The log's Ed25519 public key, hex."""
    service: Pins = ()
    """Accepted digests of the service statement, or ``any``."""

    def __post_init__(self) -> None:
        # super() without arguments does not work in a dataclass with slots.
        RoleTrust.__post_init__(self)
        _check_pins("service", self.service, (64,))
        if self.log_key and not _is_hex(self.log_key, (64,)):
            raise Malformed("log_key is not 64 lower-case hex digits")
        origin = self.log_origin
        if len(origin) > limits.COLUMN_CHARS or not all(
            "!" <= char <= "~" and char not in '"\\' for char in origin
        ):
            raise Malformed("log_origin is not printable ASCII without spaces, quotes and backslashes")

    def explain(self, role: str) -> list[str]:
        """Plain-language lines."""
        lines = RoleTrust.explain(self, role)
        if not self.tees:
            return lines
        if self.service == ANY:
            lines.append("  Any service statement is accepted: its rules may change without notice.")
        elif self.service:
            lines.append(f"  Its service statement must be one of: {', '.join(self.service)}.")
        else:
            lines.append("  No service statement is listed, so it is refused.")
        if self.log_origin or self.log_key:
            lines.append(
                f"  Its log is {self.log_origin or '(unnamed)'}, signed by {self.log_key or '(no key)'}."
            )
        return lines


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """Trust in gateways and workers. The default refuses everything."""

    gateway: GatewayTrust = field(default_factory=GatewayTrust)
    worker: RoleTrust = field(default_factory=RoleTrust)

    def role(self, role: Role) -> RoleTrust:
        """The part that concerns a peer in this role."""
        return self.gateway if role == "gateway" else self.worker

    @classmethod
    def from_toml(cls, text: str | bytes) -> TrustPolicy:
        """Parse strictly. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`."""
        raw = text.encode(errors="replace") if isinstance(text, str) else text
        if len(raw) > limits.TRUST_POLICY_BYTES:
            raise TooLarge(f"a trust policy has {len(raw)} bytes, the limit is {limits.TRUST_POLICY_BYTES}")
        try:
            value = tomllib.loads(raw.decode())
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
            raise Malformed(f"a trust policy is not TOML: {str(error)[:200]}") from None
        return cls.from_dict(value)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> TrustPolicy:
        """From the parsed TOML. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`."""
        if value.get("version") != VERSION or isinstance(value.get("version"), bool):
            raise UnsupportedVersion(f"a trust policy must say `version = {VERSION}`")
        if unknown := set(value) - {"version", "gateway", "worker"}:
            raise Malformed(f"a trust policy has unknown parts: {', '.join(sorted(unknown))[:200]}")
        gateway = _table(GatewayTrust, "gateway", value.get("gateway", {}))
        worker = _table(RoleTrust, "worker", value.get("worker", {}))
        return cls(cast(GatewayTrust, gateway), worker)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` is the inverse."""
        return {"version": VERSION, "gateway": self.gateway.as_dict(), "worker": self.worker.as_dict()}

    def to_toml(self) -> str:
        """The policy as TOML; `from_toml` gives it back."""
        lines = [f"version = {VERSION}"]
        for name, trust in (("gateway", self.gateway), ("worker", self.worker)):
            lines += ["", f"[{name}]"]
            # JSON's strings, numbers, truth values and flat arrays are TOML too; our strings are plain ASCII.
            lines += [f"{key} = {json.dumps(value)}" for key, value in trust.as_dict().items()]
        return "\n".join(lines) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the policy, hex."""
        return hashlib.sha256(
            json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":")).encode()
        ).hexdigest()

    def explain(self) -> list[str]:
        """What it accepts, in plain language."""
        return self.gateway.explain("gateway") + self.worker.explain("worker")


def _is_hex(value: str, digits: tuple[int, ...]) -> bool:
    return len(value) in digits and all(char in "0123456789abcdef" for char in value)


def _check_pins(what: str, pins: Pins, digits: tuple[int, ...]) -> None:
    if pins == ANY:
        return
    if len(pins) > limits.TRUST_ENTRIES:
        raise TooLarge(f"{what} has more than {limits.TRUST_ENTRIES} entries")
    for pin in pins:
        if not _is_hex(pin, digits):
            raise Malformed(
                f"an entry of {what} is not {' or '.join(map(str, digits))} lower-case hex digits"
            )


def _check_words(what: str, words: tuple[str, ...]) -> None:
    if len(words) > limits.TRUST_ENTRIES:
        raise TooLarge(f"{what} has more than {limits.TRUST_ENTRIES} entries")
    for word in words:
        if not 1 <= len(word) <= limits.NAME_CHARS or not (
            word.isascii() and word.replace("-", "").isalnum()
        ):
            raise Malformed(f"an entry of {what} is not a word of letters, digits and hyphens")


# What each TOML key may hold; a test compares the keys with the fields of the dataclasses.
_ROLE_KINDS: Final[Mapping[str, str]] = {
    "tees": "texts",
    "minimum_level": "number",
    "measurements": "pins",
    "installation_keys": "texts",
    "allow_simulated": "truth",
    "anchors": "texts",
    "auditors": "texts",
    "auditors_needed": "number",
    "tcb_statuses": "texts",
    "advisories": "pins",
    "allow_smt": "truth",
    "allow_tcb_unknown": "truth",
    "allow_revocation_unknown": "truth",
    "max_age_seconds": "number",
}
_GATEWAY_KINDS: Final[Mapping[str, str]] = {
    **_ROLE_KINDS,
    "log_origin": "text",
    "log_key": "text",
    "service": "pins",
}


def _kinds(kind: type[RoleTrust]) -> Mapping[str, str]:
    return _GATEWAY_KINDS if issubclass(kind, GatewayTrust) else _ROLE_KINDS


def _table(kind: type[RoleTrust], where: str, value: Any) -> RoleTrust:
    if not isinstance(value, dict):
        raise Malformed(f"[{where}] is not a table")
    known = _kinds(kind)
    if unknown := set(value) - set(known):
        raise Malformed(f"[{where}] has unknown keys: {', '.join(sorted(unknown))[:200]}")
    return kind(**{name: _typed(where, name, known[name], item) for name, item in value.items()})


def _typed(where: str, name: str, kind: str, value: Any) -> Any:
    match kind, value:
        case ("truth", bool()) | ("text", str()):
            return value
        case "number", int() if not isinstance(value, bool):
            return value
        case "pins", "any":
            return ANY
        case (("pins" | "texts"), list()) if all(isinstance(item, str) for item in value):
            if len(value) > limits.TRUST_ENTRIES:
                raise TooLarge(f"{name} of [{where}] has more than {limits.TRUST_ENTRIES} entries")
            return tuple(value)
    raise Malformed(f"{name} of [{where}] has the wrong type: {kind} is expected")


__all__ = ["ANY", "TEES", "VERSION", "GatewayTrust", "Pins", "RoleTrust", "TrustPolicy"]
