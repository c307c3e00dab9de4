"""Tasks that read other tasks' outputs: who has to agree, when a run waits, and which keys its worker gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.support.gateway import Case, UnitWorker, World, function_fields, make_case, task_fields

from mesatee.errors import Conflict, Malformed, NotApproved, NotFound, StateError, TooLarge
from mesatee.protocol import limits, wraps
from mesatee.protocol.digests import WRAP_BYTES, b64decode
from mesatee.protocol.sources import NewestDataset, OutputOf
from mesatee.protocol.statements import (
    CancelStatement,
    FunctionStatement,
    Port,
    RetireStatement,
    RunStatement,
    SuspendStatement,
    TaskStatement,
    WithdrawalStatement,
)


@dataclass
class Line:
    """A join of two owners whose output both of them get, and a task of the scientist that reads it."""

    case: Case
    second: str

    @property
    def world(self) -> World:
        return self.case.world

    def start(self) -> str:
        return self.world.post(self.case.scientist, RunStatement, task=self.second).digest

    def approve(self) -> None:
        for member in (self.case.left, self.case.right):
            self.world.approve(member, self.second)

    def first(self, plain: bytes = b"id\n2\n") -> str:
        """Run the join; its run."""
        run = self.case.start()
        granted = self.world.grant(self.case.worker, run)
        self.world.finish(self.case.worker, granted, {"result": plain})
        return run


def second_task(case: Case, source: Any, name: str = "train", **changes: Any) -> str:
    """A task that reads `source`, to the scientist."""
    world = case.world
    function = world.post(
        case.scientist,
        FunctionStatement,
        **function_fields(name=f"of-{name}", inputs=(Port(name="joined"),), arguments=()),
    ).digest
    fields = task_fields(
        function,
        {"joined": source},
        (case.scientist,),
        case.worker.facts,
        int(world.clock),
        **{"name": name, "arguments": {}, "runs": 10, **changes},
    )
    return world.post(case.scientist, TaskStatement, **fields).digest


@pytest.fixture
def line() -> Iterator[Line]:
    world = World()
    try:
        case = make_case(world, runs=10)
        joint = {"result": (case.left.keys, case.right.keys, case.scientist.keys)}
        fields = task_fields(
            case.function, case.inputs, (), case.worker.facts, int(world.clock), outputs=joint, runs=10
        )
        case.task = world.post(case.scientist, TaskStatement, **fields).digest
        for member in (case.left, case.right, case.scientist):
            world.approve(member, case.task)
        world.present(case.scientist)
        yield Line(case, second_task(case, OutputOf(task=case.task, output="result")))
    finally:
        world.close()


# -- consent --------------------------------------------------------------------------------------------


def test_a_joint_output_is_used_again_only_when_all_its_owners_agree(line: Line) -> None:
    line.first()
    world = line.world
    with pytest.raises(NotApproved, match=r"left .*right .*scientist"):
        line.start()
    world.approve(line.case.left, line.second)
    world.approve(line.case.scientist, line.second)
    with pytest.raises(NotApproved, match=r"right \(owns input joined\)"):
        line.start()
    world.approve(line.case.right, line.second)
    run = line.start()
    assert world.grant(line.case.worker, run).grant.inputs == {
        "joined": world.state.runs.of(line.case.task)[0].digest
    }


def test_a_standing_policy_speaks_for_its_dataset_and_not_for_an_output_of_its_owner(line: Line) -> None:
    from mesatee.protocol import policy_text

    world, case = line.world, line.case
    line.first()
    function = world.state.task(line.second).predicate.function
    policy = policy_text.dataset(functions=(function,), approve_automatically=True)
    data = world.dataset(case.left, b"id\n8\n", policy=policy)
    wide = world.post(
        case.scientist,
        FunctionStatement,
        **function_fields(name="both", inputs=(Port(name="joined"), Port(name="own")), arguments=()),
    ).digest
    policy = policy_text.dataset(functions=(wide,), approve_automatically=True)
    data = world.dataset(case.left, b"id\n9\n", policy=policy)
    fields = task_fields(
        wide,
        {"joined": OutputOf(task=case.task, output="result"), "own": data},
        (case.scientist,),
        case.worker.facts,
        int(world.clock),
        arguments={},
    )
    both = world.post(case.scientist, TaskStatement, **fields).digest
    world.approve(case.right, both)
    world.approve(case.scientist, both)
    with pytest.raises(NotApproved, match="left"):
        world.post(case.scientist, RunStatement, task=both)


def test_withdrawing_the_first_task_takes_its_output_back(line: Line) -> None:
    world, case = line.world, line.case
    mine = world.approve(case.left, case.task)
    line.first()
    line.approve()
    world.approve(case.scientist, line.second)
    running, done = line.start(), line.start()
    granted = world.grant(case.worker, done)
    world.finish(case.worker, granted)
    world.grant(other := UnitWorker(), running)
    world.post(case.left, WithdrawalStatement, task=case.task, id=mine)
    # What used it stops, what was made of it stays, and nobody begins with it again.
    assert world.state.run(running).status == "cancelled"
    with pytest.raises(NotApproved, match="left has withdrawn"):
        world.collect(case.scientist, done)
    with pytest.raises(NotApproved, match="left has withdrawn"):
        line.start()
    assert other.facts


# -- waiting --------------------------------------------------------------------------------------------


def test_an_output_that_nobody_makes_is_named(line: Line) -> None:
    line.approve()
    line.world.approve(line.case.scientist, line.second)
    with pytest.raises(StateError, match="input joined is output result of task overlap") as found:
        line.start()
    assert "mesatee task run overlap" in str(found.value.hint)


def test_a_run_waits_for_the_output_that_is_being_made(line: Line) -> None:
    world, case = line.world, line.case
    line.approve()
    world.approve(case.scientist, line.second)
    first = case.start()
    run = line.start()
    assert [item.digest for item in world.monitor.waiting()] == [first]
    with pytest.raises(Conflict, match="still being made"):
        world.grant(case.worker, run)
    granted = world.grant(case.worker, first)
    assert world.monitor.waiting() == []
    world.finish(case.worker, granted)
    assert [item.digest for item in world.monitor.waiting()] == [run]
    assert world.grant(case.worker, run).grant.inputs == {"joined": first}


def test_it_waits_for_no_run_that_began_later(line: Line) -> None:
    world, case = line.world, line.case
    line.approve()
    world.approve(case.scientist, line.second)
    first = line.first()
    run = line.start()
    case.start()
    assert world.grant(case.worker, run).grant.inputs == {"joined": first}


def test_a_run_whose_input_is_never_made_ends(line: Line) -> None:
    world, case = line.world, line.case
    line.approve()
    world.approve(case.scientist, line.second)
    first = case.start()
    run = line.start()
    world.post(case.scientist, CancelStatement, run=first)
    assert world.run(world.monitor.close_hopeless()) == 1
    found = world.state.run(run)
    assert (found.status, found.failure) == ("failed", "input_missing")
    assert world.run(world.monitor.close_hopeless()) == 0


# -- keys -----------------------------------------------------------------------------------------------


def test_the_worker_gets_the_key_of_exactly_that_output(line: Line) -> None:
    world, case = line.world, line.case
    line.approve()
    world.approve(case.scientist, line.second)
    first = line.first(b"id\n4\n")
    run = line.start()
    granted = world.grant(case.worker, run)
    blob = world.state.run(first).outputs["result"].sha256
    binding = wraps.attempt_input(world.desk.origin, run, granted.grant.fence, "joined", blob)
    raw = b64decode(granted.wraps["joined"], max_bytes=WRAP_BYTES)
    assert case.worker.attempt.unwrap_file_key(raw, binding.info, binding.aad)
    assert set(granted.wraps) == {"joined"}


def test_the_receipt_names_the_run_that_was_read(line: Line) -> None:
    world, case = line.world, line.case
    line.approve()
    world.approve(case.scientist, line.second)
    line.first()
    granted = world.grant(case.worker, line.start())
    with pytest.raises(Malformed, match="inputs"):
        world.finish(case.worker, granted, inputs={"joined": "0a" * 32})
    world.finish(case.worker, granted)


# -- what a task may name -------------------------------------------------------------------------------


def test_a_task_that_does_not_concern_its_author_is_not_there(line: Line) -> None:
    world, case = line.world, line.case
    (stranger,) = world.join("stranger")
    fields = task_fields(
        case.function,
        {"left": case.inputs["left"], "right": OutputOf(task=case.task, output="result")},
        (stranger,),
        case.worker.facts,
        int(world.clock),
    )
    with pytest.raises(NotFound, match="no task"):
        world.post(stranger, TaskStatement, **fields)


def test_an_output_that_the_task_does_not_give_is_refused(line: Line) -> None:
    with pytest.raises(Malformed, match="gives nobody an output model; it gives result"):
        second_task(line.case, OutputOf(task=line.case.task, output="model"), "other")


def test_lines_of_tasks_are_bounded(line: Line) -> None:
    last = line.second
    for number in range(limits.PIPELINE_DEPTH - 2):
        last = second_task(line.case, OutputOf(task=last, output="result"), f"step{number}")
    with pytest.raises(TooLarge, match="in a line"):
        second_task(line.case, OutputOf(task=last, output="result"), "toofar")


# -- the newest of a name -------------------------------------------------------------------------------


def newest(line: Line) -> tuple[str, str]:
    """A task that reads the newest "rows" of left, and the first of them."""
    world, case = line.world, line.case
    data = world.dataset(case.left, b"id\n1\n", name="rows")
    task = second_task(case, NewestDataset(owner=case.left.id, dataset="rows"), "fresh")
    world.approve(case.left, task)
    return task, data


def test_the_newest_dataset_of_a_name_is_read(line: Line) -> None:
    world, case = line.world, line.case
    task, old = newest(line)
    first = world.post(case.scientist, RunStatement, task=task).digest
    new = world.dataset(case.left, b"id\n2\n", name="rows")
    world.dataset(case.right, b"id\n3\n", name="rows")
    assert world.grant(case.worker, first).grant.inputs == {"joined": new}
    world.post(case.left, RetireStatement, target=new)
    second = world.post(case.scientist, RunStatement, task=task).digest
    assert world.grant(UnitWorker(), second).grant.inputs == {"joined": old}


def test_a_name_under_which_nothing_is_in_use_is_said(line: Line) -> None:
    world, case = line.world, line.case
    task, data = newest(line)
    run = world.post(case.scientist, RunStatement, task=task).digest
    world.post(case.left, SuspendStatement, target=data, suspended=True)
    with pytest.raises(StateError, match="no dataset is in use for input joined"):
        world.post(case.scientist, RunStatement, task=task)
    assert world.run(world.monitor.close_hopeless()) == 1
    assert world.state.run(run).failure == "input_missing"
    world.post(case.left, SuspendStatement, target=data, suspended=False)
    world.grant(case.worker, world.post(case.scientist, RunStatement, task=task).digest)


def test_a_name_that_its_owner_never_used_is_refused(line: Line) -> None:
    with pytest.raises(NotFound, match="no dataset of the name"):
        second_task(line.case, NewestDataset(owner=line.case.left.id, dataset="nothing"), "other")
