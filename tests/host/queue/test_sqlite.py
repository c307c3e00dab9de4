"""Leases and the clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mesatee.errors import HostFailed, NotFound
from mesatee.host.queue.sqlite import SqliteQueue
from mesatee.protocol import limits


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Iterator[SqliteQueue]:
    queue = SqliteQueue(tmp_path / "queue.sqlite", clock)
    yield queue
    queue.close()


def test_a_lease_holds_until_its_end_and_no_longer(queue: SqliteQueue, clock: Clock) -> None:
    queue.put(b"ticket")
    lease = queue.lease(100, 0)
    assert lease is not None
    clock.now += 99
    assert queue.lease(100, 0) is None
    queue.renew(lease.id, 100)
    clock.now += 99
    assert queue.lease(100, 0) is None
    clock.now += 1
    with pytest.raises(NotFound):
        queue.ack(lease.id)
    assert queue.lease(100, 0) is not None
    assert queue.statistics() == {"tickets": 1, "leased": 1, "attempts": 2}


def test_a_lease_survives_a_restart(queue: SqliteQueue, clock: Clock, tmp_path: Path) -> None:
    queue.put(b"ticket")
    lease = queue.lease(100, 0)
    assert lease is not None
    queue.close()
    again = SqliteQueue(tmp_path / "queue.sqlite", clock)
    assert again.lease(100, 0) is None
    again.ack(lease.id)
    assert again.statistics()["tickets"] == 0
    again.close()


def test_a_clock_that_was_set_back_does_not_lock_tickets_away(queue: SqliteQueue, clock: Clock) -> None:
    queue.put(b"ticket")
    assert queue.lease(limits.LEASE_SECONDS, 0) is not None
    clock.now -= 1
    assert queue.lease(1, 0) is not None
    clock.now -= 365 * 86_400
    assert queue.lease(1, 0) is not None


def test_a_released_ticket_is_free_at_once(queue: SqliteQueue) -> None:
    queue.put(b"ticket")
    lease = queue.lease(100, 0)
    assert lease is not None
    queue.release(lease.id)
    with pytest.raises(NotFound):
        queue.release(lease.id)
    assert queue.lease(100, 0) is not None


def test_a_closed_queue_raises_our_error(queue: SqliteQueue) -> None:
    queue.close()
    for call in (lambda: queue.put(b"x"), lambda: queue.lease(1, 5), lambda: queue.ack("x")):
        with pytest.raises(HostFailed, match="stopping"):
            call()
