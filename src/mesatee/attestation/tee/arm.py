"""What PSA and CCA platform tokens have in common: life cycle and software components.

Spec: RFC 9783 sections 4.3.1 (security life cycle) and 4.4.1 (software components); RMM specification (DEN0137)
sections A7.2.3.2.6 and A7.2.3.2.7, which take them over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mesatee.attestation import _cbor
from mesatee.attestation.appraisal import Scalar
from mesatee.errors import TooLarge
from mesatee.protocol import limits

DIGESTS: Final = (32, 48, 64)
"""Bytes of SHA-256, SHA-384 and SHA-512."""
INSTANCE_BYTES: Final = 33
"""A UEID of type RAND: 01 and 32 bytes (RFC 9711 section 4.2.1)."""
IMPLEMENTATION_BYTES: Final = 32
_STATES: Final = (
    "unknown",
    "assembly and test",
    "provisioning",
    "secured",
    "debug of the non-secure side",
    "recoverable debug of the root of trust",
    "decommissioned",
)
_SECURED: Final = 3
_DEBUG: Final = (4, 5)


@dataclass(frozen=True, slots=True)
class LifeCycle:
    """Of a device. The high byte is sixteen times the state, the low byte its maker's."""

    value: int

    @property
    def state(self) -> str:
        """In words."""
        state, low = divmod(self.value >> 8, 16)
        return _STATES[state] if not low and state < len(_STATES) else "not defined"

    @property
    def debug(self) -> bool:
        """Whether somebody can look into the device with a debugger."""
        return self.state in [_STATES[index] for index in _DEBUG]

    def objections(self) -> tuple[str, ...]:
        """Only a secured device's word counts; RFC 9783 section 4.3.1 would let non-secure debug pass, which
        the policy on debug does not.
        """
        if self.state == _STATES[_SECURED]:
            return ()
        kind = "debug: " if self.debug else ""
        return (f"{kind}the life cycle is not 'secured' but '{self.state}' ({self.value:#06x})",)


@dataclass(frozen=True, slots=True)
class Component:
    """One measured piece of software."""

    kind: str
    measurement: bytes
    signer: bytes
    version: str


def components(value: Sequence[_cbor.Foreign]) -> tuple[Component, ...]:
    """Raises `Malformed` or `TooLarge`."""
    if len(value) > limits.ARM_COMPONENTS:
        raise TooLarge(f"more than {limits.ARM_COMPONENTS} software components")
    found = []
    for item in value:
        fields = _cbor.ForeignClaims.of("a software component", item)
        found.append(
            Component(
                kind=fields.text(1) if fields.has(1) else "",
                measurement=fields.bytes(2, *DIGESTS),
                signer=fields.bytes(5, *DIGESTS),
                version=fields.text(4) if fields.has(4) else "",
            )
        )
    return tuple(found)


def digest(found: Sequence[Component]) -> str:
    """One measurement over all components, hex: SHA-256 of ``[[kind, measurement, signer], ...]`` in
    deterministic CBOR. The tokens themselves have none.
    """
    items = [[item.kind, item.measurement, item.signer] for item in found]
    return hashlib.sha256(_cbor.encode(items)).hexdigest()


def claims(found: Sequence[Component]) -> dict[str, Scalar]:
    """Claims that name each component."""
    return {
        f"component.{index}": f"{item.kind or '-'} {item.version or '-'} {item.measurement.hex()} {item.signer.hex()}"
        for index, item in enumerate(found)
    }


def instance(fields: _cbor.ForeignClaims, key: int) -> bytes:
    """An instance id. Raises `Malformed`."""
    return fields.bytes(key, INSTANCE_BYTES)


__all__ = [
    "DIGESTS",
    "IMPLEMENTATION_BYTES",
    "INSTANCE_BYTES",
    "Component",
    "LifeCycle",
    "claims",
    "components",
    "digest",
    "instance",
]
