"""`mesatee trust explain`, and `attestation verify` with the endorsements of the home folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tests.support import captured
from typer.testing import CliRunner

from mesatee import _core
from mesatee.attestation import corpus
from mesatee.attestation.endorsements import Endorsement
from mesatee.attestation.evidence import Claims
from mesatee.attestation.trust import RoleTrust, TrustPolicy
from mesatee.cli.main import app
from mesatee.enclave.platform import SoftwareAttester
from mesatee.enclave.platform.measure import measure
from mesatee.endorse import Store


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def run(home: Path, *arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["--home", str(home), *map(str, arguments)])
    return done.exit_code, done.stdout


def test_a_policy_in_words(home: Path) -> None:
    (home / "trust.toml").write_text(TrustPolicy().to_toml())
    code, text = run(home, "trust", "explain")
    assert code == 0
    assert "No gateway is accepted" in text
    code, text = run(home, "trust", "explain", "--json")
    value = {"trust": TrustPolicy().explain(), "digest": TrustPolicy().digest}
    assert json.loads(text) == {**value, "trust_file": str(home / "trust.toml")}


def test_a_file_that_is_no_evidence_is_called_so(home: Path, tmp_path: Path) -> None:
    """It said that bytes follow the CBOR item."""
    (home / "trust.toml").write_text(TrustPolicy().to_toml())
    (tmp_path / "people.csv").write_text("id,age\n1,2\n")
    code, text = run(home, "trust", "explain", "--evidence", tmp_path / "people.csv", "--json")
    assert code == 1
    assert "not evidence of a kind that is known here" in json.loads(text)["error"]["message"]


def test_a_trust_file_that_is_none_is_named(home: Path) -> None:
    (home / "trust.toml").write_text("version = 1\n[gateway\n")
    code, text = run(home, "trust", "explain", "--json")
    said = json.loads(text)["error"]
    assert (code, said["code"]) == (1, "malformed")
    assert str(home / "trust.toml") in said["message"]
    assert "line 2" in said["message"]
    assert "docs/attestation.md" in said["hint"]


def test_words_for_a_tcb_are_said_of_classes_that_have_them() -> None:
    for tees, there in ((("tpm",), False), (("snp",), False), (("tdx",), True), (("tpm", "sgx"), True)):
        said = "\n".join(TrustPolicy(worker=RoleTrust(tees=tees)).explain())
        assert ("Its TCB must be" in said) is there


def test_without_a_trust_file_nothing_is_explained(home: Path) -> None:
    code, text = run(home, "trust", "explain", "--json")
    assert (code, json.loads(text)["error"]["code"]) == (1, "not_found")


def test_why_evidence_is_refused(home: Path, tmp_path: Path) -> None:
    mine = SoftwareAttester(_core.SigningKey.generate(), measure(()))
    key, now = _core.SigningKey.generate(), int(time.time())
    sent = mine.evidence(Claims.of_key(_core.spki(key.public), "worker"))
    worker = RoleTrust(
        tees=("software",),
        minimum_level=2,
        measurements=(mine.measurement,),
        installation_keys=(mine.fingerprint,),
    )
    (home / "trust.toml").write_text(TrustPolicy(worker=worker).to_toml())
    extension, certificate = tmp_path / "extension", tmp_path / "certificate.der"
    extension.write_bytes(sent)
    certificate.write_bytes(_core.make_certificate(key, "worker", now - 60, now + 60, sent))
    for path in (extension, certificate):
        code, text = run(home, "trust", "explain", "--evidence", path, "--json")
        assert code == 0, text
        [found] = json.loads(text)["evidence"]
        assert (found["role"], found["tee"], found["refused"]) == ("worker", "software", [])
    code, text = run(home, "trust", "explain", "--evidence", extension, "--at", "2020-01-01")
    assert code == 1
    assert "is refused:" in text
    (home / "trust.toml").write_text(TrustPolicy().to_toml())
    code, text = run(home, "trust", "explain", "--evidence", extension)
    assert code == 1
    assert "TEE class software is not one that the policy names" in text
    extension.write_bytes(b"nothing")
    code, text = run(home, "trust", "explain", "--evidence", extension, "--json")
    assert code == 1
    assert json.loads(text)["error"]["hint"]


def snp() -> tuple[dict[str, bytes], int]:
    captured.need()
    folder = captured.FOLDER / "snp" / "google-milan-v2"
    asked = corpus.question((folder / "meta.json").read_bytes())
    at = asked.at or 1_700_000_000
    return {role: (folder / name).read_bytes() for role, name in asked.names.items()}, at


def verified(home: Path, report: Path, at: int, *more: str | Path) -> dict[str, Any]:
    _, text = run(home, "attestation", "verify", report, "--at", str(at), "--json", *more)
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def test_verify_uses_the_endorsements_that_are_kept(home: Path, tmp_path: Path) -> None:
    pieces, at = snp()
    report = tmp_path / "report.bin"
    report.write_bytes(pieces["report"])
    assert verified(home, report, at)["chain"] != "affirmed"
    chip = corpus.subject("snp", {"report": pieces["report"]})
    others = [
        Endorsement("snp", "" if role == "ask_ark" else chip, role, data, fetched=at, expires=None)
        for role, data in pieces.items()
        if role in ("vcek", "ask_ark")
    ]
    assert len(others) == 2
    Store(home).add(others)
    found = verified(home, report, at)
    assert (found["signature"], found["chain"]) == ("affirmed", "affirmed")
    # A folder that is named is all that counts.
    empty = tmp_path / "empty"
    empty.mkdir()
    assert verified(home, report, at, "--collateral", empty)["chain"] != "affirmed"
    # Of another chip they are of no use.
    stranger = tmp_path / "stranger"
    Store(stranger).add([Endorsement("snp", "00" * 64, "vcek", pieces["vcek"], fetched=at, expires=None)])
    assert verified(stranger, report, at)["chain"] != "affirmed"


def test_explain_uses_them_too(home: Path, tmp_path: Path) -> None:
    pieces, at = snp()
    report = tmp_path / "report.bin"
    report.write_bytes(pieces["report"])
    (home / "trust.toml").write_text(
        TrustPolicy(worker=RoleTrust(tees=("snp",), minimum_level=4, measurements="any")).to_toml()
    )
    arguments = ("trust", "explain", "--evidence", report, "--at", str(at), "--json")

    def worker() -> list[str]:
        _, text = run(home, *arguments)
        [found] = [item for item in json.loads(text)["evidence"] if item["role"] == "worker"]
        assert "not judged" in found["binding"]
        return list(found["refused"])

    assert any("chain" in reason for reason in worker())
    chip = corpus.subject("snp", {"report": pieces["report"]})
    Store(home).add(
        Endorsement("snp", "" if role == "ask_ark" else chip, role, pieces[role], fetched=at, expires=None)
        for role in ("vcek", "ask_ark")
    )
    assert not any("chain" in reason for reason in worker())
