"""32 clients on one real service for as long as it takes: uploads, approvals, runs and denials, all mixed.

What is shown: memory and open files of gateway, host and worker stay flat, nothing is left over, nobody gets an error
that he did not cause himself, every receipt verifies offline, and the log that all of this left replays.

``MESATEE_LOAD_SECONDS`` says for how long (600 for the full ten minutes; below 60 the start is not over by half-time).
"""

from __future__ import annotations

import collections
import json
import os
import random
import secrets
import shutil
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.processes import below
from tests.support.town import Town, children, stored

from mesatee.cli import up
from mesatee.errors import (
    Conflict,
    Denied,
    KeyRefused,
    Malformed,
    MesateeError,
    NotApproved,
    NotFound,
    QuotaExceeded,
    StateError,
)
from mesatee.party import Identity, Session, tasks, verify_bundle
from mesatee.protocol import limits, statements, wire
from mesatee.protocol.jsonstrict import parse_object
from mesatee.protocol.model import validate

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SECONDS = float(os.environ.get("MESATEE_LOAD_SECONDS", "60"))
CLIENTS = 32
SAMPLE_SECONDS = 0.5
RUN_SECONDS = 300.0
"""How long a client waits for its run: one worker serves all."""
GROWN_BYTES = 10 * limits.MIB
"""Flat: the last quarter's median is at most this above that of the second quarter. (The first quarter fills caches and
allocators; what was uploaded and proposed meanwhile is still there to be used.)"""
MORE_FILES = 24
"""Flat: as many more descriptors may be open, for connections that come and go: eight, of three descriptors each."""
QUIET_EVENTS = {
    "gateway": {"refused"},
    # What a client has stopped: before its keys were released, while it ran, or when it was handed in.
    "worker": {"dropped", "stopped", "attempt_ended"},
    "host": {"ready"},
}
"""All that the processes may have said by the end of the load."""

FUNCTION = """
from mesatee.table import Table


def total(a: Table, b: Table, *, factor: int = 2) -> Table:
    frame = a.to_pandas()
    frame["x"] = frame["x"] * factor + b.to_pandas()["x"]
    print("done")
    return Table.from_pandas(frame)
"""
STUCK = """
import time
from mesatee.table import Table


def stuck(a: Table, b: Table) -> Table:
    time.sleep(60)
    return a
"""


class Square(Town):
    """A town whose parties give up at the first error, so that each one is seen."""

    def enter(self, *names: str) -> None:
        for name in names:
            session = Session(self.url, Identity.create(self.home, name), self.trust)
            self.people[name] = self._stack.enter_context(session)  # type: ignore[assignment]


# -- the processes, seen from outside --------------------------------------------------------------------


@dataclass
class Sample:
    """Of one process: resident memory and open files."""

    at: float
    resident: int
    files: int
    size: int


