"""A small town on one embedded service: parties that do not give up when a process dies under them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from mesatee.enclave.gateway.audit import Audited, audit
from mesatee.enclave.gateway.identity import open_service
from mesatee.enclave.gateway.log import Log
from mesatee.enclave.platform.measure import measure
from mesatee.enclave.platform.sealing import Sealing
from mesatee.enclave.platform.software import SoftwareAttester, installation_key
from mesatee.errors import Halted, Recovering, Unavailable
from mesatee.host.blobs.local import LocalBlobs
from mesatee.host.records.sqlite import SqliteRecords
from mesatee.party import Identity, Session, data, functions, read_service_file, read_trust, results, tasks
from mesatee.party.session import Posted
from mesatee.protocol import statements, wire
from mesatee.protocol.jsonstrict import parse_object
from mesatee.protocol.statements import Accept

LEASE_SECONDS = 3
"""The worker's lease in these tests: a killed worker costs this much time."""
PATIENCE_SECONDS = 60.0
"""How long a party goes on asking a service that does not answer."""
FUNCTION = """
from mesatee.table import Table


def total(a: Table, b: Table, *, factor: int = 2) -> Table:
    frame = a.to_pandas()
    frame["x"] = frame["x"] * factor + b.to_pandas()["x"]
    print("done")
    return Table.from_pandas(frame)
"""
T = TypeVar("T")


