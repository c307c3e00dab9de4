"""Opening databases: what is refused, and what each failure is called."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesatee.errors import HostFailed
from mesatee.host import storage
from mesatee.host.storage import database_failed, disk_failed, make_folder, open_database, transaction

SCHEMA = "CREATE TABLE t (a INTEGER NOT NULL) STRICT; CREATE TABLE u (b INTEGER)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.sqlite"


@pytest.fixture
def database(path: Path) -> Iterator[sqlite3.Connection]:
    database = open_database(path, 1, SCHEMA)
    yield database
    database.close()


def test_durability_settings(database: sqlite3.Connection) -> None:
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_transaction_is_all_or_nothing(database: sqlite3.Connection) -> None:
    with pytest.raises(ZeroDivisionError), transaction(database):  # noqa: PT012
        database.execute("INSERT INTO t VALUES (1)")
        raise ZeroDivisionError
    assert database.execute("SELECT count(*) FROM t").fetchone() == (0,)
    with transaction(database):
        database.execute("INSERT INTO t VALUES (1)")
    assert database.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_another_schema_version_is_refused(database: sqlite3.Connection, path: Path) -> None:
    for version in (0, 2):
        with pytest.raises(HostFailed, match="schema version 1"):
            open_database(path, version, SCHEMA)


def test_a_foreign_database_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE t (a)")
    foreign.close()
    with pytest.raises(HostFailed, match="another program"):
        open_database(path, 1, SCHEMA)


def test_a_symlink_is_not_followed(tmp_path: Path, path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostFailed):
        open_database(path, 1, SCHEMA)
    assert not (tmp_path / "elsewhere").exists()


def test_a_damaged_page_is_found_at_start_unless_the_file_is_large(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(path, 1, SCHEMA)
    with transaction(database):
        database.executemany("INSERT INTO t VALUES (?)", ((number,) for number in range(5000)))
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    content = bytearray(path.read_bytes())
    content[-4096 * 3 : -4096 * 2] = b"\xee" * 4096
    path.write_bytes(content)
    with pytest.raises(HostFailed, match="damaged"):
        open_database(path, 1, SCHEMA)
    monkeypatch.setattr(storage, "QUICK_CHECK_BYTES", len(content) - 1)
    late = open_database(path, 1, SCHEMA)
    with pytest.raises(HostFailed, match="damaged"), storage.failures(path, "reading"):
        late.execute("SELECT sum(a) FROM t").fetchone()
    late.close()


def test_names_of_failures() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert disk_failed(OSError(number, "x"), "storing").message == "disk full while storing"
    assert disk_failed(OSError(errno.EIO, "Input/output error"), "storing").message == (
        "storing failed: Input/output error"
    )
    assert database_failed(sqlite3.Error("x"), Path("a.sqlite"), "reading").message == "reading failed: Error"


def test_make_folder(tmp_path: Path) -> None:
    make_folder(tmp_path / "a")
    make_folder(tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileNotFoundError):
        make_folder(tmp_path / "b" / "c")