@dataclass
class Watched:
    """A process and what was seen of it."""

    name: str
    pid: int
    samples: list[Sample] = field(default_factory=list)

    def open_files(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def look(self, size: int) -> None:
        status = Path(f"/proc/{self.pid}/status").read_text()
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        files = self.open_files()
        self.samples.append(Sample(time.monotonic(), int(resident.split()[1]) * 1024, files, size))

    def quarter(self, number: int, what: str) -> float:
        """The median of a value in one quarter of the time."""
        first, last = self.samples[0].at, self.samples[-1].at
        low = first + (last - first) * (number - 1) / 4
        high = first + (last - first) * number / 4
        return statistics.median(getattr(item, what) for item in self.samples if low <= item.at <= high)

    def said(self) -> str:
        second, last = (self.quarter(number, "resident") / limits.MIB for number in (2, 4))
        files = [int(self.quarter(number, "files")) for number in (2, 4)]
        return f"{self.name}: {second:.1f} MiB -> {last:.1f} MiB, files {files[0]} -> {files[1]}"


def zombies(pids: set[int]) -> list[str]:
    """Children of `pids` that ended and that nobody has waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            head, _, tail = path.read_text().rpartition(")")
            if tail.split()[0] == "Z" and int(tail.split()[1]) in pids:
                found.append(head + ")")
    return found


# -- the clients -----------------------------------------------------------------------------------------


class Tally:
    """What all clients did, and what should not have happened."""

    def __init__(self) -> None:
        self.done: collections.Counter[str] = collections.Counter()
        self.denied: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self.receipts: list[Path] = []
        self._guard = threading.Lock()

    def did(self, what: str) -> None:
        with self._guard:
            self.done[what] += 1

    def refused(self, code: str) -> None:
        with self._guard:
            self.denied[code] += 1

    def failed(self, why: str) -> None:
        with self._guard:
            self.failures.append(why)

    @contextmanager
    def expect(self, *kinds: type[MesateeError]) -> Iterator[None]:
        """What a client has caused himself must be refused, and so."""
        try:
            yield
        except kinds as error:
            self.refused(error.code)
        else:
            raise AssertionError(f"not refused as {kinds[0].__name__}")

    @contextmanager
    def may_be_refused(self, *kinds: type[MesateeError]) -> Iterator[None]:
        """A client was in a race with his own run."""
        try:
            yield
        except kinds as error:
            self.refused(error.code)


class Client:
    """One party, with a neighbour whose data it uses together with its own."""

    def __init__(self, number: int, town: Square, tally: Tally, over: threading.Event) -> None:
        self.name, self.other = f"p{number}", f"p{number ^ 1}"
        self.stranger = f"p{(number + 2) % CLIENTS}"
        self.town, self.tally, self.over = town, tally, over
        self.rng = random.Random(number)
        self.mine: list[str] = []
        self.theirs: list[str] = []
        self.code = self.sleeper = ""

    @property
    def session(self) -> Session:
        return self.town[self.name]

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def run(self) -> None:
        try:
            self.code = self.town.function(self.name, FUNCTION)
            self.sleeper = self.town.function(self.name, STUCK, private=False)
            while not self.over.is_set():
                self.round()
        except Exception as error:
            self.tally.failed(f"{self.name}: {type(error).__name__}: {error}")

    def round(self) -> None:
        if not self.mine or self.chance(0.5):
            self.mine.append(self.upload(self.name))
            self.theirs.append(self.upload(self.other))
        if self.chance(0.15):
            self.steal()
        if self.chance(0.15):
            self.stop_one()
            return
        digest = self.propose(self.code)
        if self.chance(0.3):
            with self.tally.expect(NotApproved):
                self.start(digest)
        self.approve(self.name, digest)
        self.approve(self.other, digest)
        if self.chance(0.2):
            self.trespass(digest)
        if self.chance(0.15):
            session = self.town[self.other]
            tasks.withdraw(session, session.task(digest))
            self.tally.did("withdrawal")
            with self.tally.expect(NotApproved):
                self.start(digest)
            return
        run = self.start(digest)
        found = tasks.watch(self.session, digest, run, seconds=RUN_SECONDS)
        assert found.status == "finished", (found.status, found.failure)
        for who in (self.name, self.other):
            self.collect(who, digest, run)
        if self.chance(0.3):
            with self.tally.expect(QuotaExceeded):
                self.start(digest)

    # -- what a round is made of -------------------------------------------------------------------------

    def upload(self, owner: str) -> str:
        rows = self.rng.choice((2, 50, 1_000))
        text = "id,x\n" + "".join(f"{row},{self.rng.randrange(1000)}\n" for row in range(rows))
        digest = self.town.dataset(owner, f"d-{secrets.token_hex(6)}", text.encode())
        self.tally.did("upload")
        return digest

    def propose(self, code: str) -> str:
        inputs = {"a": self.rng.choice(self.mine[-4:]), "b": self.rng.choice(self.theirs[-4:])}
        receivers = (self.name, self.other)
        outputs: dict[str, tuple[str, ...]] = {"result": receivers, "diagnostics": (self.name,)}
        digest = self.town.task(self.name, code, inputs, outputs)
        self.tally.did("task")
        return digest

    def approve(self, who: str, digest: str) -> None:
        session = self.town[who]
        tasks.approve(session, tasks.review(session, session.task(digest)))
        self.tally.did("approval")

    def start(self, digest: str) -> str:
        run = tasks.run(self.session, self.session.task(digest)).digest
        self.tally.did("run")
        return run

    def collect(self, who: str, digest: str, run: str) -> None:
        result = self.town.result(who, digest, run)
        kept = self.town.home / "receipts" / f"{secrets.token_hex(8)}.json"
        result.receipt_file.rename(kept)
        self.tally.receipts.append(kept)
        shutil.rmtree(result.folder)
        self.tally.did("result")

    def trespass(self, digest: str) -> None:
        """Somebody else's task: it cannot be run, nor even be seen."""
        stranger = self.town[self.stranger]
        with self.tally.expect(Denied):
            tasks.run(self.town[self.other], self.town[self.other].task(digest))
        with self.tally.expect(NotFound):
            stranger.task(digest)

    def steal(self) -> None:
        """Another's ciphertext, under one's own name, with a wrap that is not one; and a blob that does not exist."""
        digest = self.rng.choice(self.theirs)
        view = next(item for item in self.session.datasets() if item.digest == digest)
        for blob, kinds in ((view.blob, (KeyRefused,)), (secrets.token_hex(32), (NotFound,))):
            with self.tally.expect(*kinds):
                self.session.post(
                    statements.DatasetStatement,
                    name="stolen",
                    blob=statements.BlobRef(sha256=blob, size=view.size),
                    format="csv",
                    columns=(),
                    rows=None,
                    policy=view.policy,
                    wrap=self.session.task(self.propose(self.code)).statement["payload"][:64],
                )

    def stop_one(self) -> None:
        """A run that would not end, stopped by its author or by a withdrawal while it waits or runs."""
        digest = self.propose(self.sleeper)
        self.approve(self.name, digest)
        self.approve(self.other, digest)
        run = self.start(digest)
        if self.chance(0.7):
            # Until its keys are out, at most: then it is stopped in the sandbox.
            deadline = time.monotonic() + RUN_SECONDS
            while self.session.task(digest).runs[0].status == "queued" and time.monotonic() < deadline:
                time.sleep(0.2)
        if self.chance(0.5):
            tasks.withdraw(self.town[self.other], self.town[self.other].task(digest))
            self.tally.did("withdrawal")
        with self.tally.may_be_refused(StateError):
            tasks.cancel(self.session, self.session.task(digest), run)
            self.tally.did("cancel")
        found = tasks.watch(self.session, digest, run, seconds=RUN_SECONDS)
        # Where a worker comes between withdrawal and cancel, it is refused the keys, and the run has failed for that.
        assert "cancelled" in (found.status, found.failure), (found.status, found.failure)
        with self.tally.expect(Denied, StateError, Conflict, Malformed):
            self.session.post(statements.CollectStatement, run=run)


# -- the load --------------------------------------------------------------------------------------------


def play(town: Square, watched: list[Watched], tally: Tally) -> None:
    """All clients at once until the time is over; meanwhile the processes are looked at."""
    over = threading.Event()
    clients = [Client(number, town, tally, over) for number in range(CLIENTS)]
    threads = [threading.Thread(target=client.run, name=client.name) for client in clients]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + SECONDS
    lasting: dict[str, int] = {}
    try:
        while time.monotonic() < deadline and not tally.failures:
            size = max(session.checkpoint.size for session in town.people.values())
            for item in watched:
                item.look(size)
            dead = zombies({item.pid for item in watched})
            lasting = {name: lasting.get(name, 0) + 1 for name in dead}
            assert not [name for name, times in lasting.items() if times > 10], lasting
            time.sleep(SAMPLE_SECONDS)
    finally:
        over.set()
        for thread in threads:
            thread.join(2 * RUN_SECONDS)


def grown(item: Watched) -> float:
    """How many bytes more than flat the process has by the end."""
    second, last = item.quarter(2, "resident"), item.quarter(4, "resident")
    return max(0.0, last - second - GROWN_BYTES)


def events(service: up.Service, name: str) -> collections.Counter[str]:
    lines = service.process(name).log.read_text().splitlines()
    said = [json.loads(line) if line.startswith("{") else {"event": line} for line in lines]
    return collections.Counter(str(line["event"]) for line in said)


def settled(holds: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def tickets(home: Path) -> int:
    path = home / "service" / "host" / "queue.sqlite"
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        return int(database.execute("SELECT count(*) FROM tickets").fetchone()[0])


def standing(zygote: int) -> tuple[set[int], int]:
    """The processes that stay, and how many the zygote keeps waiting: these are others after each run."""
    waiting = {item.pid for item in below(zygote)}
    return {item.pid for item in below(os.getpid())} - waiting, len(waiting)


def test_many_clients_for_long(tmp_path: Path) -> None:
    home, tally = tmp_path / "home", Tally()
    with ExitStack() as stack:
        service = stack.enter_context(up.running(home))
        pids = {
            name: child.pid
            for name in ("gateway", "host", "worker")
            if (child := service.process(name).child)
        }
        settled(lambda: children(pids["worker"]))
        town = Square(home, stack)
        (home / "receipts").mkdir()
        town.enter(*(f"p{number}" for number in range(CLIENTS)))
        zygote = children(pids["worker"])[0]
        watched = [Watched(name, pid) for name, pid in (*pids.items(), ("zygote", zygote))]
        # A child of the zygote is two processes, and one always waits.
        settled(lambda: len(below(zygote)) == 2)
        before = standing(zygote)
        idle = [item.open_files() for item in watched]
        try:
            play(town, watched, tally)
        finally:
            print(f"\n{SECONDS:.0f} s, {CLIENTS} clients: {dict(tally.done)}; refused: {dict(tally.denied)}")
            print("\n".join(item.said() for item in watched if item.samples))
        size = town["p0"].refresh().size
        assert not tally.failures, tally.failures

        # No error that a client did not cause: the service refused exactly what its clients were refused.
        said = {name: events(service, name) for name in pids}
        print(f"log entries {size}; said: {said}")
        for name, counted in said.items():
            assert set(counted) <= QUIET_EVENTS[name], (name, counted)
        assert said["gateway"]["refused"] - sum(said["worker"].values()) <= tally.denied.total()
        assert all(not item.ends for item in service.processes)

        # Nothing is left over: no child, no zombie, no ticket, no file that is still arriving.
        settled(lambda: standing(zygote) == before)
        assert zombies(set(pids.values()) | {zygote}) == []
        settled(lambda: tickets(home) == 0)
        assert list((home / "service" / "host" / "blobs" / "tmp").iterdir()) == []
        for name in town.people:
            town[name].close()
        # The sessions' connections take their descriptors with them: fewer are left than when everybody had come.
        settled(lambda: watched[0].open_files() <= idle[0] - CLIENTS)
        closed = [item.open_files() for item in watched]
        print(f"open files idle {idle}, closed {closed}")

    for path in tally.receipts:
        value = parse_object(path.read_bytes(), limit=limits.RESPONSE_BYTES)
        verify_bundle(validate(wire.Bundle, value, "bundle"), town.trust, int(time.time()))
    assert tally.receipts
    found = stored(home)
    assert found.size >= size
    assert not found.state.runs.open
    print(f"{len(tally.receipts)} receipts verify offline; the stored log of {found.size} entries replays")
    for item in watched:
        assert grown(item) == 0, item.said()
        assert item.quarter(4, "files") <= item.quarter(2, "files") + MORE_FILES, item.said()
