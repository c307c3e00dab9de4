"""The second permit: which worker gets the keys of a run, when, and how often."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.gateway import (
    ENVIRONMENT,
    NOW,
    Case,
    Member,
    UnitWorker,
    World,
    function_fields,
    granted_facts,
    make_case,
    receipt,
    seal,
    task_fields,
)

from mesatee._core import HpkeKey
from mesatee.enclave.gateway.decided import CODE
from mesatee.enclave.gateway.keyring import attempt_key
from mesatee.enclave.gateway.monitor import LEASE_SECONDS, TICKET_SECONDS
from mesatee.errors import (
    Conflict,
    EvidenceRefused,
    Expired,
    HostFailed,
    KeyRefused,
    LevelTooLow,
    LogCorrupt,
    MesateeError,
    NotApproved,
    NotFound,
    PolicyDenied,
    Recovering,
    Replayed,
    StateError,
)
from mesatee.protocol import limits, policy_text, records, statements, wraps
from mesatee.protocol.digests import b64decode, b64encode
from mesatee.protocol.statements import (
    CancelStatement,
    FunctionStatement,
    PresenceStatement,
    RetireStatement,
    TaskStatement,
    WithdrawalStatement,
)


@pytest.fixture
def run(case: Case) -> str:
    """An approved run that waits in the queue."""
    case.approve()
    return case.start()


def opened(key: HpkeKey, wrap: str, binding: wraps.Binding) -> None:
    key.unwrap_file_key(b64decode(wrap, max_bytes=2_000), binding.info, binding.aad)


# -- key release ---------------------------------------------------------------------------------------


def test_the_keys_of_one_run_go_to_one_attempt(case: Case, run: str) -> None:
    world = case.world
    granted = world.grant(case.worker, run)
    fence = granted.grant.fence
    assert set(granted.wraps) == {"left", "right"}
    for name, digest in case.inputs.items():
        blob = world.state.dataset(digest).predicate.blob.sha256
        binding = wraps.attempt_input(world.desk.origin, run, fence, name, blob)
        opened(case.worker.attempt, granted.wraps[name], binding)
        with pytest.raises(KeyRefused):
            opened(HpkeKey.generate(), granted.wraps[name], binding)
    assert world.state.run(run).status == "running"


def test_the_grant_is_in_the_log_before_any_key_is_wrapped(case: Case, run: str) -> None:
    world = case.world
    size = world.log.size
    granted = world.grant(case.worker, run)
    assert granted.grant.fence == size
    outcome = world.record(size).outcome()
    assert isinstance(outcome, records.GrantOutcome)
    assert (outcome.run, outcome.worker, outcome.attempt) == (run, case.worker.facts, 1)
    assert set(outcome.approvals) == {case.left.id, case.right.id}
    assert set(outcome.policies) == {*case.inputs.values(), "platform"}


def test_no_key_leaves_when_the_grant_cannot_be_logged(case: Case, run: str) -> None:
    world = case.world
    world.store.error = HostFailed("disk full")
    with pytest.raises(HostFailed):
        world.grant(case.worker, run)
    world.store.error = None
    world.restart()
    assert world.state.run(run).status == "queued"


@pytest.mark.parametrize("change", ["another body", "a body that is cut", "the other's record", "nothing"])
def test_wraps_are_taken_from_the_log_that_was_signed_and_no_other(case: Case, run: str, change: str) -> None:
    """They are read again when a key leaves, from a host that may have changed its mind."""
    world = case.world
    left, right = (world.state.dataset(case.inputs[name]).index for name in ("left", "right"))
    stored = world.store.stored
    kept = list(stored)
    match change:
        case "another body":
            stored[left] = stored[left]._replace(body=stored[left].body[:-1] + b"\0")
        case "a body that is cut":
            stored[left] = stored[left]._replace(body=stored[left].body[:-1])
        case "the other's record":
            stored[left] = stored[right]
        case "nothing":
            del stored[left:]
    with pytest.raises((LogCorrupt, HostFailed)):
        world.grant(case.worker, run)
    # With what was signed the attempt that has no keys ends as any other that is lost, and the next one has them.
    stored[: len(kept)] = kept
    world.restart()
    for member in (case.left, case.right):
        world.post(member, PresenceStatement)
    world.steady += LEASE_SECONDS + 1
    assert set(world.grant(case.worker, run).wraps) == {"left", "right"}


@pytest.mark.parametrize(
    ("changes", "environment", "error"),
    [
        ({"measurement": "cd" * 32}, ENVIRONMENT, EvidenceRefused),
        ({"measurement": "none"}, ENVIRONMENT, EvidenceRefused),
        ({"level": 1}, ENVIRONMENT, LevelTooLow),
        ({"tee": "none"}, ENVIRONMENT, EvidenceRefused),
        ({"tee": "sev-snp", "level": 5}, ENVIRONMENT, EvidenceRefused),
        ({"simulated": True}, ENVIRONMENT, EvidenceRefused),
        ({}, "0f" * 32, EvidenceRefused),
        ({}, "", EvidenceRefused),
    ],
)
def test_another_worker_than_the_task_accepts_gets_nothing(
    case: Case, run: str, changes: dict[str, Any], environment: str, error: type[MesateeError]
) -> None:
    world, size = case.world, case.world.log.size
    with pytest.raises(error):
        world.grant(UnitWorker(**changes), run, environment=environment)
    # The run waits on for a worker that fits.
    assert (world.log.size, world.state.run(run).status) == (size, "queued")
    world.grant(UnitWorker(level=3), run)


def test_only_an_attested_worker_has_facts() -> None:
    with pytest.raises(KeyRefused):
        Member("alice").peer.facts("worker", "ab" * 32)
    with pytest.raises(KeyRefused):
        UnitWorker().peer.facts("worker", "ab" * 32)


def test_a_ticket_is_the_gateways_and_alive(case: Case, run: str) -> None:
    world = case.world
    ticket = world.ticket(run)
    for forged in (b"", ticket[:-1], World(world.keys).keyring._tickets.seal(b"{}", b"")):
        with pytest.raises(Replayed):
            world.grant(case.worker, run, ticket=forged)
    world.clock += TICKET_SECONDS
    with pytest.raises(Expired):
        world.grant(case.worker, run, ticket=ticket)
    world.grant(case.worker, run, ticket=world.ticket(run))


def test_a_run_that_ended_is_granted_no_more(case: Case, run: str) -> None:
    ticket = case.world.ticket(run)
    case.world.post(case.scientist, CancelStatement, run=run)
    with pytest.raises(Conflict, match="cancelled"):
        case.world.grant(case.worker, run, ticket=ticket)


def test_no_second_grant_while_the_lease_is_alive(case: Case, run: str) -> None:
    world, other = case.world, UnitWorker()
    first = world.grant(case.worker, run)
    assert world.monitor.waiting() == []
    world.steady += LEASE_SECONDS - 1
    for worker in (other, case.worker):
        with pytest.raises(Conflict, match="another worker"):
            world.grant(worker, run)
    world.monitor.renew(case.worker.peer, first.grant.fence)
    world.steady += LEASE_SECONDS - 1
    with pytest.raises(Conflict, match="another worker"):
        world.grant(other, run)
    world.steady += 1
    assert [item.digest for item in world.monitor.waiting()] == [run]
    second = world.grant(other, run)
    assert second.grant.attempt == 2
    assert second.grant.fence > first.grant.fence


def test_after_a_restart_an_attempt_has_its_full_lease_again(case: Case, run: str) -> None:
    world = case.world
    granted = world.grant(case.worker, run)
    world.steady += 10 * LEASE_SECONDS
    world.restart()
    world.present(case.left, case.right)
    with pytest.raises(Conflict, match="another worker"):
        world.grant(UnitWorker(), run)
    world.hand_in(case.worker, granted, case.receipt(granted))


def test_the_older_attempt_is_fenced_off(case: Case, run: str) -> None:
    world, other = case.world, UnitWorker()
    first = world.grant(case.worker, run)
    world.steady += LEASE_SECONDS
    second = world.grant(other, run)
    with pytest.raises(Conflict, match="no longer counts"):
        world.monitor.renew(case.worker.peer, first.grant.fence)
    with pytest.raises(Conflict, match="no longer counts"):
        world.finish(case.worker, first)
    # Nor with the newer fence, which is not its own.
    said = {**granted_facts(second), "worker": case.worker.facts}
    late = receipt(world.desk, said, case.worker.key, {"result": b"x"})
    with pytest.raises(NotFound):
        world.hand_in(case.worker, second, late)
    world.finish(other, second)
    with pytest.raises(Conflict, match="finished"):
        world.finish(case.worker, first)


def test_when_all_attempts_are_spent_the_worker_is_lost(case: Case, run: str) -> None:
    world = case.world
    for number in range(1, limits.ATTEMPTS + 1):
        item = world.state.run(run)
        world.run(world.monitor.close_lost(item))
        assert item.status == ("queued" if number == 1 else "running")
        assert world.grant(UnitWorker(), run).grant.attempt == number
        world.steady += LEASE_SECONDS
    with pytest.raises(Conflict, match="spent"):
        world.grant(UnitWorker(), run)
    world.run(world.monitor.close_lost(world.state.run(run)))
    found = world.state.run(run)
    assert (found.status, found.failure) == ("failed", "worker_lost")
    assert world.outcomes()[-1] == "closed"
    size = world.log.size
    world.run(world.monitor.close_lost(found))
    assert world.log.size == size


@pytest.mark.parametrize("change", ["withdrawn", "expired", "retired"])
def test_what_was_approved_at_the_start_must_hold_at_key_release(world: World, change: str) -> None:
    case = make_case(world)
    world.approve(case.right, case.task)
    approval = world.approve(case.left, case.task, expires=NOW + 100)
    run = case.start()
    if change == "withdrawn":
        world.post(case.left, WithdrawalStatement, task=case.task, id=approval)
    elif change == "expired":
        world.clock += 100
    else:
        world.post(case.left, RetireStatement, target=case.inputs["left"])
    size = world.log.size
    with pytest.raises((NotApproved, StateError)):
        world.grant(case.worker, run)
    found = world.state.run(run)
    assert (found.status, found.failure, found.grants) == ("failed", "cancelled", [])
    assert world.outcomes(size) == ["closed"]


def test_a_datasets_policy_is_asked_again_about_the_worker(world: World) -> None:
    # It lets the task start, and asks for more once the worker is known.
    text = """
        permit (principal, action == Action::"use", resource);
        permit (principal, action == Action::"release_key", resource) when { context.level >= 4 };
    """
    case = make_case(world, policy=text)
    case.approve()
    run = case.start()
    with pytest.raises(PolicyDenied, match="left"):
        world.grant(case.worker, run)


def test_a_policy_may_stand_for_its_owners_approval(world: World) -> None:
    left, right, author = world.join("left", "right", "author")
    function = world.post(author, FunctionStatement, **function_fields()).digest
    policy = policy_text.dataset(functions=(function,), approve_automatically=True)
    inputs = {"left": world.dataset(left, policy=policy), "right": world.dataset(right, b"id\n5\n")}
    worker = UnitWorker()
    fields = task_fields(function, inputs, (author,), worker.facts, NOW)
    task = world.post(author, TaskStatement, **fields).digest
    case = Case(world, left, right, author, worker, inputs, function, task)
    with pytest.raises(NotApproved, match="right"):
        case.start()
    world.approve(right, task)
    run = case.start()
    world.present(left, right)
    granted = world.grant(worker, run)
    # What stands for the owner's yes is the dataset whose policy said it.
    assert granted.grant.approvals[left.id] == inputs["left"]
    other = world.post(author, FunctionStatement, **function_fields(name="other")).digest
    fields = task_fields(other, inputs, (author,), worker.facts, NOW)
    task = world.post(author, TaskStatement, **fields).digest
    world.approve(right, task)
    with pytest.raises(NotApproved, match="left"):
        Case(world, left, right, author, worker, inputs, other, task).start()


def test_a_withdrawal_while_the_grant_is_being_logged_wins(case: Case, world: World) -> None:
    world.approve(case.right, case.task)
    approval = world.approve(case.left, case.task)
    run = case.start()
    ticket = world.ticket(run)
    statement = case.left.write(world.desk, WithdrawalStatement, task=case.task, id=approval)
    world.store.gate.clear()
    keys = world.spawn(
        world.monitor.grant(
            case.worker.peer,
            case.worker.facts,
            frozenset({ENVIRONMENT}),
            ticket,
            case.worker.attempt.public,
        )
    )
    withdrawn = world.spawn(world.monitor.submit(case.left.peer, statement.envelope))
    assert not keys.done()
    world.store.gate.set()
    assert world.join_task(withdrawn)[0].index > 0
    with pytest.raises(Conflict, match="stopped"):
        world.join_task(keys)
    assert world.state.run(run).status == "cancelled"


def test_two_workers_with_the_same_ticket_get_one_grant(case: Case, run: str) -> None:
    world, other = case.world, UnitWorker()
    ticket = world.ticket(run)
    world.store.gate.clear()
    both = [
        world.spawn(
            world.monitor.grant(
                worker.peer, worker.facts, frozenset({ENVIRONMENT}), ticket, worker.attempt.public
            )
        )
        for worker in (case.worker, other)
    ]
    world.store.gate.set()
    assert world.join_task(both[0]).grant.attempt == 1
    with pytest.raises(Conflict, match="another worker"):
        world.join_task(both[1])


def test_a_private_functions_key_is_released_with_the_inputs(world: World) -> None:
    left, right, author = world.join("left", "right", "author")
    sealed = seal(b"def f(a): ...")
    wrap = author.upload(world.desk, sealed)
    code = statements.CodeRef(sha256=sealed.digest, size=sealed.size, wrap=wrap)
    fields = function_fields(executor="python", code=code, private=True)
    function = world.post(author, FunctionStatement, **fields).digest
    inputs = {"left": world.dataset(left), "right": world.dataset(right, b"id\n5\n")}
    worker = UnitWorker()
    made = task_fields(function, inputs, (author,), worker.facts, NOW)
    task = world.post(author, TaskStatement, **made).digest
    case = Case(world, left, right, author, worker, inputs, function, task)
    case.approve()
    world.approve(author, task)
    run = case.start()
    world.present(left, right, author)
    granted = world.grant(worker, run)
    assert set(granted.wraps) == {"left", "right", CODE}
    binding = wraps.attempt_input(world.desk.origin, run, granted.grant.fence, CODE, sealed.digest)
    opened(worker.attempt, granted.wraps[CODE], binding)


def test_an_attempt_key_is_a_key() -> None:
    with pytest.raises(KeyRefused):
        attempt_key(b64encode(b"short"))


# -- recovering ----------------------------------------------------------------------------------------


def test_after_a_restart_no_key_leaves_before_all_owners_have_shown_themselves(case: Case, run: str) -> None:
    world = case.world
    before = world.monitor.checkpoint().note
    world.restart()
    assert world.state.epoch == 2
    with pytest.raises(Recovering, match="left, right"):
        world.grant(case.worker, run)
    # A statement with a checkpoint of the former epoch shows nothing, nor does one of somebody else.
    world.post(case.left, PresenceStatement, checkpoint=before)
    world.present(case.scientist)
    with pytest.raises(Recovering, match="left, right"):
        world.grant(case.worker, run)
    world.present(case.right)
    with pytest.raises(Recovering) as caught:
        world.grant(case.worker, run)
    assert "right" not in caught.value.message
    assert world.state.run(run).status == "queued"
    world.present(case.left)
    world.grant(case.worker, run)


def test_after_a_restart_no_result_leaves_before_all_owners_have_shown_themselves(
    case: Case, run: str
) -> None:
    world = case.world
    world.finish(case.worker, world.grant(case.worker, run))
    world.restart()
    size = world.log.size
    with pytest.raises(Recovering):
        world.collect(case.scientist, run)
    assert world.log.size == size
    world.present(case.left, case.right)
    assert set(world.collect(case.scientist, run)) == {"result"}


def test_the_checkpoint_of_the_epochs_own_entry_is_enough_and_one_less_is_not(case: Case) -> None:
    world = case.world
    world.restart()
    index = world.state.epoch_index
    for size, fresh in ((index, False), (index + 1, True)):
        note = world.log.checkpoint(NOW, size).note
        world.post(case.left, PresenceStatement, checkpoint=note)
        assert world.state.fresh(case.left.id) is fresh
