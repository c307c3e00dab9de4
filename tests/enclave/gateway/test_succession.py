"""A service's keys pass to another gateway: by hand-over, or from the holders of shares."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support.gateway import MemoryRecords, World
from tests.support.live import Live, measured
from tests.support.succession import Holders, Machine, changed_code, rules, second

from mesatee._core import HpkeKey, SigningKey
from mesatee.enclave import faults, handover
from mesatee.enclave.gateway import succession
from mesatee.enclave.gateway.forks import ForkProofs
from mesatee.enclave.gateway.identity import ServiceKeys, hand_over_key, read_statement
from mesatee.enclave.gateway.tenure import Received, Tenure, tenure
from mesatee.enclave.platform.none import NoAttester
from mesatee.enclave.platform.sealing import Sealing
from mesatee.enclave.platform.software import SoftwareAttester
from mesatee.errors import (
    Conflict,
    Denied,
    EvidenceRefused,
    Expired,
    Halted,
    HostFailed,
    KeyRefused,
    LevelTooLow,
    Malformed,
    MesateeError,
    Replayed,
    StateError,
)
from mesatee.protocol import limits, records, statements, wire
from mesatee.protocol.digests import b64decode, b64encode
from mesatee.protocol.model import Model
from mesatee.protocol.recovery import RecoveryRequest, RecoveryShare, parse


@pytest.fixture
def live(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Live]:
    """A service whose statement allows a hand-over, or what the test's parameter says."""
    make: Callable[[str], Any] = getattr(request, "param", rules)
    found = Live(tmp_path, hand_over=make)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "second", second())


def outcomes(live: Live, kind: type[records.Outcome]) -> list[records.Outcome]:
    found = []
    for index in range(live.gateway.log.size):
        record = live.gateway.log.prove(index).read()
        if record.kind == kind.kind:
            found.append(record.outcome())
    return found


# -- hand-over ------------------------------------------------------------------------------------------


def test_a_peer_that_the_statement_names_receives_the_keys_and_continues_the_log(
    live: Live, machine: Machine
) -> None:
    ana = live.member("ana")
    before = live.checkpoint()
    received = machine.receive(live)
    assert received.service.digest == live.keys.service.digest
    assert received.log.public == live.keys.log.public
    (logged,) = outcomes(live, records.HandOverOutcome)
    assert isinstance(logged, records.HandOverOutcome)
    assert received.received is not None
    assert logged.successor == received.received.successor
    assert logged.peer.level == 2
    assert logged.peer.measurement == second().measurement
    # The predecessor serves nobody any more, not even after a restart.
    with pytest.raises(Halted, match="handed over"):
        ana.post(statements.PresenceStatement)
    live.stop()
    live_size = live.gateway.log.size
    keys = machine.open(live)
    assert keys.received == received.received
    successor = machine.gateway(live, keys)
    assert successor.monitor.ended is None
    assert successor.log.size == live_size
    successor.log.begin(successor.monitor.state.epoch + 1)

    async def begin() -> None:
        await successor.monitor.begin_epoch("cd" * 32, 2, "cc" * 32)

    asyncio.run(begin())
    head = successor.monitor.checkpoint()
    assert head.epoch == before.epoch + 1
    assert head.size == live_size + 1
    successor.log.close()
    live.start()
    with pytest.raises(Halted, match="handed over"):
        live.client(SigningKey.generate()).call("GET", "/v1/service")


def test_the_predecessor_gives_no_checkpoint_and_logs_no_more(live: Live, machine: Machine) -> None:
    machine.receive(live)
    size = live.gateway.log.size
    for path in ("/v1/log/checkpoint", "/v1/service", "/v1/parties"):
        assert live.reader.send("GET", path).status_code == 503
    assert live.gateway.log.next_index == size


