"""Software trust (level 2): an installation key signs what the machine says that it runs.

Body: deterministic CBOR ``[payload bstr, Ed25519 public key bstr .size 32, signature bstr .size 64]``; the
signature is over the DSSE pre-authentication encoding (DSSE v1, "PAE") of `PAYLOAD_TYPE` and the payload.
Payload::

    {"v": 1,
     "components": {"code": digest, "interpreter": digest, "libraries": digest,
                    "environments": {* tstr => digest}},
     "measurement": digest,            SHA-256(label || CBOR(components)), recomputed here
     "report_data": bstr .size 64,
     "issued": uint, "expires": uint,  Unix seconds
     "platform": {"kernel": tstr, "arch": tstr}}   informative

A relying party pins the SHA-256 of the installation's public key out of band. What that is worth is in
`LEVEL_REASON`: it tells honest machines apart and finds mistakes; it does not stop an operator who lies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from mesatee import _core
from mesatee.attestation import _cbor
from mesatee.attestation.appraisal import Answer
from mesatee.attestation.evidence import TAG_SOFTWARE, Claims, encode, unhex
from mesatee.attestation.tee.base import Proof, Tee
from mesatee.attestation.trust import ANY, RoleTrust
from mesatee.errors import Malformed, SignatureInvalid, UnsupportedVersion
from mesatee.protocol import limits

PAYLOAD_TYPE: Final = "application/vnd.mesatee.software-evidence+cbor"
VERSION: Final = 1
_MEASUREMENT_LABEL: Final = b"mesatee measurement v1\0"
LEVEL_REASON: Final = (
    "trusts the operator: the installation key signs what the machine measured of itself; root on that"
    " machine can change the code after it was measured, use the key, and read memory; no hardware takes part"
)


@dataclass(frozen=True, slots=True)
class Components:
    """What is measured, each a SHA-256 digest in hex."""

    code: str
    """MesaTEE itself, with its Rust core."""
    interpreter: str
    """CPython and its standard library."""
    libraries: str
    """The distributions that the trusted processes load."""
    environments: Mapping[str, str] = field(default_factory=dict)
    """Execution environments of a worker; empty for a gateway."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "environments", MappingProxyType(dict(sorted(self.environments.items()))))

    def as_cbor(self) -> dict[str, Any]:
        """The value that is signed. Raises `Malformed` for a digest that is none."""
        return {
            "code": unhex(self.code),
            "interpreter": unhex(self.interpreter),
            "libraries": unhex(self.libraries),
            "environments": {name: unhex(digest) for name, digest in self.environments.items()},
        }

    @property
    def measurement(self) -> str:
        """The combined measurement: what trust policies and tasks name, hex."""
        return hashlib.sha256(_MEASUREMENT_LABEL + _cbor.encode(self.as_cbor())).hexdigest()


@dataclass(frozen=True, slots=True)
class SoftwareReport:
    """A parsed body; nothing of it is verified yet."""

    payload: bytes
    public: bytes
    signature: bytes
    components: Components
    report_data: bytes
    issued: int
    expires: int
    kernel: str
    arch: str


def fingerprint(public: bytes) -> str:
    """SHA-256 of an installation's Ed25519 public key, hex: what trust policies name."""
    return hashlib.sha256(public).hexdigest()


def to_be_signed(payload: bytes) -> bytes:
    """DSSE v1 pre-authentication encoding of the payload."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def payload(
    components: Components, report: bytes, issued: int, expires: int, kernel: str, arch: str
) -> bytes:
    """What the installation key signs, by way of `to_be_signed`. `report` is the 64 bytes of report data."""
    return _cbor.encode(
        {
            "v": VERSION,
            "components": components.as_cbor(),
            "measurement": unhex(components.measurement),
            "report_data": report,
            "issued": issued,
            "expires": expires,
            "platform": {"kernel": kernel, "arch": arch},
        }
    )


def build(signed_payload: bytes, public: bytes, signature: bytes, claims: bytes) -> bytes:
    """The extension's value."""
    return encode(TAG_SOFTWARE, _cbor.encode([signed_payload, public, signature]), claims)


