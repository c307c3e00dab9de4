"""A service whose machine is lost continues on another by shares of its holders; and a hand-over by command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.support import succession
from tests.support.succession import mesatee

from mesatee.cli import up
from mesatee.errors import Conflict
from mesatee.protocol.service import SuccessionRules

pytestmark = pytest.mark.e2e


def test_a_lost_machine_is_replaced_by_k_of_its_holders(tmp_path: Path) -> None:
    lost = succession.lost(tmp_path)
    with pytest.raises(Conflict, match="succession"):
        up.start(lost.old, succession=SuccessionRules())
    few = lost.finish(lost.shares[0])
    assert few["exit"] == 1
    assert "2 shares are needed" in few["error"]["message"]
    found = lost.finish()
    assert found["exit"] == 0, found
    assert found["service"] == lost.digest
    assert found["recovered_by"] == sorted(one.key for one in lost.holders[:2])
    for _ in range(2):
        facts = succession.facts(lost.new)
        assert (facts["service"], facts["halted"]) == (lost.digest, None)
    again = mesatee(lost.new, "recover", "ask", lost.public[0], tmp_path / "again.json")
    assert again["error"]["code"] == "conflict"


def test_a_gateway_hands_over_by_command_and_then_serves_nobody(tmp_path: Path) -> None:
    with succession.pair(tmp_path) as pair:
        digest = pair.digest
        assert pair.receive("ab" * 32)["exit"] == 1
        found = pair.receive()
        assert found["exit"] == 0, found
        assert found["service"] == digest
    shutil.copytree(pair.first / "service/host", pair.second / "service/host")
    assert "handed over" in succession.facts(pair.first)["halted"]
    facts = succession.facts(pair.second)
    assert (facts["service"], facts["halted"]) == (digest, None)