def test_who_lost_the_answer_gets_it_again_and_nobody_else(
    live: Live, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise OSError("the power went")

    with monkeypatch.context() as broken:
        broken.setattr(succession, "adopt", lost)
        with pytest.raises(OSError):
            machine.receive(live)
    # Without the keys it founds no service by mistake.
    with pytest.raises(StateError, match="has not received"):
        machine.open(live)
    other = Machine(tmp_path / "third", second())
    with pytest.raises(Halted, match="handed over"):
        other.receive(live)
    assert machine.receive(live).log.public == live.keys.log.public
    assert len(outcomes(live, records.HandOverOutcome)) == 1


HAND_OVER = ("handover.decided", "handover.logged", "handover.wrapped")
SUCCESSOR = ("succession.opened", "succession.prepared", "succession.sealed", "succession.adopted")
SEALED = SUCCESSOR[2:]
"""From here on the service is on the second machine."""


@contextlib.contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, point: str) -> Iterator[list[str]]:
    """Whoever comes to this fault point gets no further; the points that were passed."""
    passed: list[str] = []

    def stop(name: str) -> None:
        passed.append(name)
        if name == point:
            raise RuntimeError(point)

    with monkeypatch.context() as broken:
        broken.setattr(faults, "point", stop)
        yield passed


