"""The verbs `mesatee attestation check`, `verify` and `show`."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.support import intel
from typer.testing import CliRunner

from mesatee.attestation import corpus
from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.tee import dcap_verify
from mesatee.attestation.trust import TrustPolicy
from mesatee.cli import attestation
from mesatee.cli.main import app
from mesatee.protocol import limits

REPORT = (2).to_bytes(4, "little") + bytes(0x30) + (1).to_bytes(4, "little") + bytes(1_184 - 0x38)
KEYS = {
    "id", "verdict", "signature", "chain", "tcb", "replay", "binding", "level", "reasons",
    "tcb_status", "revocation", "measurement", "simulated", "claims", "expires",
}  # fmt: skip


def case(folder: Path, **meta: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["attestation", *map(str, arguments)])
    return done.exit_code, done.stdout


def check(folder: Path) -> dict[str, Any]:
    code, text = run("check", folder, "--json")
    assert code == 0
    value = json.loads(text)
    assert set(value) == {"cases", "counts"}
    for item in value["cases"]:
        assert KEYS <= set(item) <= KEYS | {"expected", "agrees"}
    counts = value["counts"]
    assert sum(counts[tier.value] for tier in Status) == len(value["cases"])
    assert counts["agree"] + counts["disagree"] + counts["without_expectation"] == len(value["cases"])
    return {item["id"]: item for item in value["cases"]} | {"counts": counts}


def test_cases_at_any_depth(tmp_path: Path):
    case(tmp_path / "a", tee="abacus", files={"x": "x"}, expected={"tier": "none"})
    (tmp_path / "a" / "x").write_bytes(b"x")
    case(tmp_path / "b" / "c" / "d", id="named", files={}, expected={"tier": "affirming"})
    case(tmp_path / "e", files={}, expected={"tier": None})
    case(tmp_path / "f", files={"r": "gone"})
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "meta.json").write_bytes(b"{")
    found = check(tmp_path)
    assert found["a"]["reasons"] == ["no verifier for abacus is built in"]
    assert found["a"]["agrees"] is True
    assert (found["named"]["verdict"], found["named"]["expected"]) == ("none", "affirming")
    assert found["named"]["agrees"] is False
    assert found["e"]["expected"] is None
    assert "agrees" not in found["e"]
    assert "the file of r is passed over" in found["f"]["reasons"][1]
    assert found["g"]["reasons"] == ["meta.json: meta.json is not JSON"]
    assert found["counts"] == {
        "none": 5, "affirming": 0, "warning": 0, "contraindicated": 0,
        "agree": 1, "disagree": 1, "without_expectation": 3,
    }  # fmt: skip
    code, text = run("check", tmp_path)
    assert code == 0
    assert "named: none, but expected affirming" in text
    assert "1 agree, 1 disagree" in text
    # What made a case unreadable stood in the JSON alone.
    assert "g: not judged\n  - meta.json: meta.json is not JSON\n" in text


def test_a_pipe_folds_nothing_and_a_terminal_keeps_ids_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = "a-case-with-a-long-name-" * 4
    case(tmp_path / name, files={})
    code, text = run("check", tmp_path)
    assert code == 0
    assert any(line.startswith(name) and "none" in line for line in text.splitlines())
    value = {"cases": list(check(tmp_path).values())[:1], "counts": {}}
    narrow = Console(width=100, record=True, file=io.StringIO())
    attestation._show_cases(narrow, value)
    lines = narrow.export_text().splitlines()
    assert lines[0].strip() == name
    assert lines[1].startswith("  none, ")


def test_local_files_of_another_kind_are_called_by_their_name(tmp_path: Path):
    evidence, trusted, junk = tmp_path / "report", tmp_path / "trust.toml", tmp_path / "junk.toml"
    evidence.write_bytes(REPORT)
    trusted.write_text(TrustPolicy().to_toml())
    junk.write_text("version = 1\n[evidence\n")
    for policy, says in ((trusted, "is a trust policy"), (junk, "line 2")):
        code, text = run("verify", evidence, "--policy", policy, "--json")
        assert code == 1
        assert says in json.loads(text)["error"]["message"]
        assert str(policy) in json.loads(text)["error"]["message"]
    code, text = run("show", tmp_path, "--json")
    assert "is a folder" in json.loads(text)["error"]["message"]
    code, text = run("verify", evidence, "--collateral", tmp_path / "none", "--json")
    assert json.loads(text)["error"]["hint"] == "check the path"


def test_an_empty_folder_and_none(tmp_path: Path):
    assert check(tmp_path)["counts"]["agree"] == 0
    code, text = run("check", tmp_path / "missing", "--json")
    assert code == 1
    assert json.loads(text)["error"]["code"] == "not_found"


def test_hostile_folders(tmp_path: Path):
    outside = tmp_path / "secret"
    outside.write_bytes(b"secret")
    top = tmp_path / "top"
    linked = case(top / "link", tee="snp", files={"report": "r"})
    (linked / "r").symlink_to(outside)
    piped = case(top / "pipe", tee="snp", files={"report": "r"})
    os.mkfifo(piped / "r")
    case(top / "out", tee="snp", files={"report": "../../secret"})
    case(top / "folder", tee="snp", files={"report": "sub"})
    (top / "folder" / "sub").mkdir()
    large = case(top / "large", tee="snp", files={"report": "r"})
    with (large / "r").open("wb") as file:
        file.truncate(limits.CASE_FILE_BYTES + 1)
    wide = case(top / "wide")
    (wide / "meta.json").write_bytes(b"{}".ljust(limits.CASE_META_BYTES + 1))
    (top / "loop").symlink_to(top)
    looped = top / "metalink"
    looped.mkdir()
    (looped / "meta.json").symlink_to(outside)
    found = check(top)
    assert len(found) == 8
    for name in ("link", "pipe", "out", "folder", "wide", "metalink"):
        assert found[name]["verdict"] == "none"
    assert "leads out of the case's folder" in found["link"]["reasons"][1]
    assert "not a file" in found["pipe"]["reasons"][1]
    assert found["large"]["verdict"] == "contraindicated"


def test_the_number_of_cases_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "CASES", 2)
    case(tmp_path / "a")
    case(tmp_path / "b")
    assert run("check", tmp_path)[0] == 0
    case(tmp_path / "c")
    assert run("check", tmp_path)[0] == 1


def test_expectations_are_read_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    judge, read = attestation.judge, corpus.expectation
    monkeypatch.setattr(attestation, "judge", lambda *a: order.append("judge") or judge(*a))  # type: ignore[func-returns-value]
    monkeypatch.setattr(corpus, "expectation", lambda m: order.append("read") or read(m))  # type: ignore[func-returns-value]
    for name in "abc":
        case(tmp_path / name, expected={"tier": "none"})
    check(tmp_path)
    assert order == ["judge"] * 3 + ["read"] * 3


def affirm(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []

    def accept(files: Any, at: int | None, policy: corpus.CorpusPolicy) -> Any:
        seen.append((dict(files), at, policy))
        good = corpus.plain_verdict(Status.AFFIRMING)
        values = {name: getattr(good, name) for name in good.__slots__}
        return type(good)(**{**values, "signature": Answer.AFFIRMED, "chain": Answer.AFFIRMED, "level": 4})

    monkeypatch.setattr(corpus, "CHECKS", {**corpus.CHECKS, "snp": accept})
    return seen


def test_verify_takes_collateral_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = affirm(monkeypatch)
    evidence, folder = tmp_path / "r.hex", tmp_path / "collateral"
    evidence.write_bytes(REPORT.hex().encode())
    folder.mkdir()
    for name in ("vcek.der", "chain.pem", "report.bin", "meta.json"):
        (folder / name).write_bytes(name.encode())
    code, text = run("verify", evidence, "--at", "2025-01-01", "--collateral", folder, "--json")
    value = json.loads(text)
    assert (code, value["verdict"], value["tee"], value["at"]) == (0, "affirming", "snp", 1_735_689_600)
    # What is judged is the evidence itself, whatever the folder calls a report; but nothing of the folder is dropped.
    given = {"vcek": b"vcek.der", "ask_ark": b"chain.pem", "report.2": b"report.bin", "report": REPORT}
    assert seen == [(given, 1_735_689_600, corpus.CorpusPolicy())]
    code, text = run("verify", evidence, "--at", "1")
    assert code == 0
    assert "affirming" in text


def test_evidence_does_not_replace_what_the_folder_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The evidence is a JSON text that brings a revocation list of its own, under the name of the folder's."""
    monkeypatch.setattr(dcap_verify, "ANCHORS", intel.VENDOR.anchors)
    machine, folder = intel.Machine(), tmp_path / "collateral"
    whole = {**machine.collateral(), "quote": machine.quote().hex()}
    evidence = tmp_path / "evidence.json"
    evidence.write_text(json.dumps(whole))
    folder.mkdir()
    (folder / "quote_report.json").write_text(json.dumps(machine.collateral()))
    asked = ("verify", evidence, "--at", str(intel.NOW), "--collateral", folder, "--json")
    assert json.loads(run(*asked)[1])["verdict"] == "affirming"
    newer = machine.collateral(pck_crl=intel.revocations(machine.vendor.ca, machine.pck).hex())
    (folder / "quote_report.json").write_text(json.dumps(newer))
    code, text = run(*asked)
    assert (code, json.loads(text)["revocation"]) == (1, "refused")


