"""kill -9 while a service's keys pass to another machine: they get there, once, and only one of the two decides."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest
from tests.support import succession

from mesatee.enclave import faults

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
PREDECESSOR = ("handover.decided", "handover.logged", "handover.wrapped")
SUCCESSOR = ("succession.opened", "succession.prepared", "succession.sealed", "succession.adopted")
SEALED = SUCCESSOR[2:]
"""From here on the service is on the second machine."""
RESTART_SECONDS = 30.0
"""How long a gateway may take to be there again."""


def check_continued(pair: succession.Pair, digest: str) -> None:
    """With the first service stopped: it serves nobody, and the second continues its log."""
    shutil.copytree(pair.first / "service/host", pair.second / "service/host")
    assert "handed over" in succession.facts(pair.first)["halted"]
    found = succession.facts(pair.second)
    assert (found["service"], found["halted"]) == (digest, None)


def test_every_fault_point_of_a_succession_is_tested() -> None:
    named = {name for name in faults.POINTS if name.startswith(("handover.", "succession."))}
    assert named == {*PREDECESSOR, *SUCCESSOR}


@pytest.mark.parametrize("point", PREDECESSOR)
def test_a_predecessor_that_dies_hands_over_once_it_is_back(tmp_path: Path, point: str) -> None:
    with succession.pair(tmp_path, fault=point) as pair:
        digest = pair.digest
        assert pair.receive(digest)["exit"] == 1
        assert not (pair.second / "service/enclave/service.json").exists()
        deadline = time.monotonic() + RESTART_SECONDS
        while not pair.service.process("gateway").ends or (found := pair.receive(digest))["exit"] != 0:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert found["service"] == digest
    check_continued(pair, digest)


@pytest.mark.parametrize("point", SUCCESSOR)
def test_a_successor_that_dies_asks_again(tmp_path: Path, point: str) -> None:
    with succession.pair(tmp_path) as pair:
        digest = pair.digest
        assert pair.receive(fault=point)["exit"] == -signal.SIGKILL
        found = pair.receive()
        if point in SEALED:
            assert found["error"]["code"] == "conflict"
        else:
            assert found["exit"] == 0, found
    check_continued(pair, digest)


@pytest.mark.parametrize("point", SUCCESSOR)
def test_a_machine_that_dies_while_it_recovers_a_service_finishes(tmp_path: Path, point: str) -> None:
    lost = succession.lost(tmp_path)
    assert lost.finish(fault=point)["exit"] == -signal.SIGKILL
    found = lost.finish()
    if point in SEALED:
        assert found["error"]["code"] == "conflict"
    else:
        assert found["exit"] == 0, found
    # The set is the one that the holders have, not another that the start would make.
    assert (lost.new / "service/enclave/recovery.json").read_bytes() == lost.public[1].read_bytes()
    facts = succession.facts(lost.new)
    assert (facts["service"], facts["halted"]) == (lost.digest, None)