class PatientSession(Session):
    """A session whose every call is made again until the service has answered; it remembers what was acknowledged.

    A statement is posted again as the same bytes, so that the gateway can count it once.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.acknowledged: list[tuple[str, str, int]] = []
        self.together: Callable[[], None] = lambda: None

    def _until_answered(self, ask: Callable[[], T], *, connect: bool = True) -> T:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return ask()
            except Halted:
                raise
            except (Recovering, Unavailable) as error:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
                if connect:
                    self._until_answered(super().connect, connect=False)
                    if isinstance(error, Recovering):
                        self.together()

    def connect(self) -> None:
        self._until_answered(super().connect, connect=False)

    def get(self, *arguments: Any, **options: Any) -> Any:
        return self._until_answered(
            lambda: super(PatientSession, self).get(*arguments, **options), connect=False
        )

    def upload(self, *arguments: Any, **options: Any) -> None:
        self._until_answered(lambda: super(PatientSession, self).upload(*arguments, **options), connect=False)

    def post(self, kind: Any, /, **fields: Any) -> Any:
        introducing = kind in (statements.PartyStatement, statements.PresenceStatement)
        if introducing:
            # `connect` posts these: whoever calls it begins anew with it.
            return self._remember(super().post(kind, **fields))
        statement = self._author(self.checkpoint.note).write(kind, **fields)

        def send() -> wire.Posted:
            nonlocal statement
            if kind is statements.CollectStatement:
                # A request for results is answered once, so each try is a new one.
                statement = self._author(self.checkpoint.note).write(kind, **fields)
            return self.post_envelope(statement.envelope)

        reply = self._until_answered(send)
        return self._remember(Posted(statement, reply.digest, reply.index, reply.result))

    def _remember(self, posted: Any) -> Any:
        self.acknowledged.append((posted.statement.kind, posted.digest, posted.index))
        return posted


class Town:
    """Parties with one shared task on a service that runs already; all state of theirs is below `home`."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        service = read_service_file(home)
        assert service is not None
        self.home = home
        self.url = service.url
        self.trust = read_trust(service.trust)
        self.environment = service.environment
        self.accept = Accept(
            min_level=service.level, tees=service.tees, workers=service.workers, allow_simulated=False
        )
        self.people: dict[str, PatientSession] = {}
        self._stack = stack

    def enter(self, *names: str) -> None:
        """Make the parties and connect them."""
        for name in names:
            folder = self.home / "identities" / name
            identity = Identity.load(self.home, name) if folder.exists() else Identity.create(self.home, name)
            session = PatientSession(self.url, identity, self.trust)
            session.together = self.present
            self.people[name] = self._stack.enter_context(session)

    def __getitem__(self, name: str) -> PatientSession:
        return self.people[name]

    def present(self) -> None:
        """Everybody compares the log with what it knew, as owners have to after a restart."""
        for session in self.people.values():
            session.connect()

    def dataset(self, owner: str, name: str, text: bytes = b"id,x\n1,2\n3,4\n") -> str:
        """Seal and register; returns the dataset's digest."""
        session = self[owner]
        target = self.home / f"{owner}-{secrets.token_hex(4)}.age"
        sealed = data.seal(session.identity, text, target, format="csv")
        return data.put(session, sealed, name).digest

    def function(self, owner: str, source: str = FUNCTION, *, private: bool = True) -> str:
        """Register a function; returns its digest."""
        path = self.home / f"{owner}-{secrets.token_hex(4)}.py"
        path.write_text(source)
        return functions.put(self[owner], path, f"f-{secrets.token_hex(4)}", private=private).digest

    def task(
        self,
        author: str,
        function: str,
        inputs: dict[str, str],
        outputs: dict[str, tuple[str, ...]],
        *,
        approvers: tuple[str, ...] = (),
        arguments: dict[str, Any] | None = None,
        runs: int = 1,
        name: str | None = None,
        seconds: int = 120,
    ) -> str:
        """Propose and approve; returns the task's digest."""
        digest = tasks.new(
            self[author],
            name or f"t-{secrets.token_hex(4)}",
            function=function,
            inputs=inputs,
            outputs=outputs,
            accept=self.accept,
            environment=self.environment,
            arguments=arguments,
            runs=runs,
            run_limits=statements.RunLimits(seconds=seconds),
        ).digest
        for who in approvers:
            session = self[who]
            tasks.approve(session, tasks.review(session, session.task(digest)))
        return digest

    def prepare(self, **options: Any) -> str:
        """The usual joint task of alice, bob and the scientist, ready to run."""
        a, b = self.dataset("alice", "left"), self.dataset("bob", "right")
        function = self.function("scientist")
        return self.task(
            "scientist",
            function,
            {"a": a, "b": b},
            {"result": ("alice", "scientist"), "diagnostics": ("scientist",)},
            approvers=("alice", "bob", "scientist"),
            **options,
        )

    def run(self, author: str, task: str) -> str:
        """Run it once; returns the run's digest."""
        return tasks.run(self[author], self[author].task(task)).digest

    def ended(self, author: str, task: str, run: str, seconds: float = PATIENCE_SECONDS) -> wire.RunView:
        """Wait until a run has ended. Everybody stays present meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            view = self[author].task(task)
            found = next(item for item in view.runs if item.digest == run)
            if found.status in tasks.ENDED:
                return found
            assert time.monotonic() < deadline, f"the run is still {found.status}"
            self.present()
            time.sleep(0.1)

    def result(self, receiver: str, task: str, run: str) -> results.Result:
        """Fetch, open and verify."""
        session = self[receiver]
        target = self.home / f"out-{receiver}-{secrets.token_hex(4)}"
        return results.take(session, session.task(task), target, run)


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            # It has ended meanwhile.
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def stored(home: Path) -> Audited:
    """The operator's full check of what a stopped service has stored."""
    folder = home / "service"
    founded = parse_object((folder / "founded.json").read_bytes())
    mine = SoftwareAttester(installation_key(folder / "installation.key"), measure(()))
    keys = open_service(
        folder / "enclave",
        Sealing(folder / "enclave", mine.measurement, mine.fingerprint),
        str(founded["origin"]),
        str(founded["platform_policy"]),
        str(founded["worker_trust"]),
        int(time.time()),
    )
    store = SqliteRecords(folder / "host" / "records.sqlite")
    try:
        log = Log(str(founded["origin"]), store, keys.body, keys.log)
        return audit(log, LocalBlobs(folder / "host" / "blobs"), keys)
    finally:
        store.close()


__all__ = ["LEASE_SECONDS", "PATIENCE_SECONDS", "PatientSession", "Town", "children", "stored"]
