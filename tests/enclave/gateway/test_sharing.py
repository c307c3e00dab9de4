"""What an ended run leaves in memory: what is its own, once."""

from __future__ import annotations

import gc
import sys
import types
from typing import Any

import pytest
from tests.support.gateway import Case, World, make_case

from mesatee.enclave.gateway.keyring import Upload
from mesatee.enclave.gateway.sharing import COMPARED, ELSEWHERE, kept, shared
from mesatee.enclave.gateway.state import State
from mesatee.errors import LogCorrupt
from mesatee.protocol import statements
from mesatee.protocol.statements import DatasetStatement, TaskStatement

RUNS = 60
RUN_BYTES = 320
"""Of three log entries: that its author began it, its grant and its receipt."""
DATASET_BYTES = 2560


def held(state: State) -> int:
    """Bytes of all objects that only the state holds, in sum."""
    seen, waiting, found = set[int](), [state], 0
    while waiting:
        item: Any = waiting.pop()
        if id(item) not in seen and not isinstance(item, type | types.ModuleType | types.FunctionType):
            seen.add(id(item))
            found += sys.getsizeof(item)
            waiting += gc.get_referents(item)
    return found


def finish(case: Case, times: int) -> None:
    for _ in range(times):
        case.world.finish(case.worker, case.world.grant(case.worker, case.start()))


def test_an_ended_run_keeps_little(world: World) -> None:
    case = make_case(world, runs=3 * RUNS)
    case.approve()
    finish(case, RUNS)
    before, restored = held(world.state), held(State.restore(world.state.dump()))
    finish(case, 2 * RUNS)
    again = State.restore(world.state.dump())
    assert held(world.state) - before < 2 * RUNS * RUN_BYTES
    assert held(again) - restored < 2 * RUNS * RUN_BYTES
    assert again == world.state


def test_leases_of_ended_runs_are_forgotten(world: World) -> None:
    case = make_case(world, runs=3)
    case.approve()
    finish(case, 2)
    fence = world.grant(case.worker, case.start()).grant.fence
    assert world.monitor.waiting() == []
    assert set(world.monitor._leases) == {fence}


def test_a_statement_is_kept_as_it_was_but_for_its_checkpoint(case: Case) -> None:
    posted = case.world.record(case.world.state.task(case.task).index).statement()
    task = case.world.state.task(case.task).predicate
    assert isinstance(task, TaskStatement)
    said = task.model_copy(update={"checkpoint": case.world.desk.checkpoint()})
    assert kept(said) == task
    assert said.checkpoint != COMPARED == task.checkpoint
    assert TaskStatement.model_validate_json(task.model_dump_json()) == task
    # What was signed is what the log gives.
    assert COMPARED.encode() not in posted.payload.split(b'"checkpoint":')[1][:3]


def test_wraps_are_read_from_the_log_when_keys_are_released(world: World) -> None:
    case = make_case(world)
    case.approve()
    held = world.state.dataset(case.inputs["left"])
    assert held.predicate.wrap == ELSEWHERE
    assert DatasetStatement.model_validate_json(held.predicate.model_dump_json()) == held.predicate
    said = statements.expect(
        statements.read(world.record(held.index).statement()), statements.DatasetStatement
    )
    assert world.monitor._upload(held) == Upload(held.signer, said.blob.sha256, said.wrap)
    # Of another entry, as a broken projection could have it, no key is released.
    run, index = case.start(), held.index
    held.index = world.state.dataset(case.inputs["right"]).index
    with pytest.raises(LogCorrupt):
        world.grant(case.worker, run)
    held.index = index


def test_words_are_one_object() -> None:
    first, second = ("".join(["a", "b"] * 40) for _ in range(2))
    assert first is not second
    assert shared((first, 1)) == (first, 1)
    assert shared((first,))[0] is shared([second])[0]


def test_objects_that_are_registered_leave_what_is_their_own(world: World) -> None:
    case = make_case(world)

    def register(times: int) -> None:
        for number in range(times):
            name = f"data-{world.state.size}-{number}"
            world.dataset(case.left, f"id\n{name}\n".encode(), name=name)

    register(RUNS)
    before = held(world.state)
    register(RUNS)
    assert held(world.state) - before < RUNS * DATASET_BYTES
