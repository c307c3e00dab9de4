"""Commits in flight: what is decided while earlier decisions are still being logged, in every order.

The store takes a batch only when the machine lets it, so that withdrawals, cancels and second tries come in between a
decision and its log entry, and between the log entry and its effect. What leaves is judged by the durable log alone:
nothing leaves that the log speaks against at that moment, and what was acknowledged stays, also when the gateway dies
with commits on their way.
"""

from __future__ import annotations
import __future__

import asyncio
import contextlib
import inspect
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.support.gateway import ENVIRONMENT, Case, Member, MemoryRecords, World, make_case, make_keys

from mesatee.enclave.gateway import monitor
from mesatee.enclave.gateway.monitor import LEASE_SECONDS, Granted
from mesatee.enclave.gateway.state import State
from mesatee.errors import HostFailed, MesateeError
from mesatee.protocol import records, statements
from mesatee.protocol.doors import Record

RUNS = 2
KEYS = make_keys()
WAIT_SECONDS = 20
OWNERS = st.sampled_from(["left", "right"])
NUMBERS = st.integers(0, RUNS - 1)
STAGES = ("queued", "granting", "granted", "finished", "collecting")


class Stepped(MemoryRecords):
    """Takes one batch for each step, or all of them when it is open; or loses them when it is broken."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()
        self.steps, self.waits, self.open, self.broken = 0, False, True, False

    def append(self, expected: int, records: Sequence[Record], head: bytes) -> None:
        with self.changed:
            self.waits = True
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.open or self.broken or self.steps, WAIT_SECONDS)
            self.steps, self.waits = 0, False
            if self.broken:
                raise HostFailed("the gateway was killed")
        super().append(expected, records, head)

    def set(self, **values: Any) -> None:
        with self.changed:
            for name, value in values.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def arrived(self) -> None:
        """Wait until a batch stands at the door."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.waits, WAIT_SECONDS)


class Book:
    """What the durable log says, read with no help of the gateway's state."""

    def __init__(self) -> None:
        self.where: dict[str, int] = {}
        self.withdrawn: set[str] = set()
        self.counted: dict[str, dict[int, set[str]]] = {}
        self.ids: dict[str, str] = {}
        self.ended: dict[str, int] = {}
        self.receipts: dict[str, list[int]] = {}
        self.releases: set[tuple[str, str]] = set()

    def end(self, run: str, index: int) -> None:
        assert run not in self.ended, "a run ends once"
        self.ended[run] = index

    def read(self, index: int, record: records.LogRecord) -> None:
        if record.kind == "statement":
            self._statement(index, statements.verify(record.statement()))
            return
        match record.outcome():
            case records.GrantOutcome() as said:
                assert said.run not in self.ended, "no grant after the end"
                approvals = set(said.approvals.values())
                assert not approvals & self.withdrawn, "a withdrawal at a lower index wins"
                self.counted.setdefault(said.run, {})[index] = approvals
            case records.ReceiptOutcome() as said:
                assert max(self.counted[said.run]) == said.fence, "only the newest attempt counts"
                self.receipts.setdefault(said.run, []).append(index)
                self.end(said.run, index)
            case records.ClosedOutcome() as said:
                self.end(said.run, index)
            case records.ReleaseOutcome() as said:
                self.releases.add((said.run, said.to))

    def _statement(self, index: int, statement: statements.Statement) -> None:
        assert statement.digest not in self.where, "a statement is in the log once"
        self.where[statement.digest] = index
        match statement.predicate:
            case statements.ApprovalStatement() as said:
                self.ids[said.id] = statement.digest
            case statements.WithdrawalStatement() as said:
                self.withdrawn.add(self.ids[said.id])
                for run, grants in self.counted.items():
                    if run not in self.ended and self.ids[said.id] in grants[max(grants)]:
                        self.end(run, index)
            case statements.CancelStatement() as said:
                self.end(said.run, index)

    def spoken_against(self, run: str) -> bool:
        """Whether an approval that counted for the newest attempt is withdrawn."""
        grants = self.counted[run]
        return bool(grants[max(grants)] & self.withdrawn)


