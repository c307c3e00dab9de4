"""The untrusted host breaks: killed, cut, full. What was acknowledged stays, or its loss is found."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.e2e.conftest import Lab, entries, until

from mesatee.cli import up
from mesatee.cli.demo import refusals, stage
from mesatee.enclave.gateway.forks import FORKS_FILE
from mesatee.errors import ForkDetected, HostFailed, LogCorrupt, MesateeError
from mesatee.party import Session, data, tasks
from mesatee.protocol import limits, records, statements, wire

WORK = "import time\nfrom mesatee.table import Table\ndef work(people: Table) -> Table:\n"


def killed(service: up.Service, name: str) -> None:
    """Kill one process as the kernel would; its launcher is not told."""
    child = service.process(name).child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)


def stored(home: Path) -> int:
    """How many records the host's database holds, by a copy, so that looking changes nothing."""
    host = home / "service" / "host"
    with contextlib.closing(sqlite3.connect(":memory:")) as memory:
        with contextlib.closing(sqlite3.connect(refusals.records_file(host))) as live:
            live.backup(memory)
        return int(memory.execute("SELECT count(*) FROM records").fetchone()[0])


# -- killed ---------------------------------------------------------------------------------------------


def test_a_killed_host_comes_back_under_the_same_gateway(tmp_path: Path) -> None:
    home = tmp_path / "own"
    with up.running(home, with_worker=False) as service, ExitStack() as stack:
        hospital = stage.enter(stack, home, ("hospital-a",)).of("hospital-a")
        gateway = service.process("gateway").child
        assert gateway is not None
        path = tmp_path / "people.csv"
        path.write_text("id\n1\n")
        dataset = data.put(hospital, data.seal(hospital.identity, path), "people").digest
        size = hospital.checkpoint.size
        killed(service, "host")
        until(lambda: service.process("host").alive)
        until(lambda: hospital.post(statements.PresenceStatement).index >= size)
        # It knows all that was acknowledged, and the gateway has not been started anew.
        assert hospital.statement(data.find(hospital, dataset).index, "dataset", dataset).digest == dataset
        assert data.open_own(hospital, dataset, tmp_path / "back.csv") == len("id\n1\n")
        assert service.process("gateway").child is gateway
        assert gateway.poll() is None


def test_a_worker_killed_in_a_run_leaves_one_receipt(tmp_path: Path) -> None:
    """The lease lapses, a second attempt gets keys of its own, and the run ends exactly once."""
    home = tmp_path / "own"
    with up.running(home, lease_seconds=2) as service, ExitStack() as stack:
        lab = Lab(stage.enter(stack, home, ("hospital-a", "scientist")), tmp_path)
        view = lab.task(
            f"{WORK}    time.sleep(2)\n    return people\n", {"people": lab.table("id\n1\n")}, diagnostics=()
        )
        first = lab.owner.refresh().size
        tasks.run(lab.scientist, view)
        until(lambda: lab.scientist.task(view.digest).runs[0].status == "running")
        killed(service, "worker")
        ended = tasks.watch(lab.scientist, view.digest, seconds=60)
        assert (ended.status, ended.attempts) == ("finished", 2)
        outcomes = [item.outcome() for item in entries(lab.owner, first) if item.kind in ("grant", "receipt")]
        grants = [item for item in outcomes if isinstance(item, records.GrantOutcome)]
        receipts = [item for item in outcomes if isinstance(item, records.ReceiptOutcome)]
        assert [item.attempt for item in grants] == [1, 2]
        assert len({item.worker.key for item in grants}) == 2
        assert len(receipts) == 1
        assert lab.result(view).outputs["result"].read_text().split() == ['"id"', "1"]


