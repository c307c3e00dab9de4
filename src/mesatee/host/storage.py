"""What the SQLite stores and the blob folder share: opening durably, and turning failures of the disk into
`HostFailed`.

Durability: write-ahead log with ``synchronous=FULL``, so that a commit returns after fsync; what was
acknowledged survives kill -9 and a power cut. After a failed commit nobody can know whether the bytes
reached the disk (an fsync that failed once may have dropped them), so a caller who gets `HostFailed` must
read before it writes again.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mesatee.errors import HostFailed
from mesatee.protocol.limits import MIB

APPLICATION_ID: Final = 0x4D544545
"""The letters MTEE in the header of the database file: a foreign database is refused."""
QUICK_CHECK_BYTES: Final = 256 * MIB
"""A larger database is not read through at start, it would take seconds; its damage then shows at the first
use.
"""
BUSY_SECONDS: Final = 5.0
"""How long SQLite waits for a lock of another process, e.g. of a backup."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_RESTORE: Final = "stop the host, restore the file from a good copy, start it again"
_FREE: Final = "free space on the host's disk and try again"


def disk_failed(error: OSError, what: str) -> HostFailed:
    """The `HostFailed` for an error of the file system; full disk, quota and file size limit are all "disk
    full".
    """
    if error.errno in _FULL:
        return HostFailed(f"disk full while {what}", hint=_FREE)
    return HostFailed(f"{what} failed: {error.strerror or type(error).__name__}")


def database_failed(error: sqlite3.Error, path: Path, what: str) -> HostFailed:
    """The `HostFailed` for an error of SQLite."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    if code & 0xFF == sqlite3.SQLITE_FULL:
        return HostFailed(f"disk full while {what}", hint=_FREE)
    if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return HostFailed(f"the database {path.name} is damaged", hint=_RESTORE)
    return HostFailed(f"{what} failed: {getattr(error, 'sqlite_errorname', type(error).__name__)}")


def fsync_folder(folder: Path) -> None:
    """Make the names within `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create one folder of mode 0700 if it is missing, and make its name durable.

    An existing folder is synchronised too: whoever made it may have been killed, or be about to do so.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    fsync_folder(folder.parent)


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode, for any thread; the caller serialises its use. Raises `HostFailed`."""
    with failures(path, f"opening {path.name}"):
        return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def open_database(path: Path, version: int, schema: str) -> sqlite3.Connection:
    """Open or create a database of this schema version, as `connect` does, and check it.

    Raises `HostFailed` if it is damaged, foreign, or of another version, and when the disk fails.
    """
    try:
        # SQLite gives its side files the mode of the database, so that comes first. No connection is open
        # here: closing a descriptor of the file would drop its locks.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise disk_failed(error, f"opening {path.name}") from None
    database = connect(path)
    try:
        database.execute("PRAGMA trusted_schema=OFF")
        database.execute("PRAGMA cell_size_check=ON")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        _check_schema(database, path, version, schema)
        if path.stat().st_size <= QUICK_CHECK_BYTES:
            verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise HostFailed(f"the database {path.name} is damaged", hint=_RESTORE)
        fsync_folder(path.parent)
    except sqlite3.Error as error:
        database.close()
        raise database_failed(error, path, f"opening {path.name}") from None
    except OSError as error:
        database.close()
        raise disk_failed(error, f"opening {path.name}") from None
    except HostFailed:
        database.close()
        raise
    return database


def _check_schema(database: sqlite3.Connection, path: Path, version: int, schema: str) -> None:
    tables = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if not tables:
        with transaction(database):
            for statement in schema.split(";"):
                database.execute(statement)
            database.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
            database.execute("INSERT INTO schema_version VALUES (?)", (version,))
            database.execute(f"PRAGMA application_id={APPLICATION_ID}")
        return
    if database.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise HostFailed(
            f"{path.name} is a database of another program", hint="give the host a folder of its own"
        )
    found = database.execute("SELECT max(version) FROM schema_version").fetchone()[0]
    if found != version:
        raise HostFailed(
            f"{path.name} has schema version {found}, this host reads version {version}",
            hint="start the version of mesatee that made it",
        )


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All or nothing: commits, or rolls back whatever was raised."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        # A full disk has already made SQLite roll back by itself; a second ROLLBACK would hide the reason.
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


@contextmanager
def failures(path: Path, what: str) -> Iterator[None]:
    """Turn every error of SQLite within the block into `HostFailed`."""
    try:
        yield
    except sqlite3.Error as error:
        raise database_failed(error, path, what) from None


__all__ = [
    "APPLICATION_ID",
    "QUICK_CHECK_BYTES",
    "connect",
    "database_failed",
    "disk_failed",
    "failures",
    "fsync_folder",
    "make_folder",
    "open_database",
    "transaction",
]
