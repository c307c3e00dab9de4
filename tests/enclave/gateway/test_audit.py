"""A stored log, altered on the host's disk in every way that we can think of: `mesatee log check --stored` finds and
names it, and the next start either names it too or does not need what was altered.

What is altered is the real SQLite file and the real blob folder of a service that ran, was stopped, ran again and was
killed: its newest snapshot covers a part of its log only.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.processes import COMMAND
from tests.support.town import Town

from mesatee.cli import stored, up
from mesatee.enclave.gateway.audit import Audited
from mesatee.enclave.gateway.forks import ForkProofs
from mesatee.enclave.gateway.gateway import Gateway, GatewayConfig
from mesatee.enclave.gateway.identity import open_service
from mesatee.enclave.platform.measure import measure
from mesatee.enclave.platform.sealing import Sealing
from mesatee.enclave.platform.software import SoftwareAttester, installation_key
from mesatee.errors import Conflict, HostFailed, LogCorrupt, MesateeError, NotFound
from mesatee.host.blobs.local import LocalBlobs
from mesatee.host.queue.sqlite import SqliteQueue
from mesatee.host.records.sqlite import SqliteRecords
from mesatee.protocol.jsonstrict import canonical, parse_object
from mesatee.protocol.model import validate

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a service that nobody runs any more."""
    home = tmp_path_factory.mktemp("kept") / "home"
    with ExitStack() as stack:
        with up.running(home):
            town = Town(home, stack)
            town.enter("alice", "bob", "scientist")
            task = town.prepare()
            run = town.run("scientist", task)
            assert town.ended("scientist", task, run).status == "finished"
            town.result("scientist", task, run)
        service = up.start(home)
        town.present()
        for _ in range(4):
            town.dataset("alice", f"more-{secrets.token_hex(4)}")
        service.process("gateway").kill()
        service.stop()
    return home


@dataclass
class Disk:
    """A copy of what that service left, to be altered."""

    home: Path

    @property
    def host(self) -> Path:
        return self.home / "service" / "host"

    @contextmanager
    def records(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self.host / "records.sqlite")
        try:
            with database:
                yield database
        finally:
            database.close()

    def head(self) -> dict[str, object]:
        with self.records() as database:
            return parse_object(database.execute("SELECT head FROM head").fetchone()[0])

    @property
    def size(self) -> int:
        with self.records() as database:
            return int(database.execute("SELECT count FROM head").fetchone()[0])

    @property
    def covered(self) -> int:
        """How many entries the snapshot covers."""
        snapshot = self.head()["snapshot"]
        assert isinstance(snapshot, dict)
        return int(snapshot["size"])

    def blob(self, digest: str) -> Path:
        return self.host / "blobs" / digest[:2] / digest[2:4] / digest

    def check(self) -> Audited:
        return stored.check(self.home)

    def start(self) -> Gateway:
        """What a gateway process does before it says that it is ready."""
        folder = self.home / "service"
        founded = validate(up.Founded, parse_object((folder / "founded.json").read_bytes()), "founded")
        attester = SoftwareAttester(installation_key(folder / "installation.key"), measure(()))
        sealing = Sealing(folder / "enclave", attester.measurement, attester.fingerprint)
        rules = founded.origin, founded.platform_policy, founded.worker_trust
        keys = open_service(folder / "enclave", sealing, *rules, 0)
        records = SqliteRecords(self.host / "records.sqlite")
        queue = SqliteQueue(self.host / "queue.sqlite")
        try:
            doors = records, queue, LocalBlobs(self.host / "blobs")
            return Gateway(GatewayConfig(), keys, attester, *doors, ForkProofs(folder / "enclave"))
        finally:
            records.close()
            queue.close()


@pytest.fixture
def disk(kept: Path, tmp_path: Path) -> Disk:
    return Disk(Path(shutil.copytree(kept, tmp_path / "home")))


def flipped(data: bytes, at: int) -> bytes:
    altered = bytearray(data)
    altered[at] ^= 1
    return bytes(altered)


def test_what_was_not_altered_holds(disk: Disk) -> None:
    found = disk.check()
    assert found.size == disk.size
    assert 0 < disk.covered < disk.size - 3
    assert found.snapshot is not None
    assert found.snapshot.size == disk.covered
    assert found.kinds["receipt"] == 1
    assert found.kinds["epoch"] == 2
    # Six datasets, the private function, the worker's certificate, the outputs of one run.
    assert found.blobs == 6 + 1 + 1 + 2
    # A gateway that starts on it, from the snapshot, comes to the same state.
    assert disk.start().monitor.state == found.state


# -- records --------------------------------------------------------------------------------------------


def change(column: str, alter: Callable[[bytes], bytes]) -> Callable[[Disk, int], None]:
    def apply(disk: Disk, index: int) -> None:
        with disk.records() as database:
            old = database.execute(f"SELECT {column} FROM records WHERE idx = ?", (index,)).fetchone()[0]
            database.execute(f"UPDATE records SET {column} = ? WHERE idx = ?", (alter(old), index))

    return apply


