"""The verbs that need no service, through the real program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mesatee.attestation import TrustPolicy

PROGRAM = Path(sys.executable).with_name("mesatee")


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def go(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        home = {"MESATEE_HOME": str(tmp_path / "home"), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        command = [str(PROGRAM), *arguments]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=home | environ,
            stdin=subprocess.DEVNULL,
            timeout=60,
            cwd=tmp_path,
        )
        if "MESATEE_DEBUG" not in environ:
            assert "Traceback" not in done.stderr + done.stdout
        return done

    return go


def as_json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def test_help_reads_well(run: Any) -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in (
        "demo",
        "up",
        "id",
        "data",
        "function",
        "task",
        "log",
        "attest",
        "verify",
        "doctor",
        "bench",
    ):
        assert f"  {word} " in done.stdout
    assert "`mesatee id new NAME`" in done.stdout.replace("\n  ", " ")


@pytest.mark.parametrize("group", ["id", "data", "function", "task", "log"])
def test_every_verb_has_help_and_json(run: Any, group: str) -> None:
    done = run(group, "--help")
    verbs = [
        line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line[:3].strip()
    ]
    assert done.returncode == 0
    assert verbs
    shown = run(group, verbs[0], "--help")
    assert "--json" in shown.stdout


def test_usage_errors_end_with_two(run: Any) -> None:
    assert run("no-such-verb").returncode == 2
    assert run("id", "new").returncode == 2
    assert run("log", "prove", "-1").returncode == 2


def test_identities(run: Any, tmp_path: Path) -> None:
    made = as_json(run("id", "new", "alice", "--json"))
    assert len(made["id"]) == 64
    assert (tmp_path / "home" / "identities" / "alice").stat().st_mode & 0o777 == 0o700
    assert as_json(run("id", "show", "--json"))["id"] == made["id"]
    assert as_json(run("id", "list", "--json"))["identities"] == [{"name": "alice", "id": made["id"]}]
    assert made["id"] in run("id", "list").stdout


@pytest.mark.parametrize("name", ["../evil", "a/b", ".", "a\x1b[2Kb", "x" * 65])
def test_names_that_are_paths(run: Any, tmp_path: Path, name: str) -> None:
    done = run("id", "new", "--json", "--", name)
    assert done.returncode == 1
    assert as_json(done)["error"]["code"] == "malformed"
    assert not (tmp_path / "home").exists()


def test_errors_are_two_lines(run: Any) -> None:
    done = run("id", "show")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: you have no identity yet",
        "hint: `mesatee id new NAME` makes one",
    ]


def test_several_identities_need_a_choice(run: Any) -> None:
    run("id", "new", "alice")
    run("id", "new", "bob")
    assert "alice, bob" in run("id", "show").stderr
    assert as_json(run("-i", "bob", "id", "show", "--json"))["name"] == "bob"
    assert as_json(run("id", "show", "--json", MESATEE_IDENTITY="alice"))["name"] == "alice"


def test_sealing(run: Any, tmp_path: Path) -> None:
    run("id", "new", "alice")
    (tmp_path / "x.csv").write_text("id,age\n1,2\n")
    made = as_json(run("data", "seal", "x.csv", "--key", "id", "--json"))
    assert (made["format"], made["rows"], made["file"]) == ("csv", 1, "x.csv.age")
    assert (tmp_path / "x.csv.age").read_bytes().startswith(b"age-encryption.org/v1\n")
    assert as_json(run("data", "seal", "x.csv", "--json"))["error"]["code"] == "conflict"
    wrong = as_json(run("data", "seal", "x.csv", "-o", "y.age", "--key", "patient", "--json"))
    assert "patient" in wrong["error"]["message"]
    assert not (tmp_path / "y.age").exists()
    assert run("data", "seal", "none.csv").returncode == 1
    assert run("data", "seal", "x.csv", "--format", "tsv").returncode == 1


def test_nothing_is_trusted_by_default(run: Any, tmp_path: Path) -> None:
    run("id", "new", "alice")
    for verb in (["data", "list"], ["task", "list"], ["log", "show"], ["attest", "https://127.0.0.1:9"]):
        done = run("--url", "https://127.0.0.1:9", *verb)
        assert done.returncode == 1
        assert done.stderr.startswith("error: there is no trust file")


def test_a_service_that_is_not_there(run: Any, tmp_path: Path) -> None:
    run("id", "new", "alice")
    (tmp_path / "trust.toml").write_text(TrustPolicy().to_toml())
    done = run("--trust", "trust.toml", "--url", "https://127.0.0.1:9", "data", "list", "--json")
    assert done.returncode == 1
    said = as_json(done)["error"]
    assert said["code"] == "host_failed"
    assert "https://127.0.0.1:9" in said["message"]
    assert "`mesatee up`" in said["hint"]
    assert run("--trust", "trust.toml", "--url", "ftp://x", "data", "list").returncode == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"garbage", b"[" * 100_000, b"\xff", b'{"version": 1}'])
def test_receipts_that_are_none(run: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "trust.toml").write_text(TrustPolicy().to_toml())
    (tmp_path / "receipt.json").write_bytes(content)
    done = run("--trust", "trust.toml", "verify", "receipt.json", "--json")
    assert done.returncode == 1
    assert as_json(done)["error"]["code"] in ("malformed", "too_large")


def test_a_damaged_trust_file(run: Any, tmp_path: Path) -> None:
    (tmp_path / "trust.toml").write_text("version = 1\n[gateway]\nverify = false\n")
    (tmp_path / "receipt.json").write_text("{}")
    done = run("--trust", "trust.toml", "verify", "receipt.json")
    assert done.returncode == 1


def test_a_developer_sees_the_traceback(run: Any) -> None:
    assert "Traceback" in run("id", "show", MESATEE_DEBUG="1").stderr


def test_measure(run: Any) -> None:
    found = as_json(run("measure", "--gateway", "--json"))
    assert len(found["measurement"]) == 64
