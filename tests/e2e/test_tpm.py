"""The service on a machine with a TPM: swtpm, a real TPM 2.0 of software, which measured no real boot.

Worker and gateway bind their channel keys by quotes; the trust file pins the attestation key and the measurement.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.e2e.conftest import Lab
from tests.e2e.test_command_line import Shell
from tests.enclave.platform.conftest import SwTpm, swtpm_running

from mesatee.attestation.trust import TrustPolicy
from mesatee.cli import attesters, stored, up
from mesatee.cli.demo import stage
from mesatee.enclave.platform.keys import PLATFORM_KEY, TPM_KEY
from mesatee.enclave.platform.measure import measure
from mesatee.enclave.platform.tpm import Tpm, connect, registers
from mesatee.errors import Conflict, EvidenceRefused, KeyRefused, LevelTooLow, MesateeError
from mesatee.party import Identity, Session, read_service_file, read_trust

WORK = "from mesatee.table import Table\ndef work(people: Table) -> Table:\n    return people\n"


@pytest.fixture(scope="module")
def machine() -> Iterator[SwTpm]:
    with swtpm_running() as tpm:
        yield tpm


@pytest.fixture(scope="module")
def town(machine: SwTpm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[up.Service]:
    home = tmp_path_factory.mktemp("tpm") / "home"
    with up.running(home, attester="tpm", tpm=machine.address) as service:
        yield service


def test_a_task_runs_at_level_3(town: up.Service, machine: SwTpm, tmp_path: Path) -> None:
    file = read_service_file(town.home)
    assert file is not None
    trust = read_trust(town.home / "trust.toml")
    assert (file.level, file.tees) == (3, ("tpm",))
    assert trust.worker.minimum_level == trust.gateway.minimum_level == 3
    assert len(trust.gateway.anchors) == 1
    # The simulator is called one, in the trust file and in the receipt.
    assert trust.gateway.allow_simulated
    with ExitStack() as stack:
        lab = Lab(stage.enter(stack, town.home, ("hospital-a", "scientist")), tmp_path)
        assert lab.scientist.appraisal.level == 3
        assert lab.scientist.appraisal.simulated
        view = lab.task(WORK, {"people": lab.table("id\n1\n")})
        assert lab.run(view).status == "finished"
        receipt = lab.result(view).receipt
    assert (receipt.level, receipt.tee, receipt.simulated) == (3, "tpm", True)
    assert (receipt.gateway_level, receipt.gateway_tee) == (3, "tpm")
    assert receipt.measurement in trust.worker.measurements
    # The service's keys are sealed by the TPM, and nothing lies beside them.
    assert (town.home / "service" / "enclave" / TPM_KEY).exists()
    assert not (town.home / "service" / "enclave" / PLATFORM_KEY).exists()


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"anchors": ("ab" * 32,)}, EvidenceRefused, "device key"),
        ({"anchors": ()}, EvidenceRefused, "device key"),
        ({"measurements": ("ab" * 32,)}, EvidenceRefused, "measurement"),
        ({"allow_simulated": False}, EvidenceRefused, "simulated"),
        ({"tees": ("software",)}, EvidenceRefused, "TEE class tpm"),
        ({"minimum_level": 4}, LevelTooLow, "level 3"),
    ],
)
def test_another_policy_refuses_the_gateway(
    town: up.Service, tmp_path: Path, change: dict[str, object], error: type[MesateeError], word: str
) -> None:
    trust = read_trust(town.home / "trust.toml")
    policy = TrustPolicy(dataclasses.replace(trust.gateway, **change), trust.worker)  # type: ignore[arg-type]
    with (
        pytest.raises(error, match=word),
        Session(town.url, Identity.create(tmp_path, "anna"), policy, register=False),
    ):
        pass


def test_a_gateway_of_another_tpm_is_refused(town: up.Service, tmp_path: Path) -> None:
    """Same code, same boot, another attestation key: as if somebody had built the machine again."""
    with swtpm_running() as other:
        with Tpm(connect(other.address)) as tpm:
            registers.record(tpm, "ab" * 32)
        home = tmp_path / "home"
        with pytest.raises(Conflict, match="PCR 13"):
            up.start(home, attester="tpm", tpm=other.address)
        other.wipe()
        service = up.start(home, attester="tpm", tpm=other.address, with_worker=False)
        try:
            theirs, ours = read_trust(home / "trust.toml"), read_trust(town.home / "trust.toml")
            assert theirs.gateway.measurements == ours.gateway.measurements
            assert theirs.gateway.anchors != ours.gateway.anchors
            policy = dataclasses.replace(theirs.gateway, anchors=ours.gateway.anchors)
            with (
                pytest.raises(EvidenceRefused, match="device key"),
                Session(service.url, Identity.create(tmp_path, "bert"), TrustPolicy(policy), register=False),
            ):
                pass
        finally:
            service.stop()


def test_keys_stay_sealed_after_another_boot(tmp_path: Path, fresh: Callable[..., up.Service]) -> None:
    home = tmp_path / "home"
    with swtpm_running() as tpm:
        fresh(home, attester="tpm", tpm=tpm.address, with_worker=False).stop()
        stored.check(home)
        with pytest.raises(Conflict, match="attester tpm"):
            up.start(home)
        # The same boot again gives the keys back; with another boot loader the TPM keeps them.
        tpm.restart()
        fresh(home, attester="tpm", tpm=tpm.address, with_worker=False).stop()
        tpm.restart()
        tpm.extend(4, b"another boot loader")
        with pytest.raises(KeyRefused):
            up.start(home, attester="tpm", tpm=tpm.address, with_worker=False)


def test_the_command_line_says_what_it_proves(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "home")
    assert shell.refused("up", "--attester", "tpm", "--tpm", f"unix:{tmp_path}/nothing") == "unavailable"
    assert shell.refused("up", "--attester", "abacus") == "malformed"
    assert shell.refused("up", "--level", "6") == "malformed"
    assert shell.refused("up", "--level", "4") == "level_too_low"
    with swtpm_running() as tpm, shell.up("--attester", "tpm", "--tpm", tpm.address):
        found = shell.json("attest")
        assert (found["accepted"], found["appraisal"]["level"]) == (True, 3)
        assert found["appraisal"]["simulated"]
        said = " ".join(shell.json("trust", "explain")["trust"])
        assert "Simulated hardware is accepted" in said
        assert "the device's key must be" in said


@pytest.mark.parametrize("name", ["tpm", "azure-vtpm"])
def test_the_launcher_measures_the_software_wherever_registers_are_quoted(name: str) -> None:
    with swtpm_running() as tpm:
        attesters.record("software", tpm.address, ())
        attesters.record(name, tpm.address, ())
        with Tpm(connect(tpm.address)) as opened:
            found = opened.pcr_read([registers.RUNTIME_PCR])[registers.RUNTIME_PCR]
    measured = hashlib.sha256(bytes.fromhex(measure(()).digest)).digest()
    assert found == hashlib.sha256(bytes(32) + measured).digest()


def test_a_simulator_is_only_for_who_asks_for_it(machine: SwTpm) -> None:
    assert attesters.choose("auto", None, machine.address).name == "software"
    assert attesters.choose("tpm", 3, machine.address) == attesters.Choice("tpm", 3)
    with pytest.raises(LevelTooLow):
        attesters.choose(None, 3, machine.address)