@pytest.mark.parametrize("point", [*HAND_OVER, *SUCCESSOR])
def test_a_hand_over_that_was_interrupted_is_repeated(
    live: Live, machine: Machine, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    with interrupted(monkeypatch, point) as passed, pytest.raises((RuntimeError, MesateeError)):
        machine.receive(live)
    assert point in passed
    if point in SEALED:
        with pytest.raises(Conflict):
            machine.receive(live)
    else:
        # Without the keys it founds no service by mistake.
        with pytest.raises(StateError, match="has not received"):
            machine.open(live)
        machine.receive(live)
    assert machine.open(live).log.public == live.keys.log.public
    assert read_statement(machine.folder / "service.json", "service") == live.keys.service
    assert len(outcomes(live, records.HandOverOutcome)) == 1


@pytest.mark.parametrize("live", [lambda mine: "never"], indirect=True)
def test_by_default_nobody_receives_keys(live: Live, machine: Machine) -> None:
    with pytest.raises(MesateeError):
        machine.receive(live)
    assert not outcomes(live, records.HandOverOutcome)
    live.member("ana")


def test_a_peer_of_another_measurement_is_refused_and_logged(live: Live, machine: Machine) -> None:
    machine.attester = second(changed_code())
    with pytest.raises(Denied, match="measurement"):
        machine.receive(live)
    denied = outcomes(live, records.DeniedOutcome)
    assert [one.action for one in denied if isinstance(one, records.DeniedOutcome)] == ["hand_over"]
    assert not outcomes(live, records.HandOverOutcome)
    live.member("ana")


@pytest.mark.parametrize("live", [lambda mine: rules(min_level=3)], indirect=True)
def test_a_peer_of_a_lower_level_is_refused(live: Live, machine: Machine) -> None:
    with pytest.raises(LevelTooLow):
        machine.receive(live)
    machine.attester = NoAttester({})
    with pytest.raises(MesateeError):
        machine.receive(live)
    assert not outcomes(live, records.HandOverOutcome)


def test_a_peer_on_an_unknown_installation_is_refused_in_the_handshake(live: Live, machine: Machine) -> None:
    machine.attester = SoftwareAttester(SigningKey.generate(), measured())
    with pytest.raises(MesateeError):
        machine.receive(live)
    assert not outcomes(live, records.HandOverOutcome)


def test_a_peer_of_another_service_is_refused(live: Live, machine: Machine) -> None:
    with pytest.raises(MesateeError):
        machine.receive(live, "ab" * 32)
    assert not outcomes(live, records.HandOverOutcome)


def test_a_worker_and_a_party_are_refused(live: Live) -> None:
    body = {"key": b64encode(HpkeKey.generate().public)}
    with pytest.raises(KeyRefused, match="attested gateway"):
        live.member("ana").client.call("POST", "/v1/service/handover", json=body)
    worker = live.worker()
    with pytest.raises(KeyRefused, match="attested gateway"):
        worker._call("POST", "/v1/service/handover", Model, body)


def test_a_replayed_request_is_refused(
    live: Live, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another attested gateway sends the first one's request: its evidence does not vouch for that key."""
    captured = hand_over_key(machine.sealing).public
    other = Machine(tmp_path / "third", second())
    claims = succession.claims_of

    def own_claims(key: SigningKey, service: str, to: bytes) -> Any:
        return claims(key, service, HpkeKey.generate().public)

    monkeypatch.setattr(handover, "claims_of", own_claims)
    with pytest.raises(EvidenceRefused, match="vouch"):
        other.ask(live, live.keys.service.digest, captured)
    assert not outcomes(live, records.HandOverOutcome)


def test_a_replayed_answer_opens_for_nobody_else(live: Live, machine: Machine, tmp_path: Path) -> None:
    to = hand_over_key(machine.sealing)
    service = live.keys.service.digest
    reply = machine.ask(live, service, to.public)
    other = Machine(tmp_path / "third", second())
    for changed, taker in (
        (reply, other),
        (reply.model_copy(update={"index": reply.index + 1}), machine),
        (reply.model_copy(update={"wraps": {**reply.wraps, "log": reply.wraps["sealing"]}}), machine),
        (reply.model_copy(update={"wraps": {**reply.wraps, "body": reply.wraps["tickets"]}}), machine),
        (reply.model_copy(update={"wraps": {"log": reply.wraps["log"]}}), machine),
    ):
        answer = cast(wire.HandOverReply, changed)
        with pytest.raises((KeyRefused, Malformed)):
            succession.receive(taker.folder, taker.sealing, service, lambda _, it=answer: it)
    assert not (machine.folder / "service.json").exists()


def test_a_predecessor_on_an_older_log_stays_stopped(live: Live, machine: Machine, tmp_path: Path) -> None:
    """The host gives it back the storage from before the hand-over."""
    live.member("ana")
    live.stop()
    shutil.copytree(tmp_path / "host", tmp_path / "before")
    live.start()
    machine.receive(live)
    live.rehost(tmp_path / "before")
    size = live.gateway.log.size
    assert "rolled back" in str(live.gateway.monitor.ended)
    with pytest.raises(Halted):
        live.member("ben")
    assert live.gateway.log.size == size


def test_keys_leave_only_when_the_end_is_kept(
    live: Live, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space is left")

    with monkeypatch.context() as broken:
        broken.setattr(ForkProofs, "keep", full)
        with pytest.raises(HostFailed, match="cannot be written"):
            machine.receive(live)
    forks = ForkProofs(live.folder / "enclave")
    assert forks.read() == ()
    # It is logged, so the same one gets the keys when the folder can be written again; and the proof is one.
    assert len(outcomes(live, records.HandOverOutcome)) == 1
    assert machine.receive(live).log.public == live.keys.log.public
    assert len(forks.read()) == 1


def test_a_folder_with_a_service_receives_no_other(live: Live) -> None:
    folder = live.folder / "enclave"
    sealing = Sealing(folder, live.attester.measurement, live.attester.fingerprint)
    with pytest.raises(Conflict):
        hand_over_key(sealing)
    with pytest.raises(Conflict):
        succession.ask_holders(sealing, second(), "ab" * 32, 0)


# -- shares ---------------------------------------------------------------------------------------------


@pytest.fixture
def holders(tmp_path: Path) -> Holders:
    return Holders(tmp_path)


def test_any_k_holders_recover_the_keys(holders: Holders) -> None:
    found = holders.recover(holders.share(2), holders.share(0))
    assert found.log.public == holders.keys.log.public
    assert found.sealing.public == holders.keys.sealing.public
    assert found.body.open(holders.keys.body.seal(b"x", b"y"), b"y") == b"x"
    assert found.received is not None
    assert found.received.holders == tuple(sorted((holders.ids[0], holders.ids[2])))
    assert found.received.shares == holders.recovery.digest
    # It takes up the log, which says so, and goes on with it at the next start.
    for _ in range(2):
        world = World(found, holders.store)
        (logged,) = [
            world.record(at).outcome() for at, kind in enumerate(world.outcomes()) if kind == "recovered"
        ]
        world.close()
    assert logged == records.RecoveredOutcome(**found.received.model_dump())
    # Whose machine was not lost after all decides nothing any more.
    assert holders.tenure_of(holders.keys) is Tenure.PASSED


def test_a_set_of_shares_is_in_the_log_before_it_exists(holders: Holders) -> None:
    assert holders.shared == ["epoch", "shares"]
    world = World(holders.keys, MemoryRecords())
    try:
        # As long as the entry is not durable, nobody has the set.
        world.store.gate.clear()
        made = world.spawn(world.monitor.shares())
        assert not made.done()
        world.store.gate.set()
        found = world.join_task(made)
        assert found is not None
        assert world.state.shares == found.digest
        assert world.outcomes() == ["epoch", "shares"]
    finally:
        world.close()


def test_a_service_has_one_set_of_shares_however_often_it_starts(holders: Holders) -> None:
    for number in (1, 2):
        again, kinds = holders.shares()
        assert again == holders.recovery
        assert kinds == ["epoch", "shares", *["epoch"] * number]
    # Nothing of it concerns anybody but the holders.
    world = World(holders.keys, holders.store)
    assert world.state.audience(world.record(1)) == frozenset(holders.ids)
    world.close()


def test_a_set_of_shares_that_the_log_does_not_name_takes_up_nothing(holders: Holders) -> None:
    """A set that was made on a log which the host has thrown away."""
    other, _ = holders.shares(MemoryRecords())
    assert other.digest != holders.recovery.digest
    found = holders.recover(
        holders.share(0, recovery=other), holders.share(1, recovery=other), recovery=other
    )
    size = len(holders.store.stored)
    for _ in range(2):
        with pytest.raises(Denied, match="does not name the set"):
            World(found, holders.store)
    assert len(holders.store.stored) == size


def test_a_file_of_holders_takes_over_nothing(live: Live, machine: Machine) -> None:
    """Somebody else than the keys' giver says how they were received: a file beside them, or the log."""
    machine.receive(live)
    live.stop()
    (machine.folder / "recovered-by.txt").write_text("\n".join(["aa" * 32, "bb" * 32]))
    keys = machine.open(live)
    assert keys.received is not None
    assert keys.received.holders == ()
    for received, message in (
        # A log from before the hand-over, and every claim that the host could want to make.
        (keys.received, None),
        (Received(successor=keys.received.successor, holders=("aa" * 32, "bb" * 32)), "no share holders"),
    ):
        store = MemoryRecords()
        if message is None:
            world = World(replace(keys, received=None), store)
            world.close()
            assert tenure(world.state, received) is Tenure.PASSED
        else:
            with pytest.raises(Denied, match=message):
                World(replace(keys, received=received), store)
            assert not store.stored


@pytest.mark.parametrize("point", SUCCESSOR)
def test_a_recovery_that_was_interrupted_is_repeated(
    holders: Holders, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    folder, shares = holders.machine.folder, (holders.share(2), holders.share(0))
    with interrupted(monkeypatch, point) as passed, pytest.raises(RuntimeError):
        holders.recover(*shares)
    assert point in passed
    if point in SEALED:
        with pytest.raises(Conflict):
            holders.recover(*shares)
    else:
        assert not holders.machine.sealing.has("service")
        holders.recover(*shares)
    # A set that was not kept would be replaced by another at the next start.
    assert read_statement(folder / "recovery.json", "recovery") == holders.recovery


def test_what_must_be_there_before_the_service_is(holders: Holders) -> None:
    def prepare(keys: ServiceKeys) -> None:
        assert keys.service == holders.keys.service
        assert not holders.machine.sealing.has("service")
        raise OSError("the disk is full")

    machine, shares = holders.machine, (holders.share(0), holders.share(1))
    with pytest.raises(OSError):
        succession.recover(
            machine.folder,
            machine.sealing,
            holders.keys.service,
            holders.recovery,
            shares,
            int(time.time()),
            prepare,
        )
    assert holders.recover(*shares).log.public == holders.keys.log.public


def test_fewer_than_k_recover_nothing(holders: Holders) -> None:
    with pytest.raises(Denied, match="2 shares are needed, 1"):
        holders.recover(holders.share(0))
    assert not (holders.machine.folder / "service.json").exists()


def test_the_same_share_twice_is_refused_by_name(holders: Holders) -> None:
    with pytest.raises(Conflict, match=holders.ids[1][:16]):
        holders.recover(holders.share(1), holders.share(1))


def test_a_share_of_another_set_is_stale(holders: Holders, tmp_path: Path) -> None:
    again, _ = holders.shares(MemoryRecords())
    assert again.digest != holders.recovery.digest
    old = holders.share(0)
    with pytest.raises(Replayed, match="stale"):
        holders.recover(old, holders.share(1, recovery=again), recovery=again)
    # Who says that it is of the new set does not get further.
    said = statements.expect(again.predicate, statements.RecoveryStatement)
    with pytest.raises(KeyRefused):
        holders.recover(old.model_copy(update={"set": said.set}), holders.share(1), recovery=again)


@pytest.mark.parametrize("at", [0, 1_119, 1_120, -1])
def test_a_tampered_share_is_refused_by_name(holders: Holders, at: int) -> None:
    share = holders.share(0)
    data = bytearray(b64decode(share.wrap, max_bytes=2_048))
    data[at] ^= 1
    bad = share.model_copy(update={"wrap": b64encode(bytes(data))})
    with pytest.raises(KeyRefused, match=holders.ids[0][:16]):
        holders.recover(bad, holders.share(1))


def test_a_holder_cannot_stand_in_for_another(holders: Holders) -> None:
    share = holders.share(0)
    for who in (holders.ids[1], "ff" * 32):
        with pytest.raises(KeyRefused, match=who[:16]):
            holders.recover(share.model_copy(update={"holder": who}), holders.share(2))
    holders.age[0] = holders.age[1]
    with pytest.raises(KeyRefused):
        holders.share(0)


def test_a_share_for_another_gateway_does_not_open(holders: Holders, tmp_path: Path) -> None:
    other = holders.ask(Machine(tmp_path / "third", second()))
    share = holders.share(0, other)
    with pytest.raises(Replayed, match="another request"):
        holders.recover(share, holders.share(1))
    with pytest.raises(KeyRefused, match="does not open"):
        holders.recover(share.model_copy(update={"request": holders.request.digest}), holders.share(1))


def test_a_share_counts_for_its_request_alone(holders: Holders) -> None:
    """A recovery is called off, and another one begins on the same machine."""
    early = holders.share(0)
    again = holders.ask(holders.machine)
    assert again.key != holders.request.key
    with pytest.raises(Replayed, match=holders.ids[0][:16]):
        holders.recover(early, holders.share(1, again))
    # Not even if the share says that it is for the new one, or if the request is made to look like it.
    for said in (
        early.model_copy(update={"request": again.digest}),
        holders.share(0, again.model_copy(update={"expires": again.expires - 1})),
    ):
        with pytest.raises((Replayed, KeyRefused)):
            holders.recover(said, holders.share(1, again))
    assert holders.recover(holders.share(0, again), holders.share(1, again)).received


def test_a_request_expires(holders: Holders) -> None:
    request = holders.request
    made = request.expires - limits.RECOVERY_SECONDS
    given = [holders.share(at, now=request.expires - 1) for at in (0, 1)]
    for late in (request.expires, request.expires + 86_400 * 366):
        with pytest.raises(Expired):
            holders.share(0, now=late)
        with pytest.raises(Expired):
            holders.recover(*given, now=late)
    # None ends later than a request may.
    latest = request.model_copy(update={"expires": request.expires + limits.CLOCK_SKEW_SECONDS})
    holders.share(0, latest, now=made)
    with pytest.raises(Expired):
        holders.share(0, latest.model_copy(update={"expires": latest.expires + 1}), now=made)
    assert holders.recover(*given, now=request.expires - 1).received


def test_nobody_recovers_who_has_not_asked_or_has_asked_for_something_else(
    holders: Holders, tmp_path: Path
) -> None:
    shares = [holders.share(0), holders.share(1)]
    holders.machine = Machine(tmp_path / "third", second())
    with pytest.raises(StateError, match="not asked"):
        holders.recover(*shares)
    succession.ask_holders(holders.machine.sealing, second(), "ab" * 32, int(time.time()))
    with pytest.raises(Replayed, match="another service"):
        holders.recover(*shares)
    # A hand-over that was begun is not forgotten for a recovery: its answer may be on the way.
    holders.machine = Machine(tmp_path / "fourth", second())
    key = hand_over_key(holders.machine.sealing).public
    with pytest.raises(Conflict, match="hand-over"):
        holders.ask(holders.machine)
    with pytest.raises(StateError, match="not asked"):
        holders.recover(*shares)
    assert hand_over_key(holders.machine.sealing).public == key


def test_holders_give_nothing_to_a_gateway_that_they_do_not_trust(holders: Holders, tmp_path: Path) -> None:
    wrong = Machine(tmp_path / "third", second(changed_code()))
    with pytest.raises(MesateeError):
        holders.share(0, holders.ask(wrong))
    key = b64encode(HpkeKey.generate().public)
    with pytest.raises(EvidenceRefused, match="vouch"):
        holders.share(0, holders.request.model_copy(update={"key": key}))
    with pytest.raises(Replayed):
        holders.share(0, holders.request.model_copy(update={"service": "ab" * 32}))


def test_shares_of_a_service_without_holders_are_refused(holders: Holders) -> None:
    """Somebody who has the log key's signature on a set still needs the service statement's rule."""
    said = statements.expect(holders.keys.service.predicate, statements.ServiceStatement)
    off = statements.sign(said.model_copy(update={"share_holders": ()}), holders.keys.log)
    found = statements.expect(holders.recovery.predicate, statements.RecoveryStatement)
    moved = statements.sign(found.model_copy(update={"service": off.digest}), holders.keys.log)
    with pytest.raises(Denied, match="no share holders"):
        succession.recover(holders.machine.folder, holders.machine.sealing, off, moved, (), 0)
    with pytest.raises(Denied, match="no share holders"):
        holders.share(0, service=off, recovery=moved)
    world = World()
    assert world.run(world.monitor.shares()) is None
    assert world.outcomes() == ["epoch"]
    world.close()


def test_a_set_signed_by_another_is_refused(holders: Holders) -> None:
    forged = statements.sign(holders.recovery.predicate, SigningKey.generate())
    with pytest.raises(KeyRefused, match="another service"):
        holders.recover(holders.share(0), holders.share(1), recovery=forged)


def test_messages_round_trip(holders: Holders) -> None:
    share = holders.share(0)
    assert parse(RecoveryShare, share.to_bytes()) == share
    assert parse(RecoveryRequest, holders.request.to_bytes()) == holders.request
    with pytest.raises(Malformed):
        parse(RecoveryShare, holders.request.to_bytes())
