"""Software evidence made by a real installation key."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mesatee import _core
from mesatee.attestation import Claims, GatewayTrust, RoleTrust, TrustPolicy, report_data
from mesatee.attestation.tee import software

NOW = 1_800_000_000
SPKI = b"the DER of a channel key's SubjectPublicKeyInfo"
SERVICE = "5e" * 32
COMPONENTS = software.Components("0a" * 32, "0b" * 32, "0c" * 32)


@dataclasses.dataclass
class Installation:
    key: Any
    spki: bytes = SPKI

    @property
    def fingerprint(self) -> str:
        return software.fingerprint(self.key.public)

    def evidence(
        self,
        claims: Claims | None = None,
        components: software.Components = COMPONENTS,
        issued: int = NOW,
        expires: int = NOW + 3_600,
        payload: bytes | None = None,
    ) -> bytes:
        encoded = (claims or gateway_claims()).encode()
        signed = payload or software.payload(
            components, report_data(encoded), issued, expires, "6.1", "x86_64"
        )
        return software.build(signed, self.key.public, self.key.sign(software.to_be_signed(signed)), encoded)

    def policy(self, **changes: Any) -> TrustPolicy:
        values: dict[str, Any] = {
            "tees": ("software",),
            "minimum_level": 2,
            "measurements": (COMPONENTS.measurement,),
            "installation_keys": (self.fingerprint,),
        }
        worker = {name: value for name, value in (values | changes).items() if name != "service"}
        return TrustPolicy(GatewayTrust(**({"service": (SERVICE,)} | values | changes)), RoleTrust(**worker))


def gateway_claims(spki: bytes = SPKI, service: str | None = SERVICE) -> Claims:
    return Claims.of_key(spki, "gateway", service=service)


@pytest.fixture(scope="session")
def installation() -> Installation:
    return Installation(_core.SigningKey.generate())
