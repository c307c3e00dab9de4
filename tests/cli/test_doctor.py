"""The doctor: real probes, of this machine and of folders made to look like another."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest
import typer

from mesatee import _core
from mesatee.attestation.tee import software
from mesatee.cli import doctor
from mesatee.protocol import limits


def machine(root: Path, *paths: str) -> Path:
    for path in paths:
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def test_nothing_is_found_on_a_bare_machine(tmp_path: Path) -> None:
    assert [item.status for item in doctor.interfaces(tmp_path)] == ["info"] * len(doctor.INTERFACES)
    assert all("not found" in item.found for item in doctor.interfaces(tmp_path))
    assert [reason[:7] for reason in doctor.why_not_higher(tmp_path)] == ["level 3", "level 4", "level 5"]


@pytest.mark.parametrize("interface", doctor.INTERFACES, ids=lambda item: item.name)
def test_each_path_of_an_interface_is_probed(interface: doctor.Interface, tmp_path: Path) -> None:
    for number, path in enumerate(interface.paths):
        root = machine(tmp_path / str(number), path)
        assert doctor.probe(interface, root) == path
        [found] = [item for item in doctor.interfaces(root) if item.found == f"found at {path}"]
        assert f"level {interface.level}" in found.next_step
        assert any(f"{interface.name} is here" in reason for reason in doctor.why_not_higher(root))


def test_no_hardware_interface_raises_the_level(tmp_path: Path) -> None:
    # Only attesters of this version do, and there is none above level 2.
    machine(tmp_path, *(path for item in doctor.INTERFACES for path in item.paths))
    assert doctor.level()[0] == doctor.BEST_LEVEL == 2
    assert len(doctor.why_not_higher(tmp_path)) == 3


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
    assert "A service started here proves level 2 (software trust)" in text
    assert "sandbox:" in text


def test_it_fails_when_something_needed_is_missing(tmp_path: Path) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "installation.key").write_text("no key")
    _, code = run(tmp_path, True)
    assert code == 1
