"""A service's keys pass to another gateway: by hand-over, or from the holders of shares."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support.gateway import ORIGIN
from tests.support.live import Live, measured

from mesatee._core import AgeKey, HpkeKey, SigningKey
from mesatee.attestation.tee.software import Components
from mesatee.attestation.trust import GatewayTrust, TrustPolicy
from mesatee.enclave import faults, handover
from mesatee.enclave.gateway import succession
from mesatee.enclave.gateway.forks import ForkProofs
from mesatee.enclave.gateway.gateway import Gateway, GatewayConfig
from mesatee.enclave.gateway.identity import ServiceKeys, open_service, read_statement, successor_key
from mesatee.enclave.platform.measure import Measurement
from mesatee.enclave.platform.none import NoAttester
from mesatee.enclave.platform.sealing import Sealing
from mesatee.enclave.platform.software import SoftwareAttester
from mesatee.errors import (
    Conflict,
    Denied,
    EvidenceRefused,
    Halted,
    KeyRefused,
    LevelTooLow,
    Malformed,
    MesateeError,
    Replayed,
    StateError,
)
from mesatee.party.recovery import give_share
from mesatee.protocol import records, statements, wire
from mesatee.protocol.digests import b64decode, b64encode
from mesatee.protocol.model import Model
from mesatee.protocol.recovery import RecoveryRequest, RecoveryShare, parse
from mesatee.protocol.service import HandOver, ShareHolder, ShareRule

OTHER = SigningKey.generate()
"""The installation key of the second machine."""


def changed_code() -> Measurement:
    """This installation with other code."""
    found = measured().components
    return replace(measured(), components=Components("ee" * 32, found.interpreter, found.libraries, {}))


def second(measurement: Measurement | None = None) -> SoftwareAttester:
    """The attester of the second machine."""
    return SoftwareAttester(OTHER, measurement or measured())


def rules(mine: str = "", **changes: Any) -> HandOver:
    """The second machine may receive the keys, with this code."""
    attester = second()
    trust = TrustPolicy(
        gateway=GatewayTrust(
            tees=("software",),
            minimum_level=2,
            # What the evidence may say; what may receive stands in the rule.
            measurements=(attester.measurement, second(changed_code()).measurement),
            installation_keys=(attester.fingerprint,),
        )
    )
    fields = {
        "min_level": 2,
        "tees": ("software",),
        "measurements": (attester.measurement,),
        "allow_simulated": False,
        "trust": trust.to_toml(),
    }
    return HandOver(**{**fields, **changes})


@pytest.fixture
def live(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Live]:
    """A service whose statement allows a hand-over, or what the test's parameter says."""
    make: Callable[[str], Any] = getattr(request, "param", rules)
    found = Live(tmp_path, hand_over=make)
    try:
        yield found
    finally:
        found.close()