def test_a_gateway_killed_in_a_run_ends_it_once(tmp_path: Path) -> None:
    """The attempt that was under way hands its receipt to the gateway's next epoch."""
    home = tmp_path / "own"
    with up.running(home) as service, ExitStack() as stack:
        lab = Lab(stage.enter(stack, home, ("hospital-a", "scientist")), tmp_path)
        view = lab.task(
            f"{WORK}    time.sleep(3)\n    return people\n", {"people": lab.table("id\n1\n")}, diagnostics=()
        )
        first = lab.owner.refresh().size
        tasks.run(lab.scientist, view)
        until(lambda: lab.scientist.task(view.digest).runs[0].status == "running")
        killed(service, "gateway")
        until(lambda: lab.scientist.task(view.digest).runs[0].status != "running", 60)
        (ended,) = lab.scientist.task(view.digest).runs
        assert (ended.status, ended.attempts) == ("finished", 1)
        kinds = [item.kind for item in entries(lab.owner, first)]
        assert kinds.count("receipt") == 1
        assert kinds.count("epoch") == 1
        # Results wait until the owner has compared the log with the newest that it knew.
        with pytest.raises(MesateeError) as caught:
            lab.result(view)
        assert caught.value.code == "recovering"
        assert "hospital-a" in caught.value.message
        lab.owner.refresh()
        lab.owner.post(statements.PresenceStatement)
        assert lab.result(view).outputs["result"].read_text().split() == ['"id"', "1"]


# -- cut ------------------------------------------------------------------------------------------------


@pytest.fixture
def torn(tmp_path: Path, fresh: Callable[..., up.Service]) -> tuple[Path, Path, int]:
    """A service killed in full flight: its home, a copy of what its host stored, and the records it acknowledged."""
    home = tmp_path / "own"
    service = fresh(home, with_worker=False)
    with ExitStack() as stack:
        hospital = stage.enter(stack, home, ("hospital-a",)).of("hospital-a")
        for _ in range(8):
            hospital.post(statements.PresenceStatement)
        size = hospital.checkpoint.size
        killed(service, "gateway")
        killed(service, "host")
    service.stop()
    copy = tmp_path / "copy"
    shutil.copytree(home / "service" / "host", copy)
    shutil.copytree(home / "identities" / "hospital-a" / "checkpoints", tmp_path / "memory")
    return home, copy, size


def restored(home: Path, copy: Path) -> Path:
    host = home / "service" / "host"
    # A fork of one copy is not to be remembered for the next.
    (home / "service" / "enclave" / FORKS_FILE).unlink(missing_ok=True)
    shutil.rmtree(host)
    shutil.copytree(copy, host)
    return refusals.records_file(host)


