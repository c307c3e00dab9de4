"""Attesters by name: what `up` would offer, pin and seal with on a machine that has several parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.attestation.tee.test_composite import Snp
from tests.enclave.platform.conftest import SwTpm, swtpm_running
from tests.support import amd

from mesatee._core import SigningKey, spki
from mesatee.attestation.endorsements import NOTHING, Endorsement, Endorsements
from mesatee.attestation.evidence import Claims
from mesatee.attestation.tee import snp
from mesatee.attestation.trust import TrustPolicy
from mesatee.attestation.verify import appraise
from mesatee.cli import attesters
from mesatee.enclave.platform import CompositeCollector
from mesatee.enclave.platform.detect import Candidate
from mesatee.enclave.platform.keys import SnpKey, TpmKey
from mesatee.enclave.platform.tpm import TpmCollector
from mesatee.enclave.platform.tpm.registers import RUNTIME_PCR
from mesatee.errors import EvidenceRefused, LevelTooLow, Unavailable

AT = amd.START
# AMD's own key server gives this list; the machine does not.
KEPT = Endorsements((Endorsement("snp", "", "crl", amd.MILAN.crl(), AT, None),))


@pytest.fixture(scope="module")
def simulator() -> Iterator[SwTpm]:
    with swtpm_running() as running:
        yield running


@pytest.fixture
def tpm(simulator: SwTpm) -> TpmCollector:
    return TpmCollector(simulator.address)


@pytest.fixture
def machine(tpm: TpmCollector, monkeypatch: pytest.MonkeyPatch) -> Snp:
    """An SNP guest with a TPM, as `detect` finds it."""
    processor = Snp()
    found = [
        Candidate(
            "sev and tpm", "snp+tpm", 5, "both", lambda: CompositeCollector(processor, tpm), simulated=True
        ),
        Candidate("sev", "snp", 4, "a guest", lambda: processor),
        Candidate("tpm", "tpm", 3, "a simulator", lambda: tpm, simulated=True),
    ]
    monkeypatch.setattr(attesters, "detect", lambda **_: found)
    monkeypatch.setattr(attesters, "time", SimpleNamespace(time=lambda: AT))
    monkeypatch.setattr(snp, "ROOTS", amd.MILAN.roots)
    return processor


def test_a_policy_pins_processor_and_tpm_together(machine: Snp, simulator: SwTpm, tmp_path: Path) -> None:
    assert attesters.choose("snp+tpm", 5).level == 5
    attesters.record("snp+tpm", simulator.address, ("base",))
    trust = attesters.trust("snp+tpm", tmp_path, ("base",), "", KEPT)
    assert (trust.tees, trust.minimum_level, trust.allow_simulated) == (("snp+tpm",), 5, True)
    assert set(trust.pins["snp+tpm"]) == {"machine"}
    assert len(trust.anchors) == 1
    mine = attesters.attester("snp+tpm", tmp_path, ("base",))
    assert trust.measurements == (mine.measurement,)
    key = spki(SigningKey.generate().public)
    shown = mine.evidence(Claims.of_key(key, "worker", environments=mine.environments))
    found = appraise(shown, key, TrustPolicy(worker=trust), AT, "worker", KEPT)
    assert found.level == 5
    # What the launcher recorded is among the registers that were quoted.
    assert found.claims[f"tpm.pcr.sha256.{RUNTIME_PCR}"] != "00" * 32


def test_a_simulated_tpm_is_not_chosen_by_itself(machine: Snp) -> None:
    assert attesters.choose("auto", None).name == "snp"
    with pytest.raises(LevelTooLow):
        attesters.choose("auto", 5)


def test_a_hidden_processor_cannot_be_enrolled(machine: Snp, tmp_path: Path) -> None:
    machine.chip = bytes(64)
    with pytest.raises(EvidenceRefused, match="does not say which one it is"):
        attesters.trust("snp+tpm", tmp_path, ("base",), "", KEPT)


def test_a_machine_without_its_list_is_not_pinned(machine: Snp, tmp_path: Path) -> None:
    machine.without = ("crl",)
    with pytest.raises(EvidenceRefused, match="revocation list is missing"):
        attesters.trust("snp+tpm", tmp_path, ("base",), "", NOTHING)


def test_keys_are_sealed_by_the_processor_or_else_the_tpm(machine: Snp) -> None:
    assert isinstance(attesters._platform_key("snp+tpm", ""), SnpKey)
    assert isinstance(attesters._platform_key("tdx+tpm", ""), TpmKey)
    with pytest.raises(Unavailable):
        attesters._platform_key("tdx+nvidia-gpu", "")