def swap(disk: Disk, index: int) -> None:
    with disk.records() as database:
        for old, new in ((index, -1), (index + 1, index), (-1, index + 1)):
            database.execute("UPDATE records SET idx = ? WHERE idx = ?", (new, old))


def copy(disk: Disk, index: int) -> None:
    """The record after it, twice."""
    with disk.records() as database:
        row = database.execute("SELECT entry, body FROM records WHERE idx = ?", (index + 1,)).fetchone()
        database.execute("UPDATE records SET entry = ?, body = ? WHERE idx = ?", (*row, index))


def take_body_of_next(disk: Disk, index: int) -> None:
    with disk.records() as database:
        (body,) = database.execute("SELECT body FROM records WHERE idx = ?", (index + 1,)).fetchone()
        database.execute("UPDATE records SET body = ? WHERE idx = ?", (body, index))


def remove(disk: Disk, index: int) -> None:
    with disk.records() as database:
        database.execute("DELETE FROM records WHERE idx = ?", (index,))


def remove_and_close_up(disk: Disk, index: int) -> None:
    """As if it had never been there, in the table and in the count."""
    with disk.records() as database:
        database.execute("DELETE FROM records WHERE idx = ?", (index,))
        for later in range(index + 1, disk_size(database)):
            database.execute("UPDATE records SET idx = ? WHERE idx = ?", (later - 1, later))
        database.execute("UPDATE head SET count = count - 1")


