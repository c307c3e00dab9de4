"""The first permit: who must approve, what an approval covers, and when a run may start."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from tests.support.gateway import (
    NOW,
    Case,
    UnitWorker,
    World,
    changed_task,
    function_fields,
    make_case,
    seal,
    task_fields,
)

from mesatee.errors import (
    Conflict,
    Denied,
    Expired,
    Malformed,
    NotApproved,
    NotFound,
    QuotaExceeded,
    Replayed,
    StateError,
    TooLarge,
)
from mesatee.protocol import limits, statements
from mesatee.protocol.statements import (
    ApprovalStatement,
    CancelStatement,
    CollectStatement,
    FunctionStatement,
    RetireStatement,
    RunStatement,
    TaskStatement,
    WithdrawalStatement,
)

# -- approvals -----------------------------------------------------------------------------------------


STANDING = "permit (principal, action, resource);"
"""An owner's yes to everything."""


def test_a_run_needs_every_owner(case: Case) -> None:
    with pytest.raises(NotApproved, match=r"left .*; right"):
        case.start()
    case.world.approve(case.left, case.task)
    with pytest.raises(NotApproved, match="right"):
        case.start()
    case.world.approve(case.right, case.task)
    case.start()


def test_a_withdrawn_id_never_counts_again(case: Case) -> None:
    world = case.world
    world.approve(case.right, case.task)
    fields = {"task": case.task, "id": "0d" * 16, "expires": NOW + 3_600}
    approval = case.left.write(world.desk, ApprovalStatement, **fields)
    world.submit(case.left, approval)
    assert world.submit(case.left, approval).already
    world.post(case.left, WithdrawalStatement, task=case.task, id="0d" * 16)
    with pytest.raises(NotApproved, match="left"):
        case.start()
    # The same bytes, and a new statement with the same id.
    with pytest.raises(Replayed):
        world.submit(case.left, approval)
    with pytest.raises(Replayed):
        world.post(case.left, ApprovalStatement, **fields)
    with pytest.raises(Replayed):
        world.post(case.left, WithdrawalStatement, task=case.task, id="0d" * 16)
    with pytest.raises(NotApproved):
        case.start()
    # Also after a restart, and then a new id counts.
    world.restart()
    with pytest.raises(Replayed):
        world.submit(case.left, approval)
    world.approve(case.left, case.task)
    case.start()


def test_an_id_is_used_once_by_anybody(case: Case) -> None:
    taken = case.world.approve(case.left, case.task)
    with pytest.raises(Replayed):
        case.world.approve(case.right, case.task, id=taken)


def test_an_expired_approval_does_not_count(case: Case) -> None:
    case.world.approve(case.left, case.task, expires=NOW + 10)
    case.world.approve(case.right, case.task)
    case.world.clock += 9
    case.start()
    case.world.clock += 1
    with pytest.raises((NotApproved, QuotaExceeded)):
        case.start()
    run = next(iter(case.world.state.runs))
    case.world.post(case.scientist, CancelStatement, run=run)
    with pytest.raises(NotApproved, match="left"):
        case.start()


