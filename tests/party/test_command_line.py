"""The real program on real bundles, and against a gateway on the real channel."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.trees import cut

from mesatee.protocol.digests import b64encode
from mesatee.protocol.jsonstrict import canonical

PROGRAM = Path(sys.executable).with_name("mesatee")


def mesatee(tmp_path: Path, world: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "trust.toml").write_text(world.trust.to_toml())
    environ = {"MESATEE_HOME": str(tmp_path / "home"), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    command = [str(PROGRAM), "--trust", str(tmp_path / "trust.toml"), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environ, stdin=subprocess.DEVNULL, timeout=60
    )
    assert "Traceback" not in done.stderr + done.stdout
    return done


def test_verify(tmp_path: Path, present: Any) -> None:
    path = tmp_path / "receipt.json"
    bundle = present.bundle()
    path.write_bytes(canonical(bundle.model_dump(mode="json")))
    done = mesatee(tmp_path, present, "verify", str(path), "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["receipt"]["task"] == present.task.digest
    assert "The receipt is valid." in mesatee(tmp_path, present, "verify", str(path)).stdout
    wrong = bundle.model_copy(update={"worker_certificate": b64encode(present.gateway.certificate)})
    path.write_bytes(canonical(wrong.model_dump(mode="json")))
    done = mesatee(tmp_path, present, "verify", str(path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: step 6, worker")


@pytest.mark.parametrize("trusted", [True, False])
def test_attest(tmp_path: Path, fake: Any, trusted: bool) -> None:
    if not trusted:
        gateway = dataclasses.replace(fake.trust.gateway, measurements=("00" * 32,))
        fake.trust = dataclasses.replace(fake.trust, gateway=gateway)
    done = mesatee(tmp_path, fake, "attest", fake.url, "--json")
    assert done.returncode == (0 if trusted else 1)
    said = json.loads(done.stdout)
    assert said["accepted"] is trusted
    assert said["appraisal"]["tee"] == "software"
    assert ("error" in said) is not trusted
    assert fake.requests == []


def test_a_rollback_stops_every_verb(tmp_path: Path, fake: Any) -> None:
    mesatee(tmp_path, fake, "id", "new", "alice")
    done = mesatee(tmp_path, fake, "--url", fake.url, "log", "show", "--json")
    assert json.loads(done.stdout)["size"] == 4
    fake.tree = cut(fake.tree, 2)
    for verb in (["log", "show"], ["data", "list"], ["task", "list"]):
        done = mesatee(tmp_path, fake, "--url", fake.url, *verb, "--json")
        assert done.returncode == 1
        assert json.loads(done.stdout)["error"]["code"] == "fork_detected"


def test_checkpoints_of_others_are_compared(tmp_path: Path, fake: Any) -> None:
    mesatee(tmp_path, fake, "id", "new", "alice")
    mine = tmp_path / "other.note"
    mine.write_text(fake.checkpoint(2).note)
    done = mesatee(tmp_path, fake, "--url", fake.url, "log", "check", str(mine), "--json")
    assert json.loads(done.stdout)["compared"] == 2
    other = type(fake).__mro__[1](fake.now)
    other.log_key = fake.log_key
    mine.write_text(other.checkpoint(2).note)
    done = mesatee(tmp_path, fake, "--url", fake.url, "log", "check", str(mine), "--json")
    assert json.loads(done.stdout)["error"]["code"] == "fork_detected"


def test_a_terminal_is_never_steered(tmp_path: Path, fake: Any) -> None:
    mesatee(tmp_path, fake, "id", "new", "alice")
    said = {"code": "denied", "message": "a\x1b[2K\x1b]0;x\x07b", "hint": "[bold]c[/bold]"}
    fake.answers["/v1/datasets"] = lambda: (403, canonical({"error": said}))
    done = mesatee(tmp_path, fake, "--url", fake.url, "data", "list")
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert "hint: [bold]c[/bold]" in done.stderr
