"""Functions in the registry: versions, callers, quotas, and taking out of use for a while or for good."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.gateway import Case, World, changed_task, function_fields, make_case, task_fields

from mesatee.enclave.gateway.state import State
from mesatee.errors import Conflict, Denied, Malformed, NotFound, QuotaExceeded, StateError
from mesatee.protocol import envelope as dsse
from mesatee.protocol.jsonstrict import canonical
from mesatee.protocol.statements import (
    CancelStatement,
    CodeRef,
    FunctionStatement,
    RetireStatement,
    RunStatement,
    SuspendStatement,
    TaskStatement,
    payload,
    read,
)


@pytest.fixture
def case() -> Iterator[Case]:
    world = World()
    try:
        yield make_case(world, runs=100)
    finally:
        world.close()


def offered(case: Case, **rules: Any) -> str:
    """A function of left, which the scientist may name as `rules` say."""
    return case.world.post(case.left, FunctionStatement, **function_fields(name="offered", **rules)).digest


def named(case: Case, function: str, **changes: Any) -> str:
    """The scientist's task with it, approved by both owners."""
    fields = task_fields(
        function,
        case.inputs,
        (case.scientist,),
        case.worker.facts,
        int(case.world.clock),
        **{"runs": 100, **changes},
    )
    task = case.world.post(case.scientist, TaskStatement, **fields).digest
    for member in (case.left, case.right):
        case.world.approve(member, task)
    return task


def run(case: Case, task: str) -> str:
    return case.world.post(case.scientist, RunStatement, task=task).digest


def test_only_the_callers_named_may_name_it(case: Case) -> None:
    with pytest.raises(Denied, match="none of the callers"):
        named(case, offered(case, callers=(case.right.id,)))
    with pytest.raises(Denied, match="none of the callers"):
        named(case, offered(case, callers=()))
    named(case, offered(case, callers=(case.right.id, case.scientist.id)))


def test_its_owner_is_always_a_caller(case: Case) -> None:
    world, function = case.world, offered(case, callers=(), quota=1)
    fields = task_fields(function, case.inputs, (case.left,), case.worker.facts, int(world.clock), runs=100)
    task = world.post(case.left, TaskStatement, **fields).digest
    for member in (case.left, case.right):
        world.approve(member, task)
    for _ in range(3):
        world.post(case.left, RunStatement, task=task)


def test_a_quota_counts_over_all_tasks_of_a_caller(case: Case) -> None:
    function = offered(case, quota=3)
    one, other = named(case, function), named(case, function, name="again")
    for task in (one, other, one):
        run(case, task)
    for task in (one, other):
        with pytest.raises(QuotaExceeded, match="all 3 runs that function offered gives"):
            run(case, task)
    case.approve()
    case.start()


def test_a_run_without_keys_uses_nothing_of_a_quota(case: Case) -> None:
    task = named(case, offered(case, quota=1))
    case.world.post(case.scientist, CancelStatement, run=run(case, task))
    run(case, task)
    with pytest.raises(QuotaExceeded):
        run(case, task)


def test_of_many_at_once_exactly_the_quota_runs(case: Case) -> None:
    """Whoever comes first in the log, however many ask before the first of them is durable."""
    world = case.world
    task = named(case, offered(case, quota=10))
    world.store.gate.clear()

    async def ask() -> list[Any]:
        asked = [case.scientist.write(world.desk, RunStatement, task=task) for _ in range(50)]
        waiting = [
            asyncio.ensure_future(world.monitor.submit(case.scientist.peer, item.envelope)) for item in asked
        ]
        await asyncio.sleep(0.05)
        world.store.gate.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    found = world.run(ask())
    refused = [item for item in found if isinstance(item, QuotaExceeded)]
    assert len(refused) == 40
    assert len(world.state.runs.of(task)) == 10


def test_versions_are_immutable_and_counted(case: Case) -> None:
    first, second = offered(case), offered(case, quota=5)
    assert case.world.state.function_versions[f"{case.left.id}/offered"] == [first, second]
    named(case, first)
    named(case, second, name="newer")


