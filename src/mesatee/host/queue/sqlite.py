"""The queue door on SQLite: tickets in order of arrival, each with the lease that holds it.

Leases end by wall-clock time (`time.time`): a lease must survive a restart of the process and of the
machine, and a monotonic clock starts anew at boot. A jump of the clock then only brings a ticket early or
late, which at-least-once delivery allows; a lease that seems to end later than any lease may is taken as
ended, so that a clock which was set back does not lock tickets away.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mesatee.errors import HostFailed, Malformed, NotFound
from mesatee.host.storage import failures, open_database, transaction
from mesatee.protocol import frames, limits
from mesatee.protocol.doors import Lease

SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE tickets (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, ticket BLOB NOT NULL,
  lease TEXT UNIQUE, until REAL NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0
) STRICT
"""
_SLICE_SECONDS: Final = 1.0
"""Longest sleep of a waiting `lease`: bounds how late the end of a lease is noticed when the clock jumps."""


class SqliteQueue:
    """`doors.Queue` in a database file of its own."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open or create the file; `clock` gives seconds since 1970. Raises `HostFailed` if it is damaged."""
        self._path = path
        self._clock = clock
        self._database = open_database(path, SCHEMA_VERSION, _SCHEMA)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, ticket: bytes) -> None:
        """See `doors.Queue`; returns after fsync. Raises `HostFailed`, `Malformed`, `TooLarge`."""
        frames.check_ticket(ticket)
        with self._changed, failures(self._path, "queueing a ticket"):
            self._check_open()
            self._database.execute("INSERT INTO tickets (ticket) VALUES (?)", (ticket,))
            self._changed.notify()

    def lease(self, seconds: float, wait: float) -> Lease | None:
        """See `doors.Queue`. Raises `HostFailed`, `Malformed`, `TooLarge`."""
        if frames.check_seconds(seconds) == 0:
            raise Malformed("a lease of 0 seconds holds nothing")
        # Waiting is measured by the monotonic clock: it ends within this process.
        deadline = time.monotonic() + frames.check_seconds(wait)
        with self._changed, failures(self._path, "leasing a ticket"):
            while True:
                self._check_open()
                if (lease := self._take(seconds)) is not None:
                    return lease
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(min(left, _SLICE_SECONDS, self._until_next_end()))

    def _take(self, seconds: float) -> Lease | None:
        now = self._clock()
        with transaction(self._database):
            row = self._database.execute(
                "SELECT seq, ticket FROM tickets WHERE until <= ? OR until > ? ORDER BY seq LIMIT 1",
                (now, now + limits.LEASE_SECONDS),
            ).fetchone()
            if row is None:
                return None
            lease = secrets.token_hex(16)
            self._database.execute(
                "UPDATE tickets SET lease = ?, until = ?, attempts = attempts + 1 WHERE seq = ?",
                (lease, now + seconds, row[0]),
            )
        return Lease(lease, bytes(row[1]))

    def _until_next_end(self) -> float:
        """Seconds until the next lease ends; a little later, so that it is over when we look again."""
        end = self._database.execute("SELECT min(until) FROM tickets").fetchone()[0]
        return _SLICE_SECONDS if end is None else max(0.0, float(end) - self._clock()) + 0.001

    def renew(self, lease_id: str, seconds: float) -> None:
        """See `doors.Queue`; the lease now ends `seconds` from now.

        Raises `NotFound`, `HostFailed`, `Malformed`, `TooLarge`.
        """
        if frames.check_seconds(seconds) == 0:
            raise Malformed("a lease of 0 seconds holds nothing")
        self._change("renewing a lease", "UPDATE tickets SET until = :until", lease_id, seconds)

    def ack(self, lease_id: str) -> None:
        """See `doors.Queue`. Raises `NotFound`, `HostFailed`, `Malformed`."""
        self._change("removing a ticket", "DELETE FROM tickets", lease_id)

    def release(self, lease_id: str) -> None:
        """Give a ticket back at once, e.g.

        because the answer did not reach its worker. Raises `NotFound`, `HostFailed`.
        """
        self._change("releasing a ticket", "UPDATE tickets SET lease = NULL, until = 0", lease_id)
        with self._changed:
            self._changed.notify()

    def _change(self, what: str, change: str, lease_id: str, seconds: float = 0.0) -> None:
        frames.check_lease_id(lease_id)
        now = self._clock()
        values = {"lease": lease_id, "now": now, "until": now + seconds}
        with self._changed, failures(self._path, what):
            self._check_open()
            # A lease that has ended is gone even if nobody took the ticket since: one rule, whoever asks
            # first.
            touched = self._database.execute(f"{change} WHERE lease = :lease AND until > :now", values)
            if touched.rowcount != 1:
                raise NotFound("this lease has ended", hint="the ticket goes to whoever asks next")

    def statistics(self) -> dict[str, int]:
        """Tickets, those on lease, and deliveries so far of the tickets that are left.

        For the host's own eyes.
        """
        with self._changed, failures(self._path, "counting tickets"):
            self._check_open()
            row = self._database.execute(
                "SELECT count(*), coalesce(sum(until > ?), 0), coalesce(sum(attempts), 0) FROM tickets",
                (self._clock(),),
            ).fetchone()
        return {"tickets": row[0], "leased": row[1], "attempts": row[2]}

    def _check_open(self) -> None:
        if self._closed:
            raise HostFailed("the host is stopping")

    def close(self) -> None:
        """Close the file and wake everybody who waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._database.close()


__all__ = ["SCHEMA_VERSION", "SqliteQueue"]
