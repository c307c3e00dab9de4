"""What the three doors promise, of the stores themselves and through the socket of a real host process."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from mesatee.enclave.doors import HostClient
from mesatee.errors import Conflict, DigestMismatch, Malformed, NotFound, TooLarge
from mesatee.host import LocalBlobs, SqliteQueue, SqliteRecords
from mesatee.protocol import limits
from mesatee.protocol.doors import Blobs, Queue, Record, Records

CHUNK = limits.BLOB_CHUNK_BYTES


class Doors(NamedTuple):
    records: Records
    queue: Queue
    blobs: Blobs
    folder: Path


@pytest.fixture(params=["direct", "socket"])
def doors(request: pytest.FixtureRequest, folder: Path) -> Iterator[Doors]:
    if request.param == "direct":
        records, queue = SqliteRecords(folder / "r.sqlite"), SqliteQueue(folder / "q.sqlite")
        yield Doors(records, queue, LocalBlobs(folder / "blobs"), folder / "blobs")
        records.close()
        queue.close()
    else:
        host = request.getfixturevalue("host")
        with HostClient(host.socket) as client:
            yield Doors(client.records, client.queue, client.blobs, host.data / "blobs")


def _records(count: int, body: int = 100) -> list[Record]:
    return [Record(os.urandom(64), os.urandom(body)) for _ in range(count)]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


# -- records -----------------------------------------------------------------------------------------


def test_empty_records(doors: Doors) -> None:
    assert doors.records.head() == (0, b"")
    assert doors.records.read(0, 10) == []
    assert doors.records.read(7, 10) == []


def test_append_read_head(doors: Doors) -> None:
    first, second = _records(3), _records(2)
    doors.records.append(0, first, b"head 1")
    doors.records.append(3, second, b"head 2")
    assert doors.records.head() == (5, b"head 2")
    assert doors.records.read(0, 100) == first + second
    assert doors.records.read(2, 2) == [first[2], second[0]]
    assert doors.records.read(5, 1) == []
    assert doors.records.read(0, 0) == []


def test_append_at_another_index_changes_nothing(doors: Doors) -> None:
    first = _records(3)
    doors.records.append(0, first, b"head")
    for expected in (0, 2, 4, 10**12):
        with pytest.raises(Conflict):
            doors.records.append(expected, _records(2), b"other")
    assert doors.records.head() == (3, b"head")
    assert doors.records.read(0, 10) == first


def test_append_of_nothing_replaces_the_head(doors: Doors) -> None:
    doors.records.append(0, _records(1), b"head 1")
    doors.records.append(1, [], b"head 2")
    assert doors.records.head() == (1, b"head 2")


def test_largest_batch_of_largest_records(doors: Doors) -> None:
    batch = _records(limits.LOG_BATCH, limits.LOG_BODY_BYTES)
    doors.records.append(0, batch, bytes(limits.CHECKPOINT_BYTES))
    found: list[Record] = []
    while part := doors.records.read(len(found), limits.LOG_BATCH):
        assert sum(len(record.body) for record in part) <= limits.FRAME_BYTES
        found += part
    assert found == batch


def test_record_limits(doors: Doors) -> None:
    with pytest.raises(TooLarge):
        doors.records.append(0, _records(limits.LOG_BATCH + 1, 0), b"")
    with pytest.raises(TooLarge):
        doors.records.append(0, _records(1, limits.LOG_BODY_BYTES + 1), b"")
    with pytest.raises(TooLarge):
        doors.records.append(0, [], bytes(limits.CHECKPOINT_BYTES + 1))
    for start, limit in ((-1, 1), (0, -1), (2**63, 1)):
        with pytest.raises(Malformed):
            doors.records.read(start, limit)
    assert doors.records.head() == (0, b"")


def test_of_eight_appenders_exactly_one_wins_each_index(doors: Doors) -> None:
    rounds = 20
    wins: list[tuple[int, Record]] = []

    def work(_: int) -> None:
        for index in range(rounds):
            record = _records(1)[0]
            try:
                doors.records.append(index, [record], b"head %d" % index)
            except Conflict:
                while doors.records.head()[0] <= index:
                    time.sleep(0.001)
            else:
                wins.append((index, record))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert sorted(index for index, _ in wins) == list(range(rounds))
    assert doors.records.read(0, 100) == [record for _, record in sorted(wins)]


# -- queue -------------------------------------------------------------------------------------------


def test_tickets_come_in_order_and_go_with_ack(doors: Doors) -> None:
    for ticket in (b"one", b"two"):
        doors.queue.put(ticket)
    one, two = doors.queue.lease(60, 0), doors.queue.lease(60, 0)
    assert one is not None
    assert two is not None
    assert (one.ticket, two.ticket) == (b"one", b"two")
    assert one.id != two.id
    assert doors.queue.lease(60, 0) is None
    doors.queue.ack(one.id)
    with pytest.raises(NotFound):
        doors.queue.ack(one.id)
    with pytest.raises(NotFound):
        doors.queue.renew(one.id, 10)
    doors.queue.renew(two.id, 60)


def test_a_lease_that_ends_gives_the_ticket_to_the_next(doors: Doors) -> None:
    doors.queue.put(b"ticket")
    first = doors.queue.lease(0.05, 0)
    assert first is not None
    second = doors.queue.lease(60, 5)
    assert second is not None
    assert second.ticket == b"ticket"
    for call in (lambda: doors.queue.ack(first.id), lambda: doors.queue.renew(first.id, 9)):
        with pytest.raises(NotFound):
            call()
    doors.queue.ack(second.id)


def test_a_renewed_lease_does_not_end(doors: Doors) -> None:
    doors.queue.put(b"ticket")
    lease = doors.queue.lease(0.3, 0)
    assert lease is not None
    doors.queue.renew(lease.id, 30)
    time.sleep(0.35)
    assert doors.queue.lease(1, 0) is None
    doors.queue.ack(lease.id)


def test_a_waiting_lease_wakes_with_a_put(doors: Doors) -> None:
    with ThreadPoolExecutor(1) as pool:
        start = time.monotonic()
        waiting = pool.submit(doors.queue.lease, 60, 10)
        time.sleep(0.1)
        doors.queue.put(b"ticket")
        lease = waiting.result(timeout=5)
    assert lease is not None
    assert time.monotonic() - start < 2


def test_a_wait_ends(doors: Doors) -> None:
    start = time.monotonic()
    assert doors.queue.lease(60, 0.1) is None
    assert 0.09 < time.monotonic() - start < 2


def test_every_ticket_goes_to_exactly_one_of_many(doors: Doors) -> None:
    tickets = [b"%d" % number for number in range(40)]
    got: list[bytes] = []

    def work(_: int) -> None:
        while (lease := doors.queue.lease(60, 0)) is not None:
            got.append(lease.ticket)
            doors.queue.ack(lease.id)

    for ticket in tickets:
        doors.queue.put(ticket)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert sorted(got) == sorted(tickets)


def test_queue_limits(doors: Doors) -> None:
    doors.queue.put(bytes(limits.TICKET_BYTES))
    with pytest.raises(TooLarge):
        doors.queue.put(bytes(limits.TICKET_BYTES + 1))
    with pytest.raises(Malformed):
        doors.queue.put(b"")
    with pytest.raises(TooLarge):
        doors.queue.lease(limits.LEASE_SECONDS + 1, 0)
    with pytest.raises(TooLarge):
        doors.queue.lease(1, limits.LEASE_SECONDS + 1)
    for seconds, wait in ((0, 0), (-1, 0), (1, -1), (float("nan"), 0)):
        with pytest.raises(Malformed):
            doors.queue.lease(seconds, wait)
    lease = doors.queue.lease(limits.LEASE_SECONDS, 0)
    assert lease is not None
    for seconds in (0, -1):
        with pytest.raises(Malformed):
            doors.queue.renew(lease.id, seconds)
    for lease_id in ("", "../x", "a'b"):
        with pytest.raises(Malformed):
            doors.queue.ack(lease_id)


# -- blobs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_blob_round_trip(doors: Doors, size: int) -> None:
    data = os.urandom(size)
    doors.blobs.put(_digest(data), [data], size)
    assert doors.blobs.size(_digest(data)) == size
    chunks = list(doors.blobs.get(_digest(data)))
    assert b"".join(chunks) == data
    assert all(len(chunk) <= CHUNK for chunk in chunks)


def test_blob_ranges(doors: Doors) -> None:
    data = os.urandom(2 * CHUNK + 5)
    digest = _digest(data)
    doors.blobs.put(digest, (data[i : i + 70_000] for i in range(0, len(data), 70_000)), len(data))
    ranges = [(0, 0), (0, 1), (CHUNK - 1, 2), (5, CHUNK), (len(data) - 1, 1), (len(data) - 1, 9), (1, None)]
    for start, length in [*ranges, (len(data), None), (len(data) + 1, None), (2**62, 10)]:
        expected = data[start:] if length is None else data[start : start + length]
        assert b"".join(doors.blobs.get(digest, start, length)) == expected
    for start, length in ((-1, None), (0, -1), (2**63, None)):
        with pytest.raises(Malformed):
            doors.blobs.get(digest, start, length)


def test_missing_blob_is_told_at_once(doors: Doors) -> None:
    with pytest.raises(NotFound):
        doors.blobs.size("0" * 64)
    with pytest.raises(NotFound):
        doors.blobs.get("0" * 64)


def test_wrong_bytes_are_not_kept(doors: Doors) -> None:
    data = os.urandom(CHUNK + 10)
    digest = _digest(data)
    wrong = bytes([data[0] ^ 1]) + data[1:]
    for chunks, size in (([wrong], len(data)), ([data], len(data) - 1), ([data], len(data) + 1), ([], 0)):
        with pytest.raises(DigestMismatch):
            doors.blobs.put(digest, chunks, size)
        with pytest.raises(NotFound):
            doors.blobs.size(digest)
    _eventually(lambda: not _files(doors.folder))


def test_put_again_still_checks_and_heals(doors: Doors) -> None:
    data = os.urandom(1000)
    digest = _digest(data)
    doors.blobs.put(digest, [data], len(data))
    with pytest.raises(DigestMismatch):
        doors.blobs.put(digest, [data[::-1]], len(data))
    assert b"".join(doors.blobs.get(digest)) == data
    (doors.folder / digest[:2] / digest[2:4] / digest).write_bytes(b"rotten")
    doors.blobs.put(digest, [data], len(data))
    assert b"".join(doors.blobs.get(digest)) == data


def test_what_the_source_raises_passes_through_and_nothing_is_kept(doors: Doors) -> None:
    class Mine(Exception):
        pass

    def source() -> Iterator[bytes]:
        yield bytes(CHUNK)
        raise Mine

    with pytest.raises(Mine):
        doors.blobs.put("0" * 64, source(), 3 * CHUNK)
    _eventually(lambda: not _files(doors.folder))
    doors.blobs.put(_digest(b"next"), [b"next"], 4)


@pytest.mark.parametrize(
    "digest", ["../" * 20 + "etcd", "..", "", "a" * 63 + "/", "A" * 64, "a" * 64 + "\n", "\x00" * 64]
)
def test_a_digest_is_never_a_path(doors: Doors, digest: str) -> None:
    with pytest.raises(Malformed):
        doors.blobs.put(digest, [b"x"], 1)
    with pytest.raises(Malformed):
        doors.blobs.get(digest)
    with pytest.raises(Malformed):
        doors.blobs.size(digest)
    assert not _files(doors.folder)


def test_blob_over_the_limit(doors: Doors) -> None:
    with pytest.raises(TooLarge):
        doors.blobs.put("0" * 64, [], limits.BLOB_BYTES + 1)


def test_a_reader_that_stops_leaves_the_door_usable(doors: Doors) -> None:
    data = os.urandom(8 * CHUNK)
    digest = _digest(data)
    doors.blobs.put(digest, [data], len(data))
    for _ in range(20):
        next(iter(doors.blobs.get(digest)))
    assert sum(map(len, doors.blobs.get(digest))) == len(data)


def test_copy_through_the_door_to_itself(doors: Doors) -> None:
    data = os.urandom(3 * CHUNK)
    doors.blobs.put(_digest(data), [data], len(data))
    doors.blobs.put(_digest(data), doors.blobs.get(_digest(data)), len(data))
    assert b"".join(doors.blobs.get(_digest(data))) == data


def test_concurrent_puts_of_one_blob(doors: Doors) -> None:
    data = os.urandom(2 * CHUNK)
    start = threading.Barrier(4)

    def work(_: int) -> None:
        start.wait()
        doors.blobs.put(_digest(data), [data], len(data))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert b"".join(doors.blobs.get(_digest(data))) == data
    assert _files(doors.folder) == {_digest(data)}


def _eventually(condition: object, seconds: float = 5.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