@pytest.mark.parametrize(
    ("expires", "error"),
    [(NOW, Expired), (NOW + limits.APPROVAL_SECONDS + limits.CLOCK_SKEW_SECONDS + 1, Malformed)],
)
def test_an_approval_lives_for_a_bounded_time(case: Case, expires: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        case.world.approve(case.left, case.task, expires=expires)


def test_only_those_who_must_approve_can(case: Case) -> None:
    (mallory,) = case.world.join("mallory")
    for member in (case.scientist, mallory):
        with pytest.raises(Denied):
            case.world.approve(member, case.task)
    with pytest.raises(NotFound):
        case.world.approve(case.left, "0a" * 32)


def test_a_withdrawal_takes_back_every_earlier_approval_of_the_party(world: World) -> None:
    """An approval that was given twice, as after a lost answer, is taken back by one withdrawal."""
    case = make_case(world, runs=2)
    first, second = case.approve(), case.approve()
    run = case.start()
    world.grant(case.worker, run)
    world.post(case.left, WithdrawalStatement, task=case.task, id=first["left"])
    assert world.state.run(run).status == "cancelled"
    with pytest.raises(NotApproved, match="left"):
        case.start()
    with pytest.raises(Replayed):
        world.post(case.left, WithdrawalStatement, task=case.task, id=second["left"])
    with pytest.raises(Replayed):
        world.approve(case.left, case.task, id=second["left"])


def test_retiring_takes_back_a_standing_yes(world: World) -> None:
    """A standing policy has no approval that its owner could withdraw: the running run stops, a queued one too."""
    case = make_case(world, policy=STANDING, runs=2)
    world.approve(case.right, case.task)
    running, queued = case.start(), case.start()
    world.grant(case.worker, running)
    world.post(case.left, RetireStatement, target=case.inputs["left"])
    assert world.state.run(running).status == "cancelled"
    with pytest.raises(StateError, match="retired"):
        world.grant(case.worker, queued)


def test_retiring_blocks_the_result_of_a_standing_yes(world: World) -> None:
    case = make_case(world, policy=STANDING)
    world.approve(case.right, case.task)
    run = case.start()
    world.finish(case.worker, world.grant(case.worker, run))
    world.post(case.left, RetireStatement, target=case.inputs["left"])
    with pytest.raises(NotApproved, match="left has retired"):
        world.collect(case.scientist, run)


def test_nobody_withdraws_for_another(case: Case) -> None:
    ids = case.approve()
    for member, found in ((case.right, ids["left"]), (case.scientist, ids["left"]), (case.left, "0d" * 16)):
        with pytest.raises(NotFound):
            case.world.post(member, WithdrawalStatement, task=case.task, id=found)
    case.start()


@pytest.mark.parametrize("change", ["receiver", "function", "argument", "worker", "runs", "input"])
def test_an_approval_is_never_carried_over(case: Case, change: str) -> None:
    """Change anything and the digest changes: what was approved is exactly one task."""
    world = case.world
    case.approve()
    (mallory,) = world.join("mallory")
    accept = statements.Accept(min_level=1, tees=("none",), workers=("none",), allow_simulated=False)
    other = world.post(case.scientist, FunctionStatement, **function_fields(name="other")).digest
    changes: dict[str, Any] = {
        "receiver": {"outputs": {"result": (case.scientist.keys, mallory.keys)}},
        "function": {"function": other},
        "argument": {"arguments": {"key": "name"}},
        "worker": {"accept": accept},
        "runs": {"runs": 2},
        "input": {"inputs": {**case.inputs, "right": world.dataset(case.right, b"id\n9\n")}},
    }[change]
    task = world.post(case.scientist, TaskStatement, **changed_task(case, **changes)).digest
    assert task != case.task
    with pytest.raises(NotApproved):
        world.post(case.scientist, RunStatement, task=task)


def test_joint_receivers_and_private_code_must_approve_too(world: World) -> None:
    left, right, author, friend = world.join("left", "right", "author", "friend")
    sealed = seal(b"def f(a): ...")
    code = statements.CodeRef(sha256=sealed.digest, size=sealed.size, wrap=friend.upload(world.desk, sealed))
    fields = function_fields(executor="python", code=code, private=True)
    function = world.post(friend, FunctionStatement, **fields).digest
    inputs = {"left": world.dataset(left), "right": world.dataset(right, b"id\n7\n")}
    made = task_fields(function, inputs, (author, left), UnitWorker().facts, NOW)
    task = world.post(author, TaskStatement, **made).digest
    assert set(world.state.must_approve(world.state.task(task).predicate)) == {
        member.id for member in (left, right, author, friend)
    }
    for member in (left, right, author):
        world.approve(member, task)
    with pytest.raises(NotApproved, match="friend"):
        world.post(author, RunStatement, task=task)
    world.approve(friend, task)
    world.post(author, RunStatement, task=task)


# -- runs ----------------------------------------------------------------------------------------------


def test_only_the_author_runs_a_task(case: Case) -> None:
    case.approve()
    for member in (case.left, case.right):
        with pytest.raises(Denied, match="author"):
            case.world.post(member, RunStatement, task=case.task)
    with pytest.raises(NotFound):
        case.world.post(case.scientist, RunStatement, task="0a" * 32)


def test_the_budget_of_runs(case: Case) -> None:
    case.approve()
    run = case.start()
    with pytest.raises(QuotaExceeded):
        case.start()
    # A run that ended before any key was released has used nothing.
    case.world.post(case.scientist, CancelStatement, run=run)
    second = case.start()
    case.world.grant(case.worker, second)
    case.world.post(case.scientist, CancelStatement, run=second)
    with pytest.raises(QuotaExceeded):
        case.start()


def test_the_largest_task_is_decided_in_bounded_calls(case: Case) -> None:
    """Each policy is asked for each machine that a task accepts, on the one thread that serves everybody."""
    accept = case.world.state.task(case.task).predicate.accept

    def accepting(count: int) -> dict[str, Any]:
        workers = tuple(f"{number:064x}" for number in range(count))
        return changed_task(case, accept=accept.model_copy(update={"workers": workers}))

    assert len(set(case.inputs.values())) * 64 == limits.POLICY_QUESTIONS
    largest = accepting(64)
    case.world.post(case.scientist, TaskStatement, **largest)
    wider = largest["accept"].model_copy(update={"tees": ("software", "snp")})
    with pytest.raises(TooLarge, match="the limit is 128"):
        case.world.post(case.scientist, TaskStatement, **changed_task(case, accept=wider))


def test_a_task_expires(case: Case) -> None:
    expires = case.world.state.task(case.task).predicate.expires
    for member in (case.left, case.right):
        case.world.approve(member, case.task, expires=expires + 1_000)
    case.world.clock = float(expires)
    with pytest.raises(Expired):
        case.start()


def test_who_cancels_a_run(case: Case) -> None:
    case.approve()
    run = case.start()
    (mallory,) = case.world.join("mallory")
    with pytest.raises(Denied):
        case.world.post(mallory, CancelStatement, run=run)
    case.world.post(case.left, CancelStatement, run=run)
    assert case.world.state.run(run).status == "cancelled"
    with pytest.raises(Conflict):
        case.world.post(case.scientist, CancelStatement, run=run)
    with pytest.raises(NotFound):
        case.world.post(case.scientist, CancelStatement, run="0a" * 32)


def test_what_is_retired_is_used_no_more(case: Case) -> None:
    world = case.world
    case.approve()
    with pytest.raises(NotFound):
        world.post(case.right, RetireStatement, target=case.inputs["left"])
    with pytest.raises(NotFound):
        world.post(case.left, RetireStatement, target="0a" * 32)
    world.post(case.left, RetireStatement, target=case.inputs["left"])
    with pytest.raises(Conflict):
        world.post(case.left, RetireStatement, target=case.inputs["left"])
    with pytest.raises(StateError, match="retired"):
        case.start()
    with pytest.raises(StateError, match="retired"):
        world.post(case.scientist, TaskStatement, **changed_task(case, name="new"))


def test_a_retired_function_is_used_no_more(case: Case) -> None:
    case.approve()
    case.world.post(case.scientist, RetireStatement, target=case.function)
    with pytest.raises(StateError, match="retired"):
        case.start()


def test_a_run_that_has_not_ended_gives_nothing(case: Case) -> None:
    case.approve()
    run = case.start()
    with pytest.raises(StateError, match="queued"):
        case.world.post(case.scientist, CollectStatement, run=run)
    case.world.grant(case.worker, run)
    with pytest.raises(StateError, match="running"):
        case.world.post(case.scientist, CollectStatement, run=run)


def test_refusals_change_nothing(case: Case) -> None:
    before = case.world.state.dump()
    for kind, fields in (
        (RunStatement, {"task": case.task}),
        (CollectStatement, {"run": "0a" * 32}),
        (RetireStatement, {"target": case.inputs["left"]}),
        (WithdrawalStatement, {"task": case.task, "id": secrets.token_hex(16)}),
    ):
        with pytest.raises((Denied, StateError)):
            case.world.post(case.scientist, kind, **fields)
    assert case.world.state.dump() == before