def test_what_is_disabled_begins_nothing_and_what_runs_runs_on(case: Case) -> None:
    world = case.world
    function = offered(case)
    task = named(case, function)
    running, queued = run(case, task), run(case, task)
    granted = world.grant(case.worker, running)
    world.post(case.left, SuspendStatement, target=function, suspended=True)
    for refused in (lambda: run(case, task), lambda: named(case, function, name="other")):
        with pytest.raises(StateError, match="is suspended by its owner"):
            refused()
    with pytest.raises(StateError, match="suspended"):
        world.grant(case.worker, queued)
    assert world.state.run(queued).status == "failed"
    world.finish(case.worker, granted)
    assert world.collect(case.scientist, running)
    world.post(case.left, SuspendStatement, target=function, suspended=False)
    run(case, task)


def test_what_is_deleted_stays_deleted(case: Case) -> None:
    world = case.world
    function = offered(case)
    task = named(case, function)
    queued = run(case, task)
    world.post(case.left, RetireStatement, target=function)
    with pytest.raises(Conflict, match="retired for good"):
        world.post(case.left, SuspendStatement, target=function, suspended=False)
    with pytest.raises(StateError, match="retired"):
        run(case, task)
    with pytest.raises(StateError, match="retired"):
        world.grant(case.worker, queued)


def test_only_its_owner_disables(case: Case) -> None:
    function = offered(case)
    for target in (function, case.task, "0a" * 32):
        with pytest.raises(NotFound):
            case.world.post(case.right, SuspendStatement, target=target, suspended=True)
    with pytest.raises(Conflict, match="in use already"):
        case.world.post(case.left, SuspendStatement, target=function, suspended=False)


def test_a_snapshot_holds_the_registry(case: Case) -> None:
    function = offered(case, quota=3, callers=(case.scientist.id,))
    run(case, named(case, function))
    case.world.post(case.left, SuspendStatement, target=function, suspended=True)
    assert State.restore(case.world.state.dump()) == case.world.state
    assert changed_task(case)


def test_a_function_may_ask_for_one_environment(case: Case) -> None:
    """That is the task's own, which its approvers read; a function for any environment says nothing."""
    code = {"executor": "python", "code": CodeRef(sha256="cc" * 32, size=1, wrap=None)}
    fields = task_fields(
        offered(case, **code), case.inputs, (case.scientist,), case.worker.facts, int(case.world.clock)
    )
    other = function_fields(name="other", environment="ab" * 32, **code)
    with pytest.raises(Malformed, match="alone"):
        named(case, case.world.post(case.left, FunctionStatement, **other).digest)
    bound = function_fields(name="bound", environment=fields["environment"], **code)
    named(case, case.world.post(case.left, FunctionStatement, **bound).digest, name="in-it")


def test_what_is_left_out_has_one_form(case: Case) -> None:
    """A null in its place would be a second digest for the same fact."""
    said = case.world.post(case.left, FunctionStatement, **function_fields(name="any"))
    held = case.world.monitor.state.function(said.digest)
    assert held.predicate.environment is None
    body = json.loads(payload(held.predicate))
    assert "environment" not in body["predicate"]
    body["predicate"]["environment"] = None
    envelope = dsse.sign(canonical(body), [case.left.signing])
    with pytest.raises(Malformed, match="canonical form"):
        read(envelope)


def test_only_python_asks_for_an_environment(case: Case) -> None:
    for executor, code in (
        ("builtin", None),
        ("wasm", CodeRef(sha256="cc" * 32, size=1, wrap=None)),
        ("mesapy", CodeRef(sha256="cc" * 32, size=1, wrap=None)),
    ):
        with pytest.raises(ValueError, match="only a Python function"):
            case.left.write(
                case.world.desk,
                FunctionStatement,
                **function_fields(executor=executor, code=code, environment="ab" * 32),
            )
