"""A service whose machine is lost continues on another by shares of its holders; and a hand-over by command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mesatee.attestation.endorsements import NOTHING
from mesatee.cli import attesters, up
from mesatee.errors import Conflict
from mesatee.party.identity import Identity
from mesatee.protocol.service import HandOver, ShareHolder, ShareRule, SuccessionRules

pytestmark = pytest.mark.e2e


def mesatee(home: Path, *words: str | Path, trust: Path | None = None) -> dict[str, Any]:
    """Run a verb; its JSON. The exit code is under ``exit``."""
    options = ["--home", str(home), *(["--trust", str(trust)] if trust else [])]
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-m", "mesatee.cli.main", *options, *map(str, words), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = (done.stdout or done.stderr).strip()
    return {"exit": done.returncode, **json.loads(lines[lines.index("{") :])}


def test_a_lost_machine_is_replaced_by_k_of_its_holders(tmp_path: Path) -> None:
    homes = [tmp_path / name for name in ("ana", "ben", "cleo")]
    people = [Identity.create(home, home.name) for home in homes]
    holders = tuple(ShareHolder(key=one.signing.public.hex(), age=one.age.recipient) for one in people)
    rules = SuccessionRules(share_holders=ShareRule(k=2, holders=holders))
    old, new = tmp_path / "old", tmp_path / "new"
    service = up.start(old, succession=rules, with_worker=False)
    digest = service.process("gateway").facts["service"]
    service.stop()
    with pytest.raises(Conflict, match="succession"):
        up.start(old, succession=SuccessionRules())
    # What is left: public files, the host's storage, and the installation key that the rules pin.
    (new / "service").mkdir(parents=True)
    for name in ("host", "installation.key"):
        source = old / "service" / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, new / "service" / name)
    public = [old / "service" / "enclave" / name for name in ("service.json", "recovery.json")]
    request, trust = tmp_path / "request.json", old / "trust.toml"
    assert mesatee(new, "recover", "ask", public[0], request)["service"] == digest
    shares = []
    for home in homes[:2]:
        shares.append(tmp_path / f"{home.name}.share")
        given = mesatee(home, "recover", "give", *public, request, shares[-1], trust=trust)
        assert given["exit"] == 0, given
    few = mesatee(new, "recover", "finish", *public, shares[0])
    assert few["exit"] == 1
    assert "2 shares are needed" in few["error"]["message"]
    found = mesatee(new, "recover", "finish", *public, *shares)
    assert found["exit"] == 0, found
    assert found["service"] == digest
    assert found["recovered_by"] == sorted(one.key for one in holders[:2])
    for _ in range(2):
        service = up.start(new, with_worker=False)
        facts = service.process("gateway").facts
        service.stop()
        assert (facts["service"], facts["halted"]) == (digest, None)
    again = mesatee(new, "recover", "ask", public[0], tmp_path / "again.json")
    assert again["error"]["code"] == "conflict"


def test_a_gateway_hands_over_by_command_and_then_serves_nobody(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    # Both know each other's installation beforehand.
    plain = up.start(tmp_path / "probe", with_worker=False)
    plain.stop()
    (second / "service").mkdir(parents=True)
    shutil.copy2(tmp_path / "probe/service/installation.key", second / "service/installation.key")
    peer = up.TrustPolicy(gateway=up.GatewayTrust(**vars_of(second)))
    rules = SuccessionRules(
        hand_over=HandOver(
            min_level=2,
            tees=("software",),
            measurements=peer.gateway.measurements,
            allow_simulated=False,
            trust=peer.to_toml(),
        )
    )
    service = up.start(first, succession=rules, with_worker=False)
    try:
        digest = service.process("gateway").facts["service"]
        trust = first / "trust.toml"
        wrong = mesatee(second, "recover", "receive", service.url, "--service", "ab" * 32, trust=trust)
        assert wrong["exit"] == 1
        found = mesatee(second, "recover", "receive", service.url, "--service", digest, trust=trust)
        assert found["exit"] == 0, found
        assert found["service"] == digest
    finally:
        service.stop()
    shutil.copytree(first / "service/host", second / "service/host")
    ended = up.start(first, with_worker=False)
    facts = ended.process("gateway").facts
    ended.stop()
    assert "handed over" in facts["halted"]
    continued = up.start(second, with_worker=False)
    facts = continued.process("gateway").facts
    continued.stop()
    assert (facts["service"], facts["halted"]) == (digest, None)


def vars_of(home: Path) -> dict[str, Any]:
    """What a gateway in `home` proves."""
    found = attesters.trust(attesters.SOFTWARE, home / "service", (), "", NOTHING)
    return {
        "tees": found.tees,
        "minimum_level": found.minimum_level,
        "measurements": found.measurements,
        "installation_keys": found.installation_keys,
    }
