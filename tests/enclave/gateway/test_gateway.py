"""The gateway as a whole, over its real channel: what it logs, shows, releases, survives and stops for."""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import threading
import time
from typing import Any

import pytest
from tests.support.gateway import seal
from tests.support.live import BY_NAME, Client, Flow, Live, LiveMember, call, code

from mesatee._core import HpkeKey
from mesatee.enclave.gateway import gateway
from mesatee.enclave.gateway.log import SnapshotRef
from mesatee.enclave.gateway.state import State
from mesatee.enclave.worker.client import GatewayClient
from mesatee.errors import (
    Conflict,
    Denied,
    EvidenceRefused,
    Halted,
    HostFailed,
    LogCorrupt,
    Malformed,
    MesateeError,
    NotFound,
    Recovering,
    Replayed,
    TimedOut,
)
from mesatee.protocol import checkpoint as cp
from mesatee.protocol import envelope as dsse
from mesatee.protocol import limits, merkle, records, statements, wire, wraps
from mesatee.protocol.digests import b64decode
from mesatee.protocol.jsonstrict import canonical, parse_object
from mesatee.protocol.model import validate
from mesatee.protocol.statements import CollectStatement, PresenceStatement, RunStatement, WithdrawalStatement

A = "0a" * 32


# -- denials are logged before they are told -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields"),
    [(RunStatement, {"task": A}), (CollectStatement, {"run": A}), (PresenceStatement, {"service": A})],
    ids=["run", "collect", "presence"],
)
def test_a_refused_statement_leaves_one_denial(
    live: Live, members: tuple[LiveMember, ...], kind: Any, fields: dict[str, Any]
) -> None:
    size = live.checkpoint().size
    with pytest.raises(MesateeError) as caught:
        members[0].post(kind, **fields)
    assert live.checkpoint().size == size + 1
    outcome = live.gateway.log.prove(size).read().outcome()
    assert isinstance(outcome, records.DeniedOutcome)
    assert (outcome.by, outcome.code) == (members[0].id, caught.value.code)
    assert outcome.action == "post_statement"


def test_a_refused_worker_leaves_one_denial(live: Live, worker: GatewayClient) -> None:
    size = live.checkpoint().size
    with pytest.raises(Replayed):
        worker.attempt(b"no ticket", HpkeKey.generate().public)
    with pytest.raises(NotFound):
        receipt_of_nothing(worker)
    assert live.checkpoint().size == size + 2
    for index, action in ((size, "post_attempt"), (size + 1, "finish")):
        outcome = live.gateway.log.prove(index).read().outcome()
        assert isinstance(outcome, records.DeniedOutcome)
        assert (outcome.by, outcome.action) == (worker.key.public.hex(), action)


def receipt_of_nothing(worker: GatewayClient) -> None:
    worker.finish(0, dsse.sign(b"{}", [worker.key]), {})


def test_refused_reads_leave_nothing(live: Live, members: tuple[LiveMember, ...]) -> None:
    size = live.checkpoint().size
    members[0].client.send("GET", "/v1/tasks/" + A)
    members[0].client.send("GET", "/v1/blobs/" + A)
    assert live.checkpoint().size == size


# -- the log -------------------------------------------------------------------------------------------------


def test_anybody_can_follow_the_log(live: Live, members: tuple[LiveMember, ...], stranger: Client) -> None:
    before = live.checkpoint()
    members[0].post(PresenceStatement)
    after = live.checkpoint()
    path = stranger.call("GET", f"/v1/log/consistency?first={before.size}&second={after.size}")["path"]
    hashes = [bytes.fromhex(item) for item in path]
    merkle.verify_consistency(before.size, after.size, before.root, after.root, hashes)
    assert after.size < merkle.TILE
    leaves = stranger.send("GET", f"/v1/log/tile/0/000.p/{after.size}").content
    entries = stranger.send("GET", f"/v1/log/tile/entries/000.p/{after.size}").content
    tree = merkle.Tree()
    for index in range(after.size):
        row = entries[66 * index : 66 * (index + 1)]
        assert row[:2] == (64).to_bytes(2, "big")
        assert merkle.leaf_hash(row[2:]) == leaves[32 * index : 32 * (index + 1)]
        tree.append(merkle.leaf_hash(row[2:]))
    assert tree.root(after.size) == after.root
    response = stranger.send("GET", f"/v1/log/tile/0/000.p/{after.size + 1}")
    assert code(response) == "malformed"


