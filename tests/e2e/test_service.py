"""The service as its operator meets it: restarts, crashes, a full disk, level 1."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Lab

from mesatee.cli import up
from mesatee.cli.demo import refusals, stage
from mesatee.errors import HostFailed, MesateeError
from mesatee.party import tasks
from mesatee.protocol import statements

WORK = "from mesatee.table import Table\ndef work(people: Table) -> Table:\n    return people\n"


def test_the_demo_is_as_it_should_be() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from mesatee.cli.main import main; main()", "demo", "--json"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ok"]
    assert len(found["refused"]) == len(refusals.ONLINE) + len(refusals.OFFLINE)
    assert all(item["ok"] for item in [*found["steps"], *found["refused"]])
    assert found["facts"]["accuracy"] > found["facts"]["majority_class"]


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


def limit_files(size: int) -> Callable[[], None]:
    def limit() -> None:
        # A write beyond it fails, as on a full disk; the signal would otherwise end the process.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return limit


def test_a_full_disk_refuses_and_loses_nothing(
    tmp_path: Path, fresh: Callable[..., up.Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's files may not grow beyond a size: what does not fit is refused, and what was accepted stays."""
    home = tmp_path / "own"
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        if "mesatee.host.server" in command:
            options["preexec_fn"] = limit_files(400 * 1024)
        return real(command, **options)

    monkeypatch.setattr(up.subprocess, "Popen", popen)
    service = fresh(home, with_worker=False)
    monkeypatch.undo()
    with ExitStack() as stack:
        people = stage.enter(stack, home, ("hospital-a",))
        hospital = people.of("hospital-a")
        accepted, refused = 0, ""
        while accepted < 500 and not refused:
            try:
                hospital.post(statements.PresenceStatement)
                accepted += 1
            except HostFailed as error:
                refused = error.message
        assert "cannot be written" in refused
        assert accepted > 5
        # Space again: the same service goes on by itself, and knows all that it acknowledged.
        host = service.process("host").child
        assert host is not None
        resource.prlimit(host.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        deadline = time.monotonic() + 30
        while True:
            try:
                hospital.refresh()
                hospital.post(statements.PresenceStatement)
                break
            except MesateeError:
                assert time.monotonic() < deadline, service.process("gateway").log.read_text()[-2000:]
                time.sleep(0.3)
        assert hospital.checkpoint.size >= accepted + 2


def test_a_half_written_record_is_absent_or_complete(
    tmp_path: Path, fresh: Callable[..., up.Service]
) -> None:
    """The newest record was cut on the disk: the gateway does not start on it, and says which."""
    home = tmp_path / "own"
    service = fresh(home, with_worker=False)
    with ExitStack() as stack:
        hospital = stage.enter(stack, home, ("hospital-a",)).of("hospital-a")
        hospital.post(statements.PresenceStatement)
        size = hospital.checkpoint.size
    service.stop()
    database = refusals.records_file(home / "service" / "host")
    with sqlite3.connect(database) as connection:
        connection.execute(
            "UPDATE records SET body = substr(body, 1, 40) WHERE idx = (SELECT max(idx) FROM records)"
        )
    connection.close()
    with pytest.raises(MesateeError) as caught:
        fresh(home, with_worker=False)
    assert caught.value.code == "log_corrupt"
    assert f"entry {size - 1} " in caught.value.message
