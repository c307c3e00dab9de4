"""The append-only list of records, on SQLite.

>>> import tempfile
>>> from pathlib import Path
>>> from mesatee.protocol.doors import Record
>>> folder = tempfile.TemporaryDirectory()
>>> records = SqliteRecords(Path(folder.name, "records.sqlite"))
>>> records.append(0, [Record(bytes(64), b"sealed")], b"head")
>>> records.head()
(1, b'head')
>>> records.close(); folder.cleanup()
"""

from mesatee.host.records.sqlite import SqliteRecords

__all__ = ["SqliteRecords"]