def test_an_entry_is_shown_to_those_concerned(live: Live, members: tuple[LiveMember, ...]) -> None:
    left, right, _ = members
    index = left.post(PresenceStatement)["index"]
    proof = validate(records.RecordProof, left.client.call("GET", f"/v1/log/entry/{index}"), "proof")
    head = live.checkpoint()
    path = [bytes.fromhex(item) for item in proof.path]
    merkle.verify_inclusion(
        merkle.leaf_hash(proof.entry()), index, proof.size, path, live.gateway.log.root(proof.size)
    )
    assert proof.size == head.size
    assert statements.read(proof.read().statement()).kind == "presence"
    with pytest.raises(NotFound, match="does not concern you"):
        right.client.call("GET", f"/v1/log/entry/{index}")
    with pytest.raises(Malformed):
        left.client.call("GET", f"/v1/log/entry/{head.size}")


def test_the_service_says_who_it_is(live: Live, members: tuple[LiveMember, ...], stranger: Client) -> None:
    for client, registered in ((members[0].client, True), (stranger, False)):
        said = validate(wire.ServiceReply, client.call("GET", "/v1/service"), "service")
        assert said.digest == live.keys.service.digest
        assert (said.status, said.registered) == ("ready", registered)
        head = cp.verify(said.checkpoint, live.desk.origin, live.keys.log.public)
        assert said.epoch_index < head.size


# -- a task from end to end, by HTTP alone -------------------------------------------------------------------


def test_a_task_from_end_to_end(live: Live, flow: Flow) -> None:
    assert flow.view()["state"] == "approved"
    run = flow.run()
    assert flow.view(flow.left)["state"] == "queued"
    grant = flow.grant()
    assert (grant.run, grant.attempt) == (run, 1)
    assert grant.arguments == {"scale": 1.5, "key": "id"}
    assert flow.view()["state"] == "running"
    assert flow.worker.renew(grant.fence).status == "running"
    with pytest.raises(Conflict):
        flow.worker.attempt(live.on_loop(lambda: _ticket(live, run)), HpkeKey.generate().public)
    files = flow.finish(grant)
    assert flow.view()["runs"][0]["status"] == "finished"
    posted = flow.scientist.post(CollectStatement, run=run)
    wrap = b64decode(posted["result"]["wraps"]["result"], max_bytes=2_000)
    digest = files["result"].digest
    binding = wraps.result(live.desk.origin, run, "result", digest, flow.scientist.id)
    flow.scientist.hpke.unwrap_file_key(wrap, binding.info, binding.aad)
    bundle = validate(wire.Bundle, posted["result"]["bundle"], "bundle")
    head = cp.verify(bundle.checkpoint, live.desk.origin, live.keys.log.public)
    path = [bytes.fromhex(item) for item in bundle.record.path]
    leaf = merkle.leaf_hash(bundle.record.entry())
    merkle.verify_inclusion(leaf, bundle.record.index, head.size, path, head.root)
    for member in (flow.left, flow.right):
        with pytest.raises(Denied):
            member.post(CollectStatement, run=run)


def _ticket(live: Live, run: str) -> bytes:
    monitor = live.gateway.monitor
    return monitor.invoke(monitor.state.run(run), monitor.now())


def test_a_repeated_run_statement_runs_once(live: Live, flow: Flow) -> None:
    """Regression: each copy put another ticket into the queue."""
    statement = flow.scientist.write(live.desk, RunStatement, task=flow.task)
    bodies = [
        flow.scientist.client.call("POST", "/v1/statements", content=statement.envelope.to_bytes())
        for _ in range(3)
    ]
    assert [body["already"] for body in bodies] == [False, True, True]
    assert len({body["index"] for body in bodies}) == 1
    flow.finish(flow.grant())
    assert live.doors.queue.lease(1.0, 0.1) is None


def test_a_withdrawal_stops_the_worker(flow: Flow) -> None:
    flow.run()
    grant = flow.grant()
    flow.left.post(WithdrawalStatement, task=flow.task, id=flow.approvals["left"])
    with pytest.raises(Conflict):
        flow.worker.renew(grant.fence)
    with pytest.raises(Conflict):
        flow.finish(grant)
    assert flow.view()["runs"][0]["status"] == "cancelled"


def test_views_show_no_key_and_no_wrap(live: Live, flow: Flow, members: tuple[LiveMember, ...]) -> None:
    for name in ("parties", "datasets", "functions", "tasks"):
        body = call(flow.right.client, name).text
        for held in live.gateway.monitor.state.datasets.values():
            assert held.predicate.wrap not in body
            assert held.predicate.wrap[:40] not in body


def test_a_task_is_shown_to_those_concerned(live: Live, flow: Flow) -> None:
    outsider = live.member(f"outsider-{secrets.token_hex(3)}")
    with pytest.raises(NotFound):
        flow.view(outsider)
    assert outsider.client.call("GET", "/v1/tasks")["items"] == []
    index = live.gateway.monitor.state.task(flow.task).index
    with pytest.raises(NotFound, match="concern"):
        outsider.client.call("GET", f"/v1/log/entry/{index}")
    assert flow.left.client.call("GET", f"/v1/log/entry/{index}")["index"] == index


