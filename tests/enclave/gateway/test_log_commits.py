"""How records of the log become durable, in which order, and what their senders are told."""

from __future__ import annotations

import pytest
from tests.support.logs import Bench, filled, record

from mesatee.errors import Conflict, HostFailed, TooLarge
from mesatee.protocol import limits, records


def test_many_records_share_one_commit() -> None:
    bench = Bench()
    bench.store.gate.clear()
    done = [bench.send(record(0))]
    assert bench.store.waiting.wait(10)
    done += [bench.send(record(number)) for number in range(1, 1_200)]
    assert bench.log.size == 0
    assert bench.log.next_index == 1_200
    assert not any(item.done() for item in done)
    bench.store.gate.set()
    assert [item.result(10) for item in done] == list(range(1_200))
    assert bench.store.appends[0] == 1
    assert max(bench.store.appends) == limits.LOG_BATCH
    assert len(bench.store.appends) <= 5
    bench.log.close()


def test_a_commit_fits_a_frame() -> None:
    bench = Bench()
    bench.store.gate.clear()
    done = [bench.send(record(0))]
    assert bench.store.waiting.wait(10)
    sent = {"filler": "x" * 60_000}
    big = [replace_body(record(number), sent) for number in range(1, 60)]
    done += [bench.send(item) for item in big]
    bench.store.gate.set()
    for item in done:
        item.result(10)
    start = 0
    for count in bench.store.appends:
        batch = bench.store.stored[start : start + count]
        assert sum(len(entry) + len(body) for entry, body in batch) <= limits.FRAME_BYTES // 2
        start += count
    assert len(bench.store.appends) >= 4
    bench.log.close()


def replace_body(item: records.LogRecord, body: dict[str, str]) -> records.LogRecord:
    return item.model_copy(update={"body": body})


def test_a_body_of_the_largest_size_and_one_byte_more() -> None:
    bench = Bench()
    bare = len(
        bench.log._key.seal(records.pack(bytes(16), replace_body(record(0), {"f": ""}).to_bytes()), b"")
    )
    room = limits.LOG_BODY_BYTES - bare
    bench.send(replace_body(record(0), {"f": "x" * room})).result(10)
    assert len(bench.store.stored[0].body) == limits.LOG_BODY_BYTES
    with pytest.raises(TooLarge):
        bench.send(replace_body(record(1), {"f": "x" * (room + 1)}))
    # One record's failure is not the log's.
    assert bench.log.failed is None
    bench.add(1)
    assert bench.log.size == 2
    bench.log.close()


def test_nobody_is_told_of_what_another_gateway_has_overtaken() -> None:
    bench, rival = Bench(), Bench()
    bench.add(1)
    rival.store = bench.store
    bench.store.stored.append(filled().stored[0])
    lost = bench.send(record(1))
    with pytest.raises(HostFailed, match="another gateway"):
        lost.result(10)
    assert isinstance(bench.log.failed, Conflict)
    assert bench.log.size == 1
    with pytest.raises(HostFailed):
        bench.send(record(2))
    bench.log.close()
    rival.log.close()


def test_after_a_host_failure_the_log_is_read_anew() -> None:
    bench = Bench()
    bench.add(2)
    bench.store.error = HostFailed("no space left")
    with pytest.raises(HostFailed, match="no space left"):
        bench.send(record(2)).result(10)
    assert (bench.log.size, bench.log.next_index) == (2, 3)
    with pytest.raises(HostFailed):
        bench.send(record(3))
    bench.log.close()
    bench.store.error = None
    bench.load()
    assert bench.log.next_index == 2
    assert bench.seen == [record(0), record(1)]
    # Regression: between reading and the new epoch nothing that was decided on the old state may enter.
    with pytest.raises(HostFailed):
        bench.send(record(3))
    bench.log.begin(2)
    bench.add(1)
    assert bench.log.size == 3
    bench.log.close()


def test_all_of_a_failed_batch_fail_and_what_follows_too() -> None:
    bench = Bench()
    bench.store.gate.clear()
    done = [bench.send(record(0))]
    assert bench.store.waiting.wait(10)
    done += [bench.send(record(number)) for number in range(1, 20)]
    bench.store.error = HostFailed("gone")
    bench.store.gate.set()
    for item in done:
        with pytest.raises(HostFailed):
            item.result(10)
    assert not bench.store.stored
    bench.log.close()


def test_a_caller_that_goes_away_cancels_no_commit() -> None:
    """Regression: a cancelled future ended the writer's thread when it set the result."""
    bench = Bench()
    bench.store.gate.clear()
    first = bench.send(record(0))
    assert bench.store.waiting.wait(10)
    second = bench.send(record(1))
    assert not first.cancel()
    assert not second.cancel()
    bench.store.gate.set()
    assert second.result(10) == 1
    bench.add(1)
    assert bench.log.size == 3
    bench.log.close()


def test_close_commits_what_is_pending() -> None:
    bench = Bench()
    done = [bench.send(record(number)) for number in range(50)]
    bench.log.close()
    assert [item.result(0) for item in done] == list(range(50))
    assert len(bench.store.stored) == 50
