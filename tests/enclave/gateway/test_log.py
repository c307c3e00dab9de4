"""The log over a host that breaks, lies and loses."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from tests.support.gateway import ORIGIN, MemoryRecords
from tests.support.logs import BODY, MINT, SIGNER, Bench, copied, filled, record
from tests.support.mutate import QUICK, mutated

from mesatee._core import SecretKey, SigningKey
from mesatee.enclave.gateway.log import Log
from mesatee.enclave.gateway.permit import Action
from mesatee.errors import Denied, LogCorrupt, Malformed
from mesatee.protocol import checkpoint as cp
from mesatee.protocol import limits, merkle, records
from mesatee.protocol.digests import sha256
from mesatee.protocol.jsonstrict import canonical, parse_object


def test_what_was_appended_is_replayed_in_order() -> None:
    bench = Bench()
    assert bench.log.size == 0
    assert bench.log.root(0) == merkle.EMPTY_ROOT
    bench.add(150)
    root = bench.log.root(150)
    bench.log.close()
    again = Bench(bench.store, epoch=2)
    assert again.seen == [record(number) for number in range(150)]
    assert again.log.root(150) == root
    again.log.close()


def test_the_head_is_signed_with_time_and_epoch() -> None:
    bench = Bench(epoch=5)
    bench.add(3)
    head = cp.verify(str(parse_object(bench.store.signed)["checkpoint"]), ORIGIN, SIGNER.public)
    assert (head.size, head.time, head.epoch, head.root) == (3, 1_002, 5, bench.log.root(3))
    told = cp.verify(bench.log.checkpoint(2_000).note, ORIGIN, SIGNER.public)
    assert (told.size, told.time) == (3, 2_000)
    earlier = bench.log.checkpoint(2_000, 2)
    assert earlier.root == bench.log.root(2)
    assert bench.log.extends(earlier)
    bench.log.close()


def test_an_entry_commits_to_its_record_and_shows_nothing() -> None:
    store = filled(2)
    for index, (entry, body) in enumerate(store.stored):
        assert len(entry) == limits.LOG_ENTRY_BYTES
        plain = record(index).to_bytes()
        assert plain not in body
        assert b"denied" not in body
    one, two = Bench(), Bench()
    one.send(record(0)).result(10)
    two.send(record(0)).result(10)
    # Salted: the same record twice gives two entries.
    assert one.store.stored[0].entry[:32] != two.store.stored[0].entry[:32]
    one.log.close()
    two.log.close()


# -- tampering -----------------------------------------------------------------------------------------


def flip(data: bytes, at: int) -> bytes:
    altered = bytearray(data)
    altered[at] ^= 1
    return bytes(altered)


TAMPERINGS: dict[str, Callable[[MemoryRecords, int], None]] = {}


def tampering(change: Callable[[MemoryRecords, int], None]) -> Callable[[MemoryRecords, int], None]:
    TAMPERINGS[change.__name__] = change
    return change


@tampering
def body_byte(store: MemoryRecords, index: int) -> None:
    store.stored[index] = store.stored[index]._replace(body=flip(store.stored[index].body, 20))


@tampering
def body_cut(store: MemoryRecords, index: int) -> None:
    store.stored[index] = store.stored[index]._replace(body=store.stored[index].body[:-1])


@tampering
def body_empty(store: MemoryRecords, index: int) -> None:
    store.stored[index] = store.stored[index]._replace(body=b"")


@tampering
def commitment_byte(store: MemoryRecords, index: int) -> None:
    store.stored[index] = store.stored[index]._replace(entry=flip(store.stored[index].entry, 3))


@tampering
def digest_byte(store: MemoryRecords, index: int) -> None:
    store.stored[index] = store.stored[index]._replace(entry=flip(store.stored[index].entry, 40))


@tampering
def entry_short(store: MemoryRecords, index: int) -> None:
    store.stored[index] = store.stored[index]._replace(entry=store.stored[index].entry[:-1])


@tampering
def entry_long(store: MemoryRecords, index: int) -> None:
    store.stored[index] = store.stored[index]._replace(entry=store.stored[index].entry + b"\0")


@tampering
def resealed(store: MemoryRecords, index: int) -> None:
    """A host that has another key makes a consistent record of its own."""
    plain = record(99).to_bytes()
    salt = bytes(records.SALT_BYTES)
    body = SecretKey.generate().seal(records.pack(salt, plain), b"")
    store.stored[index] = store.stored[index]._replace(entry=records.entry(salt, plain, body), body=body)


@tampering
def removed(store: MemoryRecords, index: int) -> None:
    del store.stored[index]


@tampering
def repeated(store: MemoryRecords, index: int) -> None:
    store.stored.insert(index, store.stored[index])


@tampering
def replaced_by_neighbour(store: MemoryRecords, index: int) -> None:
    store.stored[index] = store.stored[index - 1]


@tampering
def reordered(store: MemoryRecords, index: int) -> None:
    store.stored[index], store.stored[index - 1] = store.stored[index - 1], store.stored[index]


@tampering
def bodies_swapped(store: MemoryRecords, index: int) -> None:
    one, two = store.stored[index], store.stored[index - 1]
    store.stored[index], store.stored[index - 1] = one._replace(body=two.body), two._replace(body=one.body)


@tampering
def truncated(store: MemoryRecords, index: int) -> None:
    del store.stored[index:]


@tampering
def head_of_another_size(store: MemoryRecords, index: int) -> None:
    store.signed = store.heads[index]


@tampering
def head_by_another_key(store: MemoryRecords, index: int) -> None:
    head = cp.parse(str(parse_object(store.signed)["checkpoint"]))
    forged = cp.sign(ORIGIN, head.size, head.root, head.time, head.epoch, SigningKey.generate())
    store.signed = canonical({"checkpoint": forged.note, "snapshot": None})


@tampering
def head_of_another_log(store: MemoryRecords, index: int) -> None:
    head = cp.parse(str(parse_object(store.signed)["checkpoint"]))
    other = cp.sign("log.example/other", head.size, head.root, head.time, head.epoch, SIGNER)
    store.signed = canonical({"checkpoint": other.note, "snapshot": None})


@tampering
def head_lost(store: MemoryRecords, index: int) -> None:
    store.signed = b""


@pytest.mark.parametrize("index", [1, 3, 6])
@pytest.mark.parametrize("name", sorted(TAMPERINGS))
def test_a_log_that_was_tampered_with_does_not_load(name: str, index: int) -> None:
    bench = Bench(copied(STORE))
    TAMPERINGS[name](bench.store, index)
    size, root = bench.log.size, bench.log.root(bench.log.size)
    with pytest.raises(LogCorrupt):
        bench.load()
    # What was verified before is still what this log stands for.
    assert (bench.log.size, bench.log.root(size)) == (size, root)
    bench.log.close()


STORE = MemoryRecords()


@pytest.fixture(scope="module", autouse=True)
def _store() -> None:
    found = filled()
    STORE.stored, STORE.signed, STORE.heads = found.stored, found.signed, found.heads


def forged(commitment: bool) -> MemoryRecords:
    """A log that is wrong although its keys made it: one body is not the one that its entry names."""
    store = copied(STORE)
    plain, salt = record(99).to_bytes(), bytes(records.SALT_BYTES)
    aad = f"mesatee log body v1\n{ORIGIN}\n3".encode()
    body = BODY.seal(records.pack(salt, plain), aad)
    entry = store.stored[3].entry
    if commitment:
        entry = entry[:32] + records.entry(salt, plain, body)[32:]
    else:
        entry = records.entry(salt, plain, body)[:32] + entry[32:]
    store.stored[3] = store.stored[3]._replace(entry=entry, body=body)
    tree = merkle.Tree()
    for item in store.stored:
        tree.append(merkle.leaf_hash(item.entry))
    head = cp.sign(ORIGIN, tree.size, tree.root(tree.size), 2_000, 1, SIGNER)
    store.signed = canonical({"checkpoint": head.note, "snapshot": None})
    return store


@pytest.mark.parametrize(
    ("commitment", "reason"), [(True, "does not commit"), (False, "body of log entry 3 was altered")]
)
def test_a_body_is_the_one_that_its_entry_names_whoever_signed(commitment: bool, reason: str) -> None:
    with pytest.raises(LogCorrupt, match=reason):
        Bench(forged(commitment))


def test_an_entry_of_an_abandoned_branch_is_not_spliced_in() -> None:
    """A batch that was sent but never acknowledged stays with the host: keys, index and body all fit, only
    the signed root does not.
    """
    abandoned, kept = Bench(STORE.rolled_back(3)), Bench(STORE.rolled_back(3))
    abandoned.send(record(50)).result(10)
    kept.add(4)
    for bench in (abandoned, kept):
        bench.log.close()
    kept.store.stored[3] = abandoned.store.stored[3]
    with pytest.raises(LogCorrupt, match="signed root"):
        Bench(kept.store)


@pytest.mark.parametrize(
    "snapshot",
    [
        {"size": 8, "blob": "0" * 64},
        {"size": 0, "blob": "0" * 64},
        {"size": -1, "blob": "0" * 64},
        {"size": "x", "blob": ""},
        {"size": None, "blob": ""},
        {"blob": ""},
        {"size": 1},
        [],
        1,
        "x",
    ],
    ids=lambda _: "case",
)
def test_a_head_that_names_no_possible_snapshot_is_refused(snapshot: object) -> None:
    store = copied(STORE)
    note = parse_object(store.signed)["checkpoint"]
    store.signed = canonical({"checkpoint": note, "snapshot": snapshot})
    with pytest.raises(LogCorrupt):
        Bench(store)


def test_hostile_heads_raise_log_corrupt_only() -> None:
    good = parse_object(STORE.signed)["checkpoint"]

    @QUICK
    @given(mutated(STORE.signed))
    def check(head: bytes) -> None:
        store = copied(STORE)
        store.signed = head
        log = Log(ORIGIN, store, BODY, SIGNER)
        try:
            log.load(lambda *_: None, lambda _: b"")
        except LogCorrupt:
            return
        # Whatever was changed, it was not what is signed.
        assert cp.parse(str(parse_object(head)["checkpoint"])).text == cp.parse(str(good)).text

    check()


def test_a_rollback_to_an_older_head_loads_and_extends_nothing_newer() -> None:
    """The host can go back in time; that is why parties carry checkpoints."""
    newest = Bench(copied(STORE))
    seen = newest.log.checkpoint(5_000)
    newest.log.close()
    older = Bench(STORE.rolled_back(len(STORE.stored) - 1))
    assert older.log.size < seen.size
    assert not older.log.extends(seen)
    older.add(10)
    assert older.log.size > seen.size
    assert not older.log.extends(seen)
    older.log.close()


def test_a_host_that_stops_in_the_middle_is_found_out() -> None:
    store = copied(STORE)
    count, head = len(store.stored), store.signed
    store.head = lambda: (count, head)  # type: ignore[method-assign]
    del store.stored[4:]
    with pytest.raises(LogCorrupt, match="no entry 4"):
        Bench(store)


@pytest.mark.parametrize("most", [1, 97, limits.LOG_BATCH])
def test_a_host_that_answers_with_fewer_records_than_asked_is_read_whole(most: int) -> None:
    bench = Bench()
    bench.add(limits.LOG_BATCH + 40)
    bench.log.close()
    store = copied(bench.store)
    whole = store.read
    store.read = lambda start, limit: whole(start, min(limit, most))  # type: ignore[method-assign]
    again = Bench(store)
    assert [item.to_bytes() for item in again.seen] == [
        record(number).to_bytes() for number in range(limits.LOG_BATCH + 40)
    ]
    again.log.close()


def test_of_two_wrong_entries_the_first_is_named() -> None:
    store = copied(STORE)
    body_byte(store, 5)
    resealed(store, 2)
    with pytest.raises(LogCorrupt, match="entry 2"):
        Bench(store)


# -- permits -------------------------------------------------------------------------------------------


def test_a_permit_is_for_one_record_once() -> None:
    bench = Bench()
    item = record(0)
    permit = MINT.permit(Action.APPEND, sha256(item.to_bytes()), 0)
    with pytest.raises(Denied):
        bench.log.append(permit, record(1))
    bench.log.append(permit, item).result(10)
    with pytest.raises(Denied):
        bench.log.append(permit, item)
    with pytest.raises(Denied):
        bench.log.append(MINT.permit(Action.READ, sha256(item.to_bytes()), 0), item)
    assert bench.log.size == 1
    bench.log.close()


# -- snapshots -----------------------------------------------------------------------------------------


def snapped(records: int = 6, size: int = 4) -> Bench:
    """A log that was closed with a snapshot of its first `size` entries."""
    bench = Bench()
    bench.add(records)
    bench.snap(size)
    bench.log.close()
    return bench


def test_a_snapshot_shortens_replay_and_vouches_for_what_it_covers() -> None:
    bench = Bench()
    bench.add(4)
    ref = bench.snap(4)
    assert parse_object(bench.store.signed)["snapshot"] is None
    bench.add(2)
    assert parse_object(bench.store.signed)["snapshot"] == {"size": 4, "blob": ref.blob}
    root = bench.log.root(6)
    bench.log.close()
    again = Bench(bench.store)
    assert again.restored == [ref]
    assert again.seen == [record(4), record(5)]
    assert again.log.snapshot == ref
    assert again.log.root(6) == root
    # Older bodies are not opened at start, but one that was altered is found all the same.
    body_byte(again.store, 1)
    with pytest.raises(LogCorrupt, match="entry 1 "):
        again.load()
    with pytest.raises(LogCorrupt, match="entry 1 "):
        again.log.prove(1)
    digest_byte(again.store, 1)
    with pytest.raises(LogCorrupt):
        again.load()
    again.log.close()


@pytest.mark.parametrize("index", [1, 3])
@pytest.mark.parametrize("name", [name for name in sorted(TAMPERINGS) if not name.startswith("head")])
def test_what_lies_under_a_large_snapshot_is_compared_while_the_gateway_serves(
    name: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOG_COMPARED_AT_START", 3)
    store = snapped().store
    before = [item.entry for item in store.stored]
    TAMPERINGS[name](store, index)
    after = [item.entry for item in store.stored]
    if len(after) != len(before):
        # A host that gives other entries than it counts has to be found out at once.
        with pytest.raises(LogCorrupt):
            Bench(store)
        return
    bench = Bench(store)
    try:
        # Nobody is given what was altered, in whatever order things happen.
        with pytest.raises(LogCorrupt):
            bench.log.prove(index)
        with contextlib.nullcontext() if after == before else pytest.raises(LogCorrupt):
            assert bench.log.entries(0, 4) == before[:4]
        with pytest.raises(LogCorrupt, match=r"log entry [0-3] "):
            bench.log.compare(threading.Event())
    finally:
        bench.log.close()


def test_a_comparison_goes_on_where_it_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_COMPARED_AT_START", 0)
    monkeypatch.setattr(limits, "LOG_BATCH", 2)
    again = Bench(snapped(9, 7).store)
    stop = threading.Event()
    stop.set()
    assert [again.log.compare(stop) for _ in range(5)] == [2, 2, 2, 1, 0]
    # What follows the snapshot was verified at the start; read again after a failure, the rest was compared already.
    again.log.close()
    again.load()
    assert again.log.compare(threading.Event()) == 0


def test_a_snapshot_of_an_abandoned_branch_or_of_another_size_is_not_used() -> None:
    bench, other = snapped(), snapped()
    stolen = parse_object(other.store.signed)["snapshot"]
    bench.store.signed = canonical({**parse_object(bench.store.signed), "snapshot": stolen})
    with pytest.raises(LogCorrupt, match="the snapshot is of another"):
        Bench(bench.store)
    bench.store.signed = canonical(
        {**parse_object(bench.store.signed), "snapshot": {**stolen, "size": 3}}  # type: ignore[dict-item]
    )
    with pytest.raises(LogCorrupt, match="snapshot of 3 entries vouches for 4"):
        Bench(bench.store)


def test_a_snapshot_after_the_last_record_is_named_when_the_log_closes() -> None:
    """Regression: a snapshot made at shutdown was forgotten."""
    bench = snapped(4)
    assert isinstance(parse_object(bench.store.signed)["snapshot"], dict)
    again = Bench(bench.store)
    assert again.seen == []
    assert len(again.restored) == 1
    again.log.close()


# -- reading -------------------------------------------------------------------------------------------


def test_only_what_is_durable_is_shown() -> None:
    bench = Bench()
    bench.add(3)
    bench.store.gate.clear()
    bench.send(record(3))
    assert bench.log.next_index == 4
    for ask in (
        lambda: bench.log.prove(3),
        lambda: bench.log.checkpoint(5_000, 4),
        lambda: bench.log.consistency(1, 4),
        lambda: bench.log.entries(0, 4),
        lambda: bench.log.tile(0, 0, 4),
        lambda: bench.log.checkpoint(5_000, -1),
        lambda: bench.log.prove(-2),
    ):
        with pytest.raises(Malformed):
            ask()
    bench.store.gate.set()
    bench.log.close()


def test_proofs_hold_without_the_gateway() -> None:
    bench = Bench(copied(STORE))
    head = cp.verify(bench.log.checkpoint(5_000).note, ORIGIN, SIGNER.public)
    for index in range(len(STORE.stored)):
        proof = bench.log.prove(index)
        path = [bytes.fromhex(item) for item in proof.path]
        merkle.verify_inclusion(merkle.leaf_hash(proof.entry()), index, head.size, path, head.root)
        assert proof.read() == record(index)
    for first in range(1, head.size + 1):
        path = bench.log.consistency(first, head.size)
        merkle.verify_consistency(first, head.size, bench.log.root(first), head.root, path)
    assert bench.log.consistency(0, head.size) == []
    assert bench.log.entries(2, 3) == [item.entry for item in STORE.stored[2:5]]
    leaves = b"".join(merkle.leaf_hash(item.entry) for item in STORE.stored)
    assert bench.log.tile(0, 0, len(STORE.stored)) == leaves
    bench.log.close()


def test_a_body_that_the_host_alters_later_is_found_when_it_is_read() -> None:
    bench = Bench(copied(STORE))
    body_byte(bench.store, 2)
    with pytest.raises(LogCorrupt):
        bench.log.prove(2)
    removed(bench.store, 6)
    with pytest.raises(LogCorrupt):
        bench.log.prove(6)
    bench.log.close()
