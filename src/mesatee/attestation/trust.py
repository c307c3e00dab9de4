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

    [worker.pins.tdx]                    what evidence of one class must say besides, claim by claim
    "tdx.rtmr1" = ["<digest>"]

    [worker.minimums.tdx]                numbers that must be reached
    "tcb.evaluation" = 17

>>> TrustPolicy().explain()[0]
'No gateway is accepted: no TEE class is listed.'
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, cast

from mesatee.attestation.appraisal import LEVELS, Scalar
from mesatee.attestation.evidence import COMPOSITES, PLATFORM_TEES, TEE_OF_TAG, Role
from mesatee.errors import Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

Any_: TypeAlias = Literal["any"]
Pins: TypeAlias = tuple[str, ...] | Any_
Pin: TypeAlias = int | str | bool
PinnedClaims: TypeAlias = Mapping[str, Mapping[str, tuple[Pin, ...]]]
"""TEE class -> claim -> its accepted values."""
Minimums: TypeAlias = Mapping[str, Mapping[str, int]]
"""TEE class -> claim -> the least number that is accepted."""

ANY: Final[Any_] = "any"
VERSION: Final = 1
TEES: Final = tuple(sorted({*TEE_OF_TAG.values(), *PLATFORM_TEES, *COMPOSITES}))
"""The TEE classes that a policy may name: those that some module verifies."""
ANCHORED: Final = frozenset({"cca", "keystone", "psa", "tpm"})
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
    Keystone. Hex."""
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
    allow_migration: bool = False
    """Accept guests that an agent may move to other machines."""
    max_age_seconds: int = 3_600
    """After this time an appraisal must be made anew."""
    pins: PinnedClaims = field(default_factory=dict)
    """What evidence of a class must say besides its measurement. A claim that is not in the evidence is refused."""
    minimums: Minimums = field(default_factory=dict)
    """Claims of a class that must be numbers, and not lower."""

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
        for name in ("pins", "minimums"):
            object.__setattr__(self, name, _frozen(name, getattr(self, name), self.tees))

    def claims_against(self, tee: str, claims: Mapping[str, Scalar]) -> tuple[str, ...]:
        """What `pins` and `minimums` have against the claims of evidence of class `tee`, in plain language.

        A claim that is missing never passes. Truth values are not numbers here: `true` is not 1.
        """
        found: list[str] = []
        for name, accepted in self.pins.get(tee, {}).items():
            value = claims.get(name)
            if value is None:
                found.append(f"the evidence does not say {name}, which the policy pins")
            elif not any(type(value) is type(pin) and value == pin for pin in accepted):
                found.append(f"{name} is {value}, which the policy does not name")
        for name, least in self.minimums.get(tee, {}).items():
            value = claims.get(name)
            if not isinstance(value, int) or isinstance(value, bool):
                found.append(
                    f"the evidence does not say {name}, of which the policy asks for {least} or more"
                )
            elif value < least:
                found.append(f"{name} is {value}, below {least}, which the policy asks for")
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """The TOML table, with every field written out."""
        found: dict[str, Any] = {}
        for name in _kinds(type(self)):
            found[name] = _plain(getattr(self, name))
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
        lines += self._explain_claims()
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

    def _explain_claims(self) -> list[str]:
        lines = []
        for tee in self.tees:
            for name, accepted in self.pins.get(tee, {}).items():
                values = " or ".join(json.dumps(value).strip('"') for value in accepted)
                lines.append(f"  Evidence of class {tee} must say {name} = {values}{_words(name)}.")
            for name, least in self.minimums.get(tee, {}).items():
                lines.append(
                    f"  Evidence of class {tee} must say {name} = {least} or a higher number{_words(name)}."
                )
        return lines

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
        lines.append(
            "  It may be one that an agent moves to other machines."
            if self.allow_migration
            else "  It must not be one that an agent may move to other machines (migration)."
        )
        if anchored := {part for tee in tees for part in tee.split("+")} & ANCHORED:
            keys = ", ".join(self.anchors) or "none is listed, so it is refused"
            lines.append(f"  Of {' and '.join(sorted(anchored))} the device's key must be: {keys}.")
        if with_tpm := sorted(tee for tee in tees if tee.endswith("+tpm")):
            lines.append(
                f"  Evidence of class {' or '.join(with_tpm)} reaches level 5 only with `machine` pinned, and the "
                "measurement or `tpm.measurement`."
            )
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
    digest: str = field(init=False, compare=False, default="")
    """SHA-256 over the canonical JSON of the policy, hex."""

    def __post_init__(self) -> None:
        # Once: each appraisal asks for it.
        encoded = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":")).encode()
        object.__setattr__(self, "digest", hashlib.sha256(encoded).hexdigest())

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
            values = trust.as_dict()
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items() if key not in _TABLES]
            for key in _TABLES:
                for tee, claims in values[key].items():
                    lines += ["", f"[{name}.{key}.{json.dumps(tee)}]"]
                    lines += [f"{json.dumps(claim)} = {json.dumps(value)}" for claim, value in claims.items()]
        return "\n".join(lines) + "\n"

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


def _frozen(what: str, tables: Mapping[str, Mapping[str, Any]], tees: tuple[str, ...]) -> Mapping[str, Any]:
    """`pins` or `minimums`, checked, sorted and made unchangeable. Raises `Malformed` or `TooLarge`."""
    for tee, claims in tables.items():
        if tee not in tees:
            raise Malformed(
                f"{what} names TEE class {tee[:40]!r}, which is not accepted",
                hint="list the class in tees, or take its table away",
            )
        if not 1 <= len(claims) <= limits.TRUST_ENTRIES:
            raise TooLarge(f"{what} of class {tee} has no entry, or more than {limits.TRUST_ENTRIES}")
        for name, value in claims.items():
            if not 1 <= len(name) <= limits.COLUMN_CHARS or not set(name) <= _CLAIM_CHARS:
                raise Malformed(f"{what} of class {tee} has a name that no claim has: {name[:40]!r}")
            if what == "pins":
                _check_values(f"{name} in pins of class {tee}", value)
    return MappingProxyType(
        {tee: MappingProxyType(dict(sorted(claims.items()))) for tee, claims in sorted(tables.items())}
    )


def _check_values(where: str, values: tuple[Pin, ...]) -> None:
    if not 1 <= len(values) <= limits.TRUST_ENTRIES:
        raise TooLarge(f"{where} has no value, or more than {limits.TRUST_ENTRIES}")
    for value in values:
        # As in `appraisal.Scalar`; printable ASCII alone has the same form in TOML and JSON.
        if isinstance(value, str) and not (
            len(value) <= limits.PIN_CHARS and value.isascii() and value.isprintable()
        ):
            raise Malformed(f"{where} has a text that is too long, or not printable ASCII")


def _plain(value: Any) -> Any:
    """JSON-able."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


