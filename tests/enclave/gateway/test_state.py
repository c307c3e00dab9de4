"""The projection: a pure function of the log, however it was reached."""

from __future__ import annotations

import collections
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.gateway import (
    NOW,
    Case,
    UnitWorker,
    World,
    changed_task,
    function_fields,
    granted_facts,
    make_case,
    receipt,
    seal,
)
from tests.support.mutate import QUICK, mutated

from mesatee.enclave.gateway.monitor import LEASE_SECONDS
from mesatee.enclave.gateway.state import State
from mesatee.errors import LogCorrupt, MesateeError, NotFound
from mesatee.protocol import envelope as dsse
from mesatee.protocol import records, statements
from mesatee.protocol.statements import (
    CancelStatement,
    CollectStatement,
    FunctionStatement,
    PresenceStatement,
    RetireStatement,
    RunStatement,
    TaskStatement,
    WithdrawalStatement,
)


def replayed(world: World) -> State:
    state = State()
    for index in range(world.log.size):
        state.apply(index, world.record(index))
    return state


class Life:
    """Random acts of parties and workers; what the monitor refuses is as good as what it allows."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.random = world, random.Random(seed)
        self.case = make_case(world, runs=3)
        self.approvals: list[tuple[Any, str, str]] = []
        self.grants: list[tuple[UnitWorker, Any]] = []
        self.tasks = [self.case.task]

    def step(self, act: str) -> None:
        try:
            getattr(self, act)()
        except MesateeError:
            return

    def any_run(self) -> str:
        return self.random.choice([*self.world.state.runs, "0a" * 32])

    def any_owner(self) -> Any:
        return self.random.choice([self.case.left, self.case.right])

    def approve(self) -> None:
        owner, task = self.any_owner(), self.random.choice(self.tasks)
        expires = int(self.world.clock) + self.random.choice([20, 3_600])
        self.approvals.append((owner, task, self.world.approve(owner, task, expires=expires)))

    def approve_all(self) -> None:
        for owner in (self.case.left, self.case.right):
            self.approvals.append((owner, self.case.task, self.world.approve(owner, self.case.task)))

    def withdraw(self) -> None:
        owner, task, found = self.random.choice(self.approvals or [(self.any_owner(), "0a" * 32, "0b" * 16)])
        self.world.post(owner, WithdrawalStatement, task=task, id=found)

    def task(self) -> None:
        fields = changed_task(self.case, runs=self.random.randint(1, 3))
        self.tasks.append(self.world.post(self.case.scientist, TaskStatement, **fields).digest)

    def run(self) -> None:
        self.world.post(self.case.scientist, RunStatement, task=self.random.choice(self.tasks))

    def grant(self) -> None:
        worker = UnitWorker()
        self.grants.append((worker, self.world.grant(worker, self.any_run())))

    def finish(self) -> None:
        if self.grants:
            worker, granted = self.random.choice(self.grants)
            failure = self.random.choice([None, None, "crashed"])
            files = {} if failure else {"result": b"x"}
            handed = receipt(self.world.desk, granted_facts(granted), worker.key, files, failure)
            self.world.hand_in(worker, granted, handed)

    def collect(self) -> None:
        self.world.collect(self.case.scientist, self.any_run())

    def cancel(self) -> None:
        self.world.post(self.any_owner(), CancelStatement, run=self.any_run())

    def present(self) -> None:
        self.world.present(self.any_owner())

    def retire(self) -> None:
        target = self.random.choice(list(self.case.inputs.values()))
        self.world.post(self.any_owner(), RetireStatement, target=target)

    def later(self) -> None:
        self.world.clock += 10
        self.world.steady += LEASE_SECONDS / 2

    def lost(self) -> None:
        for item in list(self.world.state.runs.values()):
            self.world.run(self.world.monitor.close_lost(item))

    def denied(self) -> None:
        error = NotFound("x")
        self.world.run(self.world.monitor.denied(self.case.left.peer, "x", "", error))

    def restart(self) -> None:
        self.world.restart()


ACTS = [name for name in vars(Life) if not name.startswith(("_", "any", "step"))]
USUAL = ["approve_all", "run", "grant", "finish", "collect", "present"]


@settings(parent=QUICK, max_examples=30)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(ACTS + 3 * USUAL), min_size=5, max_size=40))
def test_the_state_is_what_the_log_replays(seed: int, acts: list[str]) -> None:
    world = World()
    try:
        life = Life(world, seed)
        for act in acts:
            life.step(act)
        live = world.state
        again = replayed(world)
        assert again == live
        assert State.restore(live.dump()) == live
        assert again.dump() == live.dump()
        # What must hold in every state that can be reached.
        for run in live.runs.values():
            assert (run.digest in live.runs.open) == (run.status in ("queued", "running"))
            assert (run.receipt is not None) <= (run.status in ("finished", "failed"))
            assert (run.status == "queued") <= (not run.grants)
            assert [grant.attempt for grant in run.grants] == list(range(1, len(run.grants) + 1))
            under_way = run.digest if run.digest in live.runs.open else None
            assert all(live.runs.fences.get(grant.fence) == under_way for grant in run.grants)
            assert sorted(grant.fence for grant in run.grants) == [grant.fence for grant in run.grants]
            if run.ended is not None:
                assert all(grant.fence < run.ended for grant in run.grants)
        for task in life.tasks:
            budget = live.task(task).predicate.runs
            mine = live.runs.of(task)
            assert sum(1 for run in mine if run.grants) <= live.runs.spent(task) <= budget
            assert [run.number for run in mine] == list(range(1, live.runs.count(task) + 1))
            assert [run.index for run in mine] == sorted(run.index for run in mine)
            done = [run.digest for run in mine if run.status == "finished" and "result" in run.outputs]
            assert live.runs.newest(task, "result") == (done[-1] if done else None)
            assert live.runs.of(task, 2) == mine[-2:] or live.runs.open_of(task)
        used = collections.Counter(
            digest for run in live.runs.values() if run.grants for digest in run.granted().inputs.values()
        )
        assert +collections.Counter(live.runs.uses) == used
        for approval in live.approvals.values():
            assert (approval.withdrawn is not None) == (approval.id in live.withdrawn)
    finally:
        world.close()


def test_the_acts_reach_what_they_are_for(world: World) -> None:
    """The property above would hold of a monitor that refuses everything."""
    life = Life(world, 1)
    for act in ("approve_all", "run", "present"):
        life.step(act)
    run = next(iter(world.state.runs))
    life.grants.append((worker := UnitWorker(), world.grant(worker, run)))
    handed = receipt(world.desk, granted_facts(life.grants[0][1]), worker.key, {"result": b"x"})
    world.hand_in(worker, life.grants[0][1], handed)
    assert world.collect(life.case.scientist, run)
    life.step("denied")
    assert {"epoch", "statement", "grant", "receipt", "release", "denied"} == set(world.outcomes())


# -- what no gateway can have logged ---------------------------------------------------------------------


def applied(world: World) -> State:
    return State.restore(world.state.dump())


def test_records_out_of_order_are_corrupt(case: Case) -> None:
    state = applied(case.world)
    record = records.of_outcome(records.DeniedOutcome(by="", action="", subject="", code="x"), NOW, "host")
    for index in (state.size - 1, state.size + 1):
        with pytest.raises(LogCorrupt):
            state.apply(index, record)
    with pytest.raises(LogCorrupt):
        state.apply(state.size, record.model_copy(update={"time": state.time - 1}))
    state.apply(state.size, record)


@pytest.mark.parametrize("what", ["grant", "receipt", "closed", "cancel", "retire", "grant after its end"])
def test_outcomes_of_what_is_not_there_are_corrupt(case: Case, what: str) -> None:
    world = case.world
    state = applied(world)
    run = "0a" * 32
    if what == "grant after its end":
        case.approve()
        run = case.start()
        world.post(case.scientist, CancelStatement, run=run)
        state = applied(world)
    facts = case.worker.facts
    outcome: dict[str, records.Outcome] = {
        "grant": records.GrantOutcome(
            run=run, attempt=1, lease=30, worker=facts, approvals={}, policies={}, inputs={}
        ),
        "receipt": records.ReceiptOutcome(run=run, fence=0, failure=None, wraps={}, envelope={}),
        "closed": records.ClosedOutcome(run=run, failure="cancelled"),
    }
    if what in ("cancel", "retire"):
        kind, fields = (
            (CancelStatement, {"run": run}) if what == "cancel" else (RetireStatement, {"target": run})
        )
        statement = case.left.write(world.desk, kind, **fields)  # type: ignore[arg-type]
        record = records.of_statement(statement.envelope, NOW, "host")
    else:
        record = records.of_outcome(outcome[what.split(" ")[0]], NOW, "host")
    with pytest.raises(LogCorrupt):
        state.apply(state.size, record)


def test_an_unknown_record_is_refused(case: Case) -> None:
    state = applied(case.world)
    record = records.LogRecord(time=NOW, source="host", kind="unheard_of", body={})
    with pytest.raises(MesateeError):
        state.apply(state.size, record)


def test_hostile_snapshots_are_corrupt_or_a_state(case: Case) -> None:
    case.approve()
    dumped = case.world.state.dump()

    @QUICK
    @given(mutated(dumped))
    def check(data: bytes) -> None:
        try:
            assert isinstance(State.restore(data), State)
        except LogCorrupt:
            return

    check()


# -- who may read what -----------------------------------------------------------------------------------


def test_the_audience_of_each_record(case: Case) -> None:
    world = case.world
    case.approve()
    run = case.start()
    granted = world.grant(case.worker, run)
    world.finish(case.worker, granted)
    world.collect(case.scientist, run)
    world.post(case.left, RetireStatement, target=case.inputs["left"])
    world.run(world.monitor.denied(case.right.peer, "x", "", NotFound("x")))
    sealed = seal(b"def f(a): ...")
    code = statements.CodeRef(
        sha256=sealed.digest, size=sealed.size, wrap=case.left.upload(world.desk, sealed)
    )
    fields = function_fields(executor="python", code=code, private=True)
    world.post(case.left, FunctionStatement, **fields)
    concerned = {case.left.id, case.right.id, case.scientist.id}
    for index in range(world.log.size):
        record = world.record(index)
        found = world.state.audience(record)
        kind = record.kind
        if kind == "statement":
            said = statements.read(record.statement())
            kind = said.kind
            signer = record.statement().signatures[0].keyid
            if isinstance(said, PresenceStatement | RetireStatement):
                assert found == {signer}
            elif isinstance(said, FunctionStatement):
                assert found == ({signer} if said.private else None)
            elif kind in ("party", "dataset"):
                assert found is None
            else:
                assert isinstance(
                    said, TaskStatement | RunStatement | CollectStatement | statements.ApprovalStatement
                )
                assert found == concerned
        elif kind == "epoch":
            assert found is None
        elif kind == "denied":
            assert found == {case.right.id}
        else:
            assert found == concerned


def test_a_worker_is_in_no_audience(case: Case) -> None:
    case.approve()
    run = case.start()
    case.world.grant(case.worker, run)
    for index in range(case.world.log.size):
        assert case.worker.facts.key not in (case.world.state.audience(case.world.record(index)) or ())


def test_an_envelope_in_a_record_is_read_strictly(case: Case) -> None:
    state = applied(case.world)
    body = dsse.sign(b"{}", [case.left.signing]).as_dict()
    with pytest.raises(MesateeError):
        state.apply(state.size, records.LogRecord(time=NOW, source="host", kind="statement", body=body))
