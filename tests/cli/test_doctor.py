"""The doctor: real probes, of this machine and of folders made to look like another."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from tests.enclave.platform.conftest import SwTpm, swtpm_running
from tests.enclave.platform.fakes import ROOT, FakeKernel, File, TsmFolder

from mesatee import _core
from mesatee.attestation.tee import software
from mesatee.cli import attesters, doctor
from mesatee.enclave.platform import detect
from mesatee.protocol import environments, limits
from mesatee.protocol.digests import sha256


@pytest.fixture
def swtpm() -> Iterator[SwTpm]:
    with swtpm_running() as tpm:
        yield tpm


def test_an_ordinary_machine_says_why_for_each_interface(tmp_path: Path) -> None:
    found = detect(tmp_path)
    shown = doctor.interfaces(found)
    assert [(item.status, item.name) for item in shown] == [("info", each.interface) for each in found]
    assert all(item.found.startswith("not here") and not item.next_step for item in shown)
    assert all(
        doctor._reason(each) in item.found and "ENOENT" not in item.found
        for item, each in zip(shown, found, strict=True)
    )
    reasons = doctor.why_not_higher(found)
    assert reasons[1].count("there is no such file") == 1
    assert [reason[:7] for reason in reasons] == ["level 3", "level 4", "level 5"]
    assert "/dev/tpmrm0" in reasons[0]
    assert "configfs-tsm" in reasons[1]
    assert doctor.level(found)[0] == doctor.SOFTWARE_LEVEL == 2


def test_an_interface_that_is_there_raises_the_level() -> None:
    kernel = FakeKernel()
    kernel.folders.append(TsmFolder())
    found = detect(ROOT, kernel)
    assert doctor.level(found)[0] == 4
    assert [reason[:7] for reason in doctor.why_not_higher(found)] == ["level 5"]
    [shown] = [item for item in doctor.interfaces(found) if item.name == "configfs-tsm"]
    assert "for level 4 (snp)" in shown.found
    assert "--attester snp" in shown.next_step
    assert any("--attester auto" in text for text in doctor.lines([], found))


def test_op_tee_proves_less_than_software() -> None:
    kernel = FakeKernel()
    kernel.files["dev/tee0"] = File
    found = detect(ROOT, kernel)
    assert [item.tee for item in found if item.present] == ["optee"]
    assert attesters.best(found) is None
    assert doctor.level(found)[0] == doctor.SOFTWARE_LEVEL


def test_a_simulator_and_a_class_without_verifier_raise_nothing(swtpm: SwTpm) -> None:
    kernel = FakeKernel()
    found = detect(ROOT, kernel, swtpm.address)
    assert doctor.level(found)[0] == 2
    assert "simulator" in doctor.why_not_higher(found)[0]
    [shown] = [item for item in doctor.interfaces(found) if item.name == swtpm.address]
    assert "simulated" in shown.next_step
    kernel.folders.append(TsmFolder("tdx_guest"))
    both = detect(ROOT, kernel, swtpm.address)
    assert both[0].tee == "tdx+tpm"
    assert doctor.level(both)[0] == 4
    [reason] = doctor.why_not_higher(both)
    assert "class tdx, and around it a TPM 2.0" in reason
    assert "which is a simulator" in reason
    assert "simulated" in doctor.interfaces(both)[0].next_step
    [reason] = doctor.why_not_higher([replace(both[0], tee="tdx+abacus"), *both[1:]])
    assert "judges no evidence of class tdx+abacus" in reason


def test_the_installation_key_shows_its_fingerprint(tmp_path: Path) -> None:
    assert "none yet" in doctor.identity(tmp_path).found
    (tmp_path / "service").mkdir()
    key = _core.SigningKey.generate()
    key.save(str(tmp_path / "service" / "installation.key"))
    assert software.fingerprint(key.public) in doctor.identity(tmp_path).found
    (tmp_path / "service" / "installation.key").chmod(0o644)
    assert doctor.identity(tmp_path).status == "fail"


def test_a_clock_before_the_installation_is_wrong() -> None:
    now = 1_800_000_000.0
    assert doctor.clock(now, now).status == "pass"
    assert doctor.clock(now, now + limits.CLOCK_SKEW_SECONDS).status == "pass"
    assert doctor.clock(now, now + limits.CLOCK_SKEW_SECONDS + 1).status == "fail"


def test_a_home_that_others_may_read_is_said(tmp_path: Path) -> None:
    assert doctor.home_folder(tmp_path / "none").status == "pass"
    tmp_path.chmod(0o755)
    assert doctor.home_folder(tmp_path).next_step == f"chmod 700 {tmp_path}"
    tmp_path.chmod(0o700)
    assert doctor.home_folder(tmp_path).status == "pass"


def test_the_disk_of_a_home_that_is_not_there_yet_is_measured(tmp_path: Path) -> None:
    assert "GiB free" in doctor.disk(tmp_path / "a" / "b").found


def test_a_running_service_is_known_by_its_lock(tmp_path: Path) -> None:
    assert "none was founded" in doctor.service(tmp_path).found
    (tmp_path / "service").mkdir()
    with (tmp_path / "service" / "lock").open("wb") as lock:
        assert "does not run" in doctor.service(tmp_path).found
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert doctor.service(tmp_path).found == "runs"
    # The probe itself must not keep the lock.
    assert "does not run" in doctor.service(tmp_path).found


def test_all_sandbox_layers_are_listed() -> None:
    assert {item.name for item in doctor.sandbox()} == set(_core.sandbox_layers())
    assert set(_core.sandbox_layers()) >= doctor.SANDBOX_NEEDED


def test_protection_is_probed_in_another_process() -> None:
    assert [item.name for item in doctor.protection()] == list(doctor.PROTECTIONS)
    # This process is as it was: it may still be looked into.
    assert Path("/proc/self/maps").read_bytes()


def run(home: Path, as_json: bool) -> tuple[str, int]:
    said: list[str] = []
    try:
        doctor.run(home, as_json, said.append)
    except typer.Exit as left:
        return "".join(said), left.exit_code
    return "".join(said), 0


def test_the_json_form(tmp_path: Path) -> None:
    text, code = run(tmp_path, True)
    found = json.loads(text)
    assert found["ok"] == (code == 0)
    assert found["level"]["proven"] == 2
    assert found["level"]["name"] == "software trust"
    assert len(found["level"]["why_not_higher"]) == 3
    for check in found["checks"]:
        assert set(check) == {"topic", "name", "status", "found", "next_step"}
        assert check["status"] in ("pass", "info", "warn", "fail")
        assert check["next_step"] or check["status"] in ("pass", "info")


def test_the_text_form(tmp_path: Path) -> None:
    text, _ = run(tmp_path, False)
    assert "This machine can prove level 2 (software trust)" in text
    assert "sandbox:" in text


def test_it_fails_when_something_needed_is_missing(tmp_path: Path) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "installation.key").write_text("no key")
    _, code = run(tmp_path, True)
    assert code == 1


def test_it_says_which_environments_there_are(tmp_path: Path) -> None:
    [none] = doctor.environments(tmp_path)
    assert (none.status, none.name) == ("pass", "environments")
    lock = b"demo==1.0 --hash=sha256:" + b"0" * 64 + b"\n"
    manifest = environments.Manifest(
        version=1,
        name="stats",
        digest="ab" * 32,
        base="ba" * 32,
        lock=sha256(lock),
        packages=(),
        provided=(),
        files=0,
        bytes=0,
    )
    for name in ("stats", "torn"):
        (tmp_path / environments.FOLDER / name).mkdir(parents=True)
    (tmp_path / environments.FOLDER / "stats" / environments.MANIFEST).write_text(manifest.model_dump_json())
    whole, torn = doctor.environments(tmp_path)
    assert (whole.name, whole.status, "ab" * 32 in whole.found) == ("stats", "pass", True)
    assert (torn.name, torn.status) == ("torn", "warn")
    assert "mesatee env remove torn" in torn.next_step
