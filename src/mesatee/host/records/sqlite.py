"""The records door on SQLite: one row per record, the head in the same transaction."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mesatee.errors import Conflict, HostFailed
from mesatee.host.storage import connect, failures, open_database, transaction
from mesatee.protocol import frames
from mesatee.protocol.doors import Record

SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE records (idx INTEGER PRIMARY KEY, entry BLOB NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE head (
  one INTEGER PRIMARY KEY CHECK (one = 1), count INTEGER NOT NULL, head BLOB NOT NULL
) STRICT;
INSERT INTO head VALUES (1, 0, x'')
"""


class SqliteRecords:
    """`doors.Records` in a database file of its own."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises `HostFailed` if it is damaged or its parts disagree."""
        self._path = path
        # Readers have a connection of their own: in WAL mode a replay of the log does not wait for appends.
        self._writer, self._writing = open_database(path, SCHEMA_VERSION, _SCHEMA), threading.Lock()
        self._reader, self._reading = connect(path), threading.Lock()
        try:
            self._check_count()
        except HostFailed:
            self.close()
            raise

    def _check_count(self) -> None:
        with failures(self._path, "reading the head"):
            count = self._count()
            # The ends only: a gap between them shows when it is read; counting would read the whole table.
            low, high = self._writer.execute("SELECT min(idx), max(idx) FROM records").fetchone()
        if (low, high) != ((0, count - 1) if count else (None, None)):
            raise HostFailed(
                f"the database {self._path.name} is damaged: head and table disagree on {count} records",
                hint="stop the host, restore the file from a good copy, start it again",
            )

    def _count(self) -> int:
        row = self._writer.execute("SELECT count FROM head").fetchone()
        return int(row[0]) if row else -1

    def append(self, expected: int, records: Sequence[Record], head: bytes) -> None:
        """See `doors.Records`; returns after fsync.

        Raises `Conflict`, `HostFailed`, `Malformed`, `TooLarge`.
        """
        frames.check_append(expected, records, head)
        with self._writing, failures(self._path, "appending"), transaction(self._writer):
            count = self._count()
            if count != expected:
                raise Conflict(f"append at {expected}, the list has {count} entries")
            self._writer.executemany(
                "INSERT INTO records VALUES (?, ?, ?)",
                ((expected + number, *record) for number, record in enumerate(records)),
            )
            self._writer.execute("UPDATE head SET count = ?, head = ?", (expected + len(records), head))

    def read(self, start: int, limit: int) -> list[Record]:
        """See `doors.Records`; no more than one frame holds. Raises `HostFailed`, `Malformed`."""
        limit = frames.check_read(start, limit)
        with self._reading, failures(self._path, "reading records"):
            # All at once, which is at most `LOG_BATCH` bodies: a step of Python for each costs as much as the disk.
            rows = self._reader.execute(
                "SELECT idx, entry, body FROM records WHERE idx >= ? ORDER BY idx LIMIT ?", (start, limit)
            ).fetchall()
        for expected, row in enumerate(rows, start):
            if row[0] != expected:
                raise HostFailed(f"the database {self._path.name} is damaged: record {expected} is missing")
        return frames.fit_records([Record(entry, body) for _, entry, body in rows])

    def head(self) -> tuple[int, bytes]:
        """See `doors.Records`. Raises `HostFailed`."""
        with self._reading, failures(self._path, "reading the head"):
            count, head = self._reader.execute("SELECT count, head FROM head").fetchone()
        return int(count), bytes(head)

    def close(self) -> None:
        """Close the file; an append that is under way ends first."""
        with self._writing, self._reading:
            self._reader.close()
            self._writer.close()


__all__ = ["SCHEMA_VERSION", "SqliteRecords"]
