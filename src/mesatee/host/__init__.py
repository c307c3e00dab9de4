"""The untrusted host: records, queue and blobs, and the process that serves them.

It holds ciphertext and signed statements; it may lose them, never forge them.

>>> import tempfile
>>> from pathlib import Path
>>> from mesatee.protocol.doors import Record
>>> folder = tempfile.TemporaryDirectory()
>>> records = SqliteRecords(Path(folder.name, "records.sqlite"))
>>> records.append(0, [Record(bytes(64), b"sealed body")], b"signed checkpoint")
>>> records.read(0, 10)[0].body
b'sealed body'
>>> records.close(); folder.cleanup()

The process that serves all three is `python -I -m mesatee.host.server --socket PATH --data DIR`.
"""

from mesatee.host.blobs import LocalBlobs
from mesatee.host.queue import SqliteQueue
from mesatee.host.records import SqliteRecords

__all__ = ["LocalBlobs", "SqliteQueue", "SqliteRecords"]
