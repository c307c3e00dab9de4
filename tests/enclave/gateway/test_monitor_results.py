"""The receipt and the third permit: what a worker may hand in, and who gets results."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.support.gateway import (
    ENVIRONMENT,
    NOW,
    Case,
    Handed,
    Member,
    MemoryRecords,
    UnitWorker,
    World,
    appraised,
    changed_task,
    make_case,
)

from mesatee._core import HpkeKey, SigningKey
from mesatee.errors import (
    Conflict,
    Denied,
    ForkDetected,
    Halted,
    HostFailed,
    KeyRefused,
    LogCorrupt,
    Malformed,
    NotApproved,
    NotFound,
    PolicyDenied,
    Replayed,
    StateError,
)
from mesatee.protocol import checkpoint as cp
from mesatee.protocol import policy_text, records, wraps
from mesatee.protocol.digests import b64decode, b64encode
from mesatee.protocol.statements import (
    CancelStatement,
    CollectStatement,
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


# -- the receipt ---------------------------------------------------------------------------------------


def test_a_receipt_is_logged_with_both_signatures(case: Case, run: str) -> None:
    world = case.world
    granted = world.grant(case.worker, run)
    handed = case.receipt(granted)
    index = world.hand_in(case.worker, granted, handed)
    found = world.state.run(run)
    assert (found.status, found.receipt, found.failure) == ("finished", index, None)
    outcome = world.record(index).outcome()
    assert isinstance(outcome, records.ReceiptOutcome)
    signers = [item["keyid"] for item in outcome.envelope["signatures"]]
    assert signers == [case.worker.facts.key, world.log.public.hex()]


def test_the_same_receipt_again_is_answered_the_same(case: Case, run: str) -> None:
    world = case.world
    granted = world.grant(case.worker, run)
    handed = case.receipt(granted)
    index, size = world.hand_in(case.worker, granted, handed), world.log.size
    assert world.hand_in(case.worker, granted, handed) == index
    assert world.log.size == size
    with pytest.raises(Conflict, match="finished"):
        world.hand_in(case.worker, granted, case.receipt(granted))


def test_a_second_copy_of_a_receipt_waits_until_the_first_is_durable(case: Case, run: str) -> None:
    """Regression: it was refused as malformed, and the worker gave up."""
    world = case.world
    granted = world.grant(case.worker, run)
    handed = case.receipt(granted)
    world.store.gate.clear()
    both = [
        world.spawn(
            world.monitor.finish(
                case.worker.peer, granted.grant.fence, handed.envelope, handed.wraps, world.keys.log
            )
        )
        for _ in range(2)
    ]
    assert not any(task.done() for task in both)
    world.store.gate.set()
    assert world.join_task(both[0]) == world.join_task(both[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": "log.example/other"},
        {"service": "0a" * 32},
        {"run": "0a" * 32},
        {"task": "0a" * 32},
        {"function": "0a" * 32},
        {"environment": "0a" * 32},
        {"fence": 0},
        {"inputs": {}},
        {"inputs": {"left": "0a" * 32}},
        {"approvals": {}},
        {"policies": {}},
        {"worker": UnitWorker().facts},
        {"appraisals": appraised(UnitWorker(evidence="dd" * 32).facts)},
        {"appraisals": appraised(UnitWorker(level=5).facts)},
        {"appraisals": appraised(UnitWorker(tee="sgx").facts)},
        {"appraisals": appraised(UnitWorker(measurement="cd" * 32).facts)},
        {"appraisals": appraised(UnitWorker(simulated=True).facts)},
        {"outputs": {}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_receipt_says_exactly_what_was_granted(case: Case, run: str, changes: dict[str, Any]) -> None:
    granted = case.world.grant(case.worker, run)
    with pytest.raises(Malformed):
        case.world.hand_in(case.worker, granted, case.receipt(granted, **changes))
    assert case.world.state.run(run).status == "running"


def test_a_receipt_is_signed_by_the_worker_that_holds_the_attempt(case: Case, run: str) -> None:
    world = case.world
    granted = world.grant(case.worker, run)
    with pytest.raises(KeyRefused):
        world.hand_in(case.worker, granted, case.receipt(granted, signer=SigningKey.generate()))
    other = UnitWorker()
    with pytest.raises(NotFound):
        world.hand_in(other, granted, case.receipt(granted))
    with pytest.raises(NotFound):
        world.monitor.renew(other.peer, granted.grant.fence)
    with pytest.raises(NotFound):
        world.monitor.renew(case.worker.peer, granted.grant.fence + 1)
    both = case.receipt(granted).envelope.with_signature(other.key)
    with pytest.raises(Malformed):
        world.hand_in(case.worker, granted, Handed(both, {}, {}))
    not_a_receipt = case.left.write(world.desk, PresenceStatement).envelope
    with pytest.raises(Malformed):
        world.hand_in(case.worker, granted, Handed(not_a_receipt, {}, {}))


@pytest.mark.parametrize(
    "change", ["missing", "extra", "for the worker", "for another fence", "of another file"]
)
def test_every_output_comes_with_a_wrap_that_opens(case: Case, run: str, change: str) -> None:
    world = case.world
    granted = world.grant(case.worker, run)
    handed = case.receipt(granted)
    sealed, origin, fence = handed.files["result"], world.desk.origin, granted.grant.fence

    def wrapped(to: bytes, fence: int, digest: str) -> dict[str, str]:
        binding = wraps.attempt_output(origin, run, fence, "result", digest)
        return {"result": b64encode(sealed.key.wrap(to, binding.info, binding.aad))}

    wrong = {
        "missing": {},
        "extra": {**handed.wraps, "more": handed.wraps["result"]},
        "for the worker": wrapped(case.worker.attempt.public, fence, sealed.digest),
        "for another fence": wrapped(world.desk.sealing_key, fence + 1, sealed.digest),
        "of another file": wrapped(world.desk.sealing_key, fence, "0a" * 32),
    }[change]
    with pytest.raises((Malformed, KeyRefused)):
        world.hand_in(case.worker, granted, Handed(handed.envelope, wrong, {}))
    world.hand_in(case.worker, granted, handed)


@pytest.mark.parametrize("files", [{}, {"result": b"x", "more": b"y"}, {"diagnostics": b"x"}])
def test_a_receipt_names_exactly_the_outputs(case: Case, run: str, files: dict[str, bytes]) -> None:
    granted = case.world.grant(case.worker, run)
    with pytest.raises(Malformed, match="exactly the outputs"):
        case.world.hand_in(case.worker, granted, case.receipt(granted, files=files))


def test_a_failure_leaves_its_code_and_nothing_else(case: Case, run: str) -> None:
    world = case.world
    granted = world.grant(case.worker, run)
    with pytest.raises(Malformed):
        world.hand_in(case.worker, granted, case.receipt(granted, failure="crashed"))
    world.finish(case.worker, granted, {}, failure="crashed")
    found = world.state.run(run)
    assert (found.status, found.failure, found.outputs) == ("failed", "crashed", {})
    with pytest.raises(StateError, match="crashed"):
        world.collect(case.scientist, run)


def test_diagnostics_of_a_failure_go_to_their_approved_receivers(case: Case) -> None:
    world = case.world
    outputs = {"result": (case.scientist.keys,), "diagnostics": (case.left.keys,)}
    fields = changed_task(case, outputs=outputs)
    case.task = world.post(case.scientist, TaskStatement, **fields).digest
    case.approve()
    run = case.start()
    granted = world.grant(case.worker, run)
    world.finish(case.worker, granted, {"diagnostics": b"trace"}, failure="function_raised")
    assert set(world.collect(case.left, run)) == {"diagnostics"}
    with pytest.raises(StateError, match="function_raised"):
        world.collect(case.scientist, run)


@pytest.mark.parametrize("by", ["cancel", "withdrawal"])
def test_a_run_that_is_stopped_hands_in_nothing(case: Case, by: str) -> None:
    world = case.world
    ids = case.approve()
    run = case.start()
    granted = world.grant(case.worker, run)
    if by == "cancel":
        world.post(case.right, CancelStatement, run=run)
    else:
        world.post(case.left, WithdrawalStatement, task=case.task, id=ids["left"])
    assert world.state.run(run).status == "cancelled"
    with pytest.raises(Conflict, match="cancelled"):
        world.monitor.renew(case.worker.peer, granted.grant.fence)
    with pytest.raises(Conflict, match="cancelled"):
        world.finish(case.worker, granted)
    with pytest.raises(StateError):
        world.collect(case.scientist, run)


# -- result release ------------------------------------------------------------------------------------


def test_a_result_goes_to_its_receiver(case: Case, run: str) -> None:
    world = case.world
    handed = world.finish(case.worker, world.grant(case.worker, run))
    size = world.log.size
    (wrap,) = world.collect(case.scientist, run).values()
    assert world.outcomes(size) == ["statement", "release"]
    release = world.record(size + 1).outcome()
    assert isinstance(release, records.ReleaseOutcome)
    assert (release.run, release.to, release.outputs) == (run, case.scientist.id, ("result",))
    digest = handed.files["result"].digest
    binding = wraps.result(world.desk.origin, run, "result", digest, case.scientist.id)
    opened(case.scientist.hpke, wrap, binding)
    with pytest.raises(KeyRefused):
        opened(case.left.hpke, wrap, binding)


def flipped(store: MemoryRecords, index: int) -> None:
    record = store.stored[index]
    store.stored[index] = record._replace(body=record.body[:-1] + bytes([record.body[-1] ^ 1]))


def another(store: MemoryRecords, index: int) -> None:
    store.stored[index] = store.stored[index - 1]


def lost(store: MemoryRecords, index: int) -> None:
    del store.stored[index:]


@pytest.mark.parametrize("harm", [flipped, another, lost])
def test_no_result_leaves_by_a_receipt_that_is_not_the_logged_one(
    case: Case, run: str, harm: Callable[[MemoryRecords, int], None]
) -> None:
    """The wraps of the outputs are not held in memory: what the host gives back in their place opens nothing."""
    world = case.world
    world.finish(case.worker, world.grant(case.worker, run))
    receipt = world.state.run(run).receipt
    assert receipt is not None
    if harm is lost:
        # Once the host has forgotten it no entry can follow, so it is asked for without one.
        harm(world.store, receipt)
        with pytest.raises(LogCorrupt):
            world.monitor._wraps(world.state.run(run))
        return
    harm(world.store, receipt)
    with pytest.raises(LogCorrupt):
        world.collect(case.scientist, run)


def test_nobody_else_collects(case: Case, run: str) -> None:
    world = case.world
    world.finish(case.worker, world.grant(case.worker, run))
    (mallory,) = world.join("mallory")
    size = world.log.size
    for member in (case.left, case.right, mallory):
        with pytest.raises(Denied):
            world.collect(member, run)
    with pytest.raises(NotFound):
        world.collect(case.scientist, "0a" * 32)
    assert world.log.size == size


def test_a_request_for_results_is_answered_once(case: Case, run: str) -> None:
    world = case.world
    world.finish(case.worker, world.grant(case.worker, run))
    statement = case.scientist.write(world.desk, CollectStatement, run=run)
    world.submit(case.scientist, statement)
    with pytest.raises(Replayed):
        world.submit(case.scientist, statement)
    assert world.collect(case.scientist, run)


def test_a_withdrawal_after_the_run_blocks_its_result(case: Case) -> None:
    world = case.world
    ids = case.approve()
    run = case.start()
    world.finish(case.worker, world.grant(case.worker, run))
    world.post(case.left, WithdrawalStatement, task=case.task, id=ids["left"])
    size = world.log.size
    with pytest.raises(NotApproved, match="left"):
        world.collect(case.scientist, run)
    # A new approval is for new runs: what was withdrawn stays withdrawn.
    world.approve(case.left, case.task)
    with pytest.raises(NotApproved, match="left"):
        world.collect(case.scientist, run)
    assert world.log.size == size + 1


def test_a_withdrawal_while_the_release_is_being_logged_wins(case: Case) -> None:
    world = case.world
    ids = case.approve()
    run = case.start()
    world.finish(case.worker, world.grant(case.worker, run))
    collect = case.scientist.write(world.desk, CollectStatement, run=run)
    world.submit(case.scientist, collect)
    assert isinstance(collect.predicate, CollectStatement)
    statement = case.left.write(world.desk, WithdrawalStatement, task=case.task, id=ids["left"])
    world.store.gate.clear()
    keys = world.spawn(world.monitor.release(case.scientist.id, collect.predicate))
    withdrawn = world.spawn(world.monitor.submit(case.left.peer, statement.envelope))
    assert not keys.done()
    world.store.gate.set()
    world.join_task(withdrawn)
    with pytest.raises(NotApproved, match="left"):
        world.join_task(keys)


def forked(world: World) -> str:
    """What the log's own key signed for another log of this size."""
    size, at = world.log.size, world.monitor.now()
    return cp.sign(world.log.origin, size, b"\x01" * 32, at, 1, world.keys.log).note


