"""The monitor on what parties post: whose it is, for whom, when, and only once."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.gateway import (
    NOW,
    Case,
    Member,
    World,
    changed_task,
    function_fields,
    make_case,
    make_keys,
    seal,
)

from mesatee._core import SigningKey
from mesatee.enclave.gateway import rules
from mesatee.enclave.gateway.peer import Peer
from mesatee.errors import (
    Conflict,
    Denied,
    Expired,
    ForkDetected,
    Halted,
    HostFailed,
    KeyRefused,
    Malformed,
    NotApproved,
    NotFound,
    PolicyDenied,
    SignatureInvalid,
)
from mesatee.protocol import checkpoint as cp
from mesatee.protocol import envelope as dsse
from mesatee.protocol import limits, statements
from mesatee.protocol.digests import b64encode
from mesatee.protocol.statements import (
    DatasetStatement,
    FunctionStatement,
    PartyStatement,
    PresenceStatement,
    RunStatement,
    TaskStatement,
)


@pytest.fixture
def alice(world: World) -> Member:
    return world.join("alice")[0]


# -- who and for whom ----------------------------------------------------------------------------------


def test_a_statement_enters_the_log_with_its_time(world: World, alice: Member) -> None:
    accepted = world.post(alice, PresenceStatement)
    record = world.record(accepted.index)
    assert record.kind == "statement"
    assert record.statement().digest == accepted.digest
    assert (record.time, record.source) == (NOW, "parties")
    assert world.log.size == accepted.index + 1


def test_a_statement_is_sent_by_the_party_that_signed_it(world: World, alice: Member) -> None:
    (bob,) = world.join("bob")
    statement = alice.write(world.desk, PresenceStatement)
    with pytest.raises(KeyRefused):
        world.submit(bob, statement)
    worker = Peer("worker", alice.id, b"", None)
    with pytest.raises(KeyRefused):
        world.run(world.monitor.submit(worker, statement.envelope))
    both = statement.envelope.with_signature(bob.signing)
    with pytest.raises(Malformed):
        world.run(world.monitor.submit(alice.peer, both))
    altered = dsse.Envelope(statement.envelope.payload.replace(b'"nonce":"', b'"nonce":"', 1), ())
    with pytest.raises(Malformed):
        world.run(world.monitor.submit(alice.peer, altered))


def test_an_altered_statement_is_refused(world: World, alice: Member) -> None:
    statement = alice.write(world.desk, PresenceStatement)
    payload = statement.envelope.payload.replace(str(NOW).encode(), str(NOW + 1).encode())
    with pytest.raises(SignatureInvalid):
        world.run(world.monitor.submit(alice.peer, dsse.Envelope(payload, statement.envelope.signatures)))


def test_only_the_services_own_kinds_are_not_for_parties(world: World, alice: Member) -> None:
    said = world.keys.service.predicate
    assert isinstance(said, statements.ServiceStatement)
    own = statements.sign(said.model_copy(update={"log_key": alice.id}), alice.signing)
    with pytest.raises(Malformed, match="not for a party"):
        world.submit(alice, own)


@pytest.mark.parametrize("changes", [{"origin": "log.example/other"}, {"service": "0f" * 32}])
def test_a_statement_for_another_service_is_refused(
    world: World, alice: Member, changes: dict[str, Any]
) -> None:
    with pytest.raises(KeyRefused, match="another log or service"):
        world.post(alice, PresenceStatement, **changes)


def test_strangers_may_only_introduce_themselves(world: World) -> None:
    stranger = Member("stranger")
    for kind, fields in (
        (PresenceStatement, {}),
        (FunctionStatement, function_fields()),
        (RunStatement, {"task": "0a" * 32}),
    ):
        with pytest.raises(NotFound):
            world.post(stranger, kind, **fields)
    world.post(stranger, PartyStatement, keys=stranger.keys)
    world.post(stranger, PresenceStatement)


def test_a_name_and_an_identity_belong_to_one_party(world: World, alice: Member) -> None:
    twin = Member("alice")
    with pytest.raises(Conflict, match="taken"):
        world.post(twin, PartyStatement, keys=twin.keys)
    changed = alice.keys.model_copy(update={"hpke": twin.keys.hpke})
    with pytest.raises(Conflict, match="other keys"):
        world.post(alice, PartyStatement, keys=changed)
    with pytest.raises(KeyRefused):
        world.post(twin, PartyStatement, keys=alice.keys)
    # The same once more, with a new checkpoint, is how a party says hello.
    world.post(alice, PartyStatement, keys=alice.keys)


# -- when ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "fits"),
    [
        (limits.CLOCK_SKEW_SECONDS, True),
        (limits.CLOCK_SKEW_SECONDS + 1, False),
        (-limits.STATEMENT_AGE_SECONDS, True),
        (-limits.STATEMENT_AGE_SECONDS - 1, False),
    ],
)
def test_a_statement_is_posted_soon_after_it_was_signed(
    world: World, alice: Member, offset: int, fits: bool
) -> None:
    if fits:
        world.post(alice, PresenceStatement, time=NOW + offset)
    else:
        with pytest.raises(Expired):
            world.post(alice, PresenceStatement, time=NOW + offset)


def test_nobody_pushes_log_time_ahead(world: World, alice: Member) -> None:
    """Regression: each statement could be signed five minutes after log time, which followed it."""
    top = NOW + limits.CLOCK_SKEW_SECONDS
    world.post(alice, PresenceStatement, time=top)
    assert world.state.time == top
    for _ in range(20):
        with pytest.raises(Expired):
            world.post(alice, PresenceStatement, time=world.monitor.now() + 1)
    assert world.monitor.now() == top
    world.post(alice, PresenceStatement, time=NOW)


def test_log_time_never_decreases(world: World, alice: Member) -> None:
    world.clock = NOW + 1_000.0
    world.post(alice, PresenceStatement)
    world.clock = float(NOW)
    accepted = world.post(alice, PresenceStatement)
    assert world.record(accepted.index).time == NOW + 1_000
    assert world.monitor.checkpoint().time == NOW + 1_000
    world.clock = NOW + 1_001.0
    assert world.monitor.now() == NOW + 1_001


def test_time_without_a_recent_statement_is_the_hosts(world: World, alice: Member) -> None:
    world.clock = NOW + limits.CLOCK_SKEW_SECONDS + 10.0
    world.run(world.monitor.denied(alice.peer, "x", "", Denied("no")))
    assert world.record(world.log.size - 1).source == "host"
    world.post(alice, PresenceStatement)
    world.run(world.monitor.denied(alice.peer, "x", "", Denied("no")))
    assert world.record(world.log.size - 1).source == "parties"


# -- only once -----------------------------------------------------------------------------------------


def test_the_same_statement_again_changes_nothing(world: World, alice: Member) -> None:
    statement = alice.write(world.desk, DatasetStatement, **alice.dataset(world.desk, seal(b"x")))
    first = world.submit(alice, statement)
    size = world.log.size
    again = world.submit(alice, statement)
    assert (again.digest, again.index, again.already) == (first.digest, first.index, True)
    assert world.log.size == size
    # Also long after its time is over.
    world.clock += 10 * limits.STATEMENT_AGE_SECONDS
    assert world.submit(alice, statement).already


def test_a_second_copy_waits_until_the_first_is_durable(world: World, alice: Member) -> None:
    """Regression: it was told that the first is in the log while the first could still be lost."""
    statement = alice.write(world.desk, PresenceStatement)
    world.store.gate.clear()
    first = world.spawn(world.monitor.submit(alice.peer, statement.envelope))
    second = world.spawn(world.monitor.submit(alice.peer, statement.envelope))
    assert not first.done()
    assert not second.done()
    world.store.gate.set()
    assert not world.join_task(first)[0].already
    assert world.join_task(second)[0].already


def test_a_second_copy_of_what_was_lost_is_not_told_that_it_is_there(world: World, alice: Member) -> None:
    statement = alice.write(world.desk, PresenceStatement)
    world.store.gate.clear()
    both = [world.spawn(world.monitor.submit(alice.peer, statement.envelope)) for _ in range(2)]
    world.store.error = HostFailed("disk full")
    world.store.gate.set()
    for task in both:
        with pytest.raises(HostFailed):
            world.join_task(task)


def test_nobody_is_told_before_the_log_is_durable(world: World, alice: Member) -> None:
    world.store.gate.clear()
    size = world.log.size
    waiting = world.spawn(
        world.monitor.submit(alice.peer, alice.write(world.desk, PresenceStatement).envelope)
    )
    assert not waiting.done()
    assert world.monitor.checkpoint().size == world.log.size == size
    world.store.gate.set()
    assert world.join_task(waiting)[0].index == size
    assert world.monitor.checkpoint().size == size + 1


# -- checkpoints ---------------------------------------------------------------------------------------


def forged(world: World, **changes: Any) -> str:
    head = world.monitor.checkpoint()
    fields = {"origin": head.origin, "size": head.size, "root": head.root, "time": head.time, "epoch": 1}
    signer = changes.pop("signer", world.keys.log)
    return cp.sign(**{**fields, **changes}, signer=signer).note


def test_a_forged_checkpoint_is_refused_and_stops_nothing(world: World, alice: Member) -> None:
    for note in (
        forged(world, signer=SigningKey.generate(), size=10**6),
        forged(world, origin="log.example/other"),
        world.monitor.checkpoint().note.replace("epoch 1", "epoch 2"),
        "no checkpoint",
    ):
        with pytest.raises((SignatureInvalid, Malformed)):
            world.post(alice, PresenceStatement, checkpoint=note)
    assert world.monitor.halted is None
    world.post(alice, PresenceStatement)


def test_an_earlier_checkpoint_is_a_prefix(world: World, alice: Member) -> None:
    early = world.monitor.checkpoint().note
    world.post(alice, PresenceStatement)
    world.post(alice, PresenceStatement, checkpoint=early)
    empty = world.log.checkpoint(NOW, 0).note
    world.post(alice, PresenceStatement, checkpoint=empty)


@pytest.mark.parametrize("changes", [{"size": 10_000}, {"root": bytes(32)}, {"size": 0}])
def test_a_signed_checkpoint_that_the_log_does_not_extend_halts_everything(
    world: World, changes: dict[str, Any]
) -> None:
    case = make_case(world)
    case.approve()
    run = case.start()
    ticket = world.ticket(run)
    size = world.log.size
    with pytest.raises(ForkDetected):
        world.post(case.left, PresenceStatement, checkpoint=forged(world, **changes))
    assert "does not extend" in (world.monitor.halted or "")
    good = case.left.write(world.desk, PresenceStatement, checkpoint=world.log.checkpoint(NOW).note)
    for act in (
        lambda: world.submit(case.left, good),
        lambda: world.grant(case.worker, run, ticket=ticket),
        lambda: world.monitor.renew(case.worker.peer, 0),
        lambda: world.monitor.checkpoint(),
        lambda: world.monitor.serving(),
        lambda: world.run(world.monitor.begin_epoch("cd" * 32, 2, "cc" * 32)),
    ):
        with pytest.raises(Halted):
            act()
    assert world.monitor.waiting() == []
    world.run(world.monitor.denied(case.left.peer, "x", "", Denied("no")))
    assert world.log.size == size


def test_a_gateway_on_a_rolled_back_log_meets_its_own_future(world: World, alice: Member) -> None:
    world.post(alice, PresenceStatement)
    newest = world.monitor.checkpoint().note
    old = World(world.keys, world.store.rolled_back(world.log.size - 1))
    try:
        with pytest.raises(ForkDetected):
            old.post(alice, PresenceStatement, checkpoint=newest)
        assert old.monitor.halted
    finally:
        old.close()


# -- data, functions, tasks ----------------------------------------------------------------------------


def test_a_ciphertext_has_one_owner(world: World, alice: Member) -> None:
    (bob,) = world.join("bob")
    sealed = seal(b"x")
    world.post(alice, DatasetStatement, **alice.dataset(world.desk, sealed))
    with pytest.raises(KeyRefused, match="another owner"):
        world.post(bob, DatasetStatement, **bob.dataset(world.desk, sealed))
    # Nor with the first owner's wrap.
    stolen = alice.dataset(world.desk, sealed, name="stolen")
    with pytest.raises(KeyRefused):
        world.post(bob, DatasetStatement, **stolen)
    world.post(alice, DatasetStatement, **alice.dataset(world.desk, sealed, name="again"))


@pytest.mark.parametrize("wrap", ["of another blob", "by another owner", "zeros"])
def test_a_dataset_comes_with_its_owners_wrap(world: World, alice: Member, wrap: str) -> None:
    (bob,) = world.join("bob")
    sealed = seal(b"x")
    wrong = {
        "of another blob": alice.upload(world.desk, seal(b"y")),
        "by another owner": bob.upload(world.desk, sealed),
        "zeros": b64encode(bytes(1152)),
    }[wrap]
    with pytest.raises(KeyRefused):
        world.post(alice, DatasetStatement, **alice.dataset(world.desk, sealed, wrap=wrong))
    assert not world.state.datasets


@pytest.mark.parametrize("policy", ["permit(", "permit(principal, action, resource) when { context.x };"])
def test_a_policy_is_valid_before_it_counts(world: World, alice: Member, policy: str) -> None:
    with pytest.raises(Malformed):
        world.dataset(alice, policy=policy)


def test_public_code_is_nobodys_and_private_code_has_one_owner(world: World, alice: Member) -> None:
    """Regression: whoever registered a public function first kept everybody else from naming its code."""
    (bob,) = world.join("bob")
    sealed = seal(b"def f(a): ...")
    public = statements.CodeRef(sha256=sealed.digest, size=sealed.size, wrap=None)
    for member in (alice, bob):
        fields = function_fields(executor="python", code=public)
        world.post(member, FunctionStatement, **fields)

    def private(member: Member) -> dict[str, Any]:
        wrap = member.upload(world.desk, sealed)
        code = statements.CodeRef(sha256=sealed.digest, size=sealed.size, wrap=wrap)
        return function_fields(executor="python", code=code, private=True)

    world.post(alice, FunctionStatement, **private(alice))
    with pytest.raises(KeyRefused, match="another owner"):
        world.post(bob, FunctionStatement, **private(bob))


def test_the_platforms_policy_is_asked_too() -> None:
    world = World(
        make_keys(
            'permit(principal, action == Action::"register", resource) when { context.what == "party" };'
        )
    )
    try:
        (alice,) = world.join("alice")
        with pytest.raises(PolicyDenied):
            world.dataset(alice)
        with pytest.raises(PolicyDenied):
            world.post(alice, FunctionStatement, **function_fields())
    finally:
        world.close()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"function": "0a" * 32}, NotFound),
        ({"inputs": {}}, Malformed),
        ({"inputs": "left only"}, Malformed),
        ({"inputs": "one too many"}, Malformed),
        ({"inputs": "unknown dataset"}, NotFound),
        ({"arguments": {}}, Malformed),
        ({"arguments": {"key": 1}}, Malformed),
        ({"arguments": {"key": "id", "scale": "x"}}, Malformed),
        ({"arguments": {"key": "id", "scale": True}}, Malformed),
        ({"arguments": {"key": None}}, Malformed),
        ({"arguments": {"key": "id", "more": 1}}, Malformed),
        ({"outputs": "unknown output"}, Malformed),
        ({"outputs": "unregistered receiver"}, KeyRefused),
        ({"outputs": "receiver with another key"}, KeyRefused),
        ({"expires": NOW}, Expired),
        ({"expires": NOW + limits.APPROVAL_SECONDS + limits.CLOCK_SKEW_SECONDS + 1}, Malformed),
    ],
)
def test_a_task_fits_its_function_data_and_receivers(
    case: Case, changes: dict[str, Any], error: type[Exception]
) -> None:
    stranger = Member("stranger")
    swapped = case.scientist.keys.model_copy(update={"hpke": stranger.keys.hpke})
    named: dict[Any, Any] = {
        "left only": {"left": case.inputs["left"]},
        "one too many": {**case.inputs, "more": case.inputs["left"]},
        "unknown dataset": {**case.inputs, "left": "0a" * 32},
        "unknown output": {"other": (case.scientist.keys,)},
        "unregistered receiver": {"result": (stranger.keys,)},
        "receiver with another key": {"result": (swapped,)},
    }
    given = {
        name: named[value] if isinstance(value, str) and value in named else value
        for name, value in changes.items()
    }
    with pytest.raises(error):
        case.world.post(case.scientist, TaskStatement, **changed_task(case, **given))


def test_optional_arguments_and_diagnostics(case: Case) -> None:
    keys = (case.scientist.keys,)
    for changes in (
        {"arguments": {"key": "id", "scale": 2}},
        {"arguments": {"key": "id", "scale": None}},
        {"outputs": {"result": keys, "diagnostics": keys}},
        {"expires": NOW + limits.APPROVAL_SECONDS + limits.CLOCK_SKEW_SECONDS},
    ):
        case.world.post(case.scientist, TaskStatement, **changed_task(case, **changes))


def test_as_many_parties_as_allowed_and_one_more(world: World) -> None:
    case = make_case(world)
    members = [case.scientist, *world.join(*(f"p{number}" for number in range(limits.PARTIES_PER_TASK)))]
    room = limits.PARTIES_PER_TASK - 2

    held = world.state.task(case.task)

    def check(count: int) -> None:
        # Full keys of so many receivers do not fit one statement, so the rule is asked directly.
        outputs = {"result": tuple(member.keys for member in members[:count])}
        predicate = held.predicate.model_copy(update={"outputs": outputs})
        rules.task(world.state, case.scientist.id, predicate, NOW)

    check(room)
    with pytest.raises(Malformed, match="at most"):
        check(room + 1)


# -- denials -----------------------------------------------------------------------------------------


def test_a_denial_is_logged_without_values_of_the_request(world: World, alice: Member) -> None:
    size = world.log.size
    world.run(world.monitor.denied(alice.peer, "post_statement" * 9, "s" * 99, NotApproved("secret text")))
    record = world.record(size)
    assert record.kind == "denied"
    assert b"secret" not in record.to_bytes()
    assert record.body["by"] == alice.id
    assert record.body["code"] == "not_approved"
    assert world.state.denied == 1
    # What could not be decided is no denial.
    for error in (HostFailed("x"), Halted("x")):
        world.run(world.monitor.denied(alice.peer, "x", "", error))
    assert world.log.size == size + 1
