"""The service as its operator meets it: restarts, a killed gateway, level 1."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.e2e.conftest import Lab

from mesatee.cli import up
from mesatee.cli.demo import stage
from mesatee.errors import MesateeError
from mesatee.party import tasks
from mesatee.protocol import statements

WORK = "from mesatee.table import Table\ndef work(people: Table) -> Table:\n    return people\n"


def test_after_a_restart_owners_show_themselves_first(
    tmp_path: Path, fresh: Callable[..., up.Service]
) -> None:
    """Recovering: no key leaves before the owner has compared the log with the newest that it knew."""
    home = tmp_path / "own"
    service = fresh(home)
    with ExitStack() as stack:
        lab = Lab(stage.enter(stack, home, ("hospital-a", "scientist")), tmp_path)
        view = lab.task(WORK, {"people": lab.table("id\n1\n")})
    service.stop()
    service = fresh(home)
    with ExitStack() as stack:
        scientist = stage.enter(stack, home, ("scientist",)).of("scientist")
        assert scientist.hello.epoch == 2
        tasks.run(scientist, scientist.task(view.digest))
        deadline = time.monotonic() + 20
        log = service.process("gateway").log
        while "recovering" not in log.read_text():
            assert time.monotonic() < deadline, "the worker was never refused"
            time.sleep(0.1)
        assert scientist.task(view.digest).runs[0].status == "queued"
        # The owner connects: nothing else is needed.
        stage.enter(stack, home, ("hospital-a",))
        assert tasks.watch(scientist, view.digest, seconds=60).status == "finished"


def test_a_killed_gateway_comes_back_with_everything(tmp_path: Path) -> None:
    home = tmp_path / "own"
    with up.running(home) as service, ExitStack() as stack:
        lab = Lab(stage.enter(stack, home, ("hospital-a", "scientist")), tmp_path)
        people = lab.table("id\n1\n2\n")
        view = lab.task(WORK, {"people": people})
        child = service.process("gateway").child
        assert child is not None
        os.kill(child.pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while True:
            try:
                assert lab.scientist.task(view.digest).state == "approved"
                break
            except MesateeError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        # Both owners' sessions are of the former epoch: their next statement shows them fresh.
        lab.owner.refresh()
        lab.owner.post(statements.PresenceStatement)
        assert lab.run(view).status == "finished"


def test_level_1_says_that_it_proves_nothing(tmp_path: Path, fresh: Callable[..., up.Service]) -> None:
    home = tmp_path / "own"
    fresh(home, level=1)
    with ExitStack() as stack:
        lab = Lab(stage.enter(stack, home, ("hospital-a", "scientist")), tmp_path)
        view = lab.task(WORK, {"people": lab.table("id\n1\n")})
        assert lab.run(view).status == "finished"
        receipt = lab.result(view).receipt
        assert (receipt.level, receipt.tee, receipt.measurement) == (1, "none", "none")