def test_a_torn_write_is_absent_or_complete(
    torn: tuple[Path, Path, int], fresh: Callable[..., up.Service]
) -> None:
    """The journal ends in the middle of a write: the log is a shorter one that verifies, and its parties notice."""
    home, copy, size = torn
    assert size == 10
    journal = restored(home, copy).with_name("records.sqlite-wal")
    whole = journal.stat().st_size
    for keep in (whole, whole - 100, whole // 2):
        restored(home, copy)
        with journal.open("r+b") as file:
            file.truncate(keep)
        service = fresh(home, with_worker=False)
        count = stored(home)
        with ExitStack() as stack:
            if keep == whole:
                hospital = stage.enter(stack, home, ("hospital-a",)).of("hospital-a")
                # The new epoch, and the hospital in it.
                assert hospital.checkpoint.size == size + 2
            else:
                assert count <= size
                with pytest.raises(ForkDetected):
                    stage.enter(stack, home, ("hospital-a",))
        service.stop()
        # What happened to one copy is not to be remembered for the next.
        shutil.rmtree(home / "identities" / "hospital-a" / "checkpoints")
        shutil.copytree(copy.parent / "memory", home / "identities" / "hospital-a" / "checkpoints")


def test_a_cut_database_is_found_at_the_start(
    torn: tuple[Path, Path, int], fresh: Callable[..., up.Service]
) -> None:
    home, copy, _ = torn
    database = restored(home, copy)
    # All is moved from the journal into the database, so that the cut meets records.
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = database.read_bytes()
    for keep in (len(whole) // 2, 4096, 50):
        database.write_bytes(whole[:keep])
        with pytest.raises((HostFailed, LogCorrupt)) as caught:
            fresh(home, with_worker=False)
        assert caught.value.hint
    database.write_bytes(whole)
    fresh(home, with_worker=False)


def test_lost_records_under_an_honest_head_are_named(
    torn: tuple[Path, Path, int], fresh: Callable[..., up.Service]
) -> None:
    """Dropped from the end, from the middle, swapped: none starts."""
    home, copy, size = torn
    changes = {
        "end": "DELETE FROM records WHERE idx = (SELECT max(idx) FROM records)",
        "middle": "DELETE FROM records WHERE idx = 4",
        "swapped": "UPDATE records SET idx = CASE idx WHEN 4 THEN -5 ELSE -4 END WHERE idx IN (4, 5)",
        "head": "UPDATE head SET count = count - 1",
        "cut": f"UPDATE records SET body = substr(body, 1, 40) WHERE idx = {size - 1}",
    }
    for what, change in changes.items():
        with contextlib.closing(sqlite3.connect(restored(home, copy))) as connection:
            connection.execute(change)
            connection.execute("UPDATE records SET idx = -idx WHERE idx < 0")
            connection.commit()
        with pytest.raises((HostFailed, LogCorrupt)) as caught:
            fresh(home, with_worker=False)
        assert caught.value.message, what
        if what == "cut":
            assert f"entry {size - 1} " in caught.value.message


# -- full -----------------------------------------------------------------------------------------------


def space(service: up.Service, size: int) -> None:
    """Let no file of the host grow beyond `size` bytes, which is what a full disk looks like to it."""
    child = service.process("host").child
    assert child is not None
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def upload(session: Session, folder: Path, name: str, size: int) -> str:
    path = folder / f"{name}.bin"
    path.write_bytes(os.urandom(size))
    return data.put(session, data.seal(session.identity, path), name).digest


@pytest.fixture
def ignoring(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes get EFBIG for what does not fit, as they would get ENOSPC, and no signal that ends them."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    real = up.subprocess.Popen

    def popen(*arguments: object, **options: object) -> object:
        # An ignored signal stays ignored in what is started; Python would restore this one.
        return real(*arguments, **{**options, "restore_signals": False})  # type: ignore[call-overload]

    monkeypatch.setattr(up.subprocess, "Popen", popen)
    yield
    signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_refuses_ciphertext_and_keeps_nothing_of_it(
    tmp_path: Path, fresh: Callable[..., up.Service], ignoring: None
) -> None:
    home = tmp_path / "own"
    service = fresh(home, with_worker=False)
    with ExitStack() as stack:
        hospital = stage.enter(stack, home, ("hospital-a",)).of("hospital-a")
        space(service, 400 * limits.KIB)
        first = hospital.refresh().size
        with pytest.raises(HostFailed, match="disk full") as caught:
            upload(hospital, tmp_path, "large", 3 * limits.MIB)
        assert "space" in caught.value.hint
        assert hospital.datasets() == []
        # The temporary file is gone, and the next upload that fits is taken.
        host = home / "service" / "host"
        assert not [path for path in host.rglob("*") if path.is_file() and path.parent.name == "tmp"]
        small = upload(hospital, tmp_path, "small", 1_000)
        assert hospital.refresh().size == first + 1
        space(service, resource.RLIM_INFINITY)
        (tmp_path / "large.bin").unlink()
        (tmp_path / "large.bin.age").unlink()
        large = upload(hospital, tmp_path, "large", 3 * limits.MIB)
        assert {item.digest for item in hospital.datasets()} == {small, large}


def test_a_full_disk_under_the_log_refuses_and_goes_on_when_there_is_space(
    tmp_path: Path, fresh: Callable[..., up.Service], ignoring: None
) -> None:
    """What was refused is in no later log; what was acknowledged is in all."""
    home = tmp_path / "own"
    service = fresh(home, with_worker=False)
    with ExitStack() as stack:
        hospital = stage.enter(stack, home, ("hospital-a",)).of("hospital-a")
        acknowledged = [hospital.post(statements.PresenceStatement) for _ in range(3)]
        journal = refusals.records_file(home / "service" / "host").with_name("records.sqlite-wal")
        space(service, journal.stat().st_size)
        with pytest.raises(HostFailed) as caught:
            hospital.post(statements.PresenceStatement)
        assert "cannot be written" in caught.value.message
        # It says so, and still answers what it knows.
        assert hospital.get("/service", wire.ServiceReply).status == "host_failed"
        assert hospital.tasks() == []
        space(service, resource.RLIM_INFINITY)
        until(lambda: hospital.post(statements.PresenceStatement).index > 0)
        for posted in acknowledged:
            assert hospital.statement(posted.index, "presence", posted.digest).digest == posted.digest
        assert hospital.refresh().epoch == 2
        # What was refused never happened: three were acknowledged before, one after.
        found = [item.kind for item in entries(hospital, acknowledged[0].index)]
        assert found == ["statement"] * 3 + ["epoch", "statement"]
    service.stop()
    # And it is one log still.
    fresh(home, with_worker=False)
    with ExitStack() as stack:
        stage.enter(stack, home, ("hospital-a",))
