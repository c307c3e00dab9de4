from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mesatee import _core
from mesatee.attestation import Claims, RoleTrust, TrustPolicy, appraise
from mesatee.attestation.tee.software import Components
from mesatee.enclave.platform import Attester, Measurement, NoAttester, SoftwareAttester, installation_key
from mesatee.errors import Malformed
from mesatee.protocol import limits

NOW = 1_800_000_000
MEASUREMENT = Measurement(Components("0a" * 32, "0b" * 32, "0c" * 32, {"base": "0d" * 32}), 1, 1)
CLAIMS = Claims.of_key(b"spki", "worker", environments=MEASUREMENT.components.environments)


def attester(**options: int) -> SoftwareAttester:
    return SoftwareAttester(_core.SigningKey.generate(), MEASUREMENT, **options)


def test_evidence_is_accepted_by_the_verifier() -> None:
    made: Attester = (ours := attester())
    trust = RoleTrust(("software",), 2, (made.measurement,), (ours.fingerprint,))
    found = appraise(made.evidence(CLAIMS, NOW), b"spki", TrustPolicy(worker=trust), NOW, "worker")
    assert (found.tee, found.measurement) == (made.tee, MEASUREMENT.digest)
    assert dict(found.environments) == {"base": "0d" * 32}


def test_none_attester() -> None:
    made: Attester = NoAttester()
    trust = RoleTrust(("none",), 1, "any")
    found = appraise(made.evidence(CLAIMS), b"spki", TrustPolicy(worker=trust), NOW, "worker")
    assert (found.tee, found.measurement) == (made.tee, made.measurement)


def test_it_vouches_for_no_other_environments() -> None:
    with pytest.raises(Malformed):
        attester().evidence(dataclasses.replace(CLAIMS, environments={"base": "0e" * 32}), NOW)
    with pytest.raises(Malformed):
        attester().evidence(dataclasses.replace(CLAIMS, environments={"more": "0d" * 32}), NOW)
    attester().evidence(dataclasses.replace(CLAIMS, environments={"base": "0d" * 32, "more": "0e" * 32}), NOW)


def test_life_one_below_and_one_above() -> None:
    for life in (0, limits.EVIDENCE_LIFE_SECONDS + 1):
        with pytest.raises(Malformed):
            attester(life_seconds=life)
    for life in (1, limits.EVIDENCE_LIFE_SECONDS):
        attester(life_seconds=life).evidence(CLAIMS)


def test_the_installation_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "installation.key"
    first = installation_key(path)
    assert installation_key(path).public == first.public
    assert path.stat().st_mode & 0o777 == 0o600