class InFlight(RuleBasedStateMachine):
    """Starts things while others are under way, and lets the log go on batch by batch."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Stepped()
        self.world = World(KEYS, self.store)
        self.case: Case = make_case(self.world, runs=RUNS)
        self.book, self.read = Book(), 0
        self.pending: list[tuple[asyncio.Task[Any], Callable[[Any], None]]] = []
        self.acknowledged: dict[str, int] = {}
        self.ids: dict[str, list[str]] = {"left": [], "right": []}
        self.runs: list[str] = []
        self.granted: dict[str, Granted] = {}
        self.posted: list[tuple[Member, statements.Statement]] = []
        self._watch()

    def _watch(self) -> None:
        """Remember what was handed to the log, to know when its answers have been heard."""
        self.futures: list[Future[int]] = []
        self.base = self.world.log.next_index
        log, append = self.world.log, self.world.log.append

        def watched(*arguments: Any) -> Future[int]:
            self.futures.append(append(*arguments))
            return self.futures[-1]

        log.append = watched  # type: ignore[method-assign]  # of this one object

    def teardown(self) -> None:
        self.store.set(open=True)
        for task, _ in self.pending:
            task.cancel()
        self.world.loop.run_until_complete(asyncio.sleep(0))
        self.world.close()

    # -- the loop and the log -------------------------------------------------------------------------

    def start(self, work: Coroutine[Any, Any, Any], answered: Callable[[Any], None]) -> None:
        if not self.store.open and not self.waiting():
            self.somebody_posts()
        self.pending.append((self.world.loop.create_task(work), answered))
        self.settle()

    def waiting(self) -> list[Future[int]]:
        return [item for item in self.futures if not item.done()]

    def somebody_posts(self) -> None:
        """A batch of somebody else stands at the door, so that what is decided next shares the one behind it."""
        who = self.case.scientist
        statement = who.write(self.world.desk, statements.PresenceStatement)
        work = self.world.monitor.submit(who.peer, statement.envelope)
        self.pending.append((self.world.loop.create_task(work), lambda _: None))
        self.settle()

    def settle(self) -> None:
        """Everything comes as far as it gets without another commit; answers are heard."""
        for _ in range(10):
            self.world.loop.run_until_complete(asyncio.sleep(0))
        if self.store.open:
            # What is answered now must not depend on how fast the writer is.
            self.heard(self.futures)
        elif self.waiting():
            self.store.arrived()
        for task, answered in [item for item in self.pending if item[0].done()]:
            self.pending.remove((task, answered))
            self.look()
            try:
                found = task.result()
            except MesateeError:
                # That a refusal is right is for the other model; here nothing must leave.
                continue
            answered(found)

    def look(self) -> None:
        while self.read < self.world.log.size:
            self.book.read(self.read, self.world.record(self.read))
            self.read += 1

    @rule()
    def commit(self) -> None:
        """The batch at the door is taken; what follows from it is decided, behind a batch of somebody else."""
        if self.waiting():
            self.somebody_posts()
            self.step()

    @rule()
    def commit_all(self) -> None:
        while self.waiting():
            self.step()

    def step(self) -> None:
        first = self.waiting()[0]
        self.store.arrived()
        self.store.set(steps=1)
        self.heard([first])
        self.heard(self.futures[: len(self.store.stored) - self.base])
        self.settle()

    def heard(self, futures: Sequence[Future[int]]) -> None:
        """Wait until these are done and everybody who waits for them was woken."""

        async def hear() -> None:
            for item in futures:
                # Callbacks are called in the order in which they were asked for: with this one all others were.
                await asyncio.wait_for(asyncio.wrap_future(item), WAIT_SECONDS)
            for _ in range(10):
                await asyncio.sleep(0)

        self.world.loop.run_until_complete(hear())

    @rule()
    def die(self) -> None:
        """kill -9: what has not been taken is lost, and so are the answers. Owners come back to the new epoch."""
        self.store.set(broken=True)
        for item in self.futures:
            with contextlib.suppress(HostFailed):
                item.result(WAIT_SECONDS)
        self.pending, lost = [], self.pending
        for task, _ in lost:
            task.cancel()
        for _ in range(10):
            self.world.loop.run_until_complete(asyncio.sleep(0))
        self.look()
        self.store.set(broken=False, open=True)
        self.world.restart()
        self.look()
        for digest, index in self.acknowledged.items():
            assert self.book.where.get(digest) == index, "an acknowledged statement is missing"
        self.runs = [run for run in self.runs if run in self.book.where]
        self.granted = {run: item for run, item in self.granted.items() if run in self.runs}
        for name, given in self.ids.items():
            self.ids[name] = [item for item in given if item in self.book.ids]
        self.world.present(self.case.left, self.case.right)
        self._watch()
        self.store.set(open=False)

    # -- what people and workers do -------------------------------------------------------------------

    @initialize(stage=st.sampled_from(STAGES))
    def begin(self, stage: str) -> None:
        """Where commits matter most: before key release, while it or result release is being logged, or after."""
        for name in self.ids:
            self.approve(name)
        self.run()
        if stage in ("granted", "finished", "collecting"):
            self.grant(0)
        if stage in ("finished", "collecting"):
            self.finish(0)
        self.look()
        self.store.set(open=False)
        if stage == "granting":
            self.grant(0)
        if stage == "collecting":
            self.collect(0)
            # The collect statement, and then its release is decided.
            self.commit()
            self.commit()

    def member(self, name: str) -> Member:
        return self.case.left if name == "left" else self.case.right

    def post(self, member: Member, kind: type[statements.Common], **fields: Any) -> str:
        statement = member.write(self.world.desk, kind, **fields)
        self.posted.append((member, statement))
        self.submit(member, statement)
        return statement.digest

    def submit(self, member: Member, statement: statements.Statement) -> None:
        def answered(found: Any) -> None:
            index = found[0].index
            assert self.book.where.get(statement.digest) == index, "nobody is told of what is not durable"
            self.acknowledged[statement.digest] = index

        self.start(self.world.monitor.submit(member.peer, statement.envelope), answered)
        if self.store.open:
            self.hear()

    def hear(self) -> None:
        """While the store is open: wait for all answers."""

        async def all_of_them() -> None:
            tasks = [task for task, _ in self.pending]
            await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WAIT_SECONDS)

        self.world.loop.run_until_complete(all_of_them())
        self.settle()

    @rule(name=OWNERS)
    def approve(self, name: str) -> None:
        number = f"{len(self.posted):032x}"
        expires = int(self.world.clock) + 3_600
        self.post(
            self.member(name), statements.ApprovalStatement, task=self.case.task, id=number, expires=expires
        )
        self.ids[name].append(number)

    @rule(name=OWNERS)
    def withdraw(self, name: str) -> None:
        if self.ids[name]:
            self.post(
                self.member(name),
                statements.WithdrawalStatement,
                task=self.case.task,
                id=self.ids[name].pop(),
            )

    @rule()
    def run(self) -> None:
        if len(self.runs) < RUNS:
            self.runs.append(self.post(self.case.scientist, statements.RunStatement, task=self.case.task))

    def chosen(self, number: int) -> str:
        """One of the runs, empty if there is none."""
        return self.runs[number % len(self.runs)] if self.runs else ""

    @rule(number=NUMBERS)
    def cancel(self, number: int) -> None:
        if run := self.chosen(number):
            self.post(self.case.left, statements.CancelStatement, run=run)

    @rule(back=st.integers(1, 4))
    def post_again(self, back: int) -> None:
        if back <= len(self.posted):
            self.submit(*self.posted[-back])

    @rule()
    def leases_lapse(self) -> None:
        self.world.steady += LEASE_SECONDS + 1

    @rule(number=NUMBERS)
    def grant(self, number: int) -> None:
        run, worker = self.chosen(number), self.case.worker
        try:
            ticket = self.world.ticket(run)
        except MesateeError:
            return

        def answered(granted: Granted) -> None:
            assert granted.grant.fence in self.book.counted[run], "keys leave after the grant is in the log"
            assert not self.book.spoken_against(run), "no key leaves after a withdrawal"
            assert run not in self.book.ended, "no key leaves for a run that has ended"
            self.granted[run] = granted

        work = self.world.monitor.grant(
            worker.peer, worker.facts, frozenset({ENVIRONMENT}), ticket, worker.attempt.public
        )
        self.start(work, answered)
        if self.store.open:
            self.hear()

    @rule(number=NUMBERS)
    def finish(self, number: int) -> None:
        run = self.chosen(number)
        if run not in self.granted:
            return
        granted = self.granted[run]
        handed = self.case.receipt(granted)

        def answered(index: int) -> None:
            assert self.book.receipts[run] == [index], "a worker is told of the one receipt that counts"

        work = self.world.monitor.finish(
            self.case.worker.peer, granted.grant.fence, handed.envelope, handed.wraps, self.world.keys.log
        )
        self.start(work, answered)
        if self.store.open:
            self.hear()

    @rule(number=NUMBERS)
    def collect(self, number: int) -> None:
        run, who = self.chosen(number), self.case.scientist
        if not run:
            return
        statement = who.write(self.world.desk, statements.CollectStatement, run=run)
        said = statements.expect(statement.predicate, statements.CollectStatement)

        async def ask() -> dict[str, str]:
            await self.world.monitor.submit(who.peer, statement.envelope)
            return await self.world.monitor.release(who.id, said)

        def answered(wraps: dict[str, str]) -> None:
            assert (run, who.id) in self.book.releases, "results leave after the release is in the log"
            assert not self.book.spoken_against(run), "no result leaves after a withdrawal"
            assert set(wraps) == {"result"}

        self.start(ask(), answered)

    # -- what always holds ----------------------------------------------------------------------------

    @invariant()
    def replay_is_the_state(self) -> None:
        if self.pending or self.waiting():
            return
        self.look()
        again = State()
        for index in range(self.world.log.size):
            again.apply(index, self.world.record(index))
        assert again == self.world.state


QUIET = settings(
    max_examples=30,
    stateful_step_count=15,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
BUG_HUNT = settings(QUIET, max_examples=600, stateful_step_count=10, phases=[Phase.generate])


def test_nothing_leaves_that_the_log_speaks_against() -> None:
    run_state_machine_as_test(InFlight, settings=QUIET)


@pytest.mark.slow
def test_nothing_leaves_in_many_more_orders() -> None:
    run_state_machine_as_test(InFlight, settings=settings(QUIET, max_examples=1_000, stateful_step_count=40))


# -- planted bugs -------------------------------------------------------------------------------------

BUGS: dict[str, tuple[str, str, str]] = {
    "a withdrawal while the grant is being logged is overlooked": (
        "grant",
        'grant is None or grant.fence != index or run.status != "running"',
        "grant is None",
    ),
    "a withdrawal while the release is being logged is overlooked": (
        "release",
        "rules.still_approved(self.state, run)",
        "pass",
    ),
    "a party is told before its statement is durable": (
        "submit",
        "index = await self._append(",
        "index = self._log.next_index\n    self._append(",
    ),
    "a second try is told before the first is durable": ("_again", "await self._durable(index)", "pass"),
}


def plant(bug: str) -> None:
    """Compile one function of the monitor anew with the bug in its text."""
    name, good, bad = BUGS[bug]
    function = getattr(monitor.Monitor, name)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(good) == 1, "the code has changed: plant the bug anew"
    flags = __future__.annotations.compiler_flag
    scope: dict[str, Any] = {}
    code = compile(source.replace(good, bad), name, "exec", dont_inherit=True, flags=flags)
    exec(code, function.__globals__, scope)  # our own text with the bug in it
    setattr(monitor.Monitor, name, scope[name])


HUNT = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.model import test_in_flight as model
model.plant(sys.argv[2])
model.run_state_machine_as_test(model.InFlight, settings=model.BUG_HUNT)
"""


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    """In a process of its own, so that nothing else that was imported or remembered decides what is explored."""
    done = subprocess.run(
        [sys.executable, "-c", HUNT, str(Path(__file__).parents[2]), bug],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 1, "the bug was not found"
    # It must be a promise that does not hold, not a machine that does not fit.
    assert any(word in done.stderr for word in PROMISES), done.stderr[-2000:]


PROMISES = (
    "AssertionError: no key leaves",
    "AssertionError: no result leaves",
    "AssertionError: nobody is told of what is not durable",
)