def parse(body: bytes) -> SoftwareReport:
    """Raises `Malformed`, `TooLarge` or `UnsupportedVersion`."""
    match _cbor.decode(body, limits.EVIDENCE_BYTES):
        case [bytes(signed), bytes(public), bytes(signature)] if len(public) == 32 and len(signature) == 64:
            pass
        case _:
            raise Malformed("software evidence is not [payload, 32-byte key, 64-byte signature]")
    fields = _cbor.Fields.of("software evidence", _cbor.decode(signed, limits.EVIDENCE_BYTES))
    if (version := fields.integer("v")) != VERSION:
        raise UnsupportedVersion(f"software evidence of version {version}; version {VERSION} is known")
    inner = fields.fields("components")
    components = Components(
        inner.bytes("code", 32).hex(),
        inner.bytes("interpreter", 32).hex(),
        inner.bytes("libraries", 32).hex(),
        inner.digests("environments"),
    )
    inner.done()
    platform = fields.fields("platform")
    report = SoftwareReport(
        payload=signed,
        public=public,
        signature=signature,
        components=components,
        report_data=fields.bytes("report_data", 64),
        issued=fields.integer("issued"),
        expires=fields.integer("expires"),
        kernel=platform.text("kernel", limits.COLUMN_CHARS),
        arch=platform.text("arch"),
    )
    if fields.bytes("measurement", 32).hex() != components.measurement:
        raise Malformed("the measurement of software evidence is not that of its components")
    platform.done()
    fields.done()
    return report


def verify(report: SoftwareReport, trust: RoleTrust, at: int) -> Proof:
    """Answer what is proven at `at` (Unix seconds).

    1. Signature of the payload by the key beside it (RFC 8032, over DSSE's PAE).
    2. Chain: that key's fingerprint is one that the policy pins. There is no other root.
    3. TCB status: software has none.
    4. Freshness: within its own validity, which is bounded. The nonces of the channel prove the rest.
    """
    reasons: list[str] = []
    # 1. Signature.
    signature = Answer.AFFIRMED
    try:
        _core.verify_ed25519(report.public, report.signature, to_be_signed(report.payload))
    except (SignatureInvalid, Malformed):
        signature = Answer.REFUSED
        reasons.append("the signature of the installation key does not verify")
    # 2. Chain.
    chain = Answer.AFFIRMED
    if fingerprint(report.public) not in trust.installation_keys:
        chain = Answer.REFUSED
        reasons.append(f"installation key {fingerprint(report.public)} is not one that the policy names")
    # 4. Freshness. A lifetime over the limit is refused whatever the time is.
    late = _time_objections(report, at)
    reasons += late
    pinned = trust.measurements != ANY
    return Proof(
        level=2,
        level_reason=LEVEL_REASON,
        simulated=False,
        hardware=False,
        measurement=report.components.measurement,
        report_data=report.report_data,
        signature=signature,
        chain=chain,
        tcb=Answer.NOT_ESTABLISHED,  # 3.
        freshness=Answer.REFUSED if late else Answer.AFFIRMED,
        expires=report.expires,
        reasons=(*reasons, LEVEL_REASON),
        environments=report.components.environments,
        claims={
            "installation_key": fingerprint(report.public),
            "measurement.code": report.components.code,
            "measurement.interpreter": report.components.interpreter,
            "measurement.libraries": report.components.libraries,
            "issued": report.issued,
            "platform.arch": report.arch,
            "platform.kernel": report.kernel,
        },
        # AR4SI: 2 recognised instance; 2 approved or 33 unrecognised executables; 32 secrets sealed by
        # software only. Hardware and runtime-opaque stay 0: no claim is made.
        vector={"instance-identity": 2, "executables": 2 if pinned else 33, "storage-opaque": 32},
    )


def _time_objections(report: SoftwareReport, at: int) -> list[str]:
    found = []
    if report.issued > at + limits.CLOCK_SKEW_SECONDS:
        found.append("the evidence was issued in the future")
    if report.expires <= at:
        found.append("the evidence has expired")
    if not 0 < report.expires - report.issued <= limits.EVIDENCE_LIFE_SECONDS:
        found.append(
            f"the evidence is valid for more than {limits.EVIDENCE_LIFE_SECONDS} seconds, or for none"
        )
    return found


def validate(proof: Proof, claims: Claims, trust: RoleTrust) -> tuple[str, ...]:
    """The claims name what was measured; see `Claims.cover`."""
    if not claims.cover(proof.environments):
        return ("the environments in the claims are not those that were measured",)
    return ()


TEE: Final = Tee("software", parse, verify, validate)

__all__ = [
    "LEVEL_REASON",
    "PAYLOAD_TYPE",
    "TEE",
    "VERSION",
    "Components",
    "SoftwareReport",
    "build",
    "fingerprint",
    "parse",
    "payload",
    "to_be_signed",
    "validate",
    "verify",
]