def proven_meanwhile(world: World, member: Member, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A decision of the monitor that is being committed while the proof of a fork comes in."""
    world.store.gate.clear()
    task = world.spawn(work)
    proof = member.write(world.desk, PresenceStatement, checkpoint=forked(world))
    with pytest.raises(ForkDetected):
        world.run(world.monitor.submit(member.peer, proof.envelope))
    assert not task.done()
    world.store.gate.set()
    return task


def test_nothing_leaves_after_a_proof_of_a_fork(case: Case) -> None:
    world = case.world
    case.approve()
    run = case.start()
    granting = world.monitor.grant(
        case.worker.peer,
        case.worker.facts,
        frozenset({ENVIRONMENT}),
        world.ticket(run),
        case.worker.attempt.public,
    )
    with pytest.raises(Halted):
        world.join_task(proven_meanwhile(world, case.left, granting))


def test_no_result_leaves_after_a_proof_of_a_fork(case: Case, run: str) -> None:
    world = case.world
    world.finish(case.worker, world.grant(case.worker, run))
    collect = case.scientist.write(world.desk, CollectStatement, run=run)
    world.submit(case.scientist, collect)
    assert isinstance(collect.predicate, CollectStatement)
    releasing = world.monitor.release(case.scientist.id, collect.predicate)
    with pytest.raises(Halted):
        world.join_task(proven_meanwhile(world, case.left, releasing))


def test_no_result_leaves_when_its_release_cannot_be_logged(case: Case, run: str) -> None:
    world = case.world
    world.finish(case.worker, world.grant(case.worker, run))
    collect = case.scientist.write(world.desk, CollectStatement, run=run)
    world.submit(case.scientist, collect)
    world.store.error = HostFailed("disk full")
    assert isinstance(collect.predicate, CollectStatement)
    with pytest.raises(HostFailed):
        world.run(world.monitor.release(case.scientist.id, collect.predicate))


def test_a_policy_is_asked_a_third_time(world: World) -> None:
    case = make_case(world, policy=policy_text.dataset(not_after=NOW + 100))
    case.approve()
    run = case.start()
    world.finish(case.worker, world.grant(case.worker, run))
    world.clock += 99
    assert world.collect(case.scientist, run)
    world.clock += 1
    with pytest.raises(PolicyDenied, match="left"):
        world.collect(case.scientist, run)


def test_a_result_still_leaves_after_its_data_was_retired(case: Case, run: str) -> None:
    world = case.world
    world.finish(case.worker, world.grant(case.worker, run))
    world.post(case.left, RetireStatement, target=case.inputs["left"])
    assert world.collect(case.scientist, run)
