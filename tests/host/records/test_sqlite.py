"""Damage that SQLite itself does not see."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from mesatee.errors import HostFailed
from mesatee.host.records.sqlite import SqliteRecords
from mesatee.protocol.doors import Record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    records = SqliteRecords(tmp_path / "records.sqlite")
    records.append(0, [Record(bytes([number]) * 64, b"body") for number in range(10)], b"head")
    records.close()
    return tmp_path / "records.sqlite"


def _change(path: Path, statement: str) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute(statement)
    database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM records WHERE idx = 9",
        "DELETE FROM records WHERE idx = 0",
        "DELETE FROM records",
        "DELETE FROM head",
        "UPDATE head SET count = 11",
        "UPDATE head SET count = 0",
        "UPDATE records SET idx = -5 WHERE idx = 4",
        "DROP TABLE records",
        "DROP TABLE schema_version",
    ],
)
def test_head_and_table_that_disagree_are_damage(path: Path, statement: str) -> None:
    _change(path, statement)
    with pytest.raises(HostFailed):
        SqliteRecords(path)


def test_a_gap_is_damage_when_it_is_read(path: Path) -> None:
    _change(path, "DELETE FROM records WHERE idx = 4")
    records = SqliteRecords(path)
    assert len(records.read(0, 4)) == 4
    for start in (0, 4):
        with pytest.raises(HostFailed, match="record 4 is missing"):
            records.read(start, 10)
    assert len(records.read(5, 10)) == 5
    records.close()


def test_closed_records_raise_our_error(path: Path) -> None:
    records = SqliteRecords(path)
    records.close()
    records.close()
    with pytest.raises(HostFailed):
        records.head()
    with pytest.raises(HostFailed):
        records.append(10, [], b"")
