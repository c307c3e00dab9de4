"""Runs that the gateway begins by itself, as the author of the task has signed it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.enclave.gateway.test_pipelines import Line, line, second_task  # noqa: F401  # a fixture
from tests.support.gateway import Case, World, make_case

from mesatee.enclave.gateway.state import State
from mesatee.errors import Conflict, Denied, Expired, LogCorrupt, Malformed, NotFound, QuotaExceeded
from mesatee.protocol import limits, records
from mesatee.protocol.sources import NewestDataset
from mesatee.protocol.statements import RetireStatement, RunStatement, TriggerStatement, WithdrawalStatement


@pytest.fixture
def case() -> Iterator[Case]:
    world = World()
    try:
        yield make_case(world, runs=3)
    finally:
        world.close()


def trigger(case: Case, task: str, every: int | None = 60, seconds: int = 3_600) -> str:
    return case.world.post(
        case.scientist, TriggerStatement, task=task, every=every, expires=int(case.world.clock) + seconds
    ).digest


def fire(world: World) -> list[str | None]:
    """What a sweep does."""
    return [world.run(world.monitor.fire(item)) for item in world.monitor.due()]


def test_a_schedule_begins_runs_and_makes_up_for_none(case: Case) -> None:
    world = case.world
    case.approve()
    found = trigger(case, case.task)
    assert fire(world) == []
    world.clock += 60
    (run,) = fire(world)
    assert run == records.fired_run(found, 1)
    assert fire(world) == []
    assert world.state.run(str(run)).by == case.scientist.id
    world.finish(case.worker, world.grant(case.worker, str(run)))
    assert world.collect(case.scientist, str(run))
    world.clock += 600
    assert len(fire(world)) == 1
    assert fire(world) == []


def test_a_run_by_a_trigger_needs_what_any_other_needs(case: Case) -> None:
    world = case.world
    trigger(case, case.task)
    world.clock += 60
    assert fire(world) == [None]
    outcome = world.record(world.log.size - 1).outcome()
    assert isinstance(outcome, records.FiredOutcome)
    assert (outcome.run, outcome.code) == (None, "not_approved")
    ids = case.approve()
    world.clock += 60
    assert fire(world) != [None]
    world.post(case.left, WithdrawalStatement, task=case.task, id=ids["left"])
    world.clock += 60
    assert fire(world) == [None]


def test_its_runs_are_those_of_the_task(case: Case) -> None:
    world = case.world
    case.approve()
    trigger(case, case.task)
    for _ in range(3):
        world.clock += 60
        assert fire(world) != [None]
    world.clock += 60
    assert fire(world) == [None]
    with pytest.raises(QuotaExceeded):
        case.start()


def test_a_stopped_or_expired_trigger_begins_nothing(case: Case) -> None:
    world = case.world
    case.approve()
    found = trigger(case, case.task)
    trigger(case, case.task, seconds=30)
    world.post(case.scientist, RetireStatement, target=found)
    with pytest.raises(Conflict, match="already"):
        world.post(case.scientist, RetireStatement, target=found)
    world.clock += 120
    assert fire(world) == []


def test_a_trigger_is_its_author_s(case: Case) -> None:
    with pytest.raises(Denied, match="only the task's author"):
        case.world.post(
            case.left, TriggerStatement, task=case.task, every=60, expires=int(case.world.clock) + 60
        )
    found = trigger(case, case.task)
    with pytest.raises(NotFound):
        case.world.post(case.left, RetireStatement, target=found)
    with pytest.raises(Expired):
        trigger(case, case.task, seconds=0)
    with pytest.raises(Malformed, match="no input of the task can ever be newer"):
        trigger(case, case.task, every=None)


def test_triggers_of_one_party_are_bounded(case: Case) -> None:
    for _ in range(limits.TRIGGERS_EACH):
        found = trigger(case, case.task)
    with pytest.raises(QuotaExceeded, match="triggers in force"):
        trigger(case, case.task)
    case.world.post(case.scientist, RetireStatement, target=found)
    trigger(case, case.task)


def test_a_new_version_of_a_dataset_begins_a_run_once(line: Line) -> None:  # noqa: F811
    world, case = line.world, line.case
    world.dataset(case.left, b"id\n1\n", name="rows")
    task = second_task(case, NewestDataset(owner=case.left.id, dataset="rows"), "fresh")
    world.approve(case.left, task)
    trigger(case, task, every=None)
    assert fire(world) == []
    new = world.dataset(case.left, b"id\n2\n", name="rows")
    world.dataset(case.right, b"id\n3\n", name="rows")
    (run,) = fire(world)
    world.clock += limits.TRIGGER_SECONDS
    assert fire(world) == []
    assert world.grant(case.worker, str(run)).grant.inputs == {"joined": new}


def test_a_line_of_tasks_runs_by_itself(line: Line) -> None:  # noqa: F811
    world, case = line.world, line.case
    line.approve()
    world.approve(case.scientist, line.second)
    trigger(case, line.second, every=None)
    assert fire(world) == []
    first = line.first()
    (run,) = fire(world)
    assert world.grant(case.worker, str(run)).grant.inputs == {"joined": first}


def test_a_restart_knows_what_was_begun(case: Case) -> None:
    world = case.world
    case.approve()
    found = trigger(case, case.task)
    world.clock += 60
    (run,) = fire(world)
    assert State.restore(world.state.dump()) == world.state
    world.restart()
    assert world.state.triggers[found].number == 1
    assert world.state.run(str(run)).status == "queued"
    assert fire(world) == []


def test_a_run_that_a_trigger_counted_otherwise_is_corrupt(case: Case) -> None:
    world = case.world
    found = trigger(case, case.task)
    record = records.of_outcome(
        records.FiredOutcome(trigger=found, number=2, run=None, code="denied"), world.state.time, "host"
    )
    with pytest.raises(LogCorrupt, match="counts the runs of a trigger"):
        State.restore(world.state.dump()).apply(world.state.size, record)


def test_no_statement_begins_the_run_of_a_trigger(case: Case) -> None:
    """Its digest is of no in-toto statement, so a party cannot have signed it."""
    found = trigger(case, case.task)
    run = case.world.post(case.scientist, RunStatement, task=case.task).digest if case.approve() else ""
    assert run != records.fired_run(found, 1)
