"""What may leave of datasets, and privacy budgets that the log accounts for."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from tests.support.gateway import Member, UnitWorker, World, function_fields, granted_facts, task_fields

from mesatee.enclave.gateway.state import State
from mesatee.errors import Malformed, MesateeError, QuotaExceeded
from mesatee.protocol import records
from mesatee.protocol.protection import EVERYBODY, Budget, Protection
from mesatee.protocol.sources import NewestDataset
from mesatee.protocol.statements import (
    Argument,
    CancelStatement,
    CodeRef,
    FunctionStatement,
    Port,
    RetireStatement,
    RunStatement,
    TaskStatement,
)

UNIT = 1_000_000


def limited(**given: Any) -> Protection:
    names = ("min_group", "max_rows", "columns", "digits", "multiple", "budget")
    return Protection(**{name: given.get(name) for name in names})


def budget(each: int, total: int | None = None) -> Protection:
    return limited(budget=Budget(each=each, total=total or each))


class Bench:
    """A dataset with a protection, and functions that may or may not use it."""

    def __init__(self, world: World, protection: Protection) -> None:
        self.world = world
        self.owner, self.other, self.scientist, self.colleague = world.join("owner", "other", "ann", "bea")
        self.worker = UnitWorker()
        self.data = world.dataset(self.owner, name="people", protection=protection)
        self.private = self.builtin(
            "private_aggregate", Argument(name="epsilon", type="float", required=True)
        )
        world.present(self.owner, self.other)

    def builtin(self, entry: str, *arguments: Argument, **changes: Any) -> str:
        said = {
            "name": entry,
            "entry": entry,
            "inputs": (),
            "variadic": True,
            "arguments": arguments,
            **changes,
        }
        return self.world.post(self.scientist, FunctionStatement, **function_fields(**said)).digest

    def task(self, epsilon: float | None = 0.5, *, to: Member | None = None, **changes: Any) -> str:
        fields = task_fields(
            changes.pop("function", self.private),
            changes.pop("inputs", {"x": self.data}),
            (to or self.scientist,),
            self.worker.facts,
            int(self.world.clock),
            **{"arguments": {} if epsilon is None else {"epsilon": epsilon}, "runs": 100, **changes},
        )
        by = changes.get("by", self.scientist)
        task = self.world.post(by, TaskStatement, **fields).digest
        self.world.approve(self.owner, task)
        return task

    def run(self, task: str) -> str:
        return self.world.post(self.scientist, RunStatement, task=task).digest

    def spent(self) -> dict[str, int]:
        return self.world.state.spent.get(f"{self.owner.id}/people", {})

    def ended(self, task: str) -> None:
        run = self.run(task)
        granted = self.world.grant(self.worker, run)
        self.world.finish(self.worker, granted)


@pytest.fixture
def ten(world: World) -> Bench:
    """A budget of one for each party, and of one and a half for all."""
    return Bench(world, budget(UNIT, UNIT + UNIT // 2))


# -- what a task must be like --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protection", "entry", "changes", "said"),
    [
        (limited(min_group=5), "psi", {}, "lets only groups out"),
        (limited(min_group=5), "echo", {}, "lets only groups out"),
        (limited(min_group=5), "logistic_regression", {}, "lets only groups out"),
        (limited(min_group=5), "predict", {}, "lets only groups out"),
        (budget(UNIT), "psi", {}, "has a privacy budget"),
        (budget(UNIT), "aggregate", {}, "has a privacy budget"),
        (limited(max_rows=5), "psi", {"outputs": (Port(name="result", format="bytes"),)}, "is no table"),
        (limited(max_rows=5), "psi", {"outputs": (Port(name="result", format="json"),)}, "is no table"),
    ],
)
def test_a_task_that_no_worker_could_guard_is_refused(
    world: World, protection: Protection, entry: str, changes: dict[str, Any], said: str
) -> None:
    bench = Bench(world, protection)
    with pytest.raises(Malformed, match=said):
        bench.task(None, function=bench.builtin(entry, **changes))


def test_a_join_may_not_make_a_small_group_look_large(world: World) -> None:
    bench = Bench(world, limited(min_group=5))
    many = Argument(name="many", type="str", required=False, default="refuse")
    function = bench.builtin("aggregate", many)
    both = {"x": bench.data, "y": world.dataset(bench.other, b"id\n1\n1\n", name="others")}
    bench.task(None, function=function, name="alone")
    bench.task(None, function=function, inputs=both, arguments={"many": "unique"}, name="said")
    for number, said in enumerate(({}, {"many": "refuse"}, {"many": "multiply"})):
        with pytest.raises(Malformed, match="may not stand for many"):
            bench.task(None, function=function, inputs=both, arguments=said, name=f"many{number}")


@pytest.mark.parametrize("epsilon", [0, -1.0, 1e9, 0.1234567, None, "1"])
def test_what_a_private_function_may_spend_is_a_number_of_millionths(ten: Bench, epsilon: Any) -> None:
    with pytest.raises(Malformed):
        ten.task(epsilon)


@pytest.mark.parametrize("protection", [limited(min_group=2), budget(UNIT)], ids=["group", "budget"])
def test_code_of_somebody_s_own_never_counts_as_private_or_grouped(
    world: World, protection: Protection
) -> None:
    """Only what is part of every worker is what its name says."""
    bench = Bench(world, protection)
    code = CodeRef(sha256="ab" * 32, size=10, wrap=None)
    epsilon = Argument(name="epsilon", type="float", required=True)
    function = bench.builtin("private_aggregate", epsilon, executor="python", code=code)
    with pytest.raises(Malformed, match="only the built-in functions"):
        bench.task(function=function)


def test_diagnostics_of_protected_data_go_to_its_owner_alone(ten: Bench) -> None:
    result = (ten.scientist.keys,)
    for receivers in ((ten.scientist,), (ten.owner, ten.scientist)):
        keys = tuple(member.keys for member in receivers)
        with pytest.raises(Malformed, match="may go to nobody else"):
            ten.task(outputs={"result": result, "diagnostics": keys})
    ten.task(outputs={"result": result, "diagnostics": (ten.owner.keys,)})


def test_of_two_protected_datasets_nobody_gets_diagnostics(ten: Bench) -> None:
    second = ten.world.dataset(ten.other, b"id\n7\n", name="others", protection=limited(max_rows=5))
    for owner in (ten.owner, ten.other):
        with pytest.raises(Malformed, match="may go to nobody else"):
            ten.task(
                inputs={"x": ten.data, "y": second},
                outputs={"result": (ten.scientist.keys,), "diagnostics": (owner.keys,)},
            )


def test_limits_of_several_datasets_hold_together(ten: Bench) -> None:
    second = ten.world.dataset(
        ten.other, b"id\n7\n", name="others", protection=limited(max_rows=5, columns=("rows", "x"))
    )
    third = ten.world.dataset(ten.other, b"id\n8\n", name="third", protection=limited(columns=("y",)))
    task = ten.task(inputs={"x": ten.data, "y": second})
    ten.world.approve(ten.other, task)
    granted = ten.world.grant(ten.worker, ten.run(task))
    assert granted.protection is not None
    assert (granted.protection.max_rows, granted.protection.columns) == (5, ("rows", "x"))
    assert granted.protection.charges == {ten.data: UNIT // 2}
    with pytest.raises(Malformed, match="no column in common"):
        ten.task(inputs={"x": second, "y": third})


@pytest.mark.parametrize("protection", [limited(min_group=5), budget(UNIT)], ids=["group", "budget"])
def test_no_row_counts_twice_because_its_dataset_is_named_twice(world: World, protection: Protection) -> None:
    """Twice in, each row would count twice: for a least group, and in the noise that an epsilon buys."""
    bench = Bench(world, protection)
    newer = world.dataset(bench.owner, b"id\n8\n", name="people", protection=protection)
    newest = NewestDataset(owner=bench.owner.id, dataset="people")
    for number, other in enumerate((bench.data, newer, newest)):
        with pytest.raises(Malformed, match="is several inputs"):
            bench.task(inputs={"x": bench.data, "y": other}, name=f"twice{number}")


def test_rows_that_are_not_counted_may_come_in_twice(world: World) -> None:
    bench = Bench(world, limited(max_rows=5))
    bench.task(None, function=bench.builtin("psi"), inputs={"x": bench.data, "y": bench.data})


# -- budgets -------------------------------------------------------------------------------------------


def test_a_budget_is_charged_when_keys_are_released_and_not_before(ten: Bench) -> None:
    run = ten.run(ten.task(0.4))
    assert ten.spent() == {}
    granted = ten.world.grant(ten.worker, run)
    assert ten.spent() == {EVERYBODY: 400_000, ten.scientist.id: 400_000}
    outcome = ten.world.record(granted.grant.fence).outcome()
    assert isinstance(outcome, records.GrantOutcome)
    assert outcome.charges == {ten.data: 400_000}


def test_a_spent_budget_refuses_the_next_question(ten: Bench) -> None:
    ten.ended(ten.task(0.6))
    with pytest.raises(QuotaExceeded, match=r"people for ann has 0\.4 of 1 left, and this task costs 0\.6"):
        ten.run(ten.task(0.6, name="again"))
    ten.ended(ten.task(0.4, name="less"))
    with pytest.raises(QuotaExceeded, match="ann has 0 of 1 left"):
        ten.run(ten.task(0.000001, name="least"))


def test_all_parties_together_have_less_than_each_of_them(ten: Bench) -> None:
    ten.ended(ten.task(1.0))
    with pytest.raises(QuotaExceeded, match=r"all parties together has 0\.5 of 1\.5 left"):
        ten.run(ten.task(0.6, to=ten.colleague))
    ten.ended(ten.task(0.5, to=ten.colleague))
    assert ten.spent() == {EVERYBODY: 1_500_000, ten.scientist.id: 1_000_000, ten.colleague.id: 500_000}


def test_who_owns_the_data_pays_nothing(ten: Bench) -> None:
    for number in range(3):
        ten.ended(ten.task(1.0, to=ten.owner, name=f"own{number}"))
    assert ten.spent() == {}


def test_the_same_question_is_paid_for_once_and_has_the_same_noise(ten: Bench) -> None:
    task = ten.task(0.4)
    seeds = set()
    for _ in range(3):
        granted = ten.world.grant(ten.worker, ten.run(task))
        seeds.add(granted.noise)
        ten.world.finish(ten.worker, granted)
    assert ten.spent()[EVERYBODY] == 400_000
    assert len(seeds) == 1
    other = ten.world.grant(ten.worker, ten.run(ten.task(0.4, name="other")))
    assert other.noise is not None
    assert other.noise not in seeds


def test_another_attempt_costs_nothing_and_has_the_same_noise(ten: Bench) -> None:
    run = ten.run(ten.task(0.4))
    first = ten.world.grant(ten.worker, run)
    ten.world.steady += 1_000
    second = ten.world.grant(UnitWorker(), run)
    assert second.grant.attempt == 2
    assert first.noise == second.noise
    assert ten.spent()[EVERYBODY] == 400_000


def test_a_run_that_was_cancelled_after_key_release_stays_charged(ten: Bench) -> None:
    run = ten.run(ten.task(0.4))
    ten.world.grant(ten.worker, run)
    ten.world.post(ten.scientist, CancelStatement, run=run)
    assert ten.spent()[EVERYBODY] == 400_000


def test_a_run_that_never_got_keys_gives_its_share_back(ten: Bench) -> None:
    run = ten.run(ten.task(1.0))
    with pytest.raises(QuotaExceeded):
        ten.run(ten.task(0.1, name="second"))
    ten.world.post(ten.scientist, CancelStatement, run=run)
    ten.ended(ten.task(0.1, name="third"))
    assert ten.spent()[EVERYBODY] == 100_000


def test_versions_of_a_dataset_share_what_was_spent(ten: Bench) -> None:
    ten.ended(ten.task(1.0))
    ten.world.post(ten.owner, RetireStatement, target=ten.data)
    newer = ten.world.dataset(ten.owner, b"id\n5\n", name="people", protection=budget(2 * UNIT))
    with pytest.raises(QuotaExceeded, match="1 of 2 left"):
        ten.run(ten.task(1.5, inputs={"x": newer}))
    ten.ended(ten.task(1.0, inputs={"x": newer}, name="rest"))
    assert ten.spent()[ten.scientist.id] == 2 * UNIT


def test_a_newer_version_with_other_limits_counts_for_tasks_that_exist(ten: Bench) -> None:
    """A task that reads the newest version is looked at again when it runs, and when its keys are released."""
    ten.world.dataset(ten.owner, b"id\n1\n", name="free")
    source = NewestDataset(owner=ten.owner.id, dataset="free")
    task = ten.task(None, function=ten.builtin("psi"), inputs={"x": source})
    waiting = ten.run(task)
    ten.world.dataset(ten.owner, b"id\n2\n", name="free", protection=limited(min_group=5))
    with pytest.raises(Malformed, match="lets only groups out"):
        ten.run(task)
    with pytest.raises(Malformed, match="lets only groups out"):
        ten.world.grant(ten.worker, waiting)
    assert ten.world.state.run(waiting).status == "failed"


def test_what_was_spent_survives_restarts_and_snapshots(ten: Bench) -> None:
    task = ten.task(0.4)
    ten.ended(task)
    before = ten.spent()
    assert State.restore(ten.world.state.dump()).spent[f"{ten.owner.id}/people"] == before
    ten.world.restart()
    assert ten.spent() == before
    ten.world.present(ten.owner, ten.other)
    ten.ended(task)
    assert ten.spent() == before
    with pytest.raises(QuotaExceeded):
        ten.run(ten.task(0.7, name="more"))


@pytest.mark.parametrize("what", ["nothing", "more", "cheaper"])
def test_a_receipt_names_what_was_enforced(ten: Bench, what: str) -> None:
    granted = ten.world.grant(ten.worker, ten.run(ten.task(0.4)))
    assert granted.protection is not None
    said = {
        "nothing": None,
        "more": granted.protection.model_copy(update={"max_rows": 10}),
        "cheaper": granted.protection.model_copy(update={"charges": {}}),
    }[what]
    assert granted_facts(granted)["protection"] == granted.protection
    with pytest.raises(Malformed, match="protection is not what was granted"):
        ten.world.finish(ten.worker, granted, protection=said)


def test_fifty_at_once_on_a_budget_for_ten(world: World) -> None:
    """Ten run, whoever asks first; the others are told so. No order of events lets an eleventh get its keys."""
    bench = Bench(world, budget(UNIT))
    questions = [bench.task(0.1, name=f"q{number}") for number in range(50)]
    posts = [bench.scientist.write(world.desk, RunStatement, task=task) for task in questions]

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(
            *(world.monitor.submit(bench.scientist.peer, post.envelope) for post in posts),
            return_exceptions=True,
        )

    answers = world.run(all_at_once())
    accepted = [post.digest for post, answer in zip(posts, answers, strict=True) if isinstance(answer, tuple)]
    assert len(accepted) == 10
    assert all(isinstance(answer, (tuple, QuotaExceeded)) for answer in answers)
    workers = [UnitWorker() for _ in accepted]

    async def keys() -> list[Any]:
        return await asyncio.gather(
            *(
                world.monitor.grant(
                    worker.peer,
                    worker.facts,
                    frozenset({world.state.task(world.state.run(run).task).predicate.environment}),
                    world.ticket(run),
                    worker.attempt.public,
                )
                for worker, run in zip(workers, accepted, strict=True)
            )
        )

    assert len(world.run(keys())) == 10
    assert bench.spent()[EVERYBODY] == UNIT
    with pytest.raises(QuotaExceeded):
        bench.run(bench.task(0.1, name="late"))


def test_the_last_word_is_at_key_release(world: World) -> None:
    """Runs that were accepted under a larger budget end without keys when a newer version has a smaller one."""
    bench = Bench(world, budget(UNIT))
    source = NewestDataset(owner=bench.owner.id, dataset="people")
    runs = [bench.run(bench.task(0.4, inputs={"x": source}, name=f"q{number}")) for number in range(2)]
    world.dataset(bench.owner, b"id\n4\n", name="people", protection=budget(UNIT // 2))
    got = []
    for run in runs:
        with contextlib.suppress(MesateeError):
            got.append(world.grant(bench.worker, run))
    assert len(got) == 1
    assert bench.spent()[EVERYBODY] == 400_000
    assert world.state.run(runs[1]).status == "failed"