@dataclass
class Machine:
    """Another machine, empty."""

    folder: Path
    attester: Any

    @property
    def sealing(self) -> Sealing:
        return Sealing(self.folder, "ab" * 32, "cd" * 32)

    def receive(self, live: Live, service: str | None = None) -> ServiceKeys:
        digest = service or live.keys.service.digest
        return succession.receive(self.folder, self.sealing, digest, lambda to: self.ask(live, digest, to))

    def ask(self, live: Live, service: str, to: bytes) -> wire.HandOverReply:
        return handover.ask(self.attester, ("127.0.0.1", live.gateway.port), live.trust, service, to)

    def open(self, live: Live) -> ServiceKeys:
        """The keys as a later start finds them."""
        said = statements.expect(live.keys.service.predicate, statements.ServiceStatement)
        return open_service(
            self.folder,
            self.sealing,
            ORIGIN,
            said.platform_policy,
            said.worker_trust,
            0,
            hand_over=said.hand_over,
            share_holders=said.share_holders,
        )

    def gateway(self, live: Live, keys: ServiceKeys) -> Gateway:
        doors = live.doors
        forks = ForkProofs(self.folder)
        return Gateway(GatewayConfig(), keys, self.attester, doors.records, doors.queue, doors.blobs, forks)


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
    assert logged.successor == received.successor
    assert logged.peer.level == 2
    assert logged.peer.measurement == second().measurement
    # The predecessor serves nobody any more, not even after a restart.
    with pytest.raises(Halted, match="handed over"):
        ana.post(statements.PresenceStatement)
    live.stop()
    live_size = live.gateway.log.size
    keys = machine.open(live)
    assert keys.successor == received.successor
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
SUCCESSOR = ("succession.opened", "succession.sealed", "succession.adopted")


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
    if point == "succession.adopted":
        with pytest.raises(Conflict):
            machine.receive(live)
    else:
        assert not (machine.folder / "service.json").exists()
        machine.receive(live)
    assert machine.open(live).log.public == live.keys.log.public
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
    captured = successor_key(machine.folder, machine.sealing).public
    other = Machine(tmp_path / "third", second())
    claims = succession.claims_of

    def own_claims(key: SigningKey, service: str, to: bytes) -> Any:
        return claims(key, service, HpkeKey.generate().public)

    monkeypatch.setattr(handover, "claims_of", own_claims)
    with pytest.raises(EvidenceRefused, match="vouch"):
        other.ask(live, live.keys.service.digest, captured)
    assert not outcomes(live, records.HandOverOutcome)


def test_a_replayed_answer_opens_for_nobody_else(live: Live, machine: Machine, tmp_path: Path) -> None:
    to = successor_key(machine.folder, machine.sealing)
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


def test_a_folder_with_a_service_receives_no_other(live: Live) -> None:
    folder = live.folder / "enclave"
    sealing = Sealing(folder, live.attester.measurement, live.attester.fingerprint)
    with pytest.raises(Conflict):
        successor_key(folder, sealing)


# -- shares ---------------------------------------------------------------------------------------------


class Holders:
    """A service shared 2 of 3, and its holders."""

    def __init__(self, folder: Path, hand_over: Any = "never") -> None:
        self.age = [AgeKey.generate() for _ in range(3)]
        self.ids = [secrets.token_hex(32) for _ in range(3)]
        self.rule = ShareRule(
            k=2,
            holders=tuple(
                ShareHolder(key=who, age=key.recipient) for who, key in zip(self.ids, self.age, strict=True)
            ),
        )
        self.folder = folder / "first"
        self.keys = open_service(
            self.folder,
            Sealing(self.folder, "ab" * 32, "cd" * 32),
            ORIGIN,
            "permit (principal, action, resource);",
            TrustPolicy().to_toml(),
            0,
            share_holders=self.rule,
        )
        made = succession.share_keys(self.folder, self.keys, 0)
        assert made is not None
        self.recovery = made
        self.machine = Machine(folder / "second", second())
        self.request = self.ask(self.machine)
        attester = second()
        self.trust = TrustPolicy(
            gateway=GatewayTrust(
                tees=("software",),
                minimum_level=2,
                measurements=(attester.measurement,),
                installation_keys=(attester.fingerprint,),
                service=(self.keys.service.digest,),
            )
        )

    def ask(self, machine: Machine) -> RecoveryRequest:
        digest = self.keys.service.digest
        return succession.ask_holders(machine.folder, machine.sealing, machine.attester, digest)

    def share(self, at: int, request: RecoveryRequest | None = None, **changes: Any) -> RecoveryShare:
        recovery = changes.get("recovery", self.recovery)
        asked = request or self.request
        return give_share(recovery, asked, self.ids[at], self.age[at], self.trust, int(time.time()))

    def recover(self, *shares: RecoveryShare, recovery: statements.Statement | None = None) -> ServiceKeys:
        machine = self.machine
        return succession.recover(
            machine.folder, machine.sealing, self.keys.service, recovery or self.recovery, shares
        )