def test_two_files_of_one_role_are_both_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = affirm(monkeypatch)
    evidence, folder = tmp_path / "r", tmp_path / "collateral"
    evidence.write_bytes(REPORT)
    folder.mkdir()
    # The last name is itself a role that another file already has.
    for name in ("a_vcek.der", "b_vcek.der", "vcek"):
        (folder / name).write_bytes(name.encode())
    run("verify", evidence, "--collateral", folder)
    assert set(seen[0][0].values()) == {REPORT, b"a_vcek.der", b"b_vcek.der", b"vcek"}


def test_verify_says_no_by_its_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    affirm(monkeypatch)
    evidence, policy = tmp_path / "r", tmp_path / "p.toml"
    evidence.write_bytes(REPORT)
    shipped = (Path(attestation._package.__file__).parent / attestation.POLICY).read_text()
    policy.write_text(shipped.replace('"allowed"', '"refused"'))
    code, text = run("verify", evidence, "--policy", policy, "--json")
    assert (code, json.loads(text)["verdict"]) == (1, "contraindicated")
    policy.write_text("version = 1")
    assert run("verify", evidence, "--policy", policy)[0] == 1
    assert run("verify", evidence, "--at", "soon")[0] == 1
    evidence.write_bytes(b"?")
    code, text = run("verify", evidence, "--json")
    assert (code, json.loads(text)["error"]["code"]) == (1, "malformed")


def test_show(tmp_path: Path):
    evidence = tmp_path / "r"
    evidence.write_bytes(json.dumps({"quote": REPORT.hex()}).encode())
    code, text = run("show", evidence, "--json")
    value = json.loads(text)
    assert code == 0
    assert (value["tee"], value["wrapping"]) == ("snp", ["JSON", "hex"])
    assert value["roles"]["report"] == 1_184
    code, text = run("show", evidence)
    assert code == 0
    assert "SNP report version 2 in hex in JSON" in text