def test_watching_a_task_ends_with_the_next_entry(live: Live, flow: Flow) -> None:
    size = flow.view()["log_size"]
    waited = flow.scientist.client.call("GET", f"/v1/tasks/{flow.task}?after={size - 1}&wait=25")
    assert waited["log_size"] >= size
    slept = flow.scientist.client.call("GET", f"/v1/tasks/{flow.task}?after={size + 99}&wait=1")
    assert slept["log_size"] == size


# -- a host that fails, and snapshots ---------------------------------------------------------------------


def test_when_the_host_comes_back_a_new_epoch_begins(own: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """One append is lost: nobody is told that it happened, and the log goes on from what is durable."""
    member = own.member("alice")
    before = own.checkpoint()
    append, calls = own.doors.records.append, [0]

    def broken(expected: int, batch: Any, head: bytes) -> None:
        calls[0] += 1
        if calls[0] == 1:
            raise HostFailed("no space left")
        append(expected, batch, head)

    monkeypatch.setattr(own.doors.records, "append", broken)
    lost = member.write(own.desk, PresenceStatement)
    with pytest.raises(HostFailed):
        member.client.call("POST", "/v1/statements", content=lost.envelope.to_bytes())
    assert own.checkpoint().size == before.size
    deadline = time.monotonic() + 10
    # The state knows of the epoch before the log is durable; the checkpoint is what others are told.
    while own.checkpoint().size == before.size and time.monotonic() < deadline:
        time.sleep(0.05)
    after = own.checkpoint()
    assert (after.epoch, after.size) == (2, before.size + 1)
    assert own.gateway.log.extends(before)
    again = member.client.call("POST", "/v1/statements", content=lost.envelope.to_bytes())
    assert (again["already"], again["index"]) == (False, after.size)


def test_a_reload_refuses_a_log_without_what_was_durable(own: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host fails one append, and then gives back the log as it was earlier: its gateway knows better."""
    member = own.member("alice")
    store = own.doors.records
    older = store.head()
    member.post(PresenceStatement)

    def broken(expected: int, batch: Any, head: bytes) -> None:
        monkeypatch.setattr(store, "head", lambda: older)
        raise HostFailed("no space left")

    monkeypatch.setattr(store, "append", broken)
    with pytest.raises(HostFailed):
        member.post(PresenceStatement)
    deadline = time.monotonic() + 10
    while own.gateway.monitor.halted is None and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(Halted):
        member.post(PresenceStatement)
    assert "rolled back or forked" in str(own.gateway.monitor.halted)


def test_a_worker_of_another_service_gets_no_key(live: Live, flow: Flow) -> None:
    """It would wrap the outputs to the other one's key."""
    flow.run()
    worker = live.worker()
    worker._service = "0a" * 32
    worker._open()
    with pytest.raises(EvidenceRefused, match="serves this service"):
        worker.attempt(live.lease(), HpkeKey.generate().public)


def rewritten(live: Live, **snapshot: Any) -> None:
    """The host changes what the head says of the snapshot; the checkpoint in it stays as it is signed."""
    size, head = live.doors.records.head()
    value = parse_object(head)
    value["snapshot"] = {**value["snapshot"], **snapshot} if snapshot else None
    live.doors.records.append(size, [], canonical(value))


def test_a_restart_uses_the_snapshot_and_trusts_none_of_it(own: Live) -> None:
    flow = Flow(own, tuple(own.member(name) for name in ("left", "right", "scientist")), own.worker())
    flow.run()
    flow.finish(flow.grant())
    before = own.gateway.monitor.state
    own.stop()
    _, head = own.doors.records.head()
    named = parse_object(head)["snapshot"]
    assert named["size"] == before.size
    old = b"".join(own.doors.blobs.get(named["blob"]))
    assert b"left" not in old
    own.start()
    assert own.gateway.log.snapshot == SnapshotRef(named["size"], named["blob"])
    after = State.restore(own.gateway.monitor.state.dump())
    # The new epoch's entry is all that came after.
    assert (after.size, after.runs, after.approvals) == (before.size + 1, before.runs, before.approvals)
    replayed = State()
    for index in range(after.size):
        replayed.apply(index, own.gateway.log.prove(index).read())
    assert replayed == after
    own.stop()
    newer = parse_object(own.doors.records.head()[1])["snapshot"]
    # The older one is of no use any more; a host may keep what it was told to discard.
    with pytest.raises(NotFound):
        own.doors.blobs.get(named["blob"])
    own.doors.blobs.put(named["blob"], [old], len(old))
    foreign = seal(b"no snapshot")
    own.doors.blobs.put(foreign.digest, [foreign.data], foreign.size)
    for wrong in (
        {"blob": foreign.digest},
        {"size": newer["size"] - 1},
        {"blob": named["blob"]},
    ):
        rewritten(own, **{**newer, **wrong})
        with pytest.raises(LogCorrupt):
            own.start()
    # An older snapshot, one that the host has lost, or none at all, costs time and nothing else.
    for older in (named, {"size": newer["size"], "blob": "0a" * 32}, {}):
        rewritten(own, **older)
        own.start()
        own.stop()


def test_a_gateway_stops_when_what_lies_under_its_snapshot_was_altered(
    own: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.member("left")
    own.stop()
    monkeypatch.setattr(limits, "LOG_COMPARED_AT_START", 0)
    own.start()
    own.stop()

    def write(body: bytes) -> bytes:
        with (
            contextlib.closing(sqlite3.connect(own.folder / "host" / "records.sqlite")) as database,
            database,
        ):
            (before,) = database.execute("SELECT body FROM records WHERE idx = 1").fetchone()
            database.execute("UPDATE records SET body = ? WHERE idx = 1", (body,))
        return bytes(before)

    before = write(bytes(100))
    # It starts: the snapshot and what follows it hold. Then it finds out, as a start would of a short log.
    own.start()
    own._thread.join(20)
    with pytest.raises(LogCorrupt, match="the body of log entry 1 was altered"):
        own.stop()
    monkeypatch.undo()
    with pytest.raises(LogCorrupt, match="the body of log entry 1 was altered"):
        own.start()
    write(before)
    own.start()


@pytest.mark.parametrize("error", [HostFailed, TimedOut])
def test_a_host_that_withholds_old_entries_ends_nothing_and_is_told_of(
    own: Live, error: type[MesateeError], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own.member("left")
    own.stop()
    monkeypatch.setattr(limits, "LOG_COMPARED_AT_START", 0)
    monkeypatch.setattr(gateway, "RELOAD_SECONDS", 0.1)
    read, covered = own.doors.records.read, own.doors.records.head()[0]
    refused = threading.Event()

    def withheld(start: int, limit: int) -> Any:
        if start < covered - 1:
            refused.set()
            raise error("not now")
        return read(start, limit)

    monkeypatch.setattr(own.doors.records, "read", withheld)
    own.start()
    assert refused.wait(10)
    own.member("right")
    assert own._thread.is_alive()
    deadline = time.monotonic() + 10
    while "log_not_compared" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "log_not_compared" in caplog.text
    monkeypatch.setattr(own.doors.records, "read", read)
    while own.gateway.log._compared < own.gateway.log._vouched and time.monotonic() < deadline:
        time.sleep(0.05)
    assert own.gateway.log._compared == own.gateway.log._vouched > 0


# -- restarts and forks: these change the service and stand last ---------------------------------------------


def test_after_a_restart_the_gateway_recovers(live: Live, flow: Flow) -> None:
    run = flow.run()
    ticket = live.lease()
    before = live.checkpoint()
    epoch = live.gateway.monitor.state.epoch
    live.stop()
    live.start()
    flow.worker = live.worker()
    for member in (flow.left, flow.right, flow.scientist):
        member.client = live.client(member.signing)
    head = live.checkpoint()
    assert (head.size, head.epoch) == (before.size + 1, epoch + 1)
    assert live.gateway.log.extends(before)
    key = HpkeKey.generate().public
    with pytest.raises(Recovering, match="left, right"):
        flow.worker.attempt(ticket, key)
    flow.left.post(PresenceStatement, checkpoint=before.note)
    with pytest.raises(Recovering, match="left, right"):
        flow.worker.attempt(ticket, key)
    flow.left.post(PresenceStatement)
    flow.right.post(PresenceStatement)
    grant = flow.worker.attempt(ticket, key)
    assert grant.run == run
    flow.finish(grant)


def test_once_halted_nobody_is_served(live: Live) -> None:
    member = live.member(f"seer-{secrets.token_hex(3)}")
    future = cp.sign(live.desk.origin, 10_000, bytes(32), live.desk.now(), 9, live.keys.log)
    size = live.gateway.log.size
    with pytest.raises(MesateeError) as caught:
        member.post(PresenceStatement, checkpoint=future.note)
    assert caught.value.code == "fork_detected"
    raw = Client.__new__(Client)
    raw.http = live.worker()._http
    for name in BY_NAME:
        client = raw if name in ("post_attempt", "renew", "finish") else member.client
        response = call(client, name, content=b"{}" if BY_NAME[name][0] != "GET" else None)
        assert (response.status_code, code(response)) == (503, "halted"), name
    assert live.gateway.log.size == size
