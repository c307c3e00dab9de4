"""Quotas of models: the runs that a model's owner gives to each caller, counted in the order of the log."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.gateway import Member, UnitWorker, World, function_fields, task_fields

from mesatee.enclave.gateway.state import State
from mesatee.errors import QuotaExceeded
from mesatee.protocol.model_card import ModelCard, Tensor
from mesatee.protocol.sources import NewestDataset
from mesatee.protocol.statements import (
    CancelStatement,
    FunctionStatement,
    RunStatement,
    TaskStatement,
)


def card(runs: int | None) -> ModelCard:
    row = Tensor(name="x", dtype="float32", shape=("n", 4))
    return ModelCard(
        kind="onnx", digest="ab" * 32, inputs=(row,), outputs=(row,), licence="MIT", metrics={}, runs=runs
    )


class Bench:
    """A model with a quota, and two callers with data of their own."""

    def __init__(self, world: World, runs: int | None) -> None:
        self.world = world
        self.owner, self.ann, self.bea = world.join("owner", "ann", "bea")
        self.worker = UnitWorker()
        self.model = world.dataset(self.owner, b"model 1", name="net", card=card(runs))
        self.rows = world.dataset(self.ann, b"id\n1\n", name="rows")
        fields = function_fields(inputs=(), variadic=True, arguments=())
        self.function = world.post(self.owner, FunctionStatement, **fields).digest
        world.present(self.owner, self.ann, self.bea)

    def task(self, by: Member | None = None, **changes: Any) -> str:
        by = by or self.ann
        fields = task_fields(
            self.function,
            changes.pop("inputs", {"model": self.model, "rows": self.rows}),
            (by,),
            self.worker.facts,
            int(self.world.clock),
            **{"arguments": {}, "runs": 100, **changes},
        )
        task = self.world.post(by, TaskStatement, **fields).digest
        for member in (self.owner, self.ann):
            if member.id in self.world.state.must_approve(self.world.state.task(task).predicate):
                self.world.approve(member, task)
        return task

    def run(self, task: str, by: Member | None = None) -> str:
        return self.world.post(by or self.ann, RunStatement, task=task).digest

    def whole(self, task: str, by: Member | None = None) -> None:
        granted = self.world.grant(self.worker, self.run(task, by))
        self.world.finish(self.worker, granted)


def test_a_caller_has_so_many_runs_over_all_of_its_tasks(world: World) -> None:
    bench = Bench(world, 3)
    one, other = bench.task(), bench.task(name="again")
    for task in (one, other, one):
        bench.whole(task)
    for task in (one, other):
        with pytest.raises(QuotaExceeded, match="all 3 runs that the owner of model net gives"):
            bench.run(task)


def test_each_caller_has_its_own(world: World) -> None:
    bench = Bench(world, 1)
    mine, hers = bench.task(), bench.task(bench.bea, inputs={"model": bench.model})
    bench.whole(mine)
    bench.whole(hers, bench.bea)
    with pytest.raises(QuotaExceeded):
        bench.run(hers, bench.bea)


def test_its_owner_and_models_without_a_quota_are_not_counted(world: World) -> None:
    bench = Bench(world, 1)
    own = bench.task(bench.owner, inputs={"model": bench.model})
    free = world.dataset(bench.owner, b"model 2", name="free", card=card(None))
    open_to_all = bench.task(inputs={"model": free})
    for _ in range(3):
        bench.whole(own, bench.owner)
        bench.whole(open_to_all)
    assert world.state.model_runs == {}


def test_runs_under_way_count_and_one_without_keys_gives_its_run_back(world: World) -> None:
    bench = Bench(world, 1)
    task = bench.task()
    run = bench.run(task)
    with pytest.raises(QuotaExceeded):
        bench.run(task)
    world.post(bench.ann, CancelStatement, run=run)
    run = bench.run(task)
    world.grant(bench.worker, run)
    world.post(bench.ann, CancelStatement, run=run)
    with pytest.raises(QuotaExceeded):
        bench.run(task)


def test_another_attempt_of_a_run_uses_nothing(world: World) -> None:
    bench = Bench(world, 1)
    run = bench.run(bench.task())
    world.grant(bench.worker, run)
    world.steady += 1_000
    assert world.grant(UnitWorker(), run).grant.attempt == 2
    assert world.state.model_runs == {f"{bench.model}/{bench.ann.id}": 1}


def test_a_model_that_is_two_inputs_counts_once(world: World) -> None:
    bench = Bench(world, 2)
    task = bench.task(inputs={"a": bench.model, "b": bench.model})
    for _ in range(2):
        bench.whole(task)
    with pytest.raises(QuotaExceeded):
        bench.run(task)


def test_each_of_several_models_has_its_quota(world: World) -> None:
    bench = Bench(world, 5)
    second = world.dataset(bench.owner, b"model 2", name="small", card=card(1))
    task = bench.task(inputs={"a": bench.model, "b": second})
    bench.whole(task)
    with pytest.raises(QuotaExceeded, match="all 1 runs that the owner of model small gives"):
        bench.run(task)
    bench.whole(bench.task(name="first-alone"))


def test_what_counts_is_the_version_whose_keys_are_released(world: World) -> None:
    """A run that waited while a newer version came does not get round the newer version's quota."""
    bench = Bench(world, 5)
    task = bench.task(inputs={"model": NewestDataset(owner=bench.owner.id, dataset="net")})
    waiting = [bench.run(task), bench.run(task)]
    newer = world.dataset(bench.owner, b"model 2", name="net", card=card(1))
    world.grant(bench.worker, waiting[0])
    with pytest.raises(QuotaExceeded):
        world.grant(bench.worker, waiting[1])
    assert world.state.model_runs == {f"{newer}/{bench.ann.id}": 1}
    assert world.state.run(waiting[1]).status == "failed"


def test_of_many_at_once_exactly_the_quota_runs(world: World) -> None:
    """Whoever comes first in the log, however many ask before the first of them is durable."""
    bench = Bench(world, 10)
    tasks = [bench.task(), bench.task(name="other")]
    world.store.gate.clear()

    async def ask() -> list[Any]:
        asked = [bench.ann.write(world.desk, RunStatement, task=tasks[number % 2]) for number in range(50)]
        waiting = [
            asyncio.ensure_future(world.monitor.submit(bench.ann.peer, item.envelope)) for item in asked
        ]
        await asyncio.sleep(0.05)
        world.store.gate.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    found = world.run(ask())
    assert sum(isinstance(item, QuotaExceeded) for item in found) == 40
    begun = [run for task in tasks for run in world.state.runs.of(task)]
    assert len(begun) == 10
    for run in begun:
        world.grant(bench.worker, run.digest)
    assert world.state.model_runs == {f"{bench.model}/{bench.ann.id}": 10}


def test_the_count_is_in_the_projection(world: World) -> None:
    bench = Bench(world, 2)
    bench.whole(bench.task())
    counted = {f"{bench.model}/{bench.ann.id}": 1}
    assert State.restore(world.state.dump()).model_runs == counted
    before = world.state
    world.restart()
    assert world.state is not before
    assert world.state.model_runs == counted