_CLAIM_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")
_TABLES: Final = ("pins", "minimums")
"""Keys that hold a table for each class."""
_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "host_data": "what the host gave the guest at its start",
        "measurement.author_key": "whose key signed the key of the guest's maker",
        "measurement.id_key": "the key of the guest's maker",
        "measurement.signer": "the key of the enclave's maker",
        "platform.chip_id": "this very processor",
        "platform.ppid": "this very processor",
        "sgx.isvprodid": "the maker's number of the enclave",
        "sgx.isvsvn": "the maker's security version of the enclave",
        "snp.guest_svn": "the maker's security version of the guest",
        "snp.vmpl": "privilege level in the guest, 0 is the highest",
        "tcb.evaluation": "how new Intel's statement on the TCB is: its tcbEvaluationDataNumber",
        "tdx.mrconfigid": "the configuration that the host gave the TD",
        "tdx.mrowner": "the TD's owner",
        "tdx.mrseam": "the TDX module",
        "tdx.rtmr0": "firmware configuration",
        "tdx.rtmr1": "boot loader and kernel",
        "tdx.rtmr2": "what the kernel was started with",
        "tdx.rtmr3": "what runs in the TD",
        "machine": "this very processor with this very TPM",
        "tpm.measurement": "all quoted registers of the TPM",
    }
)
"""What well-known claims are, for people."""


def _words(name: str) -> str:
    if name.startswith("snp.tcb.reported."):
        return f" (AMD's firmware: {name.rpartition('.')[2]})"
    if name.startswith("tpm.pcr."):
        return f" (register {name.rpartition('.')[2]} of the TPM)"
    return f" ({_WORDS[name]})" if name in _WORDS else ""


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
    "allow_migration": "truth",
    "max_age_seconds": "number",
    "pins": "tables of lists",
    "minimums": "tables of numbers",
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
        case (("tables of lists" | "tables of numbers"), dict()):
            return {
                str(tee): {str(claim): _claim(where, name, kind, item) for claim, item in claims.items()}
                for tee, claims in value.items()
                if _is_table(where, name, claims)
            }
        case (("pins" | "texts"), list()) if all(isinstance(item, str) for item in value):
            if len(value) > limits.TRUST_ENTRIES:
                raise TooLarge(f"{name} of [{where}] has more than {limits.TRUST_ENTRIES} entries")
            return tuple(value)
    raise Malformed(f"{name} of [{where}] has the wrong type: {kind} is expected")


def _is_table(where: str, name: str, value: Any) -> bool:
    """Raises `Malformed` if not."""
    if isinstance(value, dict):
        return True
    raise Malformed(
        f"{name} of [{where}] has something else than a table for each TEE class",
        hint=f'write [{where}.{name}.tdx], and below it for example "tdx.rtmr1" = ["..."]',
    )


def _claim(where: str, name: str, kind: str, value: Any) -> Any:
    if kind == "tables of numbers" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind == "tables of lists" and isinstance(value, list) and all(isinstance(v, int | str) for v in value):
        return tuple(value)
    wanted = "a number" if kind == "tables of numbers" else "a list of texts, numbers or truth values"
    raise Malformed(f"an entry of {name} of [{where}] is not {wanted}")


__all__ = ["ANY", "TEES", "VERSION", "GatewayTrust", "Pins", "RoleTrust", "TrustPolicy"]