def disk_size(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT count FROM head").fetchone()[0])


RECORDS: dict[str, tuple[Callable[[Disk, int], None], str]] = {
    "a flipped bit of the body": (
        change("body", lambda old: flipped(old, 40)),
        "the body of log entry {index}",
    ),
    "a cut body": (change("body", lambda old: old[:-1]), "the body of log entry {index}"),
    "an empty body": (change("body", lambda old: b""), "the body of log entry {index}"),
    "the body of another entry": (take_body_of_next, "the body of log entry {index}"),
    "a flipped bit of the commitment": (
        change("entry", lambda old: flipped(old, 3)),
        "log entry {index} does not commit to its record",
    ),
    "a flipped bit of the body's digest": (
        change("entry", lambda old: flipped(old, 40)),
        "the body of log entry {index}",
    ),
    "a cut entry": (change("entry", lambda old: old[:-1]), "RECORDS has 63 bytes|log entry {index}"),
    "two entries swapped": (swap, "the body of log entry {index} does not open"),
    "an entry overwritten by the next": (copy, "the body of log entry {index} does not open"),
    "a missing entry": (remove, "record {index} is missing"),
    "an entry removed without a trace": (remove_and_close_up, "signed head says"),
}


@pytest.mark.parametrize(
    "where", ["under the snapshot", pytest.param("after the snapshot", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", RECORDS)
def test_an_altered_record_is_named(disk: Disk, name: str, where: str) -> None:
    alter, said = RECORDS[name]
    index = 3 if where == "under the snapshot" else disk.covered + 1
    alter(disk, index)
    with pytest.raises((LogCorrupt, HostFailed), match=said.format(index=index)):
        disk.check()
    with pytest.raises((LogCorrupt, HostFailed), match=said.format(index=index)):
        disk.start()


# -- the head and the file as a whole ------------------------------------------------------------------


def set_head(disk: Disk, head: bytes) -> None:
    with disk.records() as database:
        database.execute("UPDATE head SET head = ?", (head,))


def cut_last(disk: Disk) -> None:
    remove(disk, disk.size - 1)


def cut_last_and_count(disk: Disk) -> None:
    cut_last(disk)
    with disk.records() as database:
        database.execute("UPDATE head SET count = count - 1")


def sign_nothing(disk: Disk) -> None:
    head = disk.head()
    head["checkpoint"] = re.sub(r"\n\d+\n", f"\n{disk.size - 1}\n", str(head["checkpoint"]), count=1)
    set_head(disk, canonical(head))


def point_snapshot_beyond(disk: Disk) -> None:
    head = disk.head()
    set_head(disk, canonical({**head, "snapshot": {"size": disk.size + 1, "blob": "00" * 32}}))


def claim_other_size(disk: Disk) -> None:
    head = disk.head()
    assert isinstance(head["snapshot"], dict)
    set_head(disk, canonical({**head, "snapshot": {**head["snapshot"], "size": disk.covered - 1}}))


def overwrite(disk: Disk) -> None:
    path = disk.host / "records.sqlite"
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 4096)


def truncate(disk: Disk) -> None:
    path = disk.host / "records.sqlite"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(disk: Disk) -> None:
    (disk.host / "records.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 100)


WHOLE: dict[str, tuple[Callable[[Disk], None], str]] = {
    "the last record is gone": (cut_last, "head and table disagree"),
    "the last record is gone and not counted": (cut_last_and_count, "entries, the signed head says"),
    "no head": (lambda disk: set_head(disk, b""), "the stored head of the log is not valid"),
    "a head that is no JSON": (lambda disk: set_head(disk, b"{"), "the stored head of the log is not valid"),
    "a checkpoint of another size": (sign_nothing, "the stored head of the log is not valid"),
    "a snapshot beyond the log": (point_snapshot_beyond, "names a snapshot that the log does not reach"),
    "a snapshot of another size": (claim_other_size, "the snapshot of .* does not open"),
    "an overwritten page": (overwrite, "damaged|disagree|database|log entry|missing"),
    "half of the file": (truncate, "damaged|disagree|database"),
    "another file": (empty, "damaged|database"),
}


def settle(disk: Disk) -> None:
    """Everything into the one file, so that it can be altered as a file."""
    database = sqlite3.connect(disk.host / "records.sqlite")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


@pytest.mark.parametrize("name", WHOLE)
def test_an_altered_head_or_file_is_named(disk: Disk, name: str) -> None:
    alter, said = WHOLE[name]
    settle(disk)
    alter(disk)
    with pytest.raises((LogCorrupt, HostFailed), match=said):
        disk.check()
    with pytest.raises((LogCorrupt, HostFailed), match=said):
        disk.start()


def test_a_log_that_is_gone_as_a_whole_is_another_empty_one(disk: Disk) -> None:
    """Nothing on the host tells a log that was rolled back from one that never grew: the parties' checkpoints do."""
    for path in disk.host.glob("records.sqlite*"):
        path.unlink()
    assert disk.check().size == 0
    with ExitStack() as stack:
        service = stack.enter_context(up.running(disk.home))
        assert service.url
        town = Town(disk.home, stack)
        with pytest.raises(MesateeError, match=r"fewer than|rolled back"):
            town.enter("alice")


# -- blobs ----------------------------------------------------------------------------------------------

BLOBS: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (lambda path: path.write_bytes(flipped(path.read_bytes(), -1)), "altered|does not open"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "altered|does not open"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "altered|does not open"),
    "empty": (lambda path: path.write_bytes(b""), "altered|does not open"),
    "gone": (lambda path: path.unlink(), "lost"),
}


@pytest.mark.parametrize("what", ["dataset", "function", "output", "certificate", "snapshot"])
@pytest.mark.parametrize(
    "name", ["gone", *(pytest.param(name, marks=pytest.mark.slow) for name in BLOBS if name != "gone")]
)
def test_an_altered_blob_is_named(disk: Disk, name: str, what: str) -> None:
    state = disk.start().monitor.state
    (run,) = state.runs.values()
    snapshot = disk.head()["snapshot"]
    assert isinstance(snapshot, dict)
    code = next(iter(state.functions.values())).predicate.code
    assert code is not None
    digest = {
        "dataset": next(iter(state.datasets.values())).predicate.blob.sha256,
        "function": code.sha256,
        "output": run.outputs["result"].sha256,
        "certificate": run.granted().worker.certificate,
        "snapshot": str(snapshot["blob"]),
    }[what]
    alter, said = BLOBS[name]
    alter(disk.blob(digest))
    named = f"snapshot of {disk.covered} entries" if what == "snapshot" else digest
    with pytest.raises(LogCorrupt, match=named) as found:
        disk.check()
    assert re.search(said, found.value.message)
    if what == "snapshot" and name != "gone":
        with pytest.raises(LogCorrupt, match=named):
            disk.start()
    else:
        # Without its snapshot the log is replayed from its first entry; a party's blob is checked by whoever opens it.
        assert disk.start().monitor.state == state


# -- the command and the real start ---------------------------------------------------------------------


def command(disk: Disk, *words: str) -> subprocess.CompletedProcess[str]:
    arguments = [*COMMAND, "--home", str(disk.home), *words]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_says_what_holds_and_what_does_not(disk: Disk) -> None:
    done = command(disk, "log", "check", "--stored", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["size"], said["snapshot"]["size"], said["blobs"]) == (disk.size, disk.covered, 10)
    assert f"the stored log of {disk.size} entries holds" in command(disk, "log", "check", "--stored").stdout
    swap(disk, 5)
    done = command(disk, "log", "check", "--stored")
    assert done.returncode == 1
    assert "the body of log entry 5 does not open" in done.stderr


def test_a_service_does_not_start_on_it_and_says_why(disk: Disk) -> None:
    swap(disk, 5)
    with pytest.raises(LogCorrupt, match="log entry 5 does not open"):
        up.start(disk.home)
    assert disk.size  # Nothing was written to it.


def test_it_is_not_checked_while_a_service_runs(disk: Disk) -> None:
    with up.running(disk.home), pytest.raises(Conflict, match="a service runs"):
        disk.check()
    assert disk.check().kinds["epoch"] == 3


def test_without_a_service_nothing_is_founded(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        stored.check(tmp_path)
    assert list(tmp_path.iterdir()) == []
