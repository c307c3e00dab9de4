"""A service whose machine is lost continues on another by shares of its holders; and a hand-over by command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.support import succession
from tests.support.succession import mesatee

from mesatee.cli import up
from mesatee.errors import Conflict, MesateeError
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
    # Its installation key is the former machine's, so its worker is one that the service statement accepts.
    assert found["worker"] is True
    for _ in range(2):
        facts = succession.facts(lost.new, with_worker=True)
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
        assert found["worker"] is False
    shutil.copytree(pair.first / "service/host", pair.second / "service/host")
    assert "handed over" in succession.facts(pair.first)["halted"]
    facts = succession.facts(pair.second)
    assert (facts["service"], facts["halted"]) == (digest, None)
    # As was said: the statement names the former machine's worker alone.
    with pytest.raises(MesateeError, match="refused"):
        succession.facts(pair.second, with_worker=True)


def test_a_machine_that_could_run_no_task_receives_keys_only_if_told_to(tmp_path: Path) -> None:
    with succession.pair(tmp_path) as pair:
        refused = pair.receive(no_worker=False)
        assert refused["error"]["code"] == "denied", refused
        assert "installation.key" in refused["error"]["hint"]
        # Nothing was handed over: it runs its tasks where it is.
        digest = pair.digest
    facts = succession.facts(pair.first, with_worker=True)
    assert (facts["service"], facts["halted"]) == (digest, None)


def test_who_asks_holders_hears_whether_tasks_can_run_there(tmp_path: Path) -> None:
    lost = succession.lost(tmp_path)
    asked = mesatee(lost.new, "recover", "ask", lost.public[0], tmp_path / "again.json")
    assert asked["worker"] is True
    other = mesatee(tmp_path / "other", "recover", "ask", lost.public[0], tmp_path / "other.json")
    assert other["worker"] is False
