"""A service that is killed at named points, and a client that goes on as a patient user would."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest
from tests.e2e.conftest import Lab

from mesatee.cli import up
from mesatee.cli.demo import stage
from mesatee.errors import MesateeError, QuotaExceeded, StateError, TrustError, Unavailable
from mesatee.party import Session, tasks
from mesatee.protocol import records, statements

LEASE_SECONDS = 2
PATIENCE = 60.0
"""How long a user tries again."""
WORK = "from mesatee.table import Table\ndef work(people: Table) -> Table:\n    return people\n"

T = TypeVar("T")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


def patiently(act: Callable[[], T], done: Callable[[], bool] = lambda: False) -> T | None:
    """Try until it works, as long as the service is merely away. None if `done` says that it had worked before."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if done():
                return None
            return act()
        except (Unavailable, StateError, QuotaExceeded, TrustError) as error:
            if isinstance(error, TrustError) and error.code == "fork_detected":
                raise
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.2)


class Story:
    """One task from sealed data to verified result, through whatever dies on the way."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home, self.folder = home, folder
        self.acknowledged: dict[str, int] = {}

    def note(self, posted: tasks.Posted) -> str:
        """A statement that the gateway has acknowledged must be there for ever."""
        self.acknowledged[posted.digest] = posted.index
        return posted.digest

    def tell(self, lab: Lab) -> tasks.Result:
        """From the data to the result."""
        people = patiently(lambda: lab.table("id\n1\n2\n"))
        assert people
        view = patiently(lambda: lab.task(WORK, {"people": people}, approve=False))
        assert view
        digest = view.digest
        with contextlib.suppress(MesateeError):
            # Refused, and the refusal is logged: one of the points.
            tasks.run(lab.scientist, view)
        patiently(
            lambda: self.note(tasks.approve(lab.owner, tasks.review(lab.owner, lab.owner.task(digest))))
        )
        patiently(
            lambda: self.note(tasks.run(lab.scientist, lab.scientist.task(digest))),
            done=lambda: bool(lab.scientist.task(digest).runs),
        )
        self.wait(lab, digest)
        result = patiently(lambda: (show(lab), lab.result(lab.scientist.task(digest)))[1])
        assert result
        self.check(lab, digest, result)
        return result

    def wait(self, lab: Lab, digest: str) -> None:
        """Until the run has ended; after a restart the owners show themselves again, as the SDK does on connecting."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(Unavailable):
                show(lab)
                run = lab.scientist.task(digest, after=0, wait=0).runs[0]
                if run.status in ("finished", "failed", "cancelled"):
                    return
            assert time.monotonic() < deadline, "the run never ended"
            time.sleep(0.1)

    def check(self, lab: Lab, digest: str, result: tasks.Result) -> None:
        """Nothing acknowledged is missing, the run ended once, and one receipt stands in the log."""
        view = lab.scientist.task(digest)
        assert [run.status for run in view.runs] == ["finished"]
        assert result.outputs["result"].read_text().split() == ['"id"', "1", "2"]
        for statement, index in self.acknowledged.items():
            assert lab.owner.record(index).statement().digest == statement
        ends = []
        for index in range(lab.scientist.refresh().size):
            with contextlib.suppress(StateError):
                record = lab.scientist.record(index)
                if record.kind in ("receipt", "closed"):
                    ends.append(record.outcome())
        assert len(ends) == 1
        assert isinstance(ends[0], records.ReceiptOutcome)


def show(lab: Lab) -> None:
    """After a restart owners show themselves again, as the SDK does on connecting."""
    for session in (lab.owner, lab.scientist):
        session.refresh()
        if not fresh(session):
            session.post(statements.PresenceStatement)


def fresh(session: Session) -> bool:
    """Whether this epoch's gateway knows that the party has compared logs."""
    return next(item.fresh for item in session.parties() if item.id == session.identity.id)


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., up.Service]:
    """Tells the story on a service that is killed at a point, then checks the log once more from the disk."""

    def tell(fault: str, **options: object) -> up.Service:
        home = tmp_path / "home"
        environ = {"MESATEE_FAULT": fault} if fault else {}
        with (
            up.running(home, environ=environ, lease_seconds=LEASE_SECONDS, **options) as service,
            ExitStack() as stack,
        ):
            people = patiently(lambda: stage.enter(stack, home, ("hospital-a", "scientist")))
            assert people
            lab = Lab(people, tmp_path)
            Story(home, tmp_path).tell(lab)
        # A new start verifies everything that is stored, and replays it.
        again = up.start(home, with_worker=False)
        with contextlib.ExitStack() as stack:
            stack.callback(again.stop)
            scientist = stage.enter(stack, home, ("scientist",)).of("scientist")
            assert [run.status for view in scientist.tasks() for run in view.runs] == ["finished"]
        return service

    return tell