@pytest.fixture
def holders(tmp_path: Path) -> Holders:
    return Holders(tmp_path)


def test_any_k_holders_recover_the_keys(holders: Holders) -> None:
    found = holders.recover(holders.share(2), holders.share(0))
    assert found.log.public == holders.keys.log.public
    assert found.sealing.public == holders.keys.sealing.public
    assert found.body.open(holders.keys.body.seal(b"x", b"y"), b"y") == b"x"
    assert found.recovered_by == tuple(sorted((holders.ids[0], holders.ids[2])))
    # The same set again: it is made once.
    assert succession.share_keys(holders.folder, holders.keys, 9) == holders.recovery


@pytest.mark.parametrize("point", SUCCESSOR)
def test_a_recovery_that_was_interrupted_is_repeated(
    holders: Holders, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    folder, shares = holders.machine.folder, (holders.share(2), holders.share(0))
    with interrupted(monkeypatch, point) as passed, pytest.raises(RuntimeError):
        holders.recover(*shares)
    assert point in passed
    if point == "succession.adopted":
        with pytest.raises(Conflict):
            holders.recover(*shares)
    else:
        assert not (folder / "service.json").exists()
        holders.recover(*shares)
    # A set that was not kept would be replaced by another at the next start.
    assert read_statement(folder / "recovery.json", "recovery") == holders.recovery


def test_what_must_be_there_before_the_service_is(holders: Holders) -> None:
    def prepare(keys: ServiceKeys) -> None:
        assert keys.service == holders.keys.service
        assert not (holders.machine.folder / "service.json").exists()
        raise OSError("the disk is full")

    machine, shares = holders.machine, (holders.share(0), holders.share(1))
    with pytest.raises(OSError):
        succession.recover(
            machine.folder, machine.sealing, holders.keys.service, holders.recovery, shares, prepare
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
    (holders.folder / "recovery.json").unlink()
    again = succession.share_keys(holders.folder, holders.keys, 1)
    assert again is not None
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
    with pytest.raises(KeyRefused):
        give_share(
            holders.recovery, holders.request, holders.ids[0], holders.age[1], holders.trust, int(time.time())
        )


def test_a_share_for_another_gateway_does_not_open(holders: Holders, tmp_path: Path) -> None:
    other = holders.ask(Machine(tmp_path / "third", second()))
    with pytest.raises(KeyRefused, match="does not open"):
        holders.recover(holders.share(0, other), holders.share(1))


def test_holders_give_nothing_to_a_gateway_that_they_do_not_trust(holders: Holders, tmp_path: Path) -> None:
    wrong = Machine(tmp_path / "third", second(changed_code()))
    with pytest.raises(MesateeError):
        holders.share(0, holders.ask(wrong))
    key = b64encode(HpkeKey.generate().public)
    with pytest.raises(EvidenceRefused, match="vouch"):
        holders.share(0, holders.request.model_copy(update={"key": key}))
    with pytest.raises(Replayed):
        holders.share(0, holders.request.model_copy(update={"service": "ab" * 32}))


def test_shares_of_a_service_without_holders_are_refused(holders: Holders, tmp_path: Path) -> None:
    """Somebody who has the log key's signature on a set still needs the service statement's rule."""
    said = statements.expect(holders.keys.service.predicate, statements.ServiceStatement)
    off = statements.sign(said.model_copy(update={"share_holders": ()}), holders.keys.log)
    found = statements.expect(holders.recovery.predicate, statements.RecoveryStatement)
    moved = statements.sign(found.model_copy(update={"service": off.digest}), holders.keys.log)
    with pytest.raises(Denied, match="no share holders"):
        succession.recover(holders.machine.folder, holders.machine.sealing, off, moved, ())
    keys = replace(holders.keys, service=off)
    assert succession.share_keys(tmp_path, keys, 0) is None


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
